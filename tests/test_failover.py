"""Other regions answer for a multi-region key while its own does not: the library, over TLS.

Home and the other regions are emulators in processes of their own, so each can fail as a region
does.  Each test has a driver, and so a process that knows nothing of an outage before.
"""

import contextlib
import itertools
import re
import statistics
import subprocess
import threading
import time
from collections import Counter

import pytest

from conftest import LONG
from demo import read_data_file
from driver import Driver
from kms_emulator import (ACCOUNT, ALIAS, KEY_ARN, KEY_ID, MULTI_REGION_ID, OTHER_ACCOUNT, REGION,
                          Emulator)
from patience import calm, in_time, wait_for, within
from regions import SECOND, Region, catch_up, two_regions
from servers import open_files

from test_network import Proxy

THIRD = "us-west-2"
FIRST_MS = 1000 + 1000          # the first call of an outage: connect_timeout and 1 s
AT_ONCE_MS = 200                # the calls that follow it, as a rule
WAITED_MS = 1000                # and always: to try home would take 1500
DAY_S = 86400
MAKE = "GenerateDataKeyWithoutPlaintext"
ONLY_HOME = f"only the KMS key's own region, {REGION}, does this"


# ---- the regions, and how they go away -----------------------------------------------


WAYS = {                        # how; how it ends; the status of a call that nobody answers
    "paused": (Region.pause, Region.resume, "NETWORK"),
    "refused": (lambda at: at.stop(), lambda at: at.start(), "NETWORK"),
    "black hole": (lambda at: at.black_hole(), lambda at: at.black_hole(False), "NETWORK"),
    "500s": (lambda at: at.fault("*", "error", times=0, type="KMSInternalException"),
             lambda at: at.clear_faults(), "SERVICE"),
    "throttled": (lambda at: at.fault("*", "throttle", times=0), lambda at: at.clear_faults(),
                  "THROTTLED")}
HANGS = ("paused", "black hole")        # a probe may take 2 s
AWAY = [each for each in WAYS if each != "throttled"]       # what is throttled is there


@contextlib.contextmanager
def away(region: Region, how: str = "refused"):
    begin, end, _ = WAYS[how]
    begin(region)
    try:
        yield
    finally:
        end(region)


@pytest.fixture(name="all_regions", scope="module")
def start_regions(certs):
    with two_regions(certs.good) as (home, other), Region(THIRD, certs.good) as third:
        third.arn = third.import_key(THIRD, home.export_key(home.arn))
        home.alias = "alias/multi"
        home.import_key(REGION, home.export_key(home.arn), alias=home.alias)
        yield home, other, third


@pytest.fixture(name="regions")
def reset_regions(all_regions):
    """Home, another and a third region, with one multi-region key, and all well."""
    home, *others = all_regions
    for each in all_regions:
        each.clear_faults()
        each.import_key(each.region, home.export_key(home.arn), state="Enabled", denied=[],
                        lag_ms=0)
        each.reset_log()
    yield all_regions
    for each in all_regions:
        assert each.log()["crashes"] == []


@pytest.fixture
def home(regions) -> Region:
    return regions[0]


@pytest.fixture
def other(regions) -> Region:
    return regions[1]


@pytest.fixture
def third(regions) -> Region:
    return regions[2]


def listed(*regions: Region) -> str:
    return ",".join(f"{each.region}={each.url}" for each in regions)


@pytest.fixture
def settings(tmp_path, certs, conf, home, other):
    """As conftest's, of a ring at home with one failover region."""
    return {"data_file": tmp_path / "data", "conf_file": conf, "ca_file": certs.ca,
            "endpoint": home.url, "kms_key_id": home.arn, "failover_regions": listed(other)}


def checked(lib: Driver, at_least: int = 1) -> list:
    """The lines of the check of the other regions, which is made beside the first call.  A later
    one begins at the first call after the one before has ended."""
    wait_for(lambda: (at_least == 1 or lib.fetch("a"))
             and len(lib.said("KAWS-17[34]")) >= at_least)
    return lib.said("KAWS-17[34]")


@pytest.fixture
def ring(driver, regions):
    """Makes drivers whose ring has the key "a", and knows that the other regions could answer; what
    has been asked so far is in no log.  Home has answered, unless its time was brief, and over
    before there was a connection."""
    def make(env=None, **changes):
        lib = driver(env, **changes)
        calm(lib.call("check").status != "NETWORK", lib.logs)
        if not lib.walk():
            lib.ok("generate", "a", None, "AES", 32)
        lib.ok("check")
        calm(lib.stats()["failovers"] == 0, lib.logs)
        checked(lib)
        calm(lib.said("KAWS-174"), lib.logs)
        for each in regions:
            each.reset_log()
        return lib
    return make


def are_quick(answers: list) -> None:
    """None of them has waited for home."""
    times = [each.ms for each in answers]
    assert {each.status for each in answers} == {"OK"}, [a for a in answers if a.status != "OK"]
    in_time(max(times), WAITED_MS, times)
    in_time(statistics.median(times), AT_ONCE_MS, times)


def lines(lib: Driver) -> Counter:
    """How often the log has each line of a change."""
    return Counter(re.findall(r"KAWS-17[0-5]", "\n".join(line for _, line in lib.logs)))


def home_is_taken_again(lib: Driver, region: str = REGION, seconds: float = 15) -> float:
    """By nothing but calls, all of which succeed. Returns how long it took."""
    begun = time.monotonic()
    while lib.stats()["region_in_use"] != region:
        assert time.monotonic() < begun + seconds, lib.logs
        lib.fetch("a")
        time.sleep(0.02)
    return time.monotonic() - begun


# ---- home goes away, and comes back --------------------------------------------------


@pytest.mark.parametrize("how", AWAY)
def test_home_goes_away(ring, home, other, how):
    """With the default timeouts."""
    lib = ring()
    key = lib.fetch("a")
    assert lib.stats()["failovers"] == 0 and other.count() == 0
    with away(home, how):
        first = lib.call("fetch", "a", None)
        assert first.status == "OK" and first.results[1] == key, first
        in_time(first.ms, FIRST_MS, first)
        are_quick([lib.call(*each) for each in [("fetch", "a", None)] * 20 + [
            ("generate", "b", None, "AES", 32), ("store", "c", "me", "SECRET", b"ours"),
            ("fetch", "c", "me"), ("check",), ("kms_generate", 32, 1), ("kms_encrypt", b"x")]])
        are_quick(lib.many([("fetch", "a", None), ("fetch", "b", None)] * 40, at_once=8))
        for command in (("rotate",), ("rewrap",), ("use_kms_key", home.arn),
                        ("try", home.arn, REGION)):
            answer = lib.call(*command)
            assert answer.status == WAYS[how][2] and ONLY_HOME in answer.text, answer
            in_time(answer.ms, 4000, command, answer)
        stats = lib.stats()
        assert stats["region_in_use"] == SECOND and stats["failovers"] == other.count() > 100
        assert lines(lib) == {"KAWS-170": 1, "KAWS-174": 1}
        (line,) = lib.said("KAWS-170", 1)
        assert f"AWS KMS in {SECOND} answers in place of {REGION}, which does not" in line
    in_time(home_is_taken_again(lib), 8)
    assert lines(lib) == {"KAWS-170": 1, "KAWS-171": 1, "KAWS-174": 1}
    (line,) = lib.said("KAWS-171", 2)
    took, times = map(int, re.search(
        rf"AWS KMS in {REGION} answers itself again; for (\d+) s another region did, (\d+) times$",
        line).groups())
    assert took < 60 and times == lib.stats()["failovers"]
    home.reset_log(), other.reset_log()
    for name, user in (("a", None), ("b", None), ("c", "me")):
        lib.fetch(name, user)
    assert (home.count("Decrypt"), other.count()) == (3, 0)
    lib.close()


def test_home_throttles(ring, home, other):
    """Others answer what it does not, and it is asked each time: it is there. The log says so once
    an hour."""
    lib = ring()
    with away(home, "throttled"):
        are_quick([lib.call(*each) for each in [("fetch", "a", None)] * 20 + [
            ("generate", "b", None, "AES", 32), ("store", "c", None, "SECRET", b"ours")]])
        are_quick(lib.many([("fetch", "a", None)] * 40, at_once=8))
        stats = lib.stats()
        assert stats["region_in_use"] == REGION and stats["failovers"] == other.count() >= 63
        assert home.count() >= 63
        assert lines(lib) == {"KAWS-172": 1, "KAWS-174": 1}
        assert f"{REGION} throttles requests, and {SECOND} answers" in lib.said("KAWS-172", 1)[0]
        lib.ok("later", 3540)           # all calls so far may have taken a minute
        lib.ok("fetch", "a", None)
        assert lines(lib)["KAWS-172"] == 1
        lib.ok("later", 60)
        lib.ok("fetch", "a", None)
        assert lines(lib)["KAWS-172"] == 2
        lib.ok("use_timeouts", 1000, 1500)
        for command in ("rotate", "rewrap"):
            answer = lib.call(command)
            assert answer.status == "THROTTLED" and ONLY_HOME in answer.text
            in_time(answer.ms, 8000)
    asked = other.count()
    lib.fetch("a")
    assert other.count() == asked and lines(lib)["KAWS-171"] == 0
    lib.close()


@pytest.mark.parametrize("how", ["500s", "throttled"])
def test_one_accident_is_no_outage(ring, home, other, how):
    """What fails quickly and once is tried again at home, for a 5xx; no region is said to be
    away."""
    lib = ring()
    home.fault("Decrypt", "throttle") if how == "throttled" else home.fault(
        "Decrypt", "error", type="KMSInternalException")
    lib.fetch("a")
    assert other.count() == (how == "throttled") and lib.stats()["region_in_use"] == REGION
    assert lines(lib)["KAWS-170"] == 0
    lib.close()


def test_a_list_that_has_home_alone(driver, home, other):
    """It changes nothing: home is no place besides home."""
    lib = driver(failover_regions=listed(home), timeout_ms=2000)
    lib.ok("generate", "a", None, "AES", 32)
    home.fault("Decrypt", "throttle")
    lib.fetch("a")
    with away(home):
        answer = lib.call("fetch", "a", None)
        assert answer.status == "NETWORK" and "in its place" not in answer.text, answer
    assert lib.stats()["failovers"] == 0 and not lines(lib) and other.count() == 0
    lib.close()


def test_a_connection_to_home_dies(ring, home, other):
    """It is not home that died."""
    lib = ring()
    for ends in (home.cut, lambda: (home.stop(), home.start())):
        lib.fetch("a")
        ends()
        are_quick([lib.call("fetch", "a", None)])
        are_quick(lib.many([("fetch", "a", None)] * 16, at_once=8))
        ends()
        lib.ok("generate", f"k{home.count()}", None, "AES", 32)
    assert (other.count(), lib.stats()["failovers"], lines(lib)["KAWS-170"]) == (0, 0, 0)
    lib.close()


def test_keys_that_were_made_meanwhile(ring, driver, home, other, settings):
    """Each entry names the KMS key at home, wherever it was sealed. The file is as it always was:
    a reader of format 1 takes it, and so does a ring that knows no other region."""
    lib = ring()
    plain = {name: f"key {name}".encode() * 9 for name in "bcde"}
    lib.ok("store", "b", None, "SECRET", plain["b"])
    with away(home):
        lib.ok("generate", "f", None, "AES", 32)
        for name in "cd":
            lib.ok("store", name, None, "SECRET", plain[name])
        assert {each.arn for each in lib.walk()} == {home.arn}
        assert lib.fetch("b") == plain["b"], "it was sealed at home"
        made = {name: lib.fetch(name) for name in "abcdf"}
    lib.close()
    data = read_data_file(settings["data_file"])
    assert [(each.key_id, each.arn) for each in data.entries] == [
        (name, home.arn) for name in "abfcd"]
    assert {other.arn.encode() in each.blob for each in data.entries} == {True, False}
    before = settings["data_file"].read_bytes()

    lib = driver(failover_regions=None)                 # at home alone
    assert {name: lib.fetch(name) for name in made} == made
    lib.close()
    assert settings["data_file"].read_bytes() == before
    with away(home):                                    # a start elsewhere alone
        lib = driver(must_have_creds=1, must_exist=1)
        assert {name: lib.fetch(name) for name in made} == made
        lib.ok("store", "e", None, "SECRET", plain["e"])
        lib.close()
    lib = ring()
    assert lib.fetch("e") == plain["e"]
    lib.ok("rewrap")
    assert {name: lib.fetch(name) for name in made} == made
    assert {each.arn for each in lib.walk()} == {home.arn}
    assert all(home.arn.encode() in each.blob
               for each in read_data_file(settings["data_file"]).entries)
    lib.close()


# ---- under load ----------------------------------------------------------------------


class Load:
    """8 threads that fetch, generate and store for as long as it is on."""

    def __init__(self, lib: Driver):
        self.lib, self.on, self.answers, self.made = lib, True, [], {}
        self.threads = [threading.Thread(target=self.run, args=(number,)) for number in range(8)]

    def __enter__(self) -> "Load":
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_) -> None:
        self.on = False
        for thread in self.threads:
            thread.join(60)

    def run(self, number: int) -> None:
        """Of 20 calls one generates a key and one stores one; of those, one in 8 threads."""
        for count in itertools.count():
            name, key = f"{number}-{count}", f"{number} {count}".encode()
            command = ("fetch", "a", None)
            if count % 20 == 0:
                command = ("generate", name, None, "AES", 16)
            if count % 20 == 10:
                command, self.made[name] = ("store", name, None, "SECRET", key), key
            if not self.on:
                self.made.pop(name, None)
                return
            self.answers.append((command, self.lib.begin(*command).result(60)))
            if count % 20 not in (0, 10):
                time.sleep(0.005)


@pytest.mark.parametrize("how", WAYS)
def test_no_call_fails_under_load(ring, home, other, how):
    """While home goes away and comes back, several times."""
    lib = ring()
    key = lib.fetch("a")
    long_s, short_s = (8, 4) if LONG else (1.8, 0.8)
    with Load(lib) as load:
        for again in range(5 if LONG else 2):           # a busy machine takes longer
            time.sleep(short_s)
            with away(home, how):
                time.sleep(long_s)
                wait_for(lambda: other.count() > 60 * (again + 1), 30)
        time.sleep(short_s)
        wait_for(lambda: len(load.answers) > 1000 and home.count() > 100, 60)
    failed = [each for each in load.answers if each[1].status != "OK"]
    assert not failed, (len(failed), len(load.answers), failed[:3])
    assert {answer.results[1] for (command, *_), answer in load.answers if command == "fetch"} == {
        key}
    in_time(max(answer.ms for _, answer in load.answers), FIRST_MS + 2000)
    assert len(load.answers) > 1000 and lib.stats()["failovers"] > 100 and home.count() > 100
    home_is_taken_again(lib)
    said = lines(lib)
    assert said["KAWS-171"] <= said["KAWS-170"] <= 5 and said["KAWS-172"] <= 1
    assert said["KAWS-172" if how == "throttled" else "KAWS-170"] >= 1
    assert {each.arn for each in lib.walk()} == {home.arn}
    some = list(load.made.items())[::5 if LONG else 1]
    asked = other.count()
    assert {name: lib.fetch(name) for name, _ in some} == dict(some), "at home"
    assert other.count() == asked
    with away(home):
        assert {name: lib.fetch(name) for name, _ in some[:50]} == dict(some[:50]), "elsewhere"
    lib.close()


# ---- what another region refuses -----------------------------------------------------


def says(**members):
    """The other region's good replies, with members of our choice."""
    return lambda at: at.fault("*", "edit", times=0, set=members)


def error(kind: str, status: int = 400):
    return lambda at: at.fault("*", "error", times=0, type=kind, status=status)


def arn(region=SECOND, account=ACCOUNT, key_id=MULTI_REGION_ID) -> str:
    return f"arn:aws:kms:{region}:{account}:key/{key_id}"


REPLICAS = {                    # what is wrong there; what the texts say of it
    "is missing": (lambda at: at.remove_key(at.arn), "NotFoundException"),
    "is disabled": (lambda at: at.set_key(at.arn, state="Disabled"), "DisabledException"),
    "will be deleted": (lambda at: at.set_key(at.arn, state="PendingDeletion"),
                        "KMSInvalidStateException"),
    "is being made": (lambda at: at.set_key(at.arn, state="Creating"),
                      "KMSInvalidStateException"),
    "has a policy of its own": (
        lambda at: at.set_key(at.arn, denied=["Decrypt", "Encrypt", MAKE]),
        "AccessDeniedException"),
    "is of another account": (says(KeyId=arn(account=OTHER_ACCOUNT)), "belongs to another account"),
    "is no multi-region key": (says(KeyId=arn(key_id=KEY_ID)), "it is not a multi-region key"),
    "is in a region off the route": (says(KeyId=arn(THIRD)), "another region than the one that was "
                                                             "asked"),
    "is home's": (says(KeyId=arn(REGION)), "another region than the one that was asked"),
    "is another one": (says(KeyId=arn(key_id="mrk-" + "0" * 32)), "a different multi-region key"),
    "is no KMS key": (says(KeyId="alias/keyring"), "it is not the ARN of a KMS key"),
    "has no name": (lambda at: at.fault("*", "edit", times=0, drop=["KeyId"]),
                    "it is not the ARN of a KMS key"),
    "knows us not": (error("UnrecognizedClientException"), "UnrecognizedClientException"),
    "is nonsense": (lambda at: at.fault("*", "reply", times=0, body="html"), "makes no sense"),
}


TO_DO = {"is missing": "check the KMS key's id and the region", "is disabled": "enable the KMS key",
         "will be deleted": "check the state of the KMS key",
         "has a policy of its own": "allow it in the IAM policy and the key policy"}


# While home throttles, a call goes on asking for its whole timeout: two of these will do.
SLOW = {"is disabled", "will be deleted", "is being made", "has a policy of its own",
        "knows us not"}


@pytest.mark.parametrize("replica, how", [
    pytest.param(replica, how, marks=[pytest.mark.long] * (how == "throttled" and replica in SLOW))
    for replica in REPLICAS for how in ("refused", "500s", "throttled")])
def test_another_region_refuses(ring, driver, home, other, settings, how, replica):
    """Nothing follows from it: the error is home's, the cache stays, and a start is not refused."""
    spoil, words = REPLICAS[replica]
    what_to_do = TO_DO.get(replica, "")
    lib = ring(cache_seconds=60, timeout_ms=1200)
    lib.ok("generate", "b", None, "AES", 32)
    key = lib.fetch("a")
    before = read_data_file(settings["data_file"])
    spoil(other)

    def is_homes(answer) -> None:
        calm(answer.status == WAYS[how][2] or "timed out" not in answer.text, answer)
        assert answer.status == WAYS[how][2], answer
        assert answer.aws in ("", "KMSInternalException", "ThrottlingException"), answer
        found = re.search(rf"^(AWS|cannot reach AWS) KMS at 127.0.0.1:{home.port} .*; and {SECOND} "
                          rf"could not answer in its place: (.*{words})?.*", answer.text)
        assert found, answer
        in_time(answer.ms, 3000, answer)
        assert (answer.aws == "ThrottlingException") == (how == "throttled"), answer
        if how == "throttled" and "timed out" in answer.text:
            return                      # the last attempt had no time left
        assert found[2] and what_to_do in answer.text, answer

    with away(home, how):
        for command in (("fetch", "b", None), ("generate", "x", None, "AES", 32),
                        ("store", "x", None, "SECRET", b"ours"), ("kms_encrypt", b"ours")):
            is_homes(lib.call(*command))
        hits = lib.stats()["cache_hits"]
        assert lib.fetch("a") == key and lib.stats()["cache_hits"] == hits + 1
        start = driver(must_have_creds=1, must_exist=1, timeout_ms=1200)
        is_homes(start.call("fetch", "b", None))
        assert read_data_file(settings["data_file"]).entries == before.entries
    for each in (lib, start):
        each.ok("later")
        wait_for(lambda: each.call("fetch", "b", None).status == "OK", 5)
        each.fetch("b")
        assert each.stats()["region_in_use"] == REGION
        each.close()


def test_a_replica_that_lags_behind_a_rotation(ring, home, other):
    """It opens what older material sealed, and seals with that."""
    home.set(rotation_ms=0)
    lib = ring(cache_seconds=60)
    lib.ok("rotate")
    lib.ok("store", "new", None, "SECRET", b"new")
    lib.fetch("a")
    with away(home):
        for _ in range(2):
            answer = lib.call("fetch", "new", None)
            assert answer.status == "NETWORK" and re.search(
                f"cannot reach.*{SECOND} could not answer in its place: .*InvalidCiphertext",
                answer.text), answer
        lib.ok("use_cache", 0)
        lib.ok("store", "meanwhile", None, "SECRET", b"meanwhile")
        lib.fetch("a")
    catch_up(home, other)
    with away(home):
        assert lib.fetch("new") == b"new"
    home_is_taken_again(lib)
    assert lib.fetch("meanwhile") == b"meanwhile"
    lib.close()


@pytest.mark.parametrize("changes, how", [
    pytest.param(changes, how, marks=[pytest.mark.long] * (how == hangs))
    for changes, hangs in (({}, "black hole"), ({"max_attempts": 1}, "paused")) for how in AWAY])
def test_home_is_asked_if_the_other_refuses(ring, home, other, how, changes):
    """An hour after an outage, on a ring that nobody used since: no call has found out that home is
    back. And while it is away, a call does not wait for it each time."""
    lib = ring(**changes)
    other.set_key(other.arn, state="Disabled")
    with away(home, how):
        lib.call("fetch", "a", None)
        quick = [lib.call("fetch", "a", None) for _ in range(10)]
        assert {each.status for each in quick} == {WAYS[how][2]}
        in_time(statistics.median(each.ms for each in quick), AT_ONCE_MS, quick)
        lib.ok("later", 3600)
        in_time(lib.call("fetch", "a", None).ms, FIRST_MS)
    time.sleep(3 if how in HANGS else 0.5)          # the scout's probe has ended
    lib.ok("later", 3600)
    lib.fetch("a")
    lib.close()


def test_home_throttles_once_and_the_other_refuses(ring, home, other):
    """What may pass at home passes, whatever the other says."""
    lib = ring()
    other.set_key(other.arn, state="Disabled")
    for command in (("fetch", "a", None), ("generate", "b", None, "AES", 32)):
        home.fault("*", "throttle", times=2)
        lib.ok(*command)
    assert home.count() == 6 and other.count() >= 2 and lib.stats()["failovers"] == 0
    lib.close()


def test_the_next_region_may_do_better(ring, home, other, third):
    """What one region refuses, another may grant; the error has home's words all the same."""
    lib = ring(failover_regions=listed(other, third), timeout_ms=2000)

    def home_is_not_asked() -> bool:
        """Unless its probe is due: then the call is that."""
        answer = lib.call("fetch", "a", None)
        assert answer.status == "NETWORK" and "DisabledException" in answer.text, answer
        return "has been unreachable" in answer.text

    other.set_key(other.arn, state="Disabled")
    with away(home):
        are_quick([lib.call(*each) for each in (
            ("fetch", "a", None), ("generate", "b", None, "AES", 32), ("fetch", "b", None))])
        assert lib.stats()["region_in_use"] == THIRD
        third.set_key(third.arn, state="Disabled")
        wait_for(home_is_not_asked)
    lib.close()


# ---- the check, while home is well ---------------------------------------------------


ADVICE = {"is missing": "aws kms replicate-key", "has a policy of its own": "key policy of its own"}


@pytest.mark.parametrize("replica", [*REPLICAS, "does not answer", "hangs"])
def test_a_start_warns_of_what_is_missing(driver, home, other, replica):
    """Beside the first call, which does not wait for it. When that is mended, the log says so, a
    day later."""
    spoil, words = {
        **REPLICAS, "does not answer": (lambda at: at.stop(), "cannot reach AWS KMS"),
        "hangs": (lambda at: at.fault("*", "black_hole", times=0), "cannot reach.*timed out")
    }[replica]
    spoil(other)
    lib = driver()
    answer = lib.call("generate", "a", None, "AES", 32)
    assert answer.status == "OK"
    in_time(answer.ms, WAITED_MS)
    with within(6):                     # it does not take the 10 s of a call
        (line,) = checked(lib)
    assert re.search(rf"\[KAWS-173\] the failover region {SECOND} could not answer in place of "
                     rf"{REGION}, should that fail; .*{words}", line), line
    assert ADVICE.get(replica, "") in line and lib.said("KAWS-173", 1)
    if replica == "does not answer":
        other.start()
    other.clear_faults()
    other.import_key(SECOND, home.export_key(home.arn), state="Enabled", denied=[])
    lib.fetch("a")
    lib.ok("later", DAY_S)
    (_, line) = checked(lib, 2)
    assert f"[KAWS-174] checked: {SECOND} can answer in place of {REGION}" in line
    assert lib.stats()["failovers"] == 0 and lib.stats()["region_in_use"] == REGION
    lib.close()


def test_the_regions_are_checked_once_a_day(driver, home, other, third):
    """Each is asked to seal a byte, and whether it would open that."""
    lib = driver(failover_regions=listed(other, third, home))
    lib.ok("generate", "a", None, "AES", 32)
    (line,) = checked(lib)
    assert f"[KAWS-174] checked: {SECOND}, {THIRD} can answer in place of {REGION}" in line
    for day in range(1, 4):
        wait_for(lambda: lib.fetch("a") and third.count() == 2 * day)
        for each in (other, third):
            assert (each.count(MAKE), each.count("Decrypt")) == (day, day)
        for seconds in (0, 3600, DAY_S - 3700):
            lib.ok("later", seconds)
            lib.many([("fetch", "a", None)] * 20)
        time.sleep(0.2)
        assert (other.count(), third.count()) == (2 * day, 2 * day)
        lib.ok("later", 100)
    assert lines(lib) == {"KAWS-174": 1}, "what is well is said once"
    other.set_key(other.arn, state="Disabled")
    lib.ok("later", DAY_S)
    (_, line) = checked(lib, 2)
    assert "[KAWS-173]" in line and "DisabledException" in line
    lib.close()


def test_no_region_is_checked_while_home_is_away(driver, home, other):
    """When it is back, they are."""
    lib = driver()
    lib.ok("generate", "a", None, "AES", 32)
    checked(lib)
    with away(home):
        lib.fetch("a")
        lib.ok("later", DAY_S)
        other.reset_log()
        lib.many([("fetch", "a", None)] * 20)
        time.sleep(0.2)
        assert other.count(MAKE) == 0
    lib.ok("later")
    home_is_taken_again(lib)
    wait_for(lambda: lib.fetch("a") and other.count(MAKE) == 1)     # once the probe has ended
    lib.close()


# ---- what home refuses ---------------------------------------------------------------


REFUSALS = [("AccessDeniedException", "DENIED"), ("DisabledException", "KMS_KEY"),
            ("NotFoundException", "KMS_KEY"), ("KMSInvalidStateException", "KMS_KEY"),
            ("IncorrectKeyException", "MISMATCH"), ("InvalidCiphertextException", "MISMATCH"),
            ("ValidationException", "ARGUMENT"), ("UnrecognizedClientException", "CREDENTIALS"),
            ("ExpiredTokenException", "CREDENTIALS"), ("LimitExceededException", "SERVICE"),
            ("NonsenseException", "SERVICE")]
ENDS = ("DENIED", "KMS_KEY")    # a right has ended


@pytest.mark.parametrize("kind, status", REFUSALS)
def test_what_home_refuses_is_refused(ring, home, other, kind, status):
    """No other region is asked, and the cache is emptied if a right has ended."""
    lib = ring(cache_seconds=60)
    lib.ok("generate", "b", None, "AES", 32)
    lib.fetch("b")
    home.fault("*", "error", times=0, type=kind)
    opens = [("fetch", "a", None)]
    seals = [("generate", "x", None, "AES", 32), ("store", "x", None, "SECRET", b"ours")]
    for command in opens + (seals if status != "MISMATCH" else []):
        answer = lib.call(*command)
        assert (answer.status, answer.aws) == (status, kind), answer
        assert SECOND not in answer.text and "failover" not in answer.text
    assert lib.call("fetch", "b", None).status == (status if status in ENDS else "OK")
    assert other.count() == 0 and lib.stats()["failovers"] == 0
    assert lines(lib) == {"KAWS-174": 1}
    lib.close()


@pytest.mark.parametrize("set_, body", [({"KeyId": KEY_ARN}, None), ({}, "html"),
                                        ({"Plaintext": "AAAA"}, None)])
def test_nonsense_at_home_is_not_asked_elsewhere(ring, home, other, set_, body):
    lib = ring()
    home.fault("Decrypt", *(("reply",) if body else ("edit",)), times=0,
               **({"body": body} if body else {"set": set_}))
    assert lib.call("fetch", "a", None).status in ("REPLY", "MISMATCH")
    assert other.count() == 0
    lib.close()


def test_home_is_there_for_other_kms_keys(ring, home, other):
    """KeyUnavailableException is about one KMS key: others answer for it, and home is not away."""
    lib = ring()
    home.fault("*", "error", times=0, type="KeyUnavailableException")
    are_quick([lib.call("fetch", "a", None) for _ in range(5)])
    assert other.count() == 5 and lines(lib)["KAWS-170"] == 0
    assert lib.stats()["region_in_use"] == REGION and home.count() >= 5
    lib.close()


# ---- settings ------------------------------------------------------------------------


NO_REGION = ("that is not a region of AWS, such as eu-west-1, or eu-west-1=https://host (in lower"
             " case, with commas between regions)")
NOTHING = "nothing stands before one of its commas"
NO_URL = "what follows its = is not of the form https://host or https://host:port"
MALFORMED = {
    "Europe": ("Europe", NO_REGION), "eu-central": ("eu-central", NO_REGION),
    "EU-CENTRAL-1": ("EU-CENTRAL-1", NO_REGION),
    "eu-central-1 us-west-2": ("eu-central-1 us-west-2", NO_REGION),
    "eu-central-1,,us-west-2": ("", NOTHING), ",eu-central-1": ("", NOTHING),
    "https://host": ("https://host", NO_REGION), "=https://host": ("=https://host", NO_REGION),
    "eu-central-1,us-west-2, eu-central-1": ("eu-central-1", "that region is in the list twice"),
    "eu-central-1=https://a,eu-central-1=https://b": (
        "eu-central-1=https://b", "that region is in the list twice"),
    ",".join(f"eu-west-{n}" for n in range(1, 10)): ("eu-west-9",
                                                     "there can be 8 regions at most"),
    "eu-central-1=": ("eu-central-1=", NO_URL),
    "eu-central-1=host": ("eu-central-1=host", NO_URL),
    "eu-central-1=http://host": ("eu-central-1=http://host", NO_URL),
    "eu-central-1=https://": ("eu-central-1=https://", NO_URL),
    "eu-central-1=https://a/b": ("eu-central-1=https://a/b", NO_URL),
    "eu-central-1=https://u:p@a": ("***@a", NO_URL),
    "eu-central-1=https://" + "a" * 160: ("eu-central-1=https://aaa", NO_URL),
    "cn-north-1": ("cn-north-1", "that region is in a different partition of AWS than the KMS key"),
    "eu-central-1,us-gov-east-1": ("us-gov-east-1", "that region is in a different partition"),
}


@pytest.mark.parametrize("value", MALFORMED)
def test_malformed_failover_regions(driver_program, settings, home, value):
    """One sentence says which item, and what is wrong with it."""
    item, why = MALFORMED[value]
    with Driver(driver_program) as lib:
        answer = lib.open(**{**settings, "failover_regions": value})
        assert answer.status == "CONFIG" and why in answer.text, answer
        assert answer.text.startswith(f"failover_regions: '{item}"), answer
        assert not lib.logs and home.count() == 0 and not settings["data_file"].exists()


@pytest.mark.parametrize("value", ["", " \t", "eu-central-1,", " eu-central-1 ,\tus-west-2 "])
def test_failover_regions_that_are_well_formed(driver, value):
    lib = driver(failover_regions=value)
    lib.ok("generate", "a", None, "AES", 32)
    lib.fetch("a")


WHAT_TO_DO = ("is not a multi-region key", "begins with mrk-", "aws kms create-key --multi-region",
              "aws kms replicate-key", "unset failover_regions")


@pytest.mark.parametrize("key", [KEY_ARN, KEY_ID, "12345678-1234-1234-1234-123456789012"])
def test_a_kms_key_without_replicas(driver_program, ring, settings, home, key):
    """It could never be replaced, so it is refused: when a ring opens, and while it is open."""
    def refused(answer):
        assert answer.status == "CONFIG" and all(words in answer.text for words in WHAT_TO_DO)
        assert key in answer.text

    with Driver(driver_program) as lib:
        refused(lib.open(**{**settings, "kms_key_id": key}))
        assert home.count() == 0
    lib = ring()
    for command in (("use_kms_key", key), ("use", key, REGION), ("try", key, REGION),
                    ("could_use", key, REGION)):
        refused(lib.call(*command))
    lib.ok("generate", "b", None, "AES", 32)
    assert {each.arn for each in lib.walk()} == {home.arn}
    for command in (("could_use", home.arn, REGION), ("try", home.arn, REGION),
                    ("use_kms_key", MULTI_REGION_ID), ("use_kms_key", home.arn)):
        lib.ok(*command)
    lib.close()


@pytest.mark.parametrize("key", [MULTI_REGION_ID, "alias/multi",
                                 f"arn:aws:kms:{REGION}:{ACCOUNT}:alias/multi"])
def test_ids_and_aliases_of_multi_region_keys(ring, home, other, key):
    """An alias may mean another KMS key in another region: there the key is named by its ARN."""
    lib = ring(kms_key_id=key)
    with away(home):
        assert len(lib.fetch("a")) == 32
        lib.ok("generate", "b", None, "AES", 32)
        lib.ok("store", "c", None, "SECRET", b"ours")
    assert {each.arn for each in lib.walk()} == {home.arn} and not lib.said("KAWS-175")
    asked = {each["body"]["KeyId"] for each in other.log()["requests"]}
    assert asked == {MULTI_REGION_ID if key == MULTI_REGION_ID else other.arn, other.arn}
    lib.close()


@pytest.mark.parametrize("key", [MULTI_REGION_ID, "alias/multi"])
def test_the_first_call_of_a_ring_that_knows_no_account(ring, driver, home, other, key):
    """Home is away when it starts: it fetches, for the entry's id says which KMS key. What an
    alias means, home alone can say; so it cannot seal."""
    ring(kms_key_id=key).close()
    with away(home):
        lib = driver(kms_key_id=key)
        assert len(lib.fetch("a")) == 32 and len(lib.fetch("a")) == 32
        answer = lib.call("generate", "b", None, "AES", 32)
        assert answer.status == ("NETWORK" if "/" in key else "OK"), answer
    lib.ok("later")
    lib.ok("generate", "c", None, "AES", 32)
    with away(home):
        lib.ok("generate", "d", None, "AES", 32)
    assert {each.arn for each in lib.walk()} == {home.arn}
    lib.close()


def test_an_alias_of_a_single_region_key(driver, home, other):
    """It works, and one warning says that it goes no further than home."""
    home.import_key(REGION, home.export_key(home.arn), alias="alias/multi")
    lib = driver(kms_key_id=ALIAS)
    for name in "ab":
        lib.ok("generate", name, None, "AES", 32)
    (line,) = lib.said("KAWS-175", 1)
    assert f"the KMS key {ALIAS}, which {KEY_ARN}, is not a multi-region key" in line
    with away(home):
        for command in (("fetch", "a", None), ("generate", "c", None, "AES", 32)):
            assert lib.call(*command).status == "NETWORK"
    assert other.count() == 0
    lib.close()


@pytest.mark.parametrize("key", ["arn", MULTI_REGION_ID, "alias/multi"])
@pytest.mark.parametrize("listed", ["home", "both", "other"])
def test_a_list_without_another_region(driver, home, other, key, listed):
    """It protects from nothing, so a warning says so, once."""
    home.import_key(REGION, home.export_key(home.arn), alias="alias/multi")
    items = {"home": [home], "both": [home, other], "other": [other]}[listed]
    lib = driver(kms_key_id=home.arn if key == "arn" else key, failover_regions=",".join(
        f"{each.region}={each.url}" for each in items))
    lib.ok("generate", "a", None, "AES", 32)
    said = [line for level, line in lib.logs if level == 1 and "KAWS-176" in line]
    assert len(said) == (listed == "home"), lib.logs
    assert all(f"failover_regions lists only {REGION}, the KMS key's own region" in line
               for line in said)
    lib.close()


def test_old_entries_of_a_single_region_key(ring, driver, home, other):
    """The route belongs to the entry."""
    lib = driver(kms_key_id=KEY_ARN, failover_regions=None)
    lib.ok("store", "old", None, "SECRET", b"old")
    lib.close()
    lib = driver()
    lib.ok("generate", "a", None, "AES", 32)
    checked(lib)
    assert lib.fetch("old") == b"old"
    other.reset_log()
    with away(home):
        answer = lib.call("fetch", "old", None)
        assert answer.status == "NETWORK" and SECOND not in answer.text
        assert other.count() == 0
        lib.fetch("a")
        assert lib.call("fetch", "old", None).status == "NETWORK" and other.count() == 1
    home_is_taken_again(lib)
    lib.ok("rewrap")
    with away(home):
        assert lib.fetch("old") == b"old"
    lib.close()


def test_entries_whose_home_is_a_listed_region(driver, home, other, certs):
    """A keyring that moved: each entry goes to its own region first. The URL in the list is that
    region's, and `endpoint` is for the rest."""
    lib = driver(kms_key_id=other.arn, endpoint=other.url, failover_regions=None)
    lib.ok("store", "old", None, "SECRET", b"old")
    lib.close()
    lib = driver(endpoint=None, failover_regions=listed(other, home))
    lib.ok("store", "a", None, "SECRET", b"new")
    checked(lib)
    home.reset_log()
    # It is checked whether home would open that, too: once the check before has ended.
    wait_for(lambda: lib.fetch("old") and home.count() == 2)
    home.reset_log(), other.reset_log()
    assert lib.fetch("old") == b"old" and (home.count(), other.count()) == (0, 1)
    assert lib.fetch("a") == b"new" and (home.count(), other.count()) == (1, 1)
    with away(other):
        assert lib.fetch("old") == b"old" and home.count() == 2
        assert lib.stats()["region_in_use"] == REGION and lines(lib)["KAWS-170"] == 1
    lib.ok("later")
    wait_for(lambda: lib.fetch("old") and lines(lib)["KAWS-171"] == 1)
    lib.ok("later")                     # the next line is not too soon
    before = lines(lib)
    with away(home):
        for _ in range(5):
            assert (lib.fetch("a"), lib.fetch("old")) == (b"new", b"old")
            assert lib.stats()["region_in_use"] == SECOND
    assert lines(lib) == before + Counter({"KAWS-170": 1}), "the old key's home never was away"
    home_is_taken_again(lib)
    lib.close()


# ---- three regions -------------------------------------------------------------------


@pytest.mark.parametrize("how", ["refused", "paused", "500s"])
def test_three_regions(ring, home, other, third, how):
    """In their order, and back again."""
    lib = ring(failover_regions=listed(other, third), timeout_ms=10000 if LONG else 4000)
    with away(home, how):
        with away(other, how):
            in_time(lib.call("fetch", "a", None).ms, 2 * FIRST_MS)
            are_quick([lib.call("fetch", "a", None) for _ in range(10)])
            assert lib.stats()["region_in_use"] == THIRD
            with away(third, how):
                first = lib.call("fetch", "a", None)
                assert first.status == WAYS[how][2], first
                in_time(first.ms, 11000, first)
                for _ in range(10 if LONG else 4):
                    answer = lib.call("fetch", "a", None)
                    assert answer.status == WAYS[how][2], answer
                    in_time(answer.ms, 3 * FIRST_MS, answer)
                    assert f"127.0.0.1:{home.port}" in answer.text
                quick = [lib.call("fetch", "a", None).ms for _ in range(9)]
                in_time(statistics.median(quick), AT_ONCE_MS, quick)
            lib.ok("later")
            lib.fetch("a")
            home_is_taken_again(lib, THIRD)
        lib.ok("later")
        home_is_taken_again(lib, SECOND)
    home_is_taken_again(lib)
    said = lines(lib)
    assert said["KAWS-170"] >= 1 and said["KAWS-171"] == 1, lib.logs
    lib.close()


# ---- what else happens during an outage ----------------------------------------------


def connecting(lib: Driver, port: int) -> bool:
    """Whether it waits for a connection to that port."""
    own = open_files(lib.process.pid).values()
    with open("/proc/net/tcp", encoding="ascii") as table:
        return any(words[2].endswith(f":{port:04X}") and words[3] == "02"
                   and f"socket:[{words[9]}]" in own for words in map(str.split, table))


def test_to_close_does_not_wait_for_the_scout(ring, home):
    """It is probing a black hole."""
    for _ in range(3):
        lib = ring()
        with away(home, "black hole"):
            lib.fetch("a")
            wait_for(lambda: not connecting(lib, home.port))
            lib.ok("later")
            lib.fetch("a")
            wait_for(lambda: connecting(lib, home.port))
            in_time(lib.call("close").ms, 500)
        lib.stop()


def test_a_forked_child(ring, home, other, settings):
    """While home is away. It may only close the ring, which waits for nothing, and open one of its
    own, which goes to the other region by itself."""
    lib = ring()
    with away(home, "black hole"):
        lib.fetch("a")
        lib.ok("later")
        lib.fetch("a")
        words = [f"{name}={value}" for name, value in settings.items()]
        first, second, ms = map(int, lib.ok("child", "a", None, *words))
        assert lib.ok("texts")[1 + first] == b"bad or missing setting"
        assert second == 0
        in_time(ms, 100)
        lib.fetch("a")
    home_is_taken_again(lib)
    lib.close()


@pytest.mark.parametrize("where", ["home", "the other region"])
def test_a_call_that_is_cancelled(ring, home, other, where):
    """It ends soon, says so, and nothing follows from it."""
    lib = ring(cancellable=1)
    with contextlib.ExitStack() as stack:
        stack.enter_context(away(home, "paused"))
        if where != "home":
            lib.fetch("a")
            stack.enter_context(away(other, "paused"))
        before = lines(lib)
        pending = lib.begin("fetch", "a", None)
        time.sleep(0.3)
        lib.ok("cancel", 1)
        with within(0.4):
            answer = pending.result(5)
        in_time(answer.ms, 1000, answer)        # home has 1.5 s, and then it is done elsewhere
        assert answer.status == "CANCELLED", answer
        assert lines(lib) == before
        assert lib.call("fetch", "a", None).status == "CANCELLED"
        lib.ok("cancel", 0)
        if where == "home":
            lib.fetch("a")
    lib.ok("later")
    home_is_taken_again(lib)
    lib.close()


@pytest.mark.parametrize("how", AWAY)
@pytest.mark.parametrize("changes, first_ms", [
    ({"max_attempts": 1}, FIRST_MS), ({"timeout_ms": 600}, 900),
    ({"connect_timeout_ms": 100}, 1100), ({"connect_timeout_ms": 100, "timeout_ms": 600}, 900),
    ({"timeout_ms": 2000}, FIRST_MS)])
def test_other_limits(ring, home, how, changes, first_ms):
    """There is always time left for the other region."""
    lib = ring(**changes)
    with away(home, how):
        answers = [lib.call("fetch", "a", None) for _ in range(8)]
        answers.append(lib.call("store", "b", None, "SECRET", b"ours"))
        well = {each.status for each in answers} == {"OK"}
        assert well or changes.keys() & {"timeout_ms", "connect_timeout_ms"}, answers
        calm(well, f"{changes} are not enough while the machine stands still: {answers}")
        in_time(max(each.ms for each in answers), first_ms, answers)
        if changes.get("timeout_ms") != 600:            # what is so brief proves nothing
            are_quick(answers[1:])
        assert not lib.said("throttles")
        for line in lib.said("KAWS-172"):
            assert re.search(f"{REGION} does not answer some requests, and {SECOND} answers those "
                             "in its place .*: cannot reach AWS KMS at .*time", line), line
    home_is_taken_again(lib)
    lib.close()


def test_the_cache_during_an_outage(ring, home, other):
    """A key that another region opened is kept as any other."""
    lib = ring(cache_seconds=60)
    with away(home):
        key = lib.fetch("a")
        asked = other.count()
        assert {answer.results[1] for answer in lib.many([("fetch", "a", None)] * 50)} == {key}
        assert other.count() == asked == 1
    lib.close()


# ---- roles: AWS STS goes away with its region ----------------------------------------


class Internet(Proxy):
    """A proxy that knows AWS's own host names: those of a region lead to its emulator."""

    def __init__(self, *emulators: Emulator):
        super().__init__(b"HTTP/1.1 200 OK\r\n\r\n")
        self.emulators = {each.region: each for each in emulators}
        self.asked = []

    def route(self, host: str, port: int) -> tuple:
        service, region, *rest = host.split(".")
        assert (service in ("kms", "sts"), rest, port) == (True, ["amazonaws", "com"], 443)
        self.asked.append(f"{service} {region}")
        return "127.0.0.1", self.emulators[region].port


@pytest.fixture
def internet(tmp_path):
    """Two regions by their own names, in one process; ca_file is beside."""
    names = ",".join(f"DNS:{service}.{region}.amazonaws.com" for service in ("kms", "sts")
                     for region in (REGION, SECOND))
    pair = [tmp_path / "aws.crt", tmp_path / "aws.key"]
    subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt",
                    "ec_paramgen_curve:P-256", "-nodes", "-subj", "/CN=AWS", "-addext",
                    f"subjectAltName={names}", "-days", "9", "-keyout", pair[1], "-out", pair[0]],
                   check=True, capture_output=True)
    with Emulator(*pair, region=REGION) as home, home.sister(SECOND) as other, \
            Internet(home, other) as proxy:
        arn = home.add_key(REGION, ACCOUNT, MULTI_REGION_ID)
        home.replicate(arn, SECOND)
        home.add_role(ROLE, life=4)
        proxy.ca, proxy.arn = pair[0], arn
        yield proxy
        assert home.crashes == other.crashes == []


ROLE = f"arn:aws:iam::{ACCOUNT}:role/keys"


@pytest.mark.parametrize("sts_endpoint, idle", [
    (None, False), (None, True), ("https://sts.us-east-1.amazonaws.com", False)])
def test_a_role_while_its_region_is_away(driver_program, tmp_path, conf, internet, sts_endpoint,
                                         idle):
    """The role's credentials expire meanwhile: AWS STS is asked in the region that answers, unless
    the settings say where it is. If idle, nothing was asked until they had expired."""
    home, other = internet.emulators.values()
    env = {"https_proxy": f"http://127.0.0.1:{internet.port}", "no_proxy": "nobody.example"}
    with Driver(driver_program, env) as lib:
        assert lib.open(data_file=tmp_path / "data", conf_file=conf, ca_file=internet.ca,
                        kms_key_id=internet.arn, failover_regions=SECOND, role_arn=ROLE,
                        **({"sts_endpoint": sts_endpoint} if sts_endpoint else {})).status == "OK"
        lib.ok("generate", "a", None, "AES", 32)
        key = lib.fetch("a")
        checked(lib)
        assert other.count("sts") == 0, "home's credentials are good there, too"
        home.stop()
        if not idle:
            assert lib.fetch("a") == key
        time.sleep(4.1)
        if idle:
            first = lib.call("fetch", "a", None)
            assert first.status == "OK", first
            in_time(first.ms, 2 * FIRST_MS, first)
        if sts_endpoint:
            assert lib.call("fetch", "a", None).status == "NETWORK"
            assert other.count("sts") == 0
        else:
            for _ in range(4):
                are_quick([lib.call("fetch", "a", None) for _ in range(10)])
                lib.ok("store", f"k{time.monotonic_ns()}", None, "SECRET", b"ours")
                time.sleep(1.2)
            assert other.count("AssumeRole") >= 2
        home.start()
        lib.ok("reload_creds")
        home_is_taken_again(lib)
        lib.close()
        assert set(internet.asked) == {f"kms {REGION}", f"sts {REGION}", f"kms {SECOND}",
                                       *([] if sts_endpoint else [f"sts {SECOND}"])}
