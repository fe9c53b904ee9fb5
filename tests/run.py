#!/usr/bin/python3
"""Runs all parts of the tests, five at a time, and adds them up.

    tests/run.py [WORD ...]     all parts, or those whose names contain a word

A part is a program that says how many checks passed and failed: by cmocka's closing lines, by
pytest's, or by a line "N passed, N failed".  Its output goes to build/tests/logs/<part>.log, and is
shown if the part fails.  The last line adds all parts up.  KAWS_LONG=1 makes the parts run in full.
"""

import collections
import concurrent.futures
import contextlib
import glob
import os
import re
import shutil
import subprocess
import sys
import time

TOP = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
BUILT = os.path.join(TOP, "build", "tests")
LOGS = os.path.join(BUILT, "logs")
LONG = os.environ.get("KAWS_LONG", "") not in ("", "0")
# Rooms that read what others wrote, and BearSSL: valgrind finds values that were never set.  Under
# it no program can be started, since it does not let one close all its descriptors.
CHECKED = ("crypto json xml ini url head sources reading remote sts profile native arn pack file "
           "trust").split()
STARTS = ("child", "helper")
PATIENCE = 4 * 3600 if LONG else 2400
# Parts that wait more than they compute: for servers, timeouts and clocks.  And those that take
# longest, which begin first: else one core would idle at the end.
WAITS = re.compile("(standalone-)?test_(mysql|runbook|sizing|migration|failover|pairing|network|"
                   "native|roles|process|alerts|backup|quick|commands|examples_run)")
LONGEST = ("test_mysql_start test_build test_arch test_guests test_failover test_tools "
           "test_mysql_failover fault-test_crash test_recipes test_pairing").split()


def parts() -> list[tuple[str, list[str]]]:
    """Name and command of every part, the longest first; the unit tests in the order of the
    header's rooms."""
    top, built = glob.escape(TOP), glob.escape(BUILT)
    with open(os.path.join(TOP, "keyring_aws.h")) as header:
        rooms = re.findall(r"^ \* ROOM  (\w+)", header.read(), re.M)
    pytest = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--tb=short"]
    found = [(os.path.basename(path)[:-3], pytest + [path])
             for path in sorted(glob.glob(os.path.join(top, "tests", "test_*.py")))]
    alone = ["env", f"KEYRING_AWS_PLUGIN={BUILT}/standalone/keyring_aws.so"]
    found += [("standalone-" + name, alone + command) for name, command in found
              if name == "test_mysql_tables" or LONG and "mysql" in name]
    found.sort(key=lambda part: not re.search("mysql|runbook|sizing", part[0]))
    for folder in ("fault", "tsan", "standalone/fault", "unit", "clang/unit", "standalone/unit"):
        for path in sorted(glob.glob(os.path.join(built, folder, "test_*")), key=lambda path: (
                (rooms + [room := path.rpartition("_")[2]]).index(room), path)):
            if os.access(path, os.X_OK):
                room = path.rpartition("_")[2]
                checked = folder == "standalone/unit" and room not in STARTS and (
                    LONG or room in CHECKED)
                memcheck = ["valgrind", "-q", "--error-exitcode=9"] if checked else []
                found.append((os.path.relpath(path, BUILT).replace("/", "-"), memcheck + [path]))
    found.append(("house", [sys.executable, os.path.join(TOP, "tests", "check_house.py")]))
    return sorted(found, key=lambda part: (LONGEST + [part[0]]).index(part[0]))


def count(text: str) -> tuple[int, int]:
    """How many checks passed and failed, by the program's own closing lines."""
    plain = re.findall(r"^(\d+) passed, (\d+) failed", text, re.M)
    if plain:
        return tuple(map(int, plain[-1]))
    if "[==========]" in text:                                             # cmocka
        return (sum(map(int, re.findall(r"\[  PASSED  \] (\d+) test", text))),
                sum(map(int, re.findall(r"\[  FAILED  \] (\d+) test", text))))
    last = text.rstrip().rpartition("\n")[2]                               # pytest
    numbers = {word: int(n) for n, word in re.findall(r"(\d+) (passed|failed|error)", last)}
    return numbers.get("passed", 0), numbers.get("failed", 0) + numbers.get("error", 0)


def run(name: str, command: list[str]) -> tuple[int, int]:
    path = os.path.join(LOGS, name + ".log")
    start = time.monotonic()
    with open(path, "wb") as log:
        try:
            code = subprocess.run(command, cwd=TOP, stdin=subprocess.DEVNULL, stdout=log,
                                  stderr=subprocess.STDOUT, timeout=PATIENCE).returncode
        except subprocess.TimeoutExpired:
            code = f"no end after {PATIENCE} s"
    with open(path, errors="replace") as log:
        text = log.read()
    passed, failed = count(text)
    if (code != 0 or passed == 0) and failed == 0:
        failed = 1                                     # it crashed, or it tested nothing
    print(f"{name:32} {passed:6} passed {failed:4} failed {time.monotonic() - start:7.1f} s",
          flush=True)
    if failed:
        print(f"---- {name}, exit code {code}: the end of {os.path.relpath(path, TOP)}")
        print("\n".join(text.splitlines()[-60:]), "\n----", flush=True)
    return passed, failed


def run_all(chosen: list[tuple[str, list[str]]]) -> list[tuple[int, int]]:
    """Two workers, for two cores, run what computes, and then help the other three.  These run
    what waits, and nothing else: more than two parts that compute would keep each other from being
    in time."""
    waiting, computing = collections.deque(), collections.deque()
    for part in chosen:
        (waiting if WAITS.match(part[0]) else computing).append(part)

    def take(queue: collections.deque) -> tuple[str, list[str]] | None:
        with contextlib.suppress(IndexError):           # another worker had the last one
            return queue.popleft()
        return None

    def work(*queues: collections.deque) -> list[tuple[int, int]]:
        done = []
        for queue in queues:
            while part := take(queue):
                done.append(run(*part))
        return done

    with concurrent.futures.ThreadPoolExecutor(5) as pool:
        workers = [pool.submit(work, *queues) for queues in
                   [(computing, waiting), (waiting,)] * 2 + [(waiting,)]]
    return [numbers for each in workers for numbers in each.result()]


def main() -> int:
    if os.environ.get("MYSQLD") and subprocess.run(
            [sys.executable, os.path.join(TOP, "tests", "hosts", "servers.py")],
            check=False).returncode:
        return 2
    shutil.rmtree(LOGS, ignore_errors=True)
    os.makedirs(LOGS)
    words = sys.argv[1:]
    chosen = [part for part in parts() if not words or any(word in part[0] for word in words)]
    passed, failed = (sum(numbers) for numbers in zip(*run_all(chosen)))
    print(f"{passed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
