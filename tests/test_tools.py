"""The tools that judge the product work, and notice what they are for.

clang's static analyzer and cppcheck find nothing in the library and the plugin.  First each of them
must find a fault of the kind that it looks for.  Then come run.py, patience.py, coverage.py,
bench.py and the picture.
"""

import collections
import contextlib
import os
import re
import runpy
import subprocess
import sys
import threading
import xml.etree.ElementTree
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent / "bench"))
import bench                                                        # noqa: E402
import harness                                                      # noqa: E402
import in_mysql                                                     # noqa: E402
import in_process                                                   # noqa: E402
from harness import Medians                                         # noqa: E402
import patience                                                     # noqa: E402
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


# The library is in the plugin, too, and cppcheck looks at each way through the preprocessor.
WHOLE = {"plugin": PLUGIN}
WHOLE_LONG = {"library": LIBRARY, "library, static": "#define KEYRING_AWS_STATIC\n" + LIBRARY,
              "library without libcurl": "#define KEYRING_AWS_NO_CURL\n" + LIBRARY}


@pytest.mark.parametrize("text", [*WHOLE.values(), *(
    pytest.param(text, marks=pytest.mark.long) for text in WHOLE_LONG.values())],
    ids=[*WHOLE, *WHOLE_LONG])
def test_nothing_is_found(look, text):
    assert look(text) == ""


# ---- run.py: what counts as passed -------------------------------------------------------------


@pytest.mark.parametrize("script, wanted", [
    ("echo '5 passed, 0 failed'", (5, 0)), ("echo '5 passed, 2 failed'; exit 1", (5, 2)),
    ("echo '5 passed, 0 failed'; exit 1", (5, 1)),
    ("echo '5 passed, 0 failed'; kill -9 $$", (5, 1)),
    ("true", (0, 1)), ("echo '0 passed, 0 failed'", (0, 1)), ("sleep 60", (0, 1)),
    ("echo '[==========]'; echo '[  PASSED  ] 3 test(s).'; echo '[  FAILED  ] 1 test(s)'", (3, 1)),
    ("echo '4 passed, 1 skipped in 2s'", (4, 0)),
    ("echo '1 failed, 4 passed, 2 errors in 2s'; exit 1", (4, 3))])
def test_run_counts(tmp_path, monkeypatch, script, wanted):
    monkeypatch.setattr(run, "LOGS", str(tmp_path))
    monkeypatch.setattr(run, "PATIENCE", 1 if script.startswith("sleep") else 60)
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


def test_run_keeps_two_cores_busy(monkeypatch):
    """Each part once; never more than two that compute; and what waits begins at once, too.  No
    part ends before all five workers have one, and none that waits before they all have such."""
    running, most, order = collections.Counter(), collections.Counter(), []
    lock = threading.Condition()

    def pretend(name: str, command: list[str]) -> tuple[int, int]:
        kind = name[:4]
        with lock:
            order.append(name)
            running[kind] += 1
            running["all"] += 1
            for each in running:
                most[each] = max(most[each], running[each])
            lock.notify_all()
            lock.wait_for(lambda: most["all" if kind == "unit" else "test"] == 5, 10)
            running[kind] -= 1
            running["all"] -= 1
        return int(name[-2:]), 1

    monkeypatch.setattr(run, "run", pretend)
    names = [f"{kind}{number:02}" for kind in ("unit-test_a", "test_mysql_a")
             for number in range(20)]
    results = run.run_all([(name, []) for name in names])
    assert sorted(order) == sorted(names)
    assert [sum(each) for each in zip(*results)] == [2 * sum(range(20)), 40]
    assert most["unit"] == 2 and most["test"] == most["all"] == 5
    assert {name[:4] for name in order[:4]} == {"unit", "test"}
    assert run.run_all([("test_mysql_a01", [])]) == [(1, 1)]


# ---- patience.py: what is late three times has failed, and what is wrong has failed at once ------

LATE = """
import pytest
from patience import calm, in_time, within, wait_for

runs = dict.fromkeys("abcde", 0)

@pytest.fixture
def bad():
    yield
    assert False

@pytest.fixture(scope="module")
def shared():
    return []

def test_that_is_late_twice():
    runs["a"] += 1
    in_time(300 if runs["a"] < 3 else 100, 200)

def test_that_is_always_late():
    runs["b"] += 1
    with within(0):
        pass

def test_that_is_wrong():
    runs["c"] += 1
    assert runs["c"] > 1

def test_that_is_late_and_wrong(bad):
    runs["d"] += 1
    calm(False, "late")

def test_whose_fixture_remembers(shared):
    runs["e"] += 1
    assert not shared
    shared.append("a run")
    calm(runs["e"] > 1, "late")

def test_how_often_they_ran():
    assert runs == {"a": 3, "b": 3, "c": 1, "d": 1, "e": 2}
"""


def test_patience_has_an_end(tmp_path):
    (tmp_path / "test_late.py").write_text(LATE)
    argv = [sys.executable, "-m", "pytest", "-q", "--tb=line", "-p", "patience", "-p",
            "no:cacheprovider", "-c", os.devnull, "--rootdir", tmp_path, tmp_path]
    done = subprocess.run(argv, env=os.environ | {"PYTHONPATH": str(TOP / "tests" / "hosts")},
                          stdout=subprocess.PIPE, text=True, check=False)
    assert run.count(done.stdout) == (3, 4), done.stdout    # one test has an error, too
    assert re.findall(r"(?m)^FAILED \S+::(\w+)", done.stdout) == [
        "test_that_is_always_late", "test_that_is_wrong", "test_that_is_late_and_wrong"]
    assert done.stdout.count("late, and run again: ") == 5
    assert "test_that_is_late_twice: patience.Late: it took 300, and may take 200" in done.stdout


@pytest.mark.parametrize("stall, end", [(0, 0.3), (1, 1.3)])
def test_a_stall_is_not_waited_for_in_vain(monkeypatch, stall, end):
    """Nothing that happens after it is too late.  What never happens is no matter of time."""
    clock = [0.0]
    monkeypatch.setattr(patience.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(patience.time, "sleep", lambda seconds: clock.__setitem__(
        0, clock[0] + (seconds if clock[0] - begun > 0.1 else seconds + stall)))
    for comes in (end - 0.03, end + 0.2, 9):
        begun = clock[0]
        with contextlib.ExitStack() as fails:
            if comes > end:
                fails.enter_context(pytest.raises(
                    patience.Late if comes < 9 else AssertionError,
                    match="it came after" if comes < 9 else "in vain"))
            patience.wait_for(lambda: clock[0] - begun >= comes, 0.3)
        assert clock[0] - begun >= min(comes, end)


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


# ---- bench.py: it measures what its results list; a goal is met at its limit, missed beyond it ---

RESULTS = (TOP / "tests" / "bench" / "results.md").read_text()
IN_SERVER = "key_generate in MySQL|start|ALTER|CREATE"


def rows_of(text: str) -> set[str]:
    """What the bench's list has figures for, whatever numbers of keys and bytes it was."""
    return {re.sub(r"[\d,.]+", "N", item[1]) for item in bench.ITEM.finditer(text)}


def half(title: str) -> str:
    return RESULTS.split(f"\n## {title}\n")[1].split("\n## ")[0]


@pytest.mark.parametrize("title, options", [("make bench", []), ("make bench-long", ["--long"])])
def test_bench_works(tmp_path, monkeypatch, capsys, title, options):
    """Every part works but those in a server. The quota is so small that it throttles."""
    before = RESULTS, (TOP / "README.md").read_text()
    monkeypatch.setattr(harness, "OUT", tmp_path)
    monkeypatch.setattr(harness, "DATA", tmp_path / "data")
    monkeypatch.setattr(harness, "QUICK", False)
    monkeypatch.setattr(in_process, "QUOTA", 50)
    monkeypatch.delitem(harness.PARTS, "in_mysql")
    monkeypatch.delitem(harness.LONG_PARTS, "many_tables")
    monkeypatch.delitem(harness.LONG_PARTS, "start_while_kms_hangs")
    monkeypatch.setattr(sys, "argv", ["bench.py", "--quick", *options])
    printed = []
    monkeypatch.setattr(harness, "Medians", lambda text: printed.append(text) or Medians(text))
    cores = os.sched_getaffinity(0)
    assert bench.main() == 0
    assert os.sched_getaffinity(0) == cores
    if not options:
        for ours, bare, beyond in (("ours_cpu", "bare_cpu", "beyond"),
                                   ("post_signed", "post", "curl")):
            (text,) = [text for text in printed if f"\n{beyond} " in text]
            rounds = [[float(value) for value in re.findall(rf"(?m)^{name} (.*)", text)]
                      for name in (ours, bare, beyond)]
            assert len(rounds[2]) == 2
            assert all(abs(a - b - c) < 0.001 for a, b, c in zip(*rounds, strict=True))
    wanted = {name for name in rows_of(half(title)) if not re.match(IN_SERVER, name)}
    assert wanted and rows_of((tmp_path / "table.md").read_text()) == wanted
    said = capsys.readouterr().out
    assert rows_of(said) == wanted
    if options:                 # 5 rings fetch 20 times each, and 50 more than the bucket holds
        assert int(re.search(r"(\d+) requests", said)[1]) > 100
        assert float(re.search(r": ([\d.]+) s; 1.0 s the quota allows", said)[1]) > 0.9
    assert before == (bench.RESULTS.read_text(), bench.README.read_text()), "quick: nothing kept"


def test_on_its_own_core():
    """All its threads are, and we are on ours; and nothing is left of that."""
    cores = os.sched_getaffinity(0)
    kms = object.__new__(harness.Canned)
    with subprocess.Popen([sys.executable, "-c", "import threading, time; threading.Thread("
                           "target=input).start(); print(1, flush=True); input()"], text=True,
                          stdin=subprocess.PIPE, stdout=subprocess.PIPE) as kms.process:
        kms.process.stdout.readline()
        threads = list(map(int, os.listdir(f"/proc/{kms.process.pid}/task")))
        with kms.on_its_own_core():
            (its,) = {frozenset(os.sched_getaffinity(each)) for each in threads}
            ours = os.sched_getaffinity(0)
            assert len(its) == len(ours) == 1 and len(threads) == 2
            assert its | ours == {min(cores), max(cores)}
        assert all(os.sched_getaffinity(each) == cores for each in (0, *threads))
        kms.process.communicate("\n\n")


def test_the_readme_repeats_five_of_the_results():
    section = (TOP / "README.md").read_text().split("\n## How fast it is\n")[1].split("\n## ")[0]
    shown = [item[0] for item in bench.ITEM.finditer(section)]
    assert len(shown) == 5 and [each for each in shown if each not in RESULTS] == []


def test_bench_keeps_what_it_measured(tmp_path, monkeypatch):
    """Each kind of run exchanges its own half, and the README's lines of it."""
    monkeypatch.setattr(bench, "RESULTS", tmp_path / "results.md")
    monkeypatch.setattr(bench, "README", tmp_path / "README.md")
    text = "# x\n\n## How fast it is\n\nText.\n\n* **a, 1 key**: {}\n* **c**: 7\n\n## Limits\n\n{}"
    bench.README.write_text(text.format("old\n  and long", "* **a, 1 key**: not a result\n"))
    rows = [harness.Row("a, 1 key", "1 us", "", "", ""), harness.Row("b", "2 us", "", "", "")]
    bench.keep(True, bench.listed([harness.Row("d", "4 us", "", "", "")]), "there")
    bench.keep(False, bench.listed(rows), "here")
    bench.keep(False, bench.listed(rows[::-1]), "now here")
    assert bench.RESULTS.read_text() == bench.HEAD + """
## make bench

* **b**: 2 us
* **a, 1 key**: 1 us

Measured on: now here.

## make bench-long

* **d**: 4 us

Measured on: there.
"""
    assert bench.README.read_text() == text.format("1 us", "* **a, 1 key**: not a result\n")


def test_a_missed_goal_says_why():
    row = harness.Row("a", "1 us", "0.5 us b", "2x", "1x", False, "a is slow")
    assert bench.listed([row]) == "* **a**: 1 us; 0.5 us b: 2x (goal: 1x; MISSED: a is slow)\n"
    assert bench.listed([row._replace(met=True)]).endswith("(goal: 1x; met)\n")


@pytest.mark.parametrize("part, row, just, beyond", [
    ("commit", 0, {"ours.0": 130, "limit.0": 100}, {"ours.0": 131}),
    ("commit", 3, {"ours.0": 100, "ours.100000": 110}, {"ours.100000": 111}),
    ("fetch", 0, {"beyond": 25}, {"beyond": 25.1}),
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
    monkeypatch.setattr(in_process, "botocore_us", lambda rounds: 1.0)
    for figures, met in ((just, True), (just | beyond, False)):
        got = collections.defaultdict(lambda: 1.0, usual_allocations=0, long_allocations=0)
        monkeypatch.setattr(in_process, "micro", lambda *_: got | figures)
        kms = type("Kms", (), {"at_once": "", "after_5": "", "after_10": "",
                               "on_its_own_core": contextlib.nullcontext})
        assert harness.PARTS[part](kms, shared)[row].met is met, figures


@pytest.mark.parametrize("step, just, beyond", [
    (0, [(1050, 20), (1000, 0)], [(1051, 20), (1000, 0)]),
    (0, [(1050, 20), (1000, 0)], [(1050, 21), (1000, 0)]),
    (1, [(1100, 10), (1000, 0)], [(1101, 10), (1000, 0)]),
    (1, [(1100, 10), (1000, 0)], [(1100, 11), (1000, 0)]),
    (2, [(1100, 900), (1000, 0)], [(1101, 900), (1000, 0)])])
def test_bench_goals_in_a_server(monkeypatch, step, just, beyond):
    """With a cache; without one there is no goal, and all is printed."""
    ours, theirs = (type("Many", (), {"tables": 1000, "door": "plugin"})() for _ in range(2))
    for figures, met in ((just, True), (beyond, False)):
        done = {ours: [(1, 1)] * 3, theirs: [(1, 0)] * 3}
        done[ours][step], done[theirs][step] = figures
        monkeypatch.setattr(in_mysql, "one_round", lambda server, cache: done[server])
        assert in_mysql.step_rows(ours, theirs, 60)[step].met is met, figures
        assert in_mysql.step_rows(ours, theirs, 0)[step].met is None


def test_bench_has_rows_for_both_doors_and_for_the_cache(monkeypatch):
    class Many:
        tables, close = 1000, lambda self: None

        def __init__(self, url: str | None, door: str) -> None:
            self.url, self.door = url, door

    monkeypatch.setattr(in_mysql, "Many", Many)
    monkeypatch.setattr(in_mysql, "one_round", lambda *_: [(1.0, 1)] * 3)
    rows = in_mysql.many_tables(type("Kms", (), {"after_10": "http://there"}), {})
    ends = [row.name.partition("10 ms")[2] for row in rows]
    assert ends == [*[""] * 3, *[", cache 60 s"] * 3, *[", component_keyring_aws, cache 60 s"] * 3]


def test_the_part_of_a_quota_that_is_used():
    """The burst of the first second does not count, nor does the end, when few threads work."""
    steady = [(second, 500 + 500 * second) for second in range(20)]
    assert in_process.used(steady, 10000) == pytest.approx(1)
    burst = [(0, 0), (0.5, 500), *((second, 500 + 400 * second) for second in range(1, 20))]
    assert in_process.used(burst, 8100) == pytest.approx(0.8)
    late = [(0, 0), (1, 0), (2, 0), (2.5, 500), *((second + 3, let) for second, let in burst[2:])]
    assert in_process.used(late, 8100) == pytest.approx(0.8)
    ebbing = [*steady, *((20 + second, 10000 + second) for second in range(100))]
    assert in_process.used(ebbing, 10100) == pytest.approx(1)


# ---- the picture of the README ------------------------------------------------------------------

PACKAGE = TOP / "tests" / "package"


def test_the_picture_is_what_its_script_draws():
    """It can be read in light and in dark, and says its words to who cannot see it."""
    drawn = runpy.run_path(str(PACKAGE / "picture.py"))
    committed = (PACKAGE / "dataflow.svg").read_text("utf-8")
    assert committed == drawn["picture"]()
    svg = xml.etree.ElementTree.fromstring(committed)
    words = {name: svg.find(f"{{http://www.w3.org/2000/svg}}{name}").text
             for name in ("title", "desc", "style")}
    assert svg.get("role") == "img" and all(len(text) > 30 for text in words.values())
    light, dark = words["style"].split("@media (prefers-color-scheme: dark)")
    colours = [dict(re.findall(r"\.([\w-]+) { (.*) }", part)) for part in (light, dark)]
    assert set(colours[1]) == set(drawn["LOOKS"]) <= set(colours[0])
    assert all(colours[0][name] != colours[1][name] for name in colours[1])
    used = {name for each in svg.iter() for name in each.get("class", "").split()}
    assert used - {"big", "code"} == set(colours[1])
