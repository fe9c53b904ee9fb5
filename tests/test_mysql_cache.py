"""keyring_aws_cache_seconds in a real server: what it saves, how it is set, and what ends it."""

import re
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pymysql
import pytest

from kms_emulator import ACCOUNT, KEY_ARN
from mysql_fixtures import NO_SCHEMA, cursor, heed_persisted_settings, wait_for, wait_for_kms
from patience import in_time

TABLES = 50


def requests(stage) -> int:
    return stage.kms.count()


def make_tables(stage) -> None:
    stage.sql("CREATE DATABASE d")
    for number in range(TABLES):
        stage.sql(f"CREATE TABLE d.t{number} (n INT PRIMARY KEY) ENCRYPTION = 'Y'")


def read_tables(stage) -> None:
    for number in range(TABLES):
        assert stage.one(f"SELECT COUNT(*) FROM d.t{number}") == 0


def asked(stage, work) -> int:
    """How many requests KMS gets while the work is done."""
    before = requests(stage)
    work()
    return requests(stage) - before


@pytest.mark.needs("logs")
def test_what_a_start_and_a_rotation_ask_for(stage):
    """InnoDB asks for its key once for each table; with the cache KMS is asked once for the key."""
    stage.start(NO_SCHEMA, cache_seconds=60)
    made = asked(stage, lambda: make_tables(stage))
    assert made <= 10, "CREATE TABLE asks twice"

    for seconds, least, most in ((60, 1, 10), (0, TABLES, 3 * TABLES)):
        started = asked(stage, lambda: (stage.restart(NO_SCHEMA, cache_seconds=seconds),
                                        read_tables(stage)))
        rotated = asked(stage, lambda: stage.sql("ALTER INSTANCE ROTATE INNODB MASTER KEY"))
        hits = stage.status()["cache_hits"]
        stage.db.kill()
        recovered = asked(stage, lambda: (stage.start(NO_SCHEMA, cache_seconds=seconds),
                                          read_tables(stage)))
        print(f"cache {seconds} s: start {started}, rotation {rotated}, after kill -9 {recovered}")
        assert least <= started <= most and least <= rotated <= most
        assert least <= recovered <= 2 * most
        assert not seconds or (started, rotated, recovered) == (3, 2, 3), "the page on sizing"
        assert (hits >= 2 * TABLES) == (seconds > 0)
    assert not stage.said("ERROR")


def test_it_is_off_by_default_and_set_at_run_time(stage):
    stage.start(NO_SCHEMA)
    stage.install_functions()
    assert stage.variable("cache_seconds") == 0
    for name in "ab":
        assert stage.generate(name) == 1
    assert asked(stage, lambda: [stage.fetch("a") for _ in range(3)]) == 3
    assert stage.status()["cache_hits"] == 0

    stage.sql("SET GLOBAL keyring_aws_cache_seconds = 60")
    assert asked(stage, lambda: [stage.fetch("a") for _ in range(5)]) == 1
    assert stage.fetch("a") == stage.plain("a")
    assert stage.status()["cache_hits"] == 5
    stage.sql("SET GLOBAL keyring_aws_cache_seconds = 0")
    stage.sql("SET GLOBAL keyring_aws_cache_seconds = 60")
    assert asked(stage, lambda: stage.fetch("a")) == 1, "0 has emptied it, though nobody asked"
    assert stage.tagged("KAWS-310") == [] and not stage.said("ERROR")


@pytest.mark.parametrize("value, counts", [(86401, 86400), (-1, 0), (10 ** 12, 86400)])
def test_out_of_range(stage, value, counts):
    """MySQL cuts the number with a warning, as it does with every number."""
    stage.start(NO_SCHEMA, cache_seconds=value)
    assert stage.variable("cache_seconds") == counts
    stage.sql("SET GLOBAL keyring_aws_cache_seconds = 7")
    with cursor(stage) as session:
        session.execute("SET GLOBAL keyring_aws_cache_seconds = %s", (value,))
        session.execute("SHOW WARNINGS")
        ((level, number, text),) = session.fetchall()
    assert (level, number) == ("Warning", 1292) and "cache_seconds" in text
    assert stage.variable("cache_seconds") == counts


@pytest.mark.needs("persist")
def test_it_can_be_persisted(stage):
    heed_persisted_settings(stage)
    stage.start(NO_SCHEMA)
    stage.sql("SET PERSIST keyring_aws_cache_seconds = 60")
    stage.restart(NO_SCHEMA)
    stage.install_functions()
    assert stage.variable("cache_seconds") == 60
    assert stage.generate("a") == 1
    assert asked(stage, lambda: [stage.fetch("a") for _ in range(3)]) == 1


def test_what_ends_it(stage):
    """A KMS key that is disabled serves what is kept, until KMS refuses anything."""
    stage.start(NO_SCHEMA, cache_seconds=3600)
    stage.install_functions()
    for name in "abc":
        assert stage.generate(name) == 1
    keys = {name: stage.fetch(name) for name in "ab"}
    assert keys["a"] == stage.plain("a")
    stage.kms.key(KEY_ARN).state = "Disabled"
    assert asked(stage, lambda: stage.fetch("a")) == 0
    assert stage.fetch("c") is None
    assert stage.fetch("a") is None and stage.fetch("b") is None
    stage.kms.key(KEY_ARN).state = "Enabled"
    assert stage.fetch("a") == keys["a"]

    assert stage.remove("b") == 1
    assert asked(stage, lambda: [stage.fetch("a") for _ in range(2)]) == 1
    assert stage.one("SELECT keyring_aws_rotate_keys()") == 1
    assert asked(stage, lambda: [stage.fetch("a") for _ in range(2)]) == 1
    stage.uninstall()
    stage.install()
    assert asked(stage, lambda: [stage.fetch("a") for _ in range(2)]) == 1
    assert stage.fetch("a") == keys["a"]


@pytest.mark.needs("logs")
def test_a_kept_key_does_not_show_that_kms_is_back(stage):
    """KAWS-322 comes when KMS has answered, not when a key came out of memory."""
    stage.start(NO_SCHEMA, cache_seconds=8)
    stage.db.install_keyring_udf()
    stage.sql("CREATE DATABASE d")
    stage.sql("CREATE TABLE d.t (n INT) ENCRYPTION = 'Y'")
    assert stage.generate("kept") == 1
    time.sleep(9)                       # InnoDB's key is too old
    begun, key = time.monotonic(), stage.fetch("kept")
    stage.kms.stop()
    assert stage.refused("CREATE TABLE d.new (n INT) ENCRYPTION = 'Y'")[0] == 3185
    before, kept = stage.status()["cache_hits"], stage.fetch("kept")
    in_time(time.monotonic() - begun, 8)
    assert kept == key and stage.status()["cache_hits"] == before + 1
    assert not stage.tagged("KAWS-322"), "KMS is still away"
    stage.kms.start()
    wait_for_kms(stage, "CREATE TABLE d.new (n INT) ENCRYPTION = 'Y'")
    assert len(stage.tagged("KAWS-322")) == 1


def test_another_kms_key_or_region_that_is_set_ends_it(stage):
    """The ring uses it from the next key on that is made; what is kept is wiped at once."""
    second = stage.kms.add_key("us-east-1", ACCOUNT)
    stage.start(NO_SCHEMA, cache_seconds=3600)
    stage.install_functions()
    assert stage.generate("a") == 1
    for name, value in ("cmk_id", second), ("region", "us-west-2"):
        assert asked(stage, lambda: [stage.fetch("a") for _ in range(2)]) <= 1
        stage.sql(f"SET GLOBAL keyring_aws_{name} = '{value}'")
        assert asked(stage, lambda: [stage.fetch("a") for _ in range(2)]) == 1
    stage.sql("SET GLOBAL keyring_aws_timeout = 5000")
    assert asked(stage, lambda: stage.fetch("a")) == 0 and stage.fetch("a") == stage.plain("a")


def locked_kb(stage) -> int:
    status = Path(f"/proc/{stage.db.process.pid}/status").read_text("ascii")
    return int(re.search(r"VmLck:\s+(\d+) kB", status)[1])


def test_the_plugin_s_end_ends_it_though_a_function_runs(stage):
    """UNINSTALL PLUGIN does not wait for the function; the keys do not wait, either."""
    stage.start(NO_SCHEMA, cache_seconds=3600)
    stage.install_functions()
    assert stage.generate("a") == 1
    stage.fetch("a")
    before = locked_kb(stage)
    with cursor(stage) as old, ThreadPoolExecutor(1) as pool:
        stage.kms.fault("*", "black_hole", times=0, where="request")
        count = requests(stage)
        runs = pool.submit(old.execute, "SELECT keyring_aws_rotate_keys()")
        wait_for(lambda: requests(stage) > count)
        stage.uninstall()
        assert locked_kb(stage) < before and not runs.done(), "the page key is not needed any more"
        stage.sql(f"KILL QUERY {old.connection.thread_id()}")
        with pytest.raises(pymysql.err.MySQLError):
            runs.result()
    stage.kms.clear_faults()
    stage.install()


def test_set_under_load(stage):
    """Eight sessions fetch while the number changes: each gets its key, and none waits for long."""
    stage.start(NO_SCHEMA, cache_seconds=60)
    stage.install_functions()
    for name in "abc":
        assert stage.generate(name) == 1
    keys, wrong, done = {name: stage.fetch(name) for name in "abc"}, [], threading.Event()

    def load() -> None:
        with cursor(stage) as session:
            while not done.is_set():
                for name, key in keys.items():
                    session.execute("SELECT keyring_key_fetch(%s)", (name,))
                    ((got,),) = session.fetchall()
                    if got != key:
                        wrong.append((name, got))

    threads = [threading.Thread(target=load) for _ in range(8)]
    for thread in threads:
        thread.start()
    try:
        for number in range(200):
            stage.sql(f"SET GLOBAL keyring_aws_cache_seconds = {number % 4 * 20}")
            if number % 20 == 0:
                stage.sql(f"SET GLOBAL keyring_aws_cmk_id = '{KEY_ARN}'")
    finally:
        done.set()
        for thread in threads:
            thread.join()
    assert not wrong and not stage.said("ERROR") and stage.tagged("KAWS-153") == []
    assert stage.status()["cache_hits"] > 0
