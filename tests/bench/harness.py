"""What the parts of the bench share: rows, rounds, programs, and figures in words.

A part is a function that measures something and returns rows.  Things that are compared take turns,
round by round, and a figure is the median of its rounds.  So ratios hold even on a machine that is
never quite idle.
"""

import collections
import contextlib
import os
import statistics
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Callable, Iterator, NamedTuple

HERE = Path(__file__).resolve().parent
TOP = HERE.parent.parent
OUT = TOP / "build" / "bench"
DATA = OUT / "data"
QUICK = False
sys.path.insert(0, str(HERE.parent / "hosts"))

CFLAGS = os.environ.get("CFLAGS", "-Os -g").split()
STRICT = ["-std=c99", "-Wall", "-Wextra", "-Wpedantic", "-Wshadow", "-Wconversion", "-Werror"]
ARN = "arn:aws:kms:us-east-1:111122223333:key/11111111-2222-3333-4444-555555555555"


class Row(NamedTuple):
    name: str
    ours: str
    limit: str              # the limit's, or the peers', with their names
    ratio: str
    goal: str
    met: bool | None = None     # None: there is no goal, or nothing to judge by
    why: str = ""               # if it is missed


PARTS: dict[str, Callable] = {}
LONG_PARTS: dict[str, Callable] = {}        # of `make bench-long`


def part(function: Callable) -> Callable:
    PARTS[function.__name__] = function
    return function


def long_part(function: Callable) -> Callable:
    LONG_PARTS[function.__name__] = function
    return function


def times(many: int, few: int) -> int:
    return few if QUICK else many


# ---- programs --------------------------------------------------------------------------------


def build() -> None:
    DATA.mkdir(parents=True, exist_ok=True)
    wrapped = [f"-Wl,--wrap={each}" for each in ("malloc", "calloc", "realloc")]
    caches = ["-DBENCH_CACHE"] if knows_cache() else []
    for name, sources, libraries in (
            ("canned_kms", ["canned_kms.c"], ["-l:libbearssl.a", "-lpthread"]),
            ("micro", ["micro.c"], ["-l:libbearssl.a", "-lcurl", "-lcjson",
                                               "-ljansson", "-lpthread", *wrapped])):
        subprocess.run(["cc", *STRICT, *CFLAGS, *caches, "-o", OUT / name,
                        *(HERE / source for source in sources), *libraries], check=True)


def knows_cache() -> bool:
    """Whether this library can keep keys for a time: then rows with it are measured, too."""
    return "cache_seconds;" in (TOP / "keyring_aws.h").read_text()


class Medians(dict):
    """Name to median, of a program's lines `name value`.  Of CPU time it is the least: what the
    machine does besides, and a virtual one's way to sleep, only add to it."""

    def __init__(self, lines: str) -> None:
        samples = collections.defaultdict(list)
        for line in lines.splitlines():
            name, value = line.split()
            samples[name].append(float(value))
        super().__init__((name, (min if name.endswith("cpu") else statistics.median)(all_))
                         for name, all_ in samples.items())


def micro(*args: object) -> Medians:
    """Run a part of micro.c to its end."""
    words = [str(OUT / "micro"), *map(str, args)]
    done = subprocess.run(words, check=False, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        sys.exit(f"bench: {' '.join(words)} ended with {done.returncode}")
    for old in DATA.iterdir():
        old.unlink()
    return Medians(done.stdout)


class Canned:
    """canned_kms.c, on three ports: answering at once, after 5 and after 10 ms."""

    def __enter__(self) -> "Canned":
        self.process = subprocess.Popen([OUT / "canned_kms", "0", "5", "10"], text=True,
                                        stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        ports = self.process.stdout.readline().split()
        self.at_once, self.after_5, self.after_10 = (f"http://127.0.0.1:{p}" for p in ports)
        return self

    def __exit__(self, *_: object) -> None:
        self.process.stdin.close()
        self.process.wait(10)

    @contextlib.contextmanager
    def on_its_own_core(self) -> Iterator[None]:
        """It stays on one core, and what we run on another.  A request costs its sender twice as
        much if it has to wake another core, and whether it has to would otherwise change from one
        second to the next.  A real KMS is never on our core."""
        cores = os.sched_getaffinity(0)

        def stay(ours: set[int], its: set[int]) -> None:
            os.sched_setaffinity(0, ours)
            for thread in os.listdir(f"/proc/{self.process.pid}/task"):
                os.sched_setaffinity(int(thread), its)

        stay({min(cores)}, {max(cores)})
        try:
            yield
        finally:
            stay(cores, cores)

    @staticmethod
    def ask(url: str, path: str = "/stats") -> tuple[int, int, int]:
        """How many connections the port has accepted, requests it has had, and of these how many
        the quota let through."""
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(url + path, timeout=10) as reply:
            return tuple(map(int, reply.read().split()))


# ---- words -----------------------------------------------------------------------------------


def us(value: float) -> str:
    if value >= 1e6:
        return f"{value / 1e6:.2f} s"
    return f"{value / 1000:.2f} ms" if value >= 1000 else f"{value:.3g} us"


def fold(value: float) -> str:
    return f"{value:.3g}x" if value < 100 else f"{value:.0f}x"
