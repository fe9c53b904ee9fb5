#!/usr/bin/python3
"""Line and branch coverage of keyring_aws.h, by gcc's gcov (`make coverage`).

    tests/coverage.py [WORD ...]     everything, or only those programs whose names contain a word

Builds and runs with counters: every C test, the replays of the fuzz corpora, and the driver of the
library's and the network's tests. At -O0 the branches are those of the source, and none is left out
of the count. A line or a branch counts as reached if any program reaches it. tests/uncovered.txt
explains each line that no test reaches; this script checks that it names all of them and nothing
else. The last line has the two figures.
"""

import collections
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

TOP = Path(__file__).resolve().parent.parent
HERE = TOP / "build" / "coverage"
HEADER = TOP / "keyring_aws.h"
GOALS = {"lines": 99.9, "branches": 98.8}
LINK = ["-l:libbearssl.a", "-lcurl", "-lcmocka", "-lpthread"]

# A driver that is told to stop, at whatever it is at, first writes down what it has counted.
STOPPED = """#include <signal.h>
#include <unistd.h>
void __gcov_dump(void);
static void stop(int n) { __gcov_dump(); _exit(n); }
__attribute__((constructor)) static void begin(void) { signal(SIGTERM, stop); }
"""


def run(command: list, **more) -> None:
    print("  ", *[str(word).replace(f"{TOP}/", "") for word in command][:4], flush=True)
    subprocess.run(command, check=True, cwd=HERE, stdin=subprocess.DEVNULL, **more)


def build(source: Path, *extra: Path) -> Path:
    program = HERE / "-".join(source.relative_to(TOP).with_suffix("").parts)
    subprocess.run(["gcc", "-std=c99", "-O0", "-g", "--coverage", "-fprofile-update=atomic", "-o",
                    program, source, *extra, *LINK], check=True, cwd=HERE)
    return program


def exercise(words: list[str]) -> None:
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    sources = [*TOP.glob("tests/unit/test_*.c"), *TOP.glob("tests/fault/test_*.c"),
               *TOP.glob("fuzz/fuzz_*.c"), TOP / "tests" / "hosts" / "driver.c"]
    for source in sorted(sources):
        if words and not any(word in str(source) for word in words):
            continue
        if source.parent.name == "fuzz":
            corpus = TOP / "fuzz" / "corpus" / source.stem.removeprefix("fuzz_")
            run([build(source, TOP / "fuzz" / "main.c"), corpus], **quiet)
        elif source.stem == "driver":
            (HERE / "stopped.c").write_text(STOPPED)
            os.environ["KAWS_DRIVER"] = str(build(source, HERE / "stopped.c"))
            run([sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--tb=short",
                 TOP / "tests" / "test_library.py", TOP / "tests" / "test_network.py"])
        else:
            run([build(source)], **quiet)


def counted() -> tuple[dict, dict]:
    """How often each line of the header, by number and function, and each of its branches, by
    number and place, was taken by all programs together. A test that puts a call of its own in
    the place of one of the system's must not add branches: it is a function, not a macro."""
    lines, branches = collections.Counter(), collections.Counter()
    for counters in sorted(HERE.glob("*.gcda")):
        done = subprocess.run(["gcov", "-b", "-j", "-t", counters.name], check=True, cwd=HERE,
                              stdout=subprocess.PIPE)
        files = [file for document in done.stdout.splitlines()
                 for file in json.loads(document)["files"] if Path(file["file"]) == HEADER]
        for line in (line for file in files for line in file["lines"]):
            number = line["line_number"]
            lines[number, line.get("function_name", "")] += line["count"]
            for place, branch in enumerate(line["branches"]):
                branches[number, len(line["branches"]), place] += branch["count"]
    return lines, branches


def unexplained(lines: dict) -> bool:
    """Whether tests/uncovered.txt names other lines than those that were not reached. It names one
    in a row that begins with a bar: | function: the line's text."""
    text = HEADER.read_text().splitlines()
    missed = {f"{function}: {text[number - 1].strip()}": number
              for (number, function), count in sorted(lines.items()) if count == 0}
    rows = (TOP / "tests" / "uncovered.txt").read_text().splitlines()
    known = {row[1:].strip() for row in rows if row.startswith("|")}
    for row, number in missed.items():
        if row not in known:
            print(f"keyring_aws.h:{number}: no test comes here, and tests/uncovered.txt does not "
                  f"say why:\n| {row}")
    for row in sorted(known - missed.keys()):
        print(f"tests/uncovered.txt: a test comes here now, or it is gone:\n| {row}")
    return missed.keys() != known


def main() -> int:
    shutil.rmtree(HERE, ignore_errors=True)
    HERE.mkdir(parents=True)
    exercise(sys.argv[1:])
    lines, branches = counted()
    for number, places in sorted(collections.Counter(
            number for (number, *_), count in branches.items() if count == 0).items()):
        print(f"keyring_aws.h:{number}: {places} of its branches never taken")
    wrong = unexplained(lines)
    share = {kind: 100 * sum(map(bool, counts.values())) / len(counts)
             for kind, counts in (("lines", lines), ("branches", branches))}
    print("keyring_aws.h:", ", ".join(f"{percent:.2f}% of {kind}"
                                      for kind, percent in share.items()))
    return 1 if wrong or any(share[kind] < goal for kind, goal in GOALS.items()) else 0


if __name__ == "__main__":
    sys.exit(main())
