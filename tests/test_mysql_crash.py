"""kill -9 on a MySQL server while its clients make keys and remove them.

Every acknowledged key is there afterwards, and no removed key comes back.  By the plugin there are
ten rounds, or a hundred with KAWS_LONG in the environment; by the component three, or fifty.
"""

import collections
import random
import time

import pymysql
import pytest

from mysql_fixtures import LONG, NO_SCHEMA, ROOT, Client, Stage, cursor, wait_for

CLIENTS = 6

# What is known of a key: asked for, acknowledged, asked to be removed, acknowledged again.
ASKED, THERE, LEAVING, GONE = "asked", "there", "leaving", "gone"


class Worker(Client):
    """Makes keys and removes some of them, until the server dies under it."""
    over = pymysql.err.OperationalError, pymysql.err.InterfaceError

    def __init__(self, stage: Stage, name: str) -> None:
        super().__init__(stage, name, 100000)
        self.known, self.values, self.rows = {}, {}, 0

    def step(self, name: str) -> None:
        self.known[name] = ASKED
        assert self.one("SELECT keyring_key_generate(%s, 'AES', 32)", name) == 1
        self.known[name] = THERE
        self.values[name] = self.one("SELECT HEX(keyring_key_fetch(%s))", name)
        if random.random() < 0.4:
            victim = random.choice([each for each, state in self.known.items() if state == THERE])
            self.known[victim] = LEAVING
            assert self.one("SELECT keyring_key_remove(%s)", victim) == 1
            self.known[victim] = GONE


class Writer(Worker):
    """Writes to an encrypted table, and has its master key rotated, until the server dies."""

    def step(self, name: str) -> None:
        self.rows = self.rows or self.one("SELECT COALESCE(MAX(n), 0) FROM d.t")
        self.session.execute("INSERT INTO d.t VALUES (%s, 'x')", (self.rows + 1,))
        self.rows += 1
        if self.rows % 20 == 0:
            self.session.execute("ALTER INSTANCE ROTATE INNODB MASTER KEY")


@pytest.mark.parametrize("door, rounds", [
    ("plugin", 100 if LONG else 10),
    pytest.param("component", 50 if LONG else 3, marks=pytest.mark.needs("components"))])
def test_acknowledged_changes_outlive_kill_9(door, rounds):
    seed = time.time_ns()
    random.seed(seed)
    print(f"seed {seed}")
    with Stage(door=door) as stage:
        # A kill can tear a page of InnoDB's: this server keeps its second copies.
        start = (NO_SCHEMA, "--innodb-doublewrite=ON")
        stage.start(*start)
        stage.install_functions()
        stage.sql("CREATE DATABASE d")
        stage.sql("CREATE TABLE d.t (n INT PRIMARY KEY, text VARCHAR(9)) ENCRYPTION = 'Y'")
        known, values, caught = {}, {}, collections.Counter()
        for number in range(rounds):
            rows = play_round(stage, f"round-{number}", known, values)
            caught.update(state for state in known.values() if state in (ASKED, LEAVING))
            stage.start(*start)
            check_round(stage, known, values)
            assert stage.one("SELECT COUNT(*) FROM d.t") in (rows, rows + 1)
        print(f"{rounds} kills; {len(known)} keys made, {list(known.values()).count(GONE)} removed;"
              f" in the middle of {caught[ASKED]} generations, {caught[LEAVING]} removals")
        assert caught[ASKED]            # else the kills came too early to prove anything


def play_round(stage: Stage, name: str, known: dict, values: dict) -> int:
    """Lets the clients work, kills the server; how many rows were acknowledged."""
    writer = Writer(stage, name)
    workers = [writer, *(Worker(stage, f"{name}-{number}") for number in range(CLIENTS))]
    for worker in workers:
        worker.start()
    wait_for(lambda: any(worker.surprises for worker in workers)
             or writer.rows and any(worker.known for worker in workers[1:]), 60)
    time.sleep(random.uniform(0.1, 0.7))
    stage.db.kill()
    for worker in workers:
        worker.join()
        assert not worker.surprises, worker.surprises
        known.update(worker.known)
        values.update(worker.values)
    return writer.rows


def check_round(stage: Stage, known: dict, values: dict) -> None:
    """What was acknowledged must be so; what was in the middle is one or the other, for good."""
    listed = {key_id for key_id, user_id in stage.entries() if user_id == ROOT}
    assert listed <= set(known)
    for name, state in known.items():
        if state in (ASKED, LEAVING):
            known[name] = THERE if name in listed else GONE
        assert (name in listed) == (known[name] == THERE), (name, state)
    with cursor(stage) as session:
        for name in listed:
            session.execute("SELECT HEX(keyring_key_fetch(%s))", (name,))
            value = session.fetchone()[0]
            assert len(value) == 64 and values.setdefault(name, value) == value
    assert not [line for line in stage.said("ERROR") if "damaged" in line]
