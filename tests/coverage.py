#!/usr/bin/python3
"""Line and branch coverage of keyring_aws.h, by gcc's gcov and Debian's gcovr (`make coverage`).

Every C test, the replays of the fuzz corpora, and the network tests' driver are built anew with
counters and run. tests/uncovered.txt explains, place by place, the lines that no test reaches;
this script checks that it names all of them and nothing else. The last line has the two figures.
"""

import glob
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

TOP = Path(__file__).resolve().parent.parent
HERE = TOP / "build" / "coverage"
GOALS = {"line": 97.0, "branch": 90.0}
LINK = ["-l:libbearssl.a", "-lcurl", "-lcmocka", "-lpthread"]


def run(command: list, **more) -> None:
    print("  ", " ".join(map(str, command))[:100], flush=True)
    subprocess.run(command, check=True, cwd=HERE, stdin=subprocess.DEVNULL, **more)


def build(source: str, *extra: str) -> Path:
    program = HERE / source.replace("/", "-").removesuffix(".c")
    run(["gcc", "-std=c99", "-O0", "-g", "--coverage", "-fprofile-update=atomic", "-o", program,
         TOP / source, *[TOP / name for name in extra], *LINK])
    return program


def exercise() -> None:
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    for source in sorted(glob.glob("tests/unit/test_*.c", root_dir=TOP) +
                         glob.glob("tests/fault/test_*.c", root_dir=TOP)):
        run([build(source)], **quiet)
    for source in sorted(glob.glob("fuzz/fuzz_*.c", root_dir=TOP)):
        corpus = TOP / "fuzz" / "corpus" / Path(source).stem.removeprefix("fuzz_")
        run([build(source, "fuzz/main.c"), corpus], **quiet)
    os.environ["KAWS_DRIVER"] = str(build("tests/driver.c"))
    run([sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider",
         TOP / "tests" / "test_library.py", TOP / "tests" / "test_network.py"], **quiet)


def lines_without_test(report: dict) -> list[tuple[int, str]]:
    """Number and text of every line of the header that has code and was never reached."""
    text = (TOP / "keyring_aws.h").read_text().splitlines()
    (entry,) = [file for file in report["files"] if file["file"].endswith("keyring_aws.h")]
    return [(line["line_number"], text[line["line_number"] - 1].strip())
            for line in entry["lines"] if line["count"] == 0]


def explained() -> set[str]:
    """The code lines that tests/uncovered.txt explains: those that begin with a bar."""
    rows = (TOP / "tests" / "uncovered.txt").read_text().splitlines()
    return {row[1:].strip() for row in rows if row.startswith("|")}


def main() -> int:
    shutil.rmtree(HERE, ignore_errors=True)
    HERE.mkdir(parents=True)
    exercise()
    gcovr = ["gcovr", "--root", TOP, "--filter", "keyring_aws.h", "--merge-mode-functions=separate",
             "--exclude-throw-branches", HERE]
    done = subprocess.run([*gcovr, "--json", "-"], check=True, cwd=HERE, capture_output=True)
    missed, known = lines_without_test(json.loads(done.stdout)), explained()
    for number, text in missed:
        if text not in known:
            print(f"keyring_aws.h:{number}: no test comes here, and uncovered.txt does not say "
                  f"why: {text}")
    for text in sorted(known - {text for _, text in missed}):
        print(f"tests/uncovered.txt: a test comes here now, or it is gone: {text}")
    done = subprocess.run([*gcovr, "--json-summary", "-"], check=True, cwd=HERE,
                          capture_output=True)
    figures = json.loads(done.stdout)
    enough = all(figures[f"{kind}_percent"] >= goal for kind, goal in GOALS.items())
    print(f"keyring_aws.h: {figures['line_percent']}% of lines, "
          f"{figures['branch_percent']}% of branches")
    return 0 if enough and {text for _, text in missed} == known else 1


if __name__ == "__main__":
    sys.exit(main())
