"""The page on sizing is true: how often InnoDB and the binary log make the plugin ask
KMS.

Each row of its table of requests is tried on a real server, with 1 and with 20 encrypted tables.
KMS must count as many requests as the row says.
"""

import collections
import re
import time
from pathlib import Path

import pytest

from manual import MAN, section
from mysql_fixtures import NO_SCHEMA, Stage
from patience import calm, in_time

SIZING = (MAN / "keyring_aws-sizing.md").read_text()
LOGS = ("--innodb-redo-log-encrypt=ON", "--innodb-undo-log-encrypt=ON", "--log-bin=bin",
        "--binlog-encryption=ON", "--server-id=1")
WRITTEN = 5                     # the most tables that are written to before a crash
QUIET = (NO_SCHEMA, "--innodb-idle-flush-pct=0")        # no checkpoint between them and the crash

pytestmark = pytest.mark.needs("quotes")        # the figures are those of 9.7


def rows(text: str) -> dict[str, list[str]]:
    """The cells of each row of a text's tables, by the first one."""
    cells = [[cell.strip() for cell in row.split("|")[1:-1]]
             for row in re.findall(r"^\|.*", text, re.M)]
    return {first: rest for first, *rest in cells}


ROWS = rows(SIZING)


def formula(text: str, **numbers: int) -> int:
    """What a cell such as `2N + W + 17` comes to."""
    terms = re.findall(r"(\d*)([A-Z]?)(?: \+ |$)", text)[:-1]
    assert " + ".join("".join(each) for each in terms) == text, text
    return sum(int(count or 1) * (numbers[name] if name else 1) for count, name in terms)


class Counted:
    """A stage whose steps are held against the manual's rows."""

    def __init__(self, stage: Stage, column: int) -> None:
        self.stage, self.column, self.numbers = stage, column, {}

    def row(self, name: str, *statements: str, **numbers: int) -> None:
        """After the statements, KMS has had as many requests as the row says."""
        for each in statements:
            self.stage.sql(each)
        cell = formula(ROWS[name][self.column], **{**self.numbers, **numbers})
        assert self.stage.kms.count() == cell, (name, self.stage.kms.counts)
        self.stage.kms.reset_log()

    def quiet(self, *statements: str) -> None:
        """What asks KMS nothing."""
        for each in statements:
            self.stage.sql(each)
            assert self.stage.kms.count() == 0, (each, self.stage.kms.counts)

    def forget(self) -> None:
        self.stage.kms.reset_log()


def create(number: int) -> str:
    return f"CREATE TABLE d.t{number} (n INT PRIMARY KEY) ENCRYPTION = 'Y'"


ROTATE = "ALTER INSTANCE ROTATE INNODB MASTER KEY"


@pytest.mark.parametrize("logs", [False, True], ids=["tables", "tables-and-logs"])
@pytest.mark.parametrize("tables", [1, 20])
def test_each_row_of_requests_is_true(stage, tables, logs):
    options = (*QUIET, *(LOGS if logs else ()))
    count = Counted(stage, int(logs))
    count.numbers = {"N": tables, "W": min(tables, WRITTEN)}
    stage.start(*options)
    stage.sql("CREATE DATABASE d")
    count.forget()
    for number in range(tables):
        count.row("the first encrypted table is made" if number == 0
                  else "a table is made, or rebuilt", create(number))
    if logs:                    # the first start with a binary log has none before it to look at
        stage.restart(*options)
        count.forget()
    stage.restart(*options)
    if logs:
        check_what_the_logs_ask_for(stage, tables)
    count.row("the server starts")
    (query,) = re.findall(r"^    (SELECT COUNT.*?;)$", SIZING, re.M | re.S)
    assert stage.one(query) == tables
    count.quiet(*(f"INSERT INTO d.t{each} VALUES (1)" for each in range(count.numbers["W"])))
    stage.db.kill()
    stage.start(*options)
    count.row("the server starts after a crash")
    count.row("the InnoDB master key is rotated", ROTATE)
    count.quiet("CREATE TABLE d.plain (n INT)")         # makes the rotation durable, too
    stage.db.kill()
    stage.start(*options)
    count.row("the server starts after a crash just after a rotation")
    count.row("a table is made, or rebuilt", "TRUNCATE TABLE d.t0")
    count.row("a table is made, or rebuilt", "ALTER TABLE d.t0 ADD m INT, ALGORITHM=INPLACE")
    count.quiet("SELECT * FROM d.t0", "ALTER TABLE d.t0 ENCRYPTION = 'N'", "DROP TABLE d.t0")


def check_what_the_logs_ask_for(stage: Stage, tables: int) -> None:
    (told,) = re.findall(r"Of the (\d+) more at a start, (\d+) are for the binary logs, (\d+) for"
                         r" redo and undo logs, and (\d+) are a trial",
                         " ".join(SIZING.split()))
    names = [(each["body"]["EncryptionContext"].get("key_id") or "the plugin's own").split("Key")[0]
             for each in stage.kms.log()["requests"]]
    asked = collections.Counter(names)
    asked["INNODB"] -= tables
    assert asked.pop("the plugin's own") == 2
    seen = [asked.pop(name) for name in ("MySQLReplication", "INNODB", "DefaultMaster")]
    assert list(map(int, told)) == [sum(seen), *seen] and not asked


def test_the_component_s_start_takes_two_requests_less():
    """The page says so below its table: it asks KMS nothing before the server asks for a key."""
    assert "The component's start takes 2 fewer" in SIZING
    with Stage(door="component") as stage:
        stage.start(NO_SCHEMA)
        stage.sql("CREATE DATABASE d")
        for number in range(5):
            stage.sql(create(number))
        assert stage.db.stop() == 0
        stage.kms.reset_log()
        stage.start(NO_SCHEMA)
        assert stage.kms.count() == formula(ROWS["the server starts"][0], N=5) - 2


def test_each_row_of_requests_for_logs_is_true(stage):
    """What is encrypted from now on, and the binary logs; a partition is a table, too."""
    stage.start(NO_SCHEMA, "--log-bin=bin", "--server-id=1")
    count = Counted(stage, 1)
    stage.sql("CREATE DATABASE d")
    stage.sql(create(0))
    count.forget()
    for name, variable in (("`innodb_redo_log_encrypt` is set to ON", "innodb_redo_log_encrypt"),
                           ("`innodb_undo_log_encrypt` is set to ON", "innodb_undo_log_encrypt"),
                           ("`binlog_encryption` is first set to ON", "binlog_encryption")):
        count.row(name, f"SET GLOBAL {variable} = ON")
    stage.sql("ALTER INSTANCE ROTATE BINLOG MASTER KEY")        # the first has fewer to look for
    for more in (0, 3):
        for _ in range(more):
            stage.sql("FLUSH BINARY LOGS")
        count.forget()
        logs = sum(encrypted == "Yes" for *_, encrypted in stage.sql("SHOW BINARY LOGS"))
        count.row("the binary log's master key is rotated",
                  "ALTER INSTANCE ROTATE BINLOG MASTER KEY", L=logs)
    stage.sql("CREATE TABLE d.p (n INT) ENCRYPTION = 'Y' PARTITION BY HASH (n) PARTITIONS 4")
    assert stage.kms.count() == 4 * formula(ROWS["a table is made, or rebuilt"][0])
    count.forget()
    stage.sql("CREATE TABLESPACE s ADD DATAFILE 's.ibd' ENCRYPTION = 'Y'")
    assert stage.kms.count() == formula(ROWS["a table is made, or rebuilt"][0])
    count.forget()
    count.quiet("CREATE TABLE d.in_s (n INT) TABLESPACE s ENCRYPTION = 'Y'")


def test_no_row_is_unproved():
    told = {name for name, row in ROWS.items() if len(row) == 2} - {"what happens"}
    counted = set(re.findall(r'"([^"\n]{9,})"', Path(__file__).read_text()))
    assert len(told) == 10 and told <= counted


def test_while_kms_hangs_only_the_first_table_costs_a_timeout(stage):
    """The plugin's own start has had its answers; then KMS accepts, and never answers. After the
    first call a few probes may follow, each of connect_timeout and 1 s."""
    tables, timeout = 8, 2.0
    stage.start(NO_SCHEMA)
    stage.sql("CREATE DATABASE d")
    for number in range(tables):
        stage.sql(create(number))
    assert stage.db.stop() == 0
    stage.kms.reset_log()
    stage.kms.fault("Decrypt", "black_hole", times=0, after=1)
    began = time.monotonic()
    stage.start(NO_SCHEMA, timeout=int(timeout * 1000), start_seconds=0)
    took = time.monotonic() - began
    assert timeout <= took
    assert 2 <= stage.kms.count("Decrypt")
    calm(stage.kms.count("Decrypt") <= 4, f"{stage.kms.counts}: a long start has more probes")
    in_time(took, tables * timeout)
    assert "only the first call waits that long" in SIZING
    stage.kms.clear_faults()


# ---- what a ring takes --------------------------------------------------------------------------


def test_the_figures_of_time_and_price():
    """A request's time and price, and N + 2 of them at a start, make the table's other cells."""
    assert "$0.03 per 10,000 requests" in SIZING and "10 ms" in SIZING
    start, rotation = (formula(ROWS[what][0], N=50) for what in (
        "the server starts", "the InnoDB master key is rotated"))
    assert (f"With 50 tables in MySQL 9.7 and the cache at 60 seconds, a start took 3 requests"
            f" instead of {start}, a rotation 2 instead of {rotation}, and a start after a kill 3"
            f" instead of {start}.") in " ".join(SIZING.split())
    for tables in (10, 1000, 10000):
        (seconds, requests, price, _) = ROWS[f"{tables:,}"]
        assert requests == f"{formula(ROWS['the server starts'][0], N=tables):,}"
        assert seconds == f"{tables * 0.01:g} s"
        assert price == f"${float(f'{(tables + 2) * 3e-6:.1g}'):.5f}".rstrip("0")
        assert rows(section("Sizing"))[f"{tables:,}"] == ROWS[f"{tables:,}"], "the README's"
