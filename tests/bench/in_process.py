"""Measures one process by micro.c, next to the limit and to other programs; a row a figure."""

import os
import re
import statistics
import subprocess
import sys
import time
from pathlib import Path

import harness
from harness import Canned, Medians, Row, fold, long_part, micro, part, times, us

COUNTS = (0, 1000, 10000, 100000)


@part
def commit(kms: Canned, shared: dict) -> list[Row]:
    counts = COUNTS if not harness.QUICK else COUNTS[:2]
    got = micro("commit", harness.DATA, times(201, 5), *counts)
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
    with kms.on_its_own_core():
        got = micro("fetch", harness.DATA, kms.at_once, times(101, 2))
    waited = micro("fetch_slow", harness.DATA, kms.after_5, times(410, 20))
    slow = waited["ours_slow"] / waited["bare_slow"]
    shared["fetch_cpu"] = got["ours_cpu"]
    return [Row("fetch, CPU", us(got["ours_cpu"]), f"{us(got['bare_cpu'])} bare libcurl POST",
                f"{us(got['beyond'])} beyond it", "25 us beyond", got["beyond"] <= 25, "5 us are"
                " the SHA-256 of a signature, 5 us a handle of libcurl's own for each request"),
            Row("fetch, wall, KMS takes 5 ms", us(waited["ours_slow"]),
                f"{us(waited['bare_slow'])} bare libcurl POST", fold(slow), "1.01x", slow <= 1.01)]


def crowd(url: str, rounds: int, calls: int) -> tuple[Medians, int]:
    """Sixteen at once; the medians, and the connections opened after the first round."""
    words = [harness.OUT / "micro", "threads", harness.DATA, url, str(rounds), str(calls)]
    with subprocess.Popen(words, text=True, stdin=subprocess.PIPE,
                          stdout=subprocess.PIPE) as process:
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


WHY_AT_ONCE = ("no lock is contended; a fetch takes 251,000 instructions, a bare POST 99,000, and "
               "of the rest half is the signature and a fifth the new handle")
WHY_KEPT = "two mutexes are taken for each fetch, and their cache lines move between the cores"


@part
def fetch_16_threads(kms: Canned, shared: dict) -> list[Row]:
    rows = []
    for text, url, calls, goal in (("KMS takes 5 ms", kms.after_5, 40, "0.95x, 0 opened"),
                                   ("KMS answers at once", kms.at_once, times(400, 40), "0.8x")):
        got, opened = crowd(url, times(15, 2), calls)
        ratio = got["ours"] / got["bare"]
        rows.append(Row(f"fetch, 16 threads, {text}", f"{got['ours']:,.0f}/s",
                        f"{got['bare']:,.0f}/s, 16 bare handles",
                        f"{fold(ratio)}; {opened} opened later", goal,
                        opened == 0 and ratio >= float(goal[:4].rstrip("x")), WHY_AT_ONCE))
    return rows


@part
def kept(kms: Canned, shared: dict) -> list[Row]:
    got = micro("kept", harness.DATA, kms.at_once, times(41, 2), times(20000, 1000))
    cores = len(os.sched_getaffinity(0))
    ratio = got["sixteen"] / got["one"]
    return [Row("fetch from the shield, CPU", us(got["cpu"]), f"{got['one']:,.0f}/s", "", "2 us",
                got["cpu"] <= 2),
            Row("fetch from the shield, 16 threads", f"{got['sixteen']:,.0f}/s",
                f"{got['one']:,.0f}/s, one thread", f"{fold(ratio)}, with {cores} cores",
                "10x, or 0.8x the cores", ratio >= min(10, 0.8 * cores), WHY_KEPT)]


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
    with kms.on_its_own_core():
        got = micro("sign", harness.DATA, kms.at_once, times(41, 2))
    boto, curl = botocore_us(times(21, 2)), got["curl"]
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
    alone = micro("rewrap", harness.DATA, kms.after_10, few, 1)["seconds"]
    rows = []
    for count, rounds in ((few, 3), (many, 1)):
        all_ = [micro("rewrap", harness.DATA, kms.after_10, count, 16) for _ in range(rounds)]
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
    got = micro("open", harness.DATA, count, times(11, 2))
    ratio = got["ours"] / got["limit"]
    return [Row(f"open {count:,} keys", f"{got['ours'] / 1e3:.0f} ms",
                f"{got['limit'] / 1e3:.0f} ms SHA-256 of its {got['bytes'] / 1e6:.0f} MB",
                fold(ratio), "1.3x", ratio <= 1.3, "this machine is slower than the one for which"
                " the goals were set: earlier releases opened at 1.41x to 1.45x on it")]


@part
def lookup(kms: Canned, shared: dict) -> list[Row]:
    count = times(100000, 1000)
    got = micro("lookup", harness.DATA, count, times(21, 3))
    return [Row(f"lookup among {count:,}", f"{1000 * got['ours']:.0f} ns",
                f"{1000 * got['limit']:.0f} ns two reads of memory as far apart",
                fold(got["ours"] / got["limit"]), "150 ns", got["ours"] < 0.15,
                "a lookup waits for memory twice, and cannot be faster than that")]


@part
def memory(kms: Canned, shared: dict) -> list[Row]:
    count = times(100000, 1000)
    got = micro("memory", harness.DATA, count)
    ratio = got["ours"] / got["file"]
    return [Row(f"memory a key, {count:,} keys", f"{got['ours']:.0f} bytes",
                f"{got['file']:.0f} bytes in the file", fold(ratio), "1.25x", ratio <= 1.25)]


@part
def size(kms: Canned, shared: dict) -> list[Row]:
    stripped = harness.OUT / "keyring_aws.so"
    built = harness.TOP / "build" / "keyring_aws.so"
    subprocess.run(["strip", "-o", stripped, built], check=True)
    dynamic = subprocess.run(["readelf", "-d", stripped], check=True, text=True,
                             stdout=subprocess.PIPE).stdout
    needs = re.findall(r"\(NEEDED\).*\[(.*)\]", dynamic)
    small = stripped.stat().st_size
    well = all(re.match(r"lib(c|curl)\.so\.", each) for each in needs)
    return [Row("size, stripped", f"{small:,} bytes", f"links {' '.join(needs)}", "",
                "120,000, libc and libcurl", small < 120000 and well, "the file has grown with the"
                " proofs, the filter for logs, and the checks of settings and of the data file")]


# ---- a fleet of servers, and KMS's quota -----------------------------------------------------

QUOTA, RINGS, CALLS = 500, 200, 100


def watched(process: subprocess.Popen, url: str) -> list[tuple[float, int]]:
    """Seconds, and how many requests the quota has let through by then, until the end."""
    seen = []
    while process.poll() is None:
        seen.append((time.monotonic(), Canned.ask(url)[2]))
        time.sleep(0.1)
    return seen


def used(seen: list[tuple[float, int]], whole: int) -> float:
    """The part of the quota that is used while all are at work: without the first second, which
    has a full bucket, until nine tenths are done."""
    began = min((when for when, let in seen if let > 0), default=0.0)
    busy = [(when, let) for when, let in seen if let <= 0.9 * whole and when >= began + 1]
    if len(busy) < 2:
        return 0.0
    (since, first), (until, last) = busy[0], busy[-1]
    return (last - first) / (until - since) / QUOTA


def fleet_row(kms: Canned, cache: int) -> Row:
    rings, calls, url = times(RINGS, 5), times(CALLS, 20), kms.after_5
    kms.ask(url, f"/quota/{QUOTA}")
    words = ["fleet", harness.DATA, url, rings, calls, cache]
    before = kms.ask(url)
    with subprocess.Popen([harness.OUT / "micro", *map(str, words)], text=True,
                          stdout=subprocess.PIPE) as process:
        seen = watched(process, url)
        got = Medians(process.stdout.read())
    after = kms.ask(url)
    kms.ask(url, "/quota/0")
    if process.returncode:
        sys.exit(f"bench: a fleet ended with {process.returncode}")
    asked, let = after[1] - before[1], after[2] - before[2]
    share = used([(when, each - before[2]) for when, each in seen], let)
    starved = got["failed"] + got["late"]
    name = f"fleet: {rings} rings fetch {calls} times each, a quota of {QUOTA}/s"
    ours = f"{got['slowest']:.1f} s"
    limit = f"{(rings * calls - QUOTA) / QUOTA:.1f} s the quota allows; {got['ring']:.1f} s a ring"
    told = (f"{asked:,} requests; {got['failed']:,.0f} fetches failed, the longest took"
            f" {got['longest']:.1f} s")
    if cache:
        return Row(f"{name}, cache {cache} s", ours, "", told, "5 s, none failed",
                   got["slowest"] <= 5 and not starved)
    return Row(name, ours, limit, f"{share:.0%} of the quota used; {told}",
               "90% of the quota, none failed, none takes 10 s", share >= 0.9 and not starved)


@long_part
def fleet(kms: Canned, shared: dict) -> list[Row]:
    return [fleet_row(kms, cache) for cache in ([0, 60] if harness.knows_cache() else [0])]


# ---- what it does when it does nothing -------------------------------------------------------


class Idle:
    """An open ring with a kept connection that sleeps while other things are measured."""

    def __enter__(self) -> "Idle":
        self.folder, self.seconds = harness.OUT / "idle", times(60, 2)
        self.folder.mkdir(exist_ok=True)
        self.kms = subprocess.Popen([harness.OUT / "canned_kms", "0"], text=True,
                                    stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        url = f"http://127.0.0.1:{self.kms.stdout.readline().strip()}"
        self.process = subprocess.Popen([harness.OUT / "micro", "idle", self.folder, url],
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
