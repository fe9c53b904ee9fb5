"""Each reply is used for its own request only, even if a gateway between us and KMS mixes them up.

tests/hosts/pairing_proxy.py doubles, prefixes, delays, swaps, repeats and cuts replies: one by one,
through the library and a real MySQL server, then at random, with 16 threads.  These must be true: a
fetch gives its own key's bytes or an error; KMS can decrypt each acknowledged key afterwards; a key
that was not acknowledged is not there; a re-wrap loses nothing; and a connection over which
something odd came is not used again.  The emulator says what KMS could decrypt, by the data file;
the product is not asked.  KAWS_SEED=n repeats a storm's faults, as far as threads allow it.
"""

import collections
import contextlib
import dataclasses
import os
import random
import shutil
import threading
import time

import pymysql
import pytest

from conftest import LONG, write_conf
from demo import read_data_file
from driver import Driver
from kms_emulator import ACCESS_KEY_ID, KEY_ARN, SECRET, Emulator, KmsError, unseal
from mysql_fixtures import NO_SCHEMA, Stage, cursor, wait_for
from pairing_proxy import PLACES, STORM, PairingProxy
from patience import calm

SHORT_MS = 250                          # a call's time where it is to run out
OWNER = "root@localhost"                # of the keys that SQL makes
THREADS = 16
CALLS = 10000 if LONG else 0            # a storm's, at least
SECONDS = {"library": 12, "mysql": 8}


def read_keys(kms: Emulator, path) -> dict:
    """What KMS decrypts every key in a data file to: its bytes, or None if that fails."""
    file, keys = read_data_file(path), {}
    for entry in file.entries:
        try:
            keys[entry.key_id] = unseal(kms.key(entry.arn), entry.context(file.file_id),
                                        entry.blob)[0]
        except KmsError:
            keys[entry.key_id] = None
    return keys


def new_key(size: int = 32) -> bytes:
    """By chance, but without NUL: keyring_udf takes that for the end of a key."""
    return bytes(random.choices(range(1, 256), k=size))


def expect_nothing(wrong: list) -> None:
    """Fails with each thing that is wrong, and how often."""
    counts = collections.Counter(wrong)
    assert not wrong, "\n".join([f"{len(wrong)} wrong:",
                                 *(f"{number:4} {what}" for what, number in counts.items())])


# ---- one fault, the library ----------------------------------------------------------------------

KEYS = {**{f"key-{i}": new_key() for i in range(8)}, "odd": new_key(16)}
NEW = new_key()


@dataclasses.dataclass(frozen=True)
class Op:
    name: str
    command: tuple
    action: str                         # the one whose reply is spoiled
    makes: str = ""                     # a key of that name


OPS = (Op("fetch", ("fetch", "key-1", None), "Decrypt"),
       Op("store", ("store", "new", None, "SECRET", NEW), "Encrypt", "new"),
       Op("store, its proof", ("store", "new", None, "SECRET", NEW), "Decrypt", "new"),
       Op("generate", ("generate", "made", None, "AES", 32), "GenerateDataKeyWithoutPlaintext",
          "made"),
       Op("re-wrap", ("rewrap",), "ReEncrypt"),
       Op("re-wrap, its proof", ("rewrap",), "Decrypt"),
       Op("rotate", ("rotate",), "RotateKeyOnDemand"))


@dataclasses.dataclass(frozen=True)
class Row:
    what: str
    place: str = ""
    ms: float = 5
    fresh: bool = False
    share: float = 0
    short: bool = False                 # nothing comes in time

    def __str__(self) -> str:
        return " ".join(filter(None, (self.what, self.place, "fresh" * self.fresh,
                                      str(self.share or ""), str(self.ms) if self.ms != 5 else "")))


ROWS = (*(Row("double", place, 100 if place == "idle" else 5) for place in PLACES),
        Row("double", "body", fresh=True), Row("double", "segment", fresh=True),
        Row("double", "idle", 100, fresh=True),
        *(Row("early 503", place) for place in ("record", "body", "segment", "ms", "during")),
        Row("early 408", "segment"), Row("surplus 408", "segment"), Row("surplus 408", "body"),
        Row("surplus 408", "idle", 100), Row("surplus 408", "during"),
        Row("tls", "segment"), Row("tls", "idle", 50), Row("stale"), Row("swap"),
        Row("cut", share=0.9), Row("hush", short=True),
        Row("delay", ms=SHORT_MS + 100, short=True))
MORE = (Row("double", "record", fresh=True), Row("double", "next", fresh=True),
        Row("double", "idle", 5000), Row("early 503", "next"), Row("early 503", "idle"),
        Row("early 503", "ms", 1), Row("early 503", "ms", 20), Row("early 408", "ms"),
        Row("surplus 408", "record"), Row("surplus 408", "next"), Row("surplus 408", "ms"),
        Row("surplus 408", "idle", 5000), Row("surplus 503", "segment"),
        Row("surplus 503", "during"), Row("tls", "next"), Row("cut"), Row("delay", ms=150),
        Row("hush", share=0.9, short=True))


class World:
    """An emulator behind the proxy, and a ring that is reopened on the same keys."""

    def __init__(self, folder, certs, program):
        self.kms, self.proxy = Emulator().start(), PairingProxy(None, certs.good)
        self.kms.set(rotation_ms=0)
        self.proxy.emulator = self.kms
        self.file, self.template, self.certs = folder / "data", folder / "template", certs
        self.conf = write_conf(folder / "conf", ACCESS_KEY_ID, SECRET)
        self.lib = Driver(program)
        self.open(self.kms.url)
        for name, key in KEYS.items():
            self.lib.ok("store", name, None, "SECRET", key)
        self.lib.ok("close")
        shutil.copy(self.file, self.template)

    def open(self, url: str, **settings) -> None:
        answer = self.lib.open(data_file=self.file, conf_file=self.conf, kms_key_id=KEY_ARN,
                               endpoint=url, ca_file=self.certs.ca, rewrap_parallel=2, **settings)
        assert answer.status == "OK", answer

    def anew(self, **settings) -> Driver:
        """The ring with its first keys, and a connection that was used once."""
        self.proxy.calm()
        shutil.copy(self.template, self.file)
        self.kms.key(KEY_ARN).materials.rotations = 0
        self.open(self.proxy.url, **settings)
        self.lib.ok("fetch", "key-7", None)
        return self.lib


@pytest.fixture(scope="module")
def world(tmp_path_factory, certs, driver_program):
    made = World(tmp_path_factory.mktemp("pairing"), certs, driver_program)
    with made.proxy:
        yield made
    made.lib.stop()
    made.kms.stop()
    assert made.kms.crashes == []


@pytest.mark.parametrize("row", ROWS + MORE if LONG else ROWS, ids=str)
def test_one_fault(world, row):
    expect_nothing([f"{op.name}: {what}" for op in OPS for what in play(world, row, op)])


def surely(reused: collections.Counter) -> list:
    """The faults after which a connection was used again.  If a surplus comes after its reply, the
    next request may be on its way already; then a busy proxy sees it too late to tell."""
    return [name for name in reused if name[1] not in ("next", "ms", "idle")
            or name[0].startswith("early")]


def play(world: World, row: Row, op: Op) -> list:
    """What goes wrong when that fault hits that operation."""
    if row.what == "swap" and op.name == "re-wrap, its proof":
        return []                       # an error is never swapped
    lib, proxy = world.anew(), world.proxy
    try:
        proxy.fault(row.what, op.action, row.place, ms=row.ms, fresh=row.fresh, share=row.share)
        if row.what == "swap":
            proxy.fault("swap", "ReEncrypt" if op.action == "ReEncrypt" else "Decrypt")
        if row.short:
            lib.call("use_timeouts", SHORT_MS, SHORT_MS)
        other = lib.begin("fetch", "odd", None) if row.what == "swap" else None
        answer = lib.call(*op.command)
        wrong = look(answer, op.command[1]) if op.command[0] == "fetch" else []
        wrong += look(other.result(30), "odd") if other else []
        if row.place in ("next", "ms", "idle"):
            proxy.settle()              # one that comes at a later look, nobody can tell
        lib.ok("later")                 # so that what comes next is sent
        wrong += look_all(lib)
        lib.call("use_timeouts", 0, 0)
        lib.ok("later")
        wrong += look_all(lib, strict=True)
        wrong += [f"used again after {name}" for name in surely(proxy.reused)]
        happened = proxy.happened()
    finally:
        lib.ok("close")
    keys = read_keys(world.kms, world.file)
    wrong += ["a key is lost" for name, key in KEYS.items() if keys.get(name) != key]
    made = keys.get(op.makes)
    if op.makes and answer.status != "OK" and op.makes in keys:
        wrong.append(f"{answer.status}, but the key is there")
    if op.makes and answer.status == "OK" and (made is None or len(made) != 32
                                               or op.makes == "new" and made != NEW):
        wrong.append("acknowledged, and lost")
    if not wrong:
        calm(happened, f"{op.name}: the fault did not happen")
        calm(not proxy.reused, f"{op.name}: used again after {[*proxy.reused]}")
    return wrong


def test_the_replies_to_two_stores_change_places(world):
    """Both replies are whole and new, but swapped. Only decrypting the blobs shows that."""
    lib, keys = world.anew(), {name: new_key() for name in ("one", "two")}
    try:
        for _ in keys:
            world.proxy.fault("swap", "Encrypt")
        pending = {name: lib.begin("store", name, None, "SECRET", key)
                   for name, key in keys.items()}
        kept = {name for name in keys if pending[name].result(30).status == "OK"}
        assert world.proxy.done
        wrong = look_all(lib, strict=True)
    finally:
        lib.ok("close")
    there = read_keys(world.kms, world.file)
    wrong += ["acknowledged, and lost" for name in kept if there.get(name) != keys[name]]
    wrong += ["not acknowledged, but there" for name in set(there) - set(KEYS) - kept]
    expect_nothing(wrong)


def look(answer, name: str) -> list:
    if answer.status != "OK" or answer.results[1] == KEYS[name]:
        return []
    whose = "another key's" if answer.results[1] in KEYS.values() else "nobody's"
    return [f"a fetch gave {whose} bytes"]


def look_all(lib: Driver, strict: bool = False) -> list:
    """Fetches every key; where it is strict, none may fail either."""
    wrong = []
    for name in KEYS:
        answer = lib.call("fetch", name, None)
        wrong += look(answer, name)
        if strict and answer.status != "OK":
            wrong.append(f"a later fetch failed: {answer.status}")
    return wrong


# ---- one fault, a MySQL server -------------------------------------------------------------------


@pytest.fixture(scope="module")
def running():
    """A server with the plugin, and the proxy between it and its KMS."""
    with Stage() as stage:
        stage.kms.tls = None
        with PairingProxy(stage.kms, stage.certs.good) as proxy:
            stage.start(NO_SCHEMA, endpoint=proxy.url)
            stage.install_functions()
            yield stage, proxy


@pytest.fixture
def server(running):
    """Without keys, and with no connection that a fault before has spoiled; no call's time is up
    soon."""
    stage, proxy = running
    proxy.calm()
    proxy.cut()
    stage.use(timeout=10000, connect_timeout=5000)
    stage.renew()
    return stage, proxy


class SqlSeat:
    """A client's own connection. Where the keyring fails, MySQL before 9 says so by an error."""

    def __init__(self, stage: Stage):
        self.stage, self.open = stage, contextlib.ExitStack()

    def __enter__(self) -> "SqlSeat":
        self.session = self.open.enter_context(cursor(self.stage))
        return self

    def __exit__(self, *_) -> None:
        self.open.close()

    def one(self, query: str, *values):
        try:
            self.session.execute(f"SELECT {query} AS value", values)    # as Stage.ask() does
            return self.session.fetchone()[0]
        except pymysql.err.MySQLError:
            return None

    def fetch(self, name: str):
        value = self.one("HEX(keyring_key_fetch(%s))", name)
        return None if value is None else bytes.fromhex(value)

    def store(self, name: str, key: bytes) -> bool:
        return self.one("keyring_key_store(%s, 'SECRET', %s)", name, key) == 1

    def generate(self, name: str) -> bool:
        return self.one("keyring_key_generate(%s, 'AES', 32)", name) == 1

    def remove(self, name: str) -> bool:
        return self.one("keyring_key_remove(%s)", name) == 1

    def rewrap(self) -> bool:
        return self.one("keyring_aws_rotate_keys()") == 1


@pytest.mark.parametrize("row", [Row("double", "body", fresh=True), Row("double", "segment"),
                                 Row("double", "ms", 20), Row("double", "during"),
                                 Row("early 503", "segment"), Row("stale")], ids=str)
def test_one_fault_in_mysql(server, row):
    """The fault hits a fetch, a store, a re-wrap, and their proofs."""
    stage, proxy = server
    keys = {f"key-{number}": new_key() for number in range(20)}
    with SqlSeat(stage) as seat:
        for name, key in keys.items():
            assert seat.store(name, key)
        for nth, action in ((1, "Decrypt"), (1, "Encrypt"), (2, "Decrypt"), (5, "ReEncrypt"),
                            (3, "Decrypt")):
            proxy.fault(row.what, action, row.place, nth=nth, ms=row.ms, fresh=row.fresh)
            assert seat.fetch("key-0") in (None, keys["key-0"])
            key = new_key()
            if seat.store(f"new-{nth}-{action}", key):
                keys[f"new-{nth}-{action}"] = key
            seat.rewrap()
            time.sleep(0.05)
            assert read_keys(stage.kms, stage.data) == keys
        assert len(keys) >= 23
        assert {name: seat.fetch(name) for name in keys} == keys
    wait_for(lambda: sum(proxy.done.values()) + sum(proxy.gone.values()) == 5, 10)  # its threads
    expect_nothing([f"used again after {name}" for name in surely(proxy.reused)])
    calm(not proxy.reused, f"used again after {[*proxy.reused]}")


# ---- at random -----------------------------------------------------------------------------------


class Storm:
    """Players at once, until their time is up and there were calls enough."""

    def __init__(self, proxy: PairingProxy, seconds: float, seats):
        self.seed = int(os.environ.get("KAWS_SEED") or time.time_ns() % 1000000)
        self.proxy, self.end = proxy, time.monotonic() + seconds
        self.counts, self.lock = collections.Counter(), threading.Lock()
        self.common = {f"common-{i}": new_key(32 if i % 4 else 48) for i in range(12)}
        self.wrong, self.surprises = [], []
        self.players = [Player(self, seat, number) for number, seat in enumerate(seats)]

    def over(self) -> bool:
        calls = sum(self.counts.values())
        return bool(self.surprises) or time.monotonic() > self.end and calls >= CALLS

    def count(self, what: str, good: bool) -> bool:
        with self.lock:
            self.counts[what, "OK" if good else "failed"] += 1
        return good

    def run(self, seat, keys) -> None:
        """All players; from time to time all keys are re-wrapped meanwhile. keys() are those that
        KMS could open: what is there must be what was acknowledged."""
        for name, key in self.common.items():
            assert seat.store(name, key)
        self.proxy.storm(self.seed, rate=0.1, late_ms=1700)
        for player in self.players:
            player.start()
        while not self.over():
            time.sleep(1)
            self.count("re-wrap", seat.rewrap())    # all or nothing: many of these fail
        for player in self.players:
            player.join()
        self.done, self.reused = self.proxy.done, self.proxy.reused
        self.proxy.calm()
        there = keys()
        self.check(there)
        wait_for(lambda: not there or seat.fetch(min(there)), 6)    # a probe finds that it is over
        assert {name: seat.fetch(name) for name in there} == there

    def check(self, there: dict) -> None:
        """What is there must be what was acknowledged, and the fetches told the truth."""
        known = dict(self.common)
        for player in self.players:
            known.update(player.known)
            for name, got in player.seen:
                if name in there and got != there[name]:
                    self.wrong.append(name)
        lost = [name for name, key in known.items()
                if there.get(name) is None or key not in (None, there[name])]
        print(f"KAWS_SEED={self.seed}: {sum(self.counts.values())} calls: {dict(self.counts)}; "
              f"{sum(self.done.values())} faults: {dict(self.done)}; "
              f"{len(self.wrong)} wrong, {len(lost)} lost")
        assert not self.surprises, self.surprises[0]
        assert not self.wrong and not lost, (f"KAWS_SEED={self.seed}: {len(self.wrong)} fetches "
                                             f"gave wrong bytes, {len(lost)} keys are lost")
        assert set(there) == set(known), f"not acknowledged: {set(there) - set(known)}"
        self.check_faults()

    def check_faults(self) -> None:
        """The storm was one, and the product did not merely fail; a connection that was spoiled
        before its next request could be on its way was not used again."""
        expect_nothing([f"used again after {name}" for name in surely(self.reused)])
        calm(sum(self.done.values()) > 50, f"there were only the faults {dict(self.done)}")
        for what in ("fetch", "store", "generate"):
            assert self.counts[what, "OK"], f"not one {what} succeeded"
        if LONG:
            assert {what for what, _ in self.done} == {what for _, what in STORM}
            assert self.counts["re-wrap", "OK"]
        calm(self.counts["fetch", "OK"] > 5 * self.counts["fetch", "failed"], self.counts)


class Player(threading.Thread):
    """Has names of its own, so it knows what must be there; and fetches the common ones."""

    def __init__(self, storm: Storm, seat, number: int):
        super().__init__()
        self.storm, self.seat, self.number = storm, seat, number
        self.chance = random.Random(f"{storm.seed} {number}")
        self.known = {}                 # name: its bytes, None where KMS made them
        self.seen = []                  # of those that KMS made, and the bytes that came

    def run(self) -> None:
        try:
            with self.seat() as seat:
                turn = 0
                while not self.storm.over():
                    turn += 1
                    self.step(seat, f"{self.number}-{turn}")
        except BaseException as error:
            self.storm.surprises.append(error)

    def step(self, seat, name: str) -> None:
        dice, count = self.chance.random(), self.storm.count
        if dice < 0.75:
            self.fetch(seat)
        elif len(self.known) >= 6 or dice > 0.95:
            mine = [each for each, key in self.known.items() if key is not None]
            if mine and count("remove", seat.remove(mine[0])):
                del self.known[mine[0]]
        elif dice < 0.87:
            key = new_key()
            if count("store", seat.store(name, key)):
                self.known[name] = key
        elif sum(key is None for key in self.known.values()) < 4:
            if count("generate", seat.generate(name)):
                self.known[name] = None

    def fetch(self, seat) -> None:
        keys = {**self.storm.common, **self.known}
        name = self.chance.choice(list(keys))
        got = seat.fetch(name)
        if not self.storm.count("fetch", got is not None):
            time.sleep(0.2)             # else refusals without a request would be all there is
        if got is not None and keys[name] is None:
            self.seen.append((name, got))
        elif got is not None and got != keys[name]:
            self.storm.wrong.append(name)


class LibrarySeat:
    def __init__(self, lib: Driver):
        self.lib = lib

    def one(self, *words):
        answer = self.lib.begin(*words).result(60)
        return answer if answer.status == "OK" else None

    def fetch(self, name: str):
        answer = self.one("fetch", name, None)
        return answer and answer.results[1]

    def store(self, name: str, key: bytes) -> bool:
        return bool(self.one("store", name, None, "SECRET", key))

    def generate(self, name: str) -> bool:
        return bool(self.one("generate", name, None, "AES", 32))

    def remove(self, name: str) -> bool:
        return bool(self.one("remove", name, None))

    def rewrap(self) -> bool:
        return bool(self.one("rewrap"))


def test_a_storm_over_the_library(world):
    lib = world.lib
    world.anew(timeout_ms=1500, connect_timeout_ms=1500)
    try:
        for name in KEYS:
            lib.ok("remove", name, None)
        seat = LibrarySeat(lib)
        Storm(world.proxy, SECONDS["library"], [lambda: contextlib.nullcontext(seat)] * THREADS
              ).run(seat, lambda: read_keys(world.kms, world.file))
    finally:
        lib.ok("close")


def test_a_storm_over_mysql(server):
    stage, proxy = server
    stage.use(timeout=1500, connect_timeout=1500)
    with SqlSeat(stage) as seat:
        Storm(proxy, SECONDS["mysql"], [lambda: SqlSeat(stage)] * THREADS
              ).run(seat, lambda: read_keys(stage.kms, stage.data))
