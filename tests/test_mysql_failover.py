"""A second region, in a real MySQL server: what works while the KMS key's own region is away.

Two processes are the two regions (tests/hosts/regions.py), so each can go away as a region does.
"""

import contextlib
import json
import re
import threading
import time

import pytest

from kms_emulator import ACCESS_KEY_ID, ACCOUNT, MULTI_REGION_ID, REGION, SECRET
from manual import blocks
from mysql_fixtures import (ASK_KMS, LONG, NO_SCHEMA, ROOT, Client, Stage,
                            heed_persisted_settings, wait_for, works)
from patience import in_time
from regions import SECOND, Region, two_regions
from servers import certificates
from test_docs import filled_in, readme_policies

ALL = {"times": 0}
OUTAGES = {                             # how home goes away, and how it comes back
    "pause": (Region.pause, Region.resume),
    "refuse": (lambda home: home.stop(), lambda home: home.start()),
    "black hole": (lambda home: home.black_hole(), lambda home: home.black_hole(False)),
    "500": (lambda home: home.fault("*", "error", type="KMSInternalException", status=500, **ALL),
            lambda home: home.clear_faults()),
    "throttling": (lambda home: home.fault("*", "throttle", **ALL),
                   lambda home: home.clear_faults()),
}


class FarStage(Stage):
    """A stage whose KMS key is a multi-region key, with a replica in a second region."""

    def __init__(self, home: Region, other: Region) -> None:
        super().__init__(cmk_id=home.arn, endpoint=home.url,
                         failover_regions=f"{other.region}={other.url}")
        self.home, self.other = home, other

    def in_use(self) -> str:
        return self.status()["region_in_use"]


@pytest.fixture(name="far")
def make_far_stage(certs):
    with two_regions(certs.good) as (home, other), FarStage(home, other) as stage:
        yield stage


@contextlib.contextmanager
def away(home: Region, outage: str = "refuse"):
    go, come_back = OUTAGES[outage]
    go(home)
    try:
        yield
    finally:
        come_back(home)


# ---- under load ---------------------------------------------------------------------------------

def fetches(load: "Load", name: str) -> bool:
    return load.one("SELECT HEX(keyring_key_fetch('kept'))") == load.stage.kept


def makes(load: "Load", name: str) -> bool:
    return all(load.one(f"SELECT keyring_key_{call}") == 1 for call in (
        f"generate('{name}', 'AES', 32)", f"remove('{name}')",
        f"store('{name}', 'SECRET', 'x')", f"remove('{name}')"))


def encrypts(load: "Load", name: str) -> bool:
    """InnoDB asks for its key to make a table, and to rotate the key itself."""
    load.session.execute(f"CREATE TABLE d.{name} (n INT) ENCRYPTION = 'Y'")
    load.session.execute(f"INSERT INTO d.{name} VALUES (7)")
    seen = load.one(f"SELECT n FROM d.{name}")
    load.session.execute(f"DROP TABLE d.{name}")
    return seen == 7


def rotates(load: "Load", name: str) -> bool:
    load.session.execute("ALTER INSTANCE ROTATE INNODB MASTER KEY")
    time.sleep(0.2)
    return True


class Load(Client):
    """Statements until the stage is told to stop; one that fails is a surprise, and ends it."""

    def __init__(self, stage: FarStage, work, number: int) -> None:
        super().__init__(stage, f"{work.__name__}{number}", 10 ** 9)
        self.work, self.done, self.longest = work, 0, 0.0
        self.over = (StopIteration,)

    def step(self, name: str) -> None:
        if self.stage.enough.is_set():
            raise StopIteration
        begun = time.monotonic()
        assert self.work(self, name), f"{name} failed, after {time.monotonic() - begun:.1f} s"
        self.longest = max(self.longest, time.monotonic() - begun)
        self.done += 1


WORKS = [fetches, fetches, fetches, makes, makes, encrypts, encrypts, rotates]


@contextlib.contextmanager
def load(stage: FarStage):
    """Eight connections at work; yields them."""
    stage.enough = threading.Event()
    threads = [Load(stage, work, number) for number, work in enumerate(WORKS)]
    for each in threads:
        each.start()
    try:
        yield threads
    finally:
        stage.enough.set()
        for each in threads:
            each.join()


def ready_stage(stage: FarStage, *options: str, **settings: object) -> FarStage:
    """It runs, and has a key and a database."""
    stage.start(NO_SCHEMA, *options, **settings)
    stage.install_functions()
    stage.sql("CREATE DATABASE d")
    assert stage.generate("kept") == 1
    stage.kept = stage.one("SELECT HEX(keyring_key_fetch('kept'))")
    return stage


def rounds(stage: FarStage, outage: str, seconds: float, gone: float) -> None:
    """Home goes away and comes back, until the seconds are up."""
    throttled, end = outage == "throttling", time.monotonic() + seconds
    while time.monotonic() < end:
        before, asked = stage.status()["failovers"], stage.other.count()
        with away(stage.home, outage):
            time.sleep(gone)
            wait_for(lambda: stage.status()["failovers"] > before, 8)
            wait_for(lambda: stage.in_use() == (REGION if throttled else SECOND), 8)
            assert stage.other.count() > asked
        wait_for(lambda: stage.in_use() == REGION, 8)
        asked = stage.home.count()
        wait_for(lambda: stage.home.count() > asked + 20)


@pytest.mark.needs("logs")
@pytest.mark.parametrize("outage", OUTAGES)
def test_no_statement_fails_while_home_goes_away_and_comes_back(far, outage):
    """With the default timeouts. A statement waits for at most two calls that find out anew that
    home is away: 1.5 s each."""
    ready_stage(far)
    with load(far) as threads:
        rounds(far, outage, 60 if LONG else 1, 5 if LONG else 1.5)
    surprises = [each for thread in threads for each in thread.surprises]
    assert not surprises, surprises
    figures = {thread.stem: (thread.done, round(thread.longest, 2)) for thread in threads}
    assert all(done > 0 for done, _ in figures.values()), figures
    in_time(max(longest for _, longest in figures.values()), 6, figures)
    assert not far.said("ERROR")
    out, back = far.tagged("KAWS-170"), far.tagged("KAWS-171")
    if outage == "throttling":
        (line,) = far.tagged("KAWS-172")
        assert line.startswith(f"AWS KMS in {REGION} throttles requests, and {SECOND} answers")
        assert not out and not back
        return
    assert out and out[0].startswith(f"AWS KMS in {SECOND} answers in place of {REGION}, which")
    assert len(out) == len(back) or LONG
    assert back[0].startswith(f"AWS KMS in {REGION} answers itself again; for ")


@pytest.mark.needs("logs")
def test_the_load_notices_an_outage(far):
    """Without failover regions its statements fail; else the tests above would prove nothing."""
    ready_stage(far, failover_regions=None)
    with load(far) as threads, away(far.home):
        wait_for(lambda: all(thread.surprises for thread in threads), 60)
    assert far.in_use() == REGION and far.status()["failovers"] == 0


# ---- a start in the second region alone ---------------------------------------------------------

ENCRYPTED = (NO_SCHEMA, "--log-bin", "--server-id=1", "--binlog-encryption=ON",
             "--innodb-redo-log-encrypt=ON", "--innodb-undo-log-encrypt=ON",
             "--keyring-aws=FORCE")
TABLES = 8
ALIAS = "alias/multi"


@pytest.fixture(scope="module", name="shut")
def make_shut_stage():
    """A server with all of its logs and its tables encrypted, shut down; its KMS key has an alias
    at home."""
    with two_regions(certificates().good) as (home, other), FarStage(home, other) as stage:
        home.import_key(home.region, home.export_key(home.arn), alias=ALIAS)
        stage.start(*ENCRYPTED)
        stage.install_functions()
        stage.sql("CREATE DATABASE d")
        for number in range(TABLES):
            stage.sql(f"CREATE TABLE d.t{number} (n INT) ENCRYPTION = 'Y'")
            stage.sql(f"INSERT INTO d.t{number} VALUES ({number})")
        assert stage.db.stop() == 0
        stage.usual = start_alone(stage)
        assert stage.db.stop() == 0
        yield stage


@pytest.fixture(name="ready")
def lent_stage(shut):
    yield shut
    shut.db.kill()


def check_tables(stage: FarStage) -> None:
    for number in range(TABLES):
        assert stage.sql(f"SELECT n FROM d.t{number}") == [(number,)]


def start_alone(stage: FarStage, **settings: object) -> float:
    """Starts, and reads all tables; returns how long that took."""
    begun = time.monotonic()
    stage.start(*ENCRYPTED, **settings)
    check_tables(stage)
    return time.monotonic() - begun


def check_alone(stage: FarStage, outage: str, **settings: object) -> None:
    """As after a good start: all tables are read, and new ones made. The start waits for home once:
    1 s to connect, with the default timeouts."""
    with away(stage.home, outage):
        took = start_alone(stage, **settings)
        in_time(took, 2 * stage.usual + 3, stage.usual)
        stage.sql("CREATE TABLE d.made (n INT) ENCRYPTION = 'Y'")
        for kind in ("INNODB", "BINLOG"):
            stage.sql(f"ALTER INSTANCE ROTATE {kind} MASTER KEY")
        assert stage.status()["failovers"] > TABLES
        assert stage.in_use() == (REGION if outage == "throttling" else SECOND)
        assert not stage.said("ERROR") and not stage.tagged("KAWS-305")
        assert not stage.tagged("KAWS-322")
    stage.sql("DROP TABLE d.made")
    assert stage.db.stop() == 0
    assert {each.arn for each in stage.entries().values()} == {stage.home.arn}


@pytest.mark.needs("logs")
@pytest.mark.parametrize("outage", OUTAGES)
def test_a_start_in_the_second_region_alone(ready, outage):
    check_alone(ready, outage)


@pytest.mark.needs("logs")
def test_a_key_id_alone_will_do(ready):
    check_alone(ready, "refuse", cmk_id=MULTI_REGION_ID)


@pytest.mark.needs("logs")
def test_a_crash_is_recovered_from_in_the_second_region(ready):
    ready.start(*ENCRYPTED)
    ready.sql("CREATE TABLE d.late (n INT) ENCRYPTION = 'Y'")
    ready.sql("INSERT INTO d.late VALUES (1)")
    ready.db.kill()
    with away(ready.home, "pause"):
        in_time(start_alone(ready), 15)
        assert ready.sql("SELECT n FROM d.late") == [(1,)]
        assert ready.status()["failovers"] > 0 and not ready.said("ERROR")


@pytest.mark.needs("logs")
def test_an_alias_waits_for_home(ready):
    """Only home says which KMS key an alias means. The start waits for it, as without a second
    region; then all tables are read, but none is made until home is back."""
    with away(ready.home):
        begun = time.monotonic()
        ready.start(*ENCRYPTED, cmk_id=ALIAS, start_seconds=2)
        took = time.monotonic() - begun
        assert took > 2
        in_time(took, 10)
        check_tables(ready)
        assert len(ready.tagged("KAWS-304")) == len(ready.tagged("KAWS-305")) == 1
        assert ready.in_use() == SECOND
        assert ready.generate("by-alias") is None
    wait_for(lambda: ready.generate("by-alias") == 1, 8)
    with away(ready.home):              # now that it is known, it has a second region
        assert ready.generate("again") == 1 and ready.in_use() == SECOND


@pytest.mark.needs("persist")
def test_a_persisted_key_is_accepted_by_home_alone(far):
    """If my.cnf has it, too, the start has tried it, and that may be in the second region."""
    heed_persisted_settings(far)
    ready_stage(far)
    far.sql(f"SET PERSIST keyring_aws_cmk_id = '{far.home.arn}'")
    for cmk_id, made in ((far.home.arn, 1), (far.other.arn, None)):
        assert far.db.stop() == 0
        with away(far.home):
            far.start(NO_SCHEMA, cmk_id=cmk_id)
            assert far.variable("cmk_id") == far.home.arn
            assert far.generate(f"with {cmk_id}") == made
            assert far.one("SELECT HEX(keyring_key_fetch('kept'))") == far.kept


# ---- what a second region cannot do -------------------------------------------------------------

@pytest.fixture(name="running")
def make_running_stage(far):
    return ready_stage(far)


def test_what_is_homes_alone(running):
    """Rotation, re-wrap, and a SET of home's KMS key wait for home, and say so. A SET of the
    replica does not: then new keys are the replica's, and the old ones are still opened."""
    alone = f"only the KMS key's own region, {REGION}, does this, so failover_regions cannot help"
    with away(running.home):
        for query in ("SELECT keyring_aws_rotate_cmk()", "SELECT keyring_aws_rotate_keys()"):
            number, text = running.refused(query)
            assert number == 3198 and alone in text, text
        query = f"SET GLOBAL keyring_aws_cmk_id = '{running.home.arn}'"
        assert alone in running.refused(query)[1]
        assert not running.home.count("RotateKeyOnDemand") and not running.other.count("ReEncrypt")

        running.sql(f"SET GLOBAL keyring_aws_cmk_id = '{running.other.arn}'")
        assert running.generate("there") == 1
        assert running.entries()["there", ROOT].arn == running.other.arn
        assert running.one("SELECT HEX(keyring_key_fetch('kept'))") == running.kept
        there = running.fetch("there")
    wait_for(lambda: works(running, query), 8)
    assert len(running.tagged("KAWS-171")) == 1
    assert running.one("SELECT keyring_aws_rotate_keys()") == 1
    assert {each.arn for each in running.entries().values()} == {running.home.arn}
    assert running.in_use() == REGION and running.fetch("there") == there
    running.home.stop()
    assert running.fetch("there") == there and running.in_use() == SECOND
    running.home.start()
    wait_for(lambda: works(running, ASK_KMS), 8)
    assert running.in_use() == REGION
    assert running.one("SELECT keyring_aws_rotate_cmk()") == 1


def test_an_old_keyring_moves_to_a_multi_region_key(far):
    """The manual's steps: with both KMS keys allowed, SET, re-wrap, then my.cnf."""
    old = far.home.add_key(REGION, ACCOUNT)
    ready_stage(far, cmk_id=old, failover_regions=None)
    far.sql(f"SET GLOBAL keyring_aws_cmk_id = '{far.home.arn}'")
    assert far.one("SELECT keyring_aws_rotate_keys()") == 1
    assert {each.arn for each in far.entries().values()} == {far.home.arn}
    far.restart(NO_SCHEMA, "--keyring-aws=FORCE")
    wait_for(lambda: far.tagged("KAWS-174"))            # beside the start
    (line,) = far.tagged("KAWS-174")
    assert line == f"checked: {SECOND} can answer in place of {REGION}, should that fail"
    with away(far.home):
        assert far.one("SELECT HEX(keyring_key_fetch('kept'))") == far.kept


def test_a_key_of_one_region_is_refused(far):
    """In my.cnf and in SET; but its old entries can still be fetched, at home."""
    old = far.home.add_key(REGION, ACCOUNT)
    sentence = (f"failover_regions is set, but the KMS key {old} is not a multi-region key, which"
                " exists in several regions and has an id that begins with mrk-: ")
    ready_stage(far, cmk_id=old, failover_regions=None)
    assert far.db.stop() == 0
    run = far.db.run_once(*far.options(NO_SCHEMA, "--keyring-aws=FORCE", cmk_id=old))
    assert run.returncode == 1 and f"cannot start: {sentence}" in run.stdout
    far.start(NO_SCHEMA, cmk_id=old)
    assert not far.loaded() and far.said("ERROR")[0].startswith(f"cannot start: {sentence}")

    far.restart(NO_SCHEMA, "--keyring-aws=FORCE")
    number, text = far.refused(f"SET GLOBAL keyring_aws_cmk_id = '{old}'")
    assert number == 1231 and sentence in text and far.variable("cmk_id") == far.home.arn
    assert far.one("SELECT HEX(keyring_key_fetch('kept'))") == far.kept
    with away(far.home):
        assert far.fetch("kept") is None and far.generate("new") == 1


def test_an_alias_of_a_key_of_one_region_is_a_warning(far):
    old = far.home.add_key(REGION, ACCOUNT, alias="alias/old")
    far.start(NO_SCHEMA, "--keyring-aws=FORCE", cmk_id="alias/old")
    (line,) = far.tagged("KAWS-175")
    assert "the KMS key alias/old, which " in line and old in line


# ---- another region that refuses ----------------------------------------------------------------

def no_replica(far: FarStage) -> str:
    far.other.remove_key(far.other.arn)
    return "NotFoundException"


def another_policy(far: FarStage) -> str:
    far.other.set_key(far.other.arn, denied=["Decrypt", "GenerateDataKeyWithoutPlaintext"])
    return "AccessDeniedException"


@pytest.mark.parametrize("spoil", [no_replica, another_policy])
def test_what_another_region_refuses_refuses_no_start(far, spoil):
    """With home there, a warning tells what is missing, in time. With home away, the start waits,
    as in any outage."""
    error = spoil(far)
    ready_stage(far, "--keyring-aws=FORCE")
    wait_for(lambda: far.tagged("KAWS-173"))
    (line,) = far.tagged("KAWS-173")
    assert line.startswith(f"the failover region {SECOND} could not answer in place of {REGION}, ")
    assert error in line and ("replicate-key" in line) == (spoil is no_replica)
    assert ("key policy" in line) == (spoil is another_policy)

    assert far.db.stop() == 0
    with away(far.home):
        begun = time.monotonic()
        far.start(NO_SCHEMA, "--keyring-aws=FORCE", start_seconds=2)
        took = time.monotonic() - begun
        assert far.loaded() and took > 2
        in_time(took, 12)
        (waits,), (starts,) = far.tagged("KAWS-304"), far.tagged("KAWS-305")
        assert f"and {SECOND} could not answer in its place: " in waits + starts
        assert error in waits + starts
        assert re.match("starting without KMS: (cannot reach AWS KMS at|AWS KMS at .* has been"
                        " unreachable)", starts)
        assert not far.said("ERROR") and not far.tagged("KAWS-170")
        assert far.fetch("kept") is None
    wait_for(lambda: far.one("SELECT HEX(keyring_key_fetch('kept'))") == far.kept, 8)


def test_a_refusal_at_home_is_an_answer(running):
    """The KMS key was disabled there: no other region is asked."""
    asked = running.other.count()
    running.home.set_key(running.home.arn, state="Disabled")
    assert running.fetch("kept") is None and running.generate("new") is None
    assert running.status()["failovers"] == 0 and running.other.count() == asked
    assert all("DisabledException" in line for line in running.said("ERROR"))


# ---- the manual's chapter, to the letter --------------------------------------------------------

CHAPTER = "A second region"


def allow(far: FarStage, policy: dict) -> None:
    for region in (far.home, far.other):
        region.add_user(ACCESS_KEY_ID, SECRET, ACCOUNT, policy=policy)


def readme_settings(far: FarStage) -> dict[str, str]:
    """Its lines of my.cnf. Here each region has a URL."""
    (text,) = [text for head, text in blocks()
               if head == CHAPTER and text.startswith("[mysqld]")]
    names = {each.region: f"{each.region}={each.url}" for each in (far.home, far.other)}
    text = filled_in(text, KEY=far.home.arn, HOME=names[REGION], SECOND=names[SECOND])
    return dict(re.findall(r"(?m)^keyring_aws_(\w+) *= (.*)$", text))


def test_the_readmes_policy_and_my_cnf(far):
    """All that a server does, with home there, away, and given up for the replica; and each action
    that the policy allows on the replica is needed."""
    policy = json.loads(filled_in(readme_policies()[CHAPTER, False], KEY=far.home.arn,
                                  REPLICA=far.other.arn))
    allow(far, policy)
    ready_stage(far, "--keyring-aws=FORCE", endpoint=None, **readme_settings(far))
    assert f"requests go to {far.home.url}/" in far.tagged("KAWS-101")[0]
    wait_for(lambda: far.tagged("KAWS-174"))
    assert not far.tagged("KAWS-173")
    with away(far.home):
        assert far.store("mine", "SECRET", b"x") == far.generate("made") == 1
        assert far.fetch("mine") == b"x"
        for number, failing in enumerate((lambda: far.generate("new"),
                                          lambda: far.store("new", "SECRET", b"x"),
                                          lambda: far.fetch("kept"))):
            less = json.loads(json.dumps(policy))
            del less["Statement"][1]["Action"][number]
            allow(far, less)
            assert failing() is None, number
        allow(far, policy)
        far.sql(f"SET GLOBAL keyring_aws_cmk_id = '{far.other.arn}'")
        assert far.generate("there") == 1 and far.fetch("mine") == b"x"
        assert far.entries()["there", ROOT].arn == far.other.arn
        there = far.fetch("there")
    asked = far.home.count("Decrypt")
    wait_for(lambda: far.fetch("mine") == b"x" and far.home.count("Decrypt") > asked, 6)
    with away(far.other):               # home is one of the regions that may answer for it
        assert far.fetch("there") == there
    wait_for(lambda: works(far, f"SET GLOBAL keyring_aws_cmk_id = '{far.home.arn}'"), 8)
    wait_for(lambda: works(far, "SELECT keyring_aws_rotate_keys()"), 8)     # it opens them there
    assert {each.arn for each in far.entries().values()} == {far.home.arn}
    assert far.fetch("there") == there and far.one("SELECT keyring_aws_rotate_cmk()") == 1
