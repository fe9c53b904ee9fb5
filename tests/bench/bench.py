#!/usr/bin/python3
"""`make bench`: what keyring_aws costs, beside the limit and the peers, in one table.

    bench.py [--quick] [WORD ...]

runs all parts, or those whose names contain a word; --quick only tries whether they work.  What
is compared takes turns, round by round, and a figure is the median of its rounds, so that ratios
hold on a machine that is never quite idle; run it on one that nearly is.  The table goes to
build/bench/table.md, too, and the chart to tests/bench/commit.svg.
"""

import argparse
import collections
import contextlib
import json
import os
import platform
import re
import shutil
import statistics
import subprocess
import sys
import textwrap
import time
import urllib.request
from pathlib import Path
from typing import Callable, NamedTuple

HERE = Path(__file__).resolve().parent
TOP = HERE.parent.parent
OUT = TOP / "build" / "bench"
DATA = OUT / "data"
sys.path.insert(0, str(HERE.parent / "hosts"))

CFLAGS = os.environ.get("CFLAGS", "-Os -g").split()
STRICT = ["-std=c99", "-Wall", "-Wextra", "-Wpedantic", "-Wshadow", "-Wconversion", "-Werror"]
ARN = "arn:aws:kms:us-east-1:111122223333:key/11111111-2222-3333-4444-555555555555"
QUICK = False


class Row(NamedTuple):
    name: str
    ours: str
    limit: str              # the limit's, or the peers', with their names
    ratio: str
    goal: str
    met: bool | None = None     # None: there is no goal, or nothing to judge by


PARTS: dict[str, Callable] = {}


def part(function: Callable) -> Callable:
    PARTS[function.__name__] = function
    return function


def times(many: int, few: int) -> int:
    return few if QUICK else many


# ---- programs --------------------------------------------------------------------------------


def build() -> None:
    DATA.mkdir(parents=True, exist_ok=True)
    wrapped = [f"-Wl,--wrap={each}" for each in ("malloc", "calloc", "realloc")]
    for name, sources, libraries in (
            ("canned_kms", ["canned_kms.c"], ["-l:libbearssl.a", "-lpthread"]),
            ("micro", ["micro.c"], ["-l:libbearssl.a", "-lcurl", "-lcjson",
                                               "-ljansson", "-lpthread", *wrapped])):
        subprocess.run(["cc", *STRICT, *CFLAGS, "-o", OUT / name,
                        *(HERE / source for source in sources), *libraries], check=True)


class Medians(dict):
    """Name to median, of a program's lines `name value`."""

    def __init__(self, lines: str) -> None:
        samples = collections.defaultdict(list)
        for line in lines.splitlines():
            name, value = line.split()
            samples[name].append(float(value))
        super().__init__((name, statistics.median(all_)) for name, all_ in samples.items())


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

    @staticmethod
    def ask(url: str, path: str = "/stats") -> tuple[int, int]:
        """How many connections the port has accepted, and requests it has had."""
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


# ---- the parts, in the order of the table ----------------------------------------------------

COUNTS = (0, 1000, 10000, 100000)


@part
def commit(kms: Canned, shared: dict) -> list[Row]:
    counts = COUNTS if not QUICK else COUNTS[:2]
    got = micro("commit", DATA, times(201, 5), *counts)
    shared["limit_ms"] = {n: got[f"limit.{n}"] / 1000 for n in counts}
    rows = []
    for n in counts:
        ours, limit = got[f"ours.{n}"], got[f"limit.{n}"]
        flat = ours / got["ours.0"]
        rows.append(Row(f"commit, {n:,} keys", us(ours), f"{us(limit)} write + fdatasync",
                        f"{fold(ours / limit)}" + (f"; {fold(flat)} of 0 keys" if n else ""),
                        {0: "1.3x the limit", 100000: "1.1x of 0 keys"}.get(n, ""),
                        {0: ours <= 1.3 * limit, 100000: flat <= 1.1}.get(n)))
    return rows


@part
def fetch(kms: Canned, shared: dict) -> list[Row]:
    got = micro("fetch", DATA, kms.at_once, kms.after_5, times(41, 2))
    beyond = got["ours_cpu"] - got["bare_cpu"]
    slow = got["ours_slow"] / got["bare_slow"]
    shared["fetch_cpu"], shared["beyond"] = got["ours_cpu"], beyond
    return [Row("fetch, CPU", us(got["ours_cpu"]), f"{us(got['bare_cpu'])} bare libcurl POST",
                f"{us(beyond)} beyond it", "25 us beyond", beyond <= 25),
            Row("fetch, wall, KMS takes 5 ms", us(got["ours_slow"]),
                f"{us(got['bare_slow'])} bare libcurl POST", fold(slow), "1.01x", slow <= 1.01)]


def crowd(url: str, rounds: int, calls: int) -> tuple[Medians, int]:
    """Sixteen at once; the medians, and the connections opened after the first round."""
    with subprocess.Popen([OUT / "micro", "threads", DATA, url, str(rounds), str(calls)],
                          text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        lines, connections = "", []
        for line in process.stdout:
            lines += line
            if line.split()[0] in ("warm", "end"):
                connections.append(Canned.ask(url)[0])
                process.stdin.write("\n")
                process.stdin.flush()
    if process.returncode:
        sys.exit(f"bench: sixteen threads ended with {process.returncode}")
    return Medians(lines), connections[1] - connections[0] - 1      # our own question is one


@part
def fetch_16_threads(kms: Canned, shared: dict) -> list[Row]:
    rows = []
    for text, url, calls, goal in (("KMS takes 5 ms", kms.after_5, 40, "0.95x, 0 opened"),
                                   ("KMS answers at once", kms.at_once, times(400, 40), "")):
        got, opened = crowd(url, times(15, 2), calls)
        ratio = got["ours"] / got["bare"]
        rows.append(Row(f"fetch, 16 threads, {text}", f"{got['ours']:,.0f}/s",
                        f"{got['bare']:,.0f}/s, 16 bare handles",
                        f"{fold(ratio)}; {opened} opened later", goal,
                        (ratio >= 0.95 and opened == 0) if goal else None))
    return rows


@part
def kept(kms: Canned, shared: dict) -> list[Row]:
    got = micro("kept", DATA, kms.at_once, times(41, 2), times(20000, 1000))
    cores = len(os.sched_getaffinity(0))
    ratio = got["sixteen"] / got["one"]
    return [Row("fetch from the shield, CPU", us(got["cpu"]), f"{got['one']:,.0f}/s", "", "2 us",
                got["cpu"] <= 2),
            Row("fetch from the shield, 16 threads", f"{got['sixteen']:,.0f}/s",
                f"{got['one']:,.0f}/s, one thread", f"{fold(ratio)}, with {cores} cores",
                "10x, or 0.8x the cores", ratio >= min(10, 0.8 * cores))]


def botocore_us(rounds: int) -> float:
    """What botocore's signer takes for the same request."""
    from botocore.auth import SigV4Auth
    from botocore.awsrequest import AWSRequest
    from botocore.credentials import Credentials
    signer = SigV4Auth(Credentials("AKIDEXAMPLE", "not-a-real-secret"), "kms", "us-east-1")
    headers = {"Content-Type": "application/x-amz-json-1.1", "Host": "127.0.0.1",
               "X-Amz-Target": "TrentService.Decrypt"}
    samples = []
    for _ in range(rounds):
        start = time.thread_time()
        for _ in range(50):
            signer.add_auth(AWSRequest("POST", "http://127.0.0.1/", headers, b"x" * 500))
        samples.append((time.thread_time() - start) / 50 * 1e6)
    return statistics.median(samples)


@part
def sign(kms: Canned, shared: dict) -> list[Row]:
    got = micro("sign", DATA, kms.at_once, times(41, 2))
    boto = botocore_us(times(21, 2))
    curl = got["post_signed"] - got["post"]
    ratio, whole = got["ours"] / got["limit"], got["whole"] / got["whole_limit"]
    return [Row("sign, the key of the day kept",
                f"{us(got['ours'])}, {1e6 / got['ours']:,.0f}/s",
                f"{us(got['limit'])} its {got['blocks']:.0f} SHA-256 blocks;"
                f" {us(curl)} libcurl's AWS_SIGV4; {us(boto)} botocore",
                f"{fold(ratio)}; {fold(curl / got['ours'])}, {fold(boto / got['ours'])} faster",
                "1.5x the blocks", ratio <= 1.5),
            Row("sign, kaws_sign()", us(got["whole"]),
                f"{us(got['whole_limit'])} its {got['blocks'] + 16:.0f} blocks", fold(whole),
                "1.5x the blocks", whole <= 1.5)]


@part
def read_json(kms: Canned, shared: dict) -> list[Row]:
    got = micro("json", times(61, 3))
    rows = []
    for kind in ("usual", "long"):
        ours, cjson, jansson = (got[f"{kind}_{who}"] for who in ("ours", "cjson", "jansson"))
        ratio = min(cjson, jansson) / ours
        rows.append(Row(f"json, a reply of {got[f'{kind}_bytes']:,.0f} bytes",
                        f"{us(ours)}, {got[f'{kind}_allocations']:.0f} allocations",
                        f"{us(cjson)} cJSON; {us(jansson)} jansson", f"{fold(ratio)} faster",
                        "3x, 0 allocations",
                        ratio >= 3 and got[f"{kind}_allocations"] == 0))
    return rows


@part
def base64(kms: Canned, shared: dict) -> list[Row]:
    got = micro("base64", times(61, 3))
    cpu = shared.get("fetch_cpu")
    spent = got["encode_blob"] + got["decode_plain"]
    share = f"{100 * spent / cpu:.2g}% of a fetch's CPU" if cpu else ""
    rows = []
    for way in ("encode", "decode"):
        speed = 6144 / got[way]
        rows.append(Row(f"base64, {way} 6 KB", f"{speed:,.0f} MB/s", "",
                        share if way == "decode" else "",
                        "300 MB/s" + (", 2%" if way == "decode" else ""),
                        speed >= 300 and (not cpu or spent <= 0.02 * cpu)))
    return rows


@part
def rewrap(kms: Canned, shared: dict) -> list[Row]:
    few, many = times(1000, 20), times(10000, 40)
    alone = micro("rewrap", DATA, kms.after_10, few, 1)["seconds"]
    rows = []
    for count, rounds in ((few, 3), (many, 1)):
        all_ = [micro("rewrap", DATA, kms.after_10, count, 16) for _ in range(rounds)]
        took = statistics.median(each["seconds"] for each in all_)
        one = alone * count / few
        extra = all_[0]["extra_bytes"] - all_[0]["new_bytes"]
        replaces = max(each["replaces"] for each in all_)
        rows.append(Row(f"rewrap {count:,} keys, proved, KMS takes 10 ms", f"{took:.2f} s",
                        f"{one:.1f} s one at a time", f"{fold(one / took)} faster;"
                        f" {extra / 1e6:.1f} MB beyond the {all_[0]['new_bytes'] / 1e6:.1f} MB"
                        f" of new blobs; {replaces:.0f} replace",
                        "15x, 1 replace", one / took >= 15 and replaces == 1))
    return rows


@part
def open_file(kms: Canned, shared: dict) -> list[Row]:
    count = times(100000, 1000)
    got = micro("open", DATA, count, times(11, 2))
    ratio = got["ours"] / got["limit"]
    return [Row(f"open {count:,} keys", f"{got['ours'] / 1e3:.0f} ms",
                f"{got['limit'] / 1e3:.0f} ms SHA-256 of its {got['bytes'] / 1e6:.0f} MB",
                fold(ratio), "1.3x", ratio <= 1.3)]


@part
def lookup(kms: Canned, shared: dict) -> list[Row]:
    count = times(100000, 1000)
    got = micro("lookup", DATA, count, times(21, 3))
    return [Row(f"lookup among {count:,}", f"{1000 * got['ours']:.0f} ns",
                f"{1000 * got['limit']:.0f} ns two reads of memory as far apart",
                fold(got["ours"] / got["limit"]), "150 ns", got["ours"] < 0.15)]


@part
def memory(kms: Canned, shared: dict) -> list[Row]:
    count = times(100000, 1000)
    got = micro("memory", DATA, count)
    ratio = got["ours"] / got["file"]
    return [Row(f"memory a key, {count:,} keys", f"{got['ours']:.0f} bytes",
                f"{got['file']:.0f} bytes in the file", fold(ratio), "1.25x", ratio <= 1.25)]


@part
def size(kms: Canned, shared: dict) -> list[Row]:
    stripped = OUT / "keyring_aws.so"
    subprocess.run(["strip", "-o", stripped, TOP / "build" / "keyring_aws.so"], check=True)
    dynamic = subprocess.run(["readelf", "-d", stripped], check=True, text=True,
                             stdout=subprocess.PIPE).stdout
    needs = re.findall(r"\(NEEDED\).*\[(.*)\]", dynamic)
    small = stripped.stat().st_size
    well = all(re.match(r"lib(c|curl)\.so\.", each) for each in needs)
    return [Row("size, stripped", f"{small:,} bytes", f"links {' '.join(needs)}", "",
                "120,000, libc and libcurl", small < 120000 and well)]


# ---- in a server -----------------------------------------------------------------------------

SIZES = (0, 100, 1000, 2000, 10000, 100000)


class Ours:
    """A server with the plugin, and its data file to be exchanged."""

    def __init__(self, url: str) -> None:
        from servers import MySQL
        self.db = MySQL(plugin=TOP / "build" / "keyring_aws.so")
        self.data, self.made = self.db.folder / "keyring" / "data", 0
        conf = self.db.folder / "conf"
        conf.write_text("AKIDEXAMPLE\nnot-a-real-secret\n")
        conf.chmod(0o600)
        self.data.parent.mkdir()
        self.db.start(f"--loose-keyring-aws-cmk-id={ARN}", f"--loose-keyring-aws-endpoint={url}",
                      f"--loose-keyring-aws-conf-file={conf}",
                      f"--loose-keyring-aws-data-file={self.data}")
        self.db.install_keyring_udf()
        self.connection = self.db.connect()
        self.installed = False

    def run(self, statement: str) -> float:
        """Milliseconds that a statement takes; its one value, if it has one, must be 1."""
        with self.connection.cursor() as cursor:
            start = time.perf_counter()
            cursor.execute(statement)
            rows = cursor.fetchall()
            took = time.perf_counter() - start
        if rows and rows != ((1,),):
            sys.exit(f"bench: {statement} answered {rows}:\n{self.db.log()[-2000:]}")
        return took * 1000

    def load(self, count: int) -> float:
        """A keyring of so many keys; the milliseconds that it takes to install the plugin."""
        if self.installed:
            self.run("UNINSTALL PLUGIN keyring_aws")
        subprocess.run([OUT / "micro", "make", self.data, str(count)], check=True)
        self.data.chmod(0o600)
        self.installed = True
        return self.run("INSTALL PLUGIN keyring_aws SONAME 'keyring_aws.so'")

    def generate(self) -> float:
        self.made += 1
        return self.run(f"SELECT keyring_key_generate('new-{self.made}', 'AES', 32)")

    def threads(self) -> int:
        return len(list(Path(f"/proc/{self.db.process.pid}/task").iterdir()))

    def stop(self) -> None:
        self.connection.close()
        self.db.kill()
        self.db.__exit__()


class Theirs(Ours):
    """A server with MySQL's component_keyring_file."""

    def __init__(self) -> None:
        from servers import MySQL, _short_folder
        self.data, self.made = _short_folder() / "keys", 0
        self.db = MySQL(components={"component_keyring_file":
                                    {"path": str(self.data), "read_only": False}})
        self.db.start()
        self.db.install_keyring_udf()
        self.connection = self.db.connect()

    def load(self, count: int) -> float:
        keys = [{"user": "root@localhost", "data_id": f"bench-{n:07}", "data_type": "AES",
                 "data": f"{n:064X}", "extension": []} for n in range(count)]
        self.data.write_text(json.dumps({"version": "1.0", "elements": keys},
                                        separators=(",", ":")))
        return self.run("ALTER INSTANCE RELOAD KEYRING")


@part
def in_mysql(kms: Canned, shared: dict) -> list[Row]:
    rows, figures = [], {}
    with contextlib.ExitStack() as stack:
        ours, theirs = Ours(kms.at_once), Theirs()
        stack.callback(ours.stop)
        stack.callback(theirs.stop)
        version = ".".join(map(str, ours.db.version))
        before = ours.threads()
        for count in SIZES if not QUICK else SIZES[:3]:
            ours.load(count)
            theirs.load(count)
            samples = [], []
            for _ in range(times(8 if count <= 10000 else 3, 2)):
                for server, took in zip((ours, theirs), samples):
                    os.sync()       # or our sync would write what the peer left unwritten
                    took += [server.generate() for _ in range(6)][1:]
            figures[count] = tuple(map(statistics.median, samples))
        more = ours.threads() - before
        rows += start(ours, kms, shared)
    for count in (0, 2000, 10000):
        if count in figures:
            mine, peer = figures[count]
            flat = mine / figures[0][0]
            rows.insert(-1, Row(f"key_generate in MySQL {version}, {count:,} keys",
                                f"{mine:.2f} ms", f"{peer:.2f} ms component_keyring_file, unsynced",
                                f"{fold(peer / mine)} faster; {fold(flat)} of 0 keys",
                                "ahead", mine < peer))
    shared.update(threads=more, figures=figures, version=version)
    return rows


def start(ours: Ours, kms: Canned, shared: dict) -> list[Row]:
    """How long the plugin's start takes, all that the server does for any plugin included."""
    kms.ask(kms.at_once, "/latency/5")
    samples = []
    for _ in range(times(15, 2)):
        another = ours.run("INSTALL PLUGIN mysql_no_login SONAME 'mysql_no_login.so'")
        ours.run("UNINSTALL PLUGIN mysql_no_login")
        samples.append((ours.load(10000), another))
    kms.ask(kms.at_once, "/latency/0")
    took, another = map(statistics.median, zip(*samples))
    return [Row("start, 10,000 keys, KMS takes 5 ms", f"{took:.1f} ms INSTALL PLUGIN",
                f"10 ms of KMS, asked twice; {another:.1f} ms to install mysql_no_login", "",
                "60 ms", took < 60)]


# ---- what it does when it does nothing -------------------------------------------------------


class Idle:
    """An open ring with a kept connection that sleeps while other things are measured."""

    def __enter__(self) -> "Idle":
        self.folder, self.seconds = OUT / "idle", times(60, 2)
        self.folder.mkdir(exist_ok=True)
        self.kms = subprocess.Popen([OUT / "canned_kms", "0"], text=True, stdin=subprocess.PIPE,
                                    stdout=subprocess.PIPE)
        url = f"http://127.0.0.1:{self.kms.stdout.readline().strip()}"
        self.process = subprocess.Popen([OUT / "micro", "idle", self.folder, url],
                                        text=True, stdout=subprocess.PIPE)
        self.process.stdout.readline()
        time.sleep(0.5)
        self.began, self.before = time.monotonic(), self.spent()
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()
        self.kms.stdin.close()
        self.kms.wait(10)

    def spent(self) -> int:
        """Nanoseconds that its threads have been on a processor."""
        tasks = Path(f"/proc/{self.process.pid}/task").iterdir()
        return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks)

    def rows(self, shared: dict) -> list[Row]:
        time.sleep(max(0.0, self.began + self.seconds - time.monotonic()))
        spent, waited = self.spent() - self.before, time.monotonic() - self.began
        threads = shared.get("threads", 0)
        return [Row("idle cost", f"{spent / 1e6:.3f} ms of CPU in {waited:.0f} s",
                    f"{threads} threads of its own in a server", "", "0",
                    spent == 0 and threads == 0)]


# ---- the chart and the table -----------------------------------------------------------------

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
    data, limit = OUT / "commit.dat", OUT / "limit.dat"
    data.write_text("".join(f"{count or 10} {ours:.4f} {theirs:.4f}\n"
                            for count, (ours, theirs) in shared["figures"].items()))
    limit.write_text("".join(f"{count or 10} {ms:.4f}\n"
                             for count, ms in shared["limit_ms"].items()))
    svg = OUT / "commit.svg"            # by their names: a path may hold what gnuplot reads
    subprocess.run(["gnuplot"], check=True, text=True, cwd=OUT,
                   input=GNUPLOT.format(svg=svg.name, data=data.name, limit=limit.name,
                                        version=shared["version"]))
    if not QUICK:
        shutil.copy(svg, HERE)


def machine() -> str:
    cpu = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    compiler = subprocess.run(["cc", "-dumpfullversion"], stdout=subprocess.PIPE, text=True,
                              check=False).stdout.strip()
    load = os.getloadavg()[0]
    return (f"{cpu[1] if cpu else platform.machine()}, {os.cpu_count()} cores, Linux"
            f" {platform.release()}, gcc {compiler} {' '.join(CFLAGS)}, {time.strftime('%F')},"
            f" load {load:.1f}")


def listed(rows: list[Row]) -> str:
    """An item a row, as the README has them: what, ours, the limit or peers, ratio, goal."""
    items = []
    for row in rows:
        what, ours, limit, ratio, goal = row[:5]
        goal = goal and f" (goal: {goal}; {({True: 'met', False: 'MISSED'}).get(row.met, 'open')})"
        text = f"* **{what}**: {ours}{limit and f'; {limit}'}{ratio and f': {ratio}'}{goal}"
        items.append("\n".join(textwrap.wrap(text, 99, subsequent_indent="  ",
                                              break_on_hyphens=False, break_long_words=False)))
    return "\n".join(items)


def main() -> int:
    global QUICK
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--quick", action="store_true", help="few rounds, to see that it works")
    parser.add_argument("words", nargs="*", help="parts whose names contain one of these")
    asked = parser.parse_args()
    QUICK, words = asked.quick, asked.words
    shutil.rmtree(DATA, ignore_errors=True)
    build()
    rows, shared, where, began = [], {}, machine(), time.monotonic()
    with Canned() as kms, Idle() as idle:
        for name, function in PARTS.items():
            if not words or any(word in name for word in words):
                print(f"measuring {name.replace('_', ' ')} ...", file=sys.stderr, flush=True)
                rows += function(kms, shared)
        if not words:
            rows += idle.rows(shared)
    chart(shared)
    text = f"{listed(rows)}\n\n{where}.\n"
    (OUT / "table.md").write_text(text)
    missed = sum(row.met is False for row in rows)
    print(f"{text}\n{sum(row.met is True for row in rows)} goals met, {missed} missed,"
          f" in {time.monotonic() - began:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
