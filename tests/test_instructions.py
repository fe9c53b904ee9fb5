"""The library takes no more instructions than recorded.  callgrind counts them, so a busy machine
changes nothing.

Each piece of work in tests/bench/count.c may take a tenth more than tests/bench/instructions.json
says, and no more.  The figures hold for one compiler and architecture.  With others there is
nothing to compare, and only equalities are tested.  Only the instructions of the library and of
BearSSL count, not the kernel's, nor libc's, which chooses its code by the processor.

`tests/test_instructions.py --record` records new figures: do that if a change may cost more.
"""

import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

BENCH = Path(__file__).resolve().parent / "bench"
RECORDED = BENCH / "instructions.json"
ROUNDS = 10                     # as in count.c
WORKS = ("sign", "json", "base64", "commit", "lookup", "fetch", "kept")


def compiler() -> str:
    """What the figures depend on."""
    gcc = [subprocess.run(["gcc", option], check=True, capture_output=True, text=True).stdout
           for option in ("-dumpversion", "-dumpmachine")]
    return "gcc {}, {}".format(*map(str.strip, gcc))


def own_cost(dump: str, program: Path) -> int:
    """The instructions of a callgrind dump that were in the program itself, not in libraries."""
    where, total, call = "", 0, False
    for line in dump.splitlines():
        if line.startswith("ob="):
            where = line[3:]
        elif line.startswith("calls="):
            call = True         # the next line has the cost of what was called
        elif found := re.match(r"\d+ (\d+)$", line):
            total += int(found[1]) if where == str(program) and not call else 0
            call = False
    return total


def run(folder: Path) -> dict[str, str]:
    """callgrind's dump of each work."""
    program = folder / "count"
    subprocess.run(["gcc", "-std=c99", "-Os", "-g", "-o", program, BENCH / "count.c",
                    "-l:libbearssl.a", "-lcurl", "-lpthread"], check=True)
    subprocess.run(["valgrind", "--tool=callgrind", "--collect-atstart=no", "--compress-pos=no",
                    "--compress-strings=no", f"--callgrind-out-file={folder / 'dump'}",
                    program, folder],
                   check=True, capture_output=True, env={"PATH": os.environ["PATH"]})
    dumps = [path.read_text() for path in folder.glob("dump.[0-9]*")]
    works = [re.search(r"^desc: Trigger: Client Request: (.*)$", dump, re.M) for dump in dumps]
    return {work[1]: dump for work, dump in zip(works, dumps) if work}


def costs_of(folder: Path, dumps: dict[str, str]) -> dict[str, int]:
    """Instructions for one piece of each work."""
    return {work: own_cost(dump, folder / "count") // ROUNDS for work, dump in dumps.items()}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("count")


@pytest.fixture(scope="module")
def dumps(folder):
    return run(folder)


@pytest.fixture(scope="module")
def costs(folder, dumps):
    return costs_of(folder, dumps)


@pytest.mark.parametrize("work", WORKS)
def test_no_more_than_recorded(costs, work):
    recorded = json.loads(RECORDED.read_text()).get(compiler())
    if not recorded:
        pytest.skip(f"no figures are recorded for {compiler()}")
    assert 0 < costs[work] <= 1.1 * recorded[work], \
        f"{work} takes {costs[work]} instructions, and took {recorded[work]}"


def test_commit_is_flat(costs):
    """Adding a key takes as many instructions with 5,000 keys as with few."""
    assert costs["commit_to_5000"] <= 1.02 * costs["commit"]


def test_without_a_cache_none_of_its_code_runs(dumps):
    """But what a fetch ends with, which finds nothing to do. With a cache its code is seen."""
    ran = {work: set(re.findall(r"^fn=(kaws__shield_\w+)", dump, re.M))
           for work, dump in dumps.items()}
    assert ran["fetch"] <= {"kaws__shield_end"} and "kaws__shield_ask" in ran["kept"]


def test_base64_does_not_look_at_what_it_carries(costs):
    assert costs["base64_of_others"] == costs["base64"]


def record() -> None:
    figures = json.loads(RECORDED.read_text()) if RECORDED.exists() else {}
    with tempfile.TemporaryDirectory() as folder:
        measured = costs_of(Path(folder), run(Path(folder)))
    figures[compiler()] = {work: measured[work] for work in WORKS}
    RECORDED.write_text(json.dumps(figures, indent=4) + "\n")
    print(json.dumps(measured, indent=4))


if __name__ == "__main__":
    if sys.argv[1:] != ["--record"]:
        sys.exit("usage: test_instructions.py --record")
    record()
