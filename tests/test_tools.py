"""The tools that judge: each works, and notices what it is for.

clang's static analyzer and cppcheck have nothing to say of the library and the plugin: that they
would is tried first, each on a fault of the kind it looks for.  Then run.py, coverage.py, bench.py.
"""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import LONG

sys.path.insert(0, str(Path(__file__).resolve().parent / "bench"))
import bench                                                        # noqa: E402
import coverage                                                     # noqa: E402
import run                                                          # noqa: E402

TOP = Path(__file__).resolve().parent.parent
LIBRARY = '#define KEYRING_AWS_IMPLEMENTATION\n#include "keyring_aws.h"\n'
PLUGIN = '#include "keyring_aws_plugin.c"\n'
FAULT = """
int fault(int n);
int fault(int n)
{
    int there[2] = { 1, 2 }, *at = 0;

    n += there[2];
    return n > 9 ? *at : n;
}
"""


def analyze(source: Path) -> str:
    command = ["clang", "--analyze", "-Xclang", "-analyzer-output=text", "-Xclang",
               "-analyzer-opt-analyze-headers", "-std=c99", f"-I{TOP}", "-o", "/dev/null", source]
    return subprocess.run(command, capture_output=True, text=True, check=True).stderr


def cppcheck(source: Path) -> str:
    command = ["cppcheck", "-q", "--std=c99", "--library=posix", "--force", "--inline-suppr",
               "--enable=warning,portability,performance", f"-I{TOP}", source]
    return subprocess.run(command, capture_output=True, text=True, check=True).stderr


@pytest.fixture(params=[analyze, cppcheck], ids=lambda tool: tool.__name__)
def look(request, tmp_path):
    def judge(text: str) -> str:
        source = tmp_path / "looked_at.c"
        source.write_text(text)
        return request.param(source)
    judge.tool = request.param
    return judge


def test_it_would_find_a_fault(look):
    assert "looked_at.c" in look(FAULT)


WHOLE = {"plugin": PLUGIN, "library without libcurl": "#define KEYRING_AWS_NO_CURL\n" + LIBRARY,
         "library": LIBRARY, "library, static": "#define KEYRING_AWS_STATIC\n" + LIBRARY}


@pytest.mark.parametrize("name", WHOLE)
def test_nothing_is_found(look, name):
    if look.tool is analyze and name.startswith("library") and "without" not in name and not LONG:
        pytest.skip("it is in the plugin, too; the analyzer takes its time")
    assert look(WHOLE[name]) == ""


# ---- run.py: what counts as passed -------------------------------------------------------------


@pytest.mark.parametrize("script, wanted", [
    ("echo '5 passed, 0 failed'", (5, 0)), ("echo '5 passed, 2 failed'; exit 1", (5, 2)),
    ("echo '5 passed, 0 failed'; exit 1", (5, 1)),
    ("echo '5 passed, 0 failed'; kill -9 $$", (5, 1)),
    ("true", (0, 1)), ("echo '0 passed, 0 failed'", (0, 1)), ("sleep 9", (0, 1)),
    ("echo '[==========]'; echo '[  PASSED  ] 3 test(s).'; echo '[  FAILED  ] 1 test(s)'", (3, 1)),
    ("echo '4 passed, 1 skipped in 2s'", (4, 0)),
    ("echo '1 failed, 4 passed, 2 errors in 2s'; exit 1", (4, 3))])
def test_run_counts(tmp_path, monkeypatch, script, wanted):
    monkeypatch.setattr(run, "LOGS", str(tmp_path))
    monkeypatch.setattr(run, "PATIENCE", 1)
    assert run.run("part", ["sh", "-c", script]) == wanted


def test_run_has_all_parts(tmp_path, monkeypatch):
    for name in ("unit/test_a", "unit/test_ring", "unit/test_sys", "fault/test_b", "tsan/test_c",
                 "clang/unit/test_d"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch(mode=0o700)
    monkeypatch.setattr(run, "BUILT", str(tmp_path))
    names = [name for name, _ in run.parts()]
    assert set(names) >= {"fault-test_b", "tsan-test_c", "clang-unit-test_d", "house",
                          *(path.stem for path in TOP.glob("tests/test_*.py"))}
    assert [name for name in names if name.startswith("unit-")] == [
        "unit-test_sys", "unit-test_ring", "unit-test_a"], "the rooms' order, then the others"


# ---- coverage.py: uncovered.txt names what no test reaches, all of it and nothing else -----------


@pytest.mark.parametrize("rows, wrong", [
    ("why\n| f: two();\n", False), ("why\n", True), ("| f: two();\n| f: one();\n", True),
    ("| g: two();\n", True)])
def test_coverage_wants_reasons(tmp_path, monkeypatch, rows, wrong):
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "uncovered.txt").write_text(rows)
    (tmp_path / "header.h").write_text("    one();\n    two();\n")
    monkeypatch.setattr(coverage, "TOP", tmp_path)
    monkeypatch.setattr(coverage, "HEADER", tmp_path / "header.h")
    assert coverage.unexplained({(1, "f"): 7, (2, "f"): 0}) == wrong


# ---- bench.py: it measures what the README lists; a goal is met at its limit, missed beyond it ---


def rows_of(text: str) -> set[str]:
    """What the bench's list has figures for, whatever numbers of keys and bytes it was."""
    names = re.findall(r"^\* \*\*(.+?)\*\*: ", text, re.M)
    return {re.sub(r"[\d,.]+", "N", name) for name in names}


def test_bench_works(tmp_path, monkeypatch, capsys):
    """Every part but those in a server."""
    monkeypatch.setattr(bench, "OUT", tmp_path)
    monkeypatch.setattr(bench, "DATA", tmp_path / "data")
    monkeypatch.setattr(bench, "QUICK", False)
    monkeypatch.delitem(bench.PARTS, "in_mysql")
    monkeypatch.setattr(sys, "argv", ["bench.py", "--quick"])
    assert bench.main() == 0
    listed = (TOP / "README.md").read_text().split("## How fast it is")[1].split("\n## ")[0]
    wanted = {name for name in rows_of(listed) if not re.match("key_generate in MySQL|start", name)}
    assert rows_of((tmp_path / "table.md").read_text()) == wanted
    assert rows_of(capsys.readouterr().out) == wanted




@pytest.mark.parametrize("part, row, just, beyond", [
    ("commit", 0, {"ours.0": 130, "limit.0": 100}, {"ours.0": 131}),
    ("commit", 3, {"ours.0": 100, "ours.100000": 110}, {"ours.100000": 111}),
    ("fetch", 0, {"ours_cpu": 125, "bare_cpu": 100}, {"ours_cpu": 126}),
    ("fetch", 1, {"ours_slow": 101, "bare_slow": 100}, {"ours_slow": 102}),
    ("sign", 0, {"ours": 150, "limit": 100}, {"ours": 151}),
    ("sign", 1, {"whole": 150, "whole_limit": 100}, {"whole": 151}),
    ("read_json", 0, {"usual_ours": 1, "usual_cjson": 3, "usual_jansson": 3},
     {"usual_jansson": 2.9}),
    ("read_json", 1, {"long_ours": 1, "long_cjson": 3, "long_jansson": 3,
                      "long_allocations": 0}, {"long_allocations": 1}),
    ("base64", 0, {"encode": 20.48}, {"encode": 20.5}),
    ("base64", 1, {"decode": 20.48, "encode_blob": 1, "decode_plain": 1}, {"decode_plain": 1.1}),
    ("open_file", 0, {"ours": 130, "limit": 100}, {"ours": 131}),
    ("lookup", 0, {"ours": 0.149}, {"ours": 0.15}),
    ("memory", 0, {"ours": 125, "file": 100}, {"ours": 126})])
def test_bench_goals(monkeypatch, part, row, just, beyond):
    shared = {"fetch_cpu": 100}
    monkeypatch.setattr(bench, "botocore_us", lambda rounds: 1.0)
    for figures, met in ((just, True), (just | beyond, False)):
        got = bench.collections.defaultdict(lambda: 1.0, usual_allocations=0, long_allocations=0)
        monkeypatch.setattr(bench, "micro", lambda *_: got | figures)
        kms = type("Kms", (), {"at_once": "", "after_5": "", "after_10": ""})
        assert bench.PARTS[part](kms, shared)[row].met is met, figures
