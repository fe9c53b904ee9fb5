"""Sixteen sessions at once by the component: tables, keys, rotations, reloads, settings, kills.

They race for 8 seconds, or 60 with KAWS_LONG in the environment; in the second half, statements are
killed, and keys re-encrypted.  Others meet the server's own locks.  But no key is lost or changed,
and nothing else fails.
"""

import collections
import contextlib
import json
import random
import threading
import time

import pymysql
import pytest

from kms_emulator import ACCOUNT
from mysql_fixtures import (LONG, NO_SCHEMA, RELOAD, ROOT, Stage, component_settings, cursor,
                            wait_for)

pytestmark = pytest.mark.needs("components")
SECONDS = 60 if LONG else 8
LOGS = ("--log-bin", "--server-id=1", "--binlog-encryption=ON", NO_SCHEMA)

# What statements may end with: what the server itself refuses, or puts in order ...
MAY_FAIL = {1205, 1213, 3805}           # its locks; no rotation while binlog_encryption is OFF
# ... and what follows if a call for a key was killed, or met a file that a rotation had replaced.
LATER = {1317, 1030, 1050, 1051, 1053, 1105, 1146, 3169, 3185, 4035,
         *range(3784, 3810)}            # all that the binary log says of its keys
FUNCTION = 3198                         # and then its text says why


class Session(threading.Thread):
    """Repeats statements until all are done."""
    may_fail = MAY_FAIL

    def __init__(self, stage: Stage, done: threading.Event, number: str) -> None:
        super().__init__()
        self.stage, self.done, self.number = stage, done, number
        self.errors, self.surprises = collections.Counter(), []
        self.keys: dict[str, str] = {}          # acknowledged, and not yet asked to be removed
        self.session = None

    def run(self) -> None:
        try:
            with cursor(self.stage) as self.session:
                turn = 0
                while not self.done.is_set():
                    self.turn(turn)
                    turn += 1
        except BaseException as error:
            self.surprises.append(error)

    def do(self, query: str, *values: object) -> list[tuple] | None:
        """The rows; None if the statement failed as it may."""
        try:
            self.session.execute(query, values)
            return list(self.session.fetchall())
        except pymysql.err.MySQLError as error:
            self.errors[error.args[0]] += 1
            if error.args[0] not in self.may_fail and not may_say(error, self.may_fail):
                self.surprises.append((query, error.args))
            return None

    def turn(self, turn: int) -> None:
        raise NotImplementedError


def may_say(error: Exception, may_fail: set[int]) -> bool:
    number, text = error.args
    return number == FUNCTION and may_fail != MAY_FAIL and any(
        word in text for word in ("already running", "kaws_refresh", "cancelled"))


class Keys(Session):
    def turn(self, turn: int) -> None:
        name = f"race-{self.number}-{turn}"
        if self.do("SELECT keyring_key_generate(%s, 'AES', 32)", name) == [(1,)]:
            for _ in range(2):
                rows = self.do("SELECT HEX(keyring_key_fetch(%s))", name)
                if rows and rows[0][0] is not None:
                    key = rows[0][0].decode() if isinstance(rows[0][0], bytes) else rows[0][0]
                    if self.keys.setdefault(name, key) != key:
                        self.surprises.append((name, "changed"))
        if turn % 3 == 0 and self.keys:
            victim = random.choice(list(self.keys))
            del self.keys[victim]
            self.do("SELECT keyring_key_remove(%s)", victim)


class Tables(Session):
    def turn(self, turn: int) -> None:
        table = f"d.t{self.number}"
        self.do(f"CREATE TABLE IF NOT EXISTS {table} (n INT) ENCRYPTION = 'Y'")
        self.do(f"INSERT INTO {table} VALUES (1), (2)")
        self.do(f"SELECT COUNT(*) FROM {table}")
        self.do("SELECT n FROM d.steady")
        self.do(f"DROP TABLE IF EXISTS {table}")


class Statements(Session):
    queries: tuple[str, ...] = ()

    def turn(self, turn: int) -> None:
        self.do(self.queries[turn % len(self.queries)])
        time.sleep(0.01)


class Rotations(Statements):
    queries = ("ALTER INSTANCE ROTATE INNODB MASTER KEY", "ALTER INSTANCE ROTATE BINLOG MASTER KEY")


class Rewraps(Statements):
    queries = ("SELECT keyring_aws_rotate_keys()",)


class Settings(Statements):
    queries = ("SET GLOBAL innodb_redo_log_encrypt = ON", "SET GLOBAL binlog_encryption = OFF",
               "SET GLOBAL innodb_undo_log_encrypt = ON", "SET GLOBAL binlog_encryption = ON",
               "SET GLOBAL innodb_redo_log_encrypt = OFF", "FLUSH BINARY LOGS")


class Looks(Statements):
    queries = ("SELECT * FROM performance_schema.keyring_keys",
               "SELECT * FROM performance_schema.keyring_component_status",
               "SELECT keyring_aws_refresh()")


class Reloads(Session):
    def turn(self, turn: int) -> None:
        changes = {"cmk_id": self.stage.both[turn % 2], "cache_seconds": turn % 3 * 20}
        self.stage.write_file(json.dumps(component_settings({**self.stage.settings, **changes})))
        self.do(RELOAD)
        time.sleep(0.05)


class Kills(Session):
    others: list[Session] = []

    def turn(self, turn: int) -> None:
        victim = random.choice(self.others)
        if victim.session is not None:
            with contextlib.suppress(pymysql.err.MySQLError):       # it has ended
                self.session.execute(f"KILL QUERY {victim.session.connection.thread_id()}")
        time.sleep(0.1)


FIFTEEN = [Keys] * 5 + [Tables] * 4 + [Looks] * 2 + [Rotations] * 2 + [Reloads, Settings]


def test_sixteen_sessions_race():
    seed = time.time_ns()
    random.seed(seed)
    print(f"seed {seed}")
    with Stage(door="component") as stage:
        stage.both = (stage.settings["cmk_id"], stage.kms.add_key("us-east-1", ACCOUNT))
        stage.start(*LOGS)
        stage.install_functions()
        stage.sql("CREATE DATABASE d")
        stage.sql("CREATE TABLE d.steady (n INT) ENCRYPTION = 'Y'")
        stage.sql("INSERT INTO d.steady VALUES (7)")
        race(stage, [*FIFTEEN, Looks], MAY_FAIL)
        race(stage, [*FIFTEEN[1:], Rewraps, Kills], MAY_FAIL | LATER)
        stage.restart(*LOGS)
        assert stage.sql("SELECT n FROM d.steady") == [(7,)]
        assert not stage.said("ERROR")


def race(stage: Stage, kinds: list[type[Session]], may_fail: set[int]) -> None:
    done, pid, began = threading.Event(), stage.db.process.pid, int(time.time())
    sessions = [kind(stage, done, f"{began}_{number}") for number, kind in enumerate(kinds)]
    Kills.others = [each for each in sessions if not isinstance(each, Kills)]
    Session.may_fail = may_fail
    stage.mark()
    for each in sessions:
        each.start()
    time.sleep(SECONDS / 2)
    wait_for(lambda: any(each.surprises for each in sessions)
             or sum(len(each.keys) for each in sessions) > 1, 120)      # a disk may be slow
    done.set()
    for each in sessions:
        each.join(120)
        assert not each.is_alive(), type(each)
    errors = sum((each.errors for each in sessions), collections.Counter())
    keys = {name: key for each in sessions for name, key in each.keys.items()}
    print(f"{len(keys)} keys; errors {dict(errors)}; {len(stage.tagged('KAWS-326'))} reloads")
    surprises = [each for session in sessions for each in session.surprises]
    assert not surprises, surprises[:5]
    assert stage.db.process.poll() is None and stage.db.process.pid == pid
    stage.sql(RELOAD)
    assert keys and set(keys) <= {name for name, owner in stage.entries() if owner == ROOT}
    wrong = [name for name, key in keys.items() if stage.fetch(name) != bytes.fromhex(key)]
    assert not wrong, wrong[:5]
    odd = [line for line in stage.said("ERROR") if may_fail == MAY_FAIL or not any(
        word in line for word in ("kaws_refresh", "cancelled", "already running"))]
    assert not odd, odd[:5]
