"""keyring_aws_cache_seconds in a real server: what it saves, how it is set, and what ends it."""

import pytest

from kms_emulator import KEY_ARN
from mysql_fixtures import NO_SCHEMA, cursor, heed_persisted_settings

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
