"""Replays the corpora that fuzzing made, without libFuzzer: every target, all of its corpus.

The targets in fuzz/ check what must be true of every input (round trips, the verdicts of a second
reader, a model of the keyring), under ASan and UBSan, and abort if it is not.  `make test` builds
each target with gcc and fuzz/main.c.  `make fuzz` searches for more inputs.
"""

import pathlib
import re
import subprocess

import pytest

TOP = pathlib.Path(__file__).resolve().parents[1]
TARGETS = sorted(path.stem for path in TOP.glob("fuzz/fuzz_*.c"))


def test_all_targets_are_there() -> None:
    assert TARGETS == [f"fuzz_{name}" for name in
                       "conf config helper ini json reply ring sealed sigv4 store text xml".split()]


@pytest.mark.parametrize("target", TARGETS)
def test_each_target_holds_on_its_corpus(target: str) -> None:
    corpus = TOP / "fuzz" / "corpus" / target.removeprefix("fuzz_")
    inputs = sum(path.is_file() for path in corpus.rglob("*"))
    assert inputs >= 20
    done = subprocess.run([TOP / "build" / "tests" / "fuzz" / target, corpus], text=True,
                          capture_output=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    assert re.search(rf"^{inputs} inputs replayed$", done.stdout, re.M)


def test_a_replay_of_nothing_fails(tmp_path: pathlib.Path) -> None:
    done = subprocess.run([TOP / "build" / "tests" / "fuzz" / TARGETS[0], tmp_path], text=True,
                          capture_output=True)
    assert done.returncode != 0 and done.stdout == "0 inputs replayed\n"
