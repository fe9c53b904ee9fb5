#!/usr/bin/python3
"""`make bench`: what keyring_aws costs, next to the limit and to other programs, in one list.

    bench.py [--quick] [--long] [WORD ...]

runs all parts, or those whose names contain a word.  --long runs the parts of `make bench-long`
instead, which take minutes.  --quick only tries whether the parts work.  Run it on a machine that
is nearly idle.  The list goes to build/bench/table.md.  If all parts ran in full, the list also
replaces the one in tests/bench/results.md, the README's lines of it are renewed, and the chart
goes to tests/bench/commit.svg.
"""

import argparse
import contextlib
import os
import platform
import re
import shutil
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import harness
from harness import Canned, Row
from in_process import Idle
import in_mysql         # noqa: F401 - its parts stand behind those of in_process, in the list

RESULTS = harness.HERE / "results.md"
README = harness.TOP / "README.md"

# ---- the chart -------------------------------------------------------------------------------

GNUPLOT = """\
set terminal svg noenhanced size 760,420 font "sans-serif,13" background "white"
set output "{svg}"
set title "Time to add a key in MySQL {version}, by the number of keys there"
set xlabel "keys in the keyring"
set ylabel "milliseconds a key"
set logscale xy
set xrange [8:130000]
set yrange [0.1:*]
set xtics ("0" 10, "100" 100, "1,000" 1000, "10,000" 10000, "100,000" 100000)
set ytics ("0.1" 0.1, "1" 1, "10" 10, "100" 100, "1,000" 1000)
set grid xtics ytics lc rgb "#dddddd"
set key top left Left reverse
plot "{data}" using 1:3 with linespoints lw 2 pt 7 ps 0.6 lc rgb "#c0392b" \\
         title "component_keyring_file (rewrites the file, unsynced)", \\
     "{data}" using 1:2 with linespoints lw 2 pt 7 ps 0.6 lc rgb "#1f6fb2" \\
         title "keyring_aws (durable; KMS answers at once)", \\
     "{limit}" using 1:2 with linespoints lw 1 dt 2 pt 7 ps 0.4 lc rgb "#555555" \\
         title "the disk: write + fdatasync of one entry"
"""


def chart(shared: dict) -> None:
    if "figures" not in shared or "limit_ms" not in shared:
        return
    data, limit = harness.OUT / "commit.dat", harness.OUT / "limit.dat"
    data.write_text("".join(f"{count or 10} {ours:.4f} {theirs:.4f}\n"
                            for count, (ours, theirs) in shared["figures"].items()))
    limit.write_text("".join(f"{count or 10} {ms:.4f}\n"
                             for count, ms in shared["limit_ms"].items()))
    svg = harness.OUT / "commit.svg"    # by their names: a path may hold what gnuplot reads
    subprocess.run(["gnuplot"], check=True, text=True, cwd=harness.OUT,
                   input=GNUPLOT.format(svg=svg.name, data=data.name, limit=limit.name,
                                        version=shared["version"]))
    if not harness.QUICK:
        shutil.copy(svg, harness.HERE)


def machine() -> str:
    cpu = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    compiler = subprocess.run(["cc", "-dumpfullversion"], stdout=subprocess.PIPE, text=True,
                              check=False).stdout.strip()
    load = os.getloadavg()[0]
    return (f"{cpu[1] if cpu else platform.machine()}, {os.cpu_count()} cores, Linux"
            f" {platform.release()}, gcc {compiler} {' '.join(harness.CFLAGS)},"
            f" {time.strftime('%F')}, load {load:.1f}")


# ---- the list, and where it goes -------------------------------------------------------------

ITEM = re.compile(r"^\* \*\*(.+?)\*\*: .*\n(?:  .*\n)*", re.M)
HEAD = """\
# What keyring_aws costs

`make bench` and `make bench-long` write this list, each its own half. What is compared took turns,
and a figure is the median of its rounds. Of CPU time, and with a thousand tables, it is the least.
Of a difference, it is the median of what the two differed by in each round. Times differ from
machine to machine: look at the ratios.
"""


def listed(rows: list[Row]) -> str:
    """An item a row: what, ours, the limit or peers, ratio, goal."""
    items = []
    for row in rows:
        what, ours, limit, ratio, goal = row[:5]
        judged = {True: "met", False: "MISSED" + (row.why and f": {row.why}")}.get(row.met, "open")
        goal = goal and f" (goal: {goal}; {judged})"
        text = f"* **{what}**: {ours}{limit and f'; {limit}'}{ratio and f': {ratio}'}{goal}"
        items.append("\n".join(textwrap.wrap(text, 99, subsequent_indent="  ",
                                              break_on_hyphens=False, break_long_words=False)))
    return "".join(item + "\n" for item in items)


def with_half(results: str, title: str, text: str) -> str:
    """The results with one half exchanged, and the other, if there is one, as it was."""
    halves = dict(re.findall(r"^## (.+)\n\n((?:(?!## ).*\n)*)", results + "\n", re.M))
    halves[title] = text
    return HEAD + "".join(f"\n## {name}\n\n{halves[name].strip()}\n" for name in sorted(halves))


def with_items(readme: str, items: str) -> str:
    """The README with those items renewed that it has, each known by its name."""
    new = {item[1]: item[0] for item in ITEM.finditer(items)}
    before, title, section = readme.partition("\n## How fast it is\n")
    section, after, rest = section.partition("\n## ")
    return before + title + ITEM.sub(lambda item: new.get(item[1], item[0]), section) + after + rest


def keep(long: bool, items: str, where: str) -> None:
    title = "make bench-long" if long else "make bench"
    old = RESULTS.read_text() if RESULTS.exists() else ""
    RESULTS.write_text(with_half(old, title, f"{items}\nMeasured on: {where}.\n"))
    README.write_text(with_items(README.read_text(), items))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--quick", action="store_true", help="few rounds, to see that it works")
    parser.add_argument("--long", action="store_true", help="the parts that take minutes")
    parser.add_argument("words", nargs="*", help="parts whose names contain one of these")
    asked = parser.parse_args()
    harness.QUICK, words = asked.quick, asked.words
    shutil.rmtree(harness.DATA, ignore_errors=True)
    harness.build()
    rows, shared, where, began = [], {}, machine(), time.monotonic()
    with Canned() as kms, contextlib.nullcontext() if asked.long else Idle() as idle:
        for name, function in (harness.LONG_PARTS if asked.long else harness.PARTS).items():
            if not words or any(word in name for word in words):
                print(f"measuring {name.replace('_', ' ')} ...", file=sys.stderr, flush=True)
                rows += function(kms, shared)
        if idle and not words:
            rows += idle.rows(shared)
    chart(shared)
    items = listed(rows)
    (harness.OUT / "table.md").write_text(items)
    if not harness.QUICK and not words:
        keep(asked.long, items, where)
    missed = sum(row.met is False for row in rows)
    print(f"{items}\n{where}.\n\n{sum(row.met is True for row in rows)} goals met,"
          f" {missed} missed, in {time.monotonic() - began:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
