"""The manual's sections on an unreachable KMS, containers and replicas are true, item by item.

The bold text of an item names a situation, and a test here brings it about.  The test compares what
the manual quotes after that, up to *Later:* or *Then*, with what the server said.
"""

import contextlib
import re
import shutil
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pymysql
import pytest

from kms_emulator import ACCOUNT
from manual import section
from mysql_fixtures import ASK_KMS, EARLY, NO_SCHEMA, Stage, wait_for, wait_for_kms
from servers import free_port, mysqld, open_files
from versions import Expect

pytestmark = pytest.mark.needs("runbook")
SECTIONS = ("When KMS is unreachable", "Containers", "Replicas, Group Replication, Clone")

# A server that finds no KMS waits for it at its start: not here.
START = ("--loose-keyring_aws_start_seconds=0", "--keyring_aws_timeout=1000")
FORCED = (*START, "--keyring_aws=FORCE")
ROTATE = "ALTER INSTANCE ROTATE INNODB MASTER KEY"


def items(title: str) -> dict[str, str]:
    """What is bold in a section's items, and what the server says according to them."""
    found = re.findall(r"^\* \*\*(.+?)\*\*(.*?)(?=^\*|^$|\Z)", section(title), re.M | re.S)
    return {" ".join(bold.split()): re.split(r"\*(?:Later:|Then)\*", " ".join(text.split()))[0]
            for bold, text in found}


ROWS = {row: says for title in SECTIONS for row, says in items(title).items()}


def check(row: str, said: str) -> None:
    """A server said all that the manual quotes in that item; which are the messages of 9.x."""
    if not Expect(mysqld().version).quotes:
        return
    quoted = re.findall(r"`(.+?)`|(error \d{4})", ROWS[row])
    missing = [each for pair in quoted for each in pair if each and each not in said]
    assert not missing, f"{row}: not said: {missing}; but: {said[-3000:]}"


def test_every_row_has_its_test():
    code = Path(__file__).read_text()
    assert len(ROWS) == sum(section(each).count("\n* ") for each in SECTIONS)
    assert not [row for row in ROWS if f'"{row}"' not in code and row != ASKED]


def tried(stage: Stage, query: str) -> str:
    """What an SQL statement ends with: an error's number and text, or nothing."""
    try:
        rows = stage.sql(query)
    except pymysql.err.MySQLError as error:
        return f"error {error.args[0]}: {error.args[1]}"
    problems = [text for *_, kind, text in rows if str(kind).lower() == "error"]
    return f"error in a row: {problems}" if problems else ""


def no_start(stage: Stage, *options: str) -> str:
    """What a server says that does not start."""
    run = stage.db.run_once(*stage.options(*options))
    assert run.returncode == 1, run.stdout
    return run.stdout


def without_kms(stage: Stage, *options: str) -> str:
    """The same without KMS, which is back afterwards."""
    with away(stage):
        return no_start(stage, *options)


@contextlib.contextmanager
def away(stage: Stage):
    """Within it, KMS cannot be reached. Afterwards a running server has found out that it can."""
    stage.kms.stop()
    yield
    stage.kms.start()
    if stage.db.process.poll() is None and stage.loaded():
        wait_for_kms(stage, ASK_KMS)


def log_since(stage: Stage) -> str:
    """The error log since the mark."""
    return stage.db.log(whole=True)[stage.marked:]


def wait_for_log(stage: Stage, sentence: str) -> None:
    wait_for(lambda: sentence in log_since(stage), 30)


# ---- a server does not start --------------------------------------------------------------------

def insert(stage: Stage, numbers: range) -> None:
    for number in numbers:
        stage.sql(f"INSERT INTO d.t VALUES ({number})")


def count(stage: Stage) -> int:
    assert stage.sql("CHECK TABLE d.t")[0][3] == "OK"
    return stage.one("SELECT COUNT(*) FROM d.t")


def test_a_crash_and_no_kms(stage):
    """Once KMS is back, nothing is lost. With InnoDB's own advice, 28 rows of 29 are lost."""
    options = (*FORCED, NO_SCHEMA, "--innodb-doublewrite=ON",
               "--loose-innodb-idle-flush-pct=0",       # on a slow machine these save rows
               "--innodb-adaptive-flushing=OFF", "--innodb-max-dirty-pages-pct-lwm=0")
    stage.start(*options)
    stage.sql("CREATE DATABASE d")
    stage.sql("CREATE TABLE d.t (n INT PRIMARY KEY) ENCRYPTION = 'Y'")
    insert(stage, range(1))
    stage.db.kill()
    check("a table made just before a crash", without_kms(stage, *options))
    stage.write_conf("AKIDUNKNOWN")
    check("a table made just before a crash", no_start(stage, *options, "--keyring_aws=ON"))
    stage.write_conf()
    stage.start(*options)
    assert count(stage) == 1
    stage.restart(*options)
    insert(stage, range(1, 29))
    stage.db.kill()
    check("a table written to before a crash", without_kms(stage, *options))

    saved = stage.db.folder / "saved"
    shutil.copytree(stage.db.data, saved)
    with away(stage):
        stage.start(*options, "--innodb-force-recovery=1")
        stage.db.stop()
    stage.start(*options)
    assert count(stage) == 1 and "28 of 29 committed rows" in section(SECTIONS[0])
    stage.db.kill()
    shutil.rmtree(stage.db.data)
    saved.rename(stage.db.data)
    stage.start(*options)
    assert count(stage) == 29


NEEDED = [                              # row, what makes the server need the key, what ends it
    ("the binary log", "SET GLOBAL binlog_encryption = ON",
     "SET GLOBAL binlog_encryption = OFF;{reset_binlog}"),
    ("the tablespace mysql", "ALTER TABLESPACE mysql ENCRYPTION = 'Y'",
     "ALTER TABLESPACE mysql ENCRYPTION = 'N'"),
    ("the undo tablespaces", "SET GLOBAL innodb_undo_log_encrypt = ON", ""),
    ("the undo tablespaces", "SET GLOBAL innodb_undo_log_encrypt = OFF", ""),
    ("the redo log", "SET GLOBAL innodb_redo_log_encrypt = ON", ""),
]


def test_what_does_not_start_without_its_key(stage):
    options = (*FORCED, NO_SCHEMA, "--log-bin=bin", "--server-id=1")
    stage.start(*options)
    stage.sql("SET GLOBAL binlog_encryption = ON")
    stage.sql(stage.expect.reset_binlog)
    stage.restart(*options)             # it is OFF again, but the oldest log is encrypted
    assert stage.db.stop() == 0
    said = without_kms(stage, *options)
    assert ROWS["the binary log"].split("`")[1] in said or not stage.expect.quotes
    stage.start(*options)
    for row, begin, end in NEEDED:
        stage.sql(begin)
        assert stage.db.stop() == 0
        check(row, without_kms(stage, *options))
        stage.start(*options)
        for query in filter(None, end.split(";")):
            stage.sql(query.format(reset_binlog=stage.expect.reset_binlog))


# ---- a server has started without the key -------------------------------------------------------

ASKED = ("a table that something asked for (a statement, `SHOW TABLE STATUS`,"
         " `information_schema.TABLES`)")
TABLES = {                              # name, and how it is made
    "unasked": "(n INT) ENCRYPTION = 'Y'",
    "asked": "(n INT) ENCRYPTION = 'Y'",
    "shown": "(n INT) ENCRYPTION = 'Y'",
    "looked_up": "(n INT) ENCRYPTION = 'Y'",
    "parts": "(n INT) ENCRYPTION = 'Y' PARTITION BY HASH (n) PARTITIONS 2",
    "shared": "(n INT) TABLESPACE g ENCRYPTION = 'Y'",
    "neighbour": "(n INT) TABLESPACE g ENCRYPTION = 'Y'",
    "parent": "(n INT PRIMARY KEY) ENCRYPTION = 'Y'",
    "child": "(n INT PRIMARY KEY, FOREIGN KEY (n) REFERENCES d.parent (n)) ENCRYPTION = 'Y'",
    "words": "(x TEXT, FULLTEXT (x)) ENCRYPTION = 'Y'",
}
UNASKED = {"unasked", "neighbour"}
FOR_GOOD = {"parent", "child", "words"}     # until a restart, whatever InnoDB's cache does
NO_HELP = (
    "FLUSH TABLES", ROTATE, "ALTER TABLE d.asked DISCARD TABLESPACE",
    "ALTER TABLE d.asked IMPORT TABLESPACE", "ALTER INSTANCE RELOAD KEYRING")


def read(stage: Stage, name: str) -> str:
    return tried(stage, f"SELECT * FROM d.{name}")


def closed(stage: Stage) -> set[str]:
    return {name for name in TABLES if read(stage, name)}


def ask_for_tables(stage: Stage) -> None:
    """Asks for all tables but two, and checks what the server answers."""
    fresh = "SET information_schema_stats_expiry = 0"
    stage.sql("SHOW TABLE STATUS IN d LIKE 'shown'", init_command=fresh)
    stage.sql("SELECT table_rows FROM information_schema.tables WHERE table_name = 'looked_up'",
              init_command=fresh)
    said = {name: read(stage, name) for name in TABLES.keys() - UNASKED - {"shown", "looked_up"}}
    check(ASKED, said["asked"])
    check("a table with partitions that something asked for", said["parts"])
    check("a table in a general tablespace", said["shared"])


def test_which_tables_stay_closed_and_what_opens_them(stage):
    check("a table that nothing asked for", "")
    stage.start(*FORCED, NO_SCHEMA)
    stage.sql("CREATE DATABASE d")
    stage.sql("CREATE TABLESPACE g ADD DATAFILE 'g.ibd' ENCRYPTION = 'Y'")
    for name, made in TABLES.items():
        stage.sql(f"CREATE TABLE d.{name} {made}")

    assert stage.db.stop() == 0
    stage.write_conf("AKIDUNKNOWN")
    stage.start(*START, NO_SCHEMA)                      # the plugin is refused
    ask_for_tables(stage)
    stage.write_conf()
    stage.install()
    assert closed(stage) == TABLES.keys() - UNASKED
    stage.sql("DELETE FROM mysql.plugin WHERE name = 'keyring_aws'")
    stage.restart(*FORCED, NO_SCHEMA)
    assert closed(stage) == set()

    assert stage.db.stop() == 0
    with away(stage):
        stage.start(*FORCED, NO_SCHEMA)
        ask_for_tables(stage)
    assert closed(stage) == TABLES.keys() - UNASKED
    said = [tried(stage, query) for query in NO_HELP]
    assert said[-1].startswith("error 4035") and closed(stage) == TABLES.keys() - UNASKED
    sample = section(SECTIONS[0])
    assert [query for query in NO_HELP if query.split(" d.")[0] not in sample] == []
    for query in re.findall(r"^    (.*);$", sample, re.M):
        stage.sql(query)
    for _ in range(12):                 # InnoDB looks at its cache when nobody asks for anything
        time.sleep(5)
        if closed(stage) == FOR_GOOD:
            break
    stage.sql("DROP DATABASE filler")
    assert closed(stage) == FOR_GOOD
    assert tried(stage, "DROP TABLE d.words") == ""     # a closed table can be lost
    stage.restart(*FORCED, NO_SCHEMA)
    assert closed(stage) == {"words"}


# ---- a running server loses KMS -----------------------------------------------------------------

GO_ON = ("INSERT INTO d.t VALUES (2, 'b')", "SELECT * FROM d.t", "FLUSH TABLES",
         "SELECT * FROM d.later", "INSERT INTO d.shared VALUES (1)", "FLUSH BINARY LOGS",
         "ALTER TABLE d.t ADD y INT", "CREATE TABLE d.more (n INT) TABLESPACE g ENCRYPTION = 'Y'")
NEED_KEY = {
    "a table, partition or tablespace is made, rebuilt or truncated; the master key is rotated": [
        "CREATE TABLE d.new (n INT) ENCRYPTION = 'Y'", "ALTER TABLE d.plain ENCRYPTION = 'Y'",
        "ALTER TABLE d.parts ADD PARTITION PARTITIONS 1", "ALTER TABLE d.later ENGINE = InnoDB",
        "TRUNCATE TABLE d.later", "CREATE TABLESPACE h ADD DATAFILE 'h.ibd' ENCRYPTION = 'Y'",
        "CREATE UNDO TABLESPACE fourth ADD DATAFILE 'fourth.ibu'", ROTATE],
    "an older binary log is read, the binary log's key rotated": [
        "SHOW BINLOG EVENTS IN 'bin.000001'", "ALTER INSTANCE ROTATE BINLOG MASTER KEY"],
    "`binlog_encryption` is set to ON": ["SET GLOBAL binlog_encryption = ON"],
}
UNDO_001 = "ALTER UNDO TABLESPACE innodb_undo_001 "


def truncate_undo(stage: Stage) -> None:
    """Makes InnoDB truncate the first undo tablespace."""
    stage.sql(UNDO_001 + "SET INACTIVE")
    wait_for(lambda: stage.sql("SELECT 1 FROM information_schema.innodb_tablespaces WHERE name ="
                               " 'innodb_undo_001' AND state = 'empty'"), 30)
    stage.sql(UNDO_001 + "SET ACTIVE")


def undo_tells(stage: Stage) -> bool:
    """Whether what a row held before stands in the first undo tablespace's file in the clear."""
    stage.sql("INSERT INTO d.t (n, x) SELECT n + 100, 'the castle is in the north' FROM d.many")
    for number in range(8):             # a transaction each: undo tablespaces take turns
        stage.sql(f"UPDATE d.t SET x = '-' WHERE n >= 100 AND n % 8 = {number}")
    stage.sql("DELETE FROM d.t WHERE n >= 100")
    file = stage.db.data / "undo_001"
    stage.sql("SET GLOBAL innodb_max_dirty_pages_pct_lwm = 0")
    stage.sql("SET GLOBAL innodb_max_dirty_pages_pct = 0")
    wait_for(lambda: stage.one("SELECT variable_value FROM performance_schema.global_status WHERE"
                               " variable_name = 'Innodb_buffer_pool_pages_dirty'") == "0", 30)
    return b"the castle is in the north" in file.read_bytes()


def test_a_running_server_loses_kms(stage):
    options = (*FORCED, "--log-bin=bin", "--binlog-encryption=ON", "--server-id=1",
               "--innodb-redo-log-encrypt=ON", "--innodb-undo-log-encrypt=ON")
    stage.start(*options)
    stage.install_functions()
    assert stage.generate("kept") == 1
    assert tried(stage, UNDO_001 + "SET INACTIVE").startswith("error 3655")     # of two
    for query in (
            "CREATE DATABASE d", "ALTER TABLESPACE mysql ENCRYPTION = 'Y'",
            "CREATE TABLESPACE g ADD DATAFILE 'g.ibd' ENCRYPTION = 'Y'",
            "CREATE UNDO TABLESPACE third ADD DATAFILE 'third.ibu'",
            "CREATE TABLE d.t (n INT PRIMARY KEY, x VARCHAR(50)) ENCRYPTION = 'Y'",
            "CREATE TABLE d.later (n INT) ENCRYPTION = 'Y'", "CREATE TABLE d.plain (n INT)",
            "CREATE TABLE d.shared (n INT) TABLESPACE g ENCRYPTION = 'Y'",
            "CREATE TABLE d.parts (n INT) ENCRYPTION = 'Y' PARTITION BY HASH (n) PARTITIONS 2",
            "CREATE TABLE d.many AS WITH RECURSIVE c (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c"
            " WHERE n < 64) SELECT n FROM c"):
        stage.sql(query)
    stage.restart(*options)
    truncate_undo(stage)
    assert not undo_tells(stage)
    with away(stage):
        check("rows are read and written, binary logs begun, columns added", "")
        for query in GO_ON:
            assert tried(stage, query) == "", query
        check_what_needs_the_key(stage)
        assert stage.fetch("kept") is None and stage.fetch("no such key") is None
        check("`keyring_key_fetch` is called", "")
        assert "kept" in [key_id for key_id, _ in stage.listed()]
        truncate_undo(stage)
        check("an undo tablespace is truncated, which InnoDB also does by itself",
              log_since(stage))
        assert undo_tells(stage)
        assert stage.sql("SELECT encryption FROM information_schema.innodb_tablespaces WHERE name"
                         " = 'innodb_undo_001'") == [("Y",)]
    for query in (query for queries in reversed(NEED_KEY.values()) for query in queries):
        assert tried(stage, query) == "", query
    assert stage.fetch("kept") == stage.plain("kept")
    assert stage.generate("kept") is None               # who did not believe the NULL gets another
    truncate_undo(stage)
    assert not undo_tells(stage)


def check_what_needs_the_key(stage: Stage) -> None:
    for row, queries in NEED_KEY.items():
        if "set to ON" in row:
            stage.sql("SET GLOBAL binlog_encryption = OFF")
        for query in queries:
            check(row, tried(stage, query))


# ---- a copy in the data file's place ------------------------------------------------------------

def open_file(pid: int, name: str) -> bytes:
    """A file that the process has open, whose path may be gone."""
    place, *_ = [place for place, each in open_files(pid).items() if each == name]
    return place.read_bytes()


def test_an_older_copy_put_there_while_the_server_runs(stage):
    """A restart would lose keys of the running server; the manual names both ways to save them."""
    stage.start(*FORCED, NO_SCHEMA)
    for query in ("CREATE DATABASE d", "CREATE TABLE d.t (n INT PRIMARY KEY) ENCRYPTION = 'Y'"):
        stage.sql(query)
    older = stage.data.read_bytes()
    stage.sql(ROTATE)
    insert(stage, range(3))
    new = stage.data.with_name("new")
    new.write_bytes(older)
    new.replace(stage.data)
    assert tried(stage, ROTATE).startswith("error 3185")
    assert "put the right file back" in log_since(stage)
    stage.data.write_bytes(open_file(stage.db.process.pid, f"{stage.data} (deleted)"))
    assert tried(stage, ROTATE) == ""           # a copy of it: it works again by itself
    stage.restart(*FORCED, NO_SCHEMA)
    assert count(stage) == 3

    stage.data.write_bytes(older)               # in place: the file itself is gone
    assert tried(stage, ROTATE).startswith("error 3185")
    assert tried(stage, "ALTER TABLE d.t ENCRYPTION = 'N'") == ""
    stage.restart(*FORCED, NO_SCHEMA)
    assert count(stage) == 3


# ---- an UNINSTALL that was killed ----------------------------------------------------------------

def test_an_uninstall_that_was_killed(stage):
    """It leaves its row, as does a timeout; the README's Limits say how to remove that."""
    limits = " ".join(section("Limits").split())
    cure, = re.findall(r"Run `(DELETE FROM mysql[.]plugin [^`]+)`, and then `INSTALL", limits)
    stage.start(*FORCED, NO_SCHEMA)
    for query in ("CREATE DATABASE d", "CREATE TABLE d.t (n INT PRIMARY KEY) ENCRYPTION = 'Y'"):
        stage.sql(query)
    insert(stage, range(3))
    for ends, error in (("KILL QUERY", 1317), ("a timeout", 13239)):
        stage.sql("REPLACE INTO mysql.plugin VALUES ('keyring_aws', 'keyring_aws.so')")
        with contextlib.closing(stage.db.connect(autocommit=False)) as lock, \
                contextlib.closing(stage.db.connect()) as session, ThreadPoolExecutor(1) as pool:
            lock.cursor().execute("SELECT * FROM mysql.plugin FOR UPDATE")
            seconds = 2 if ends == "a timeout" else 60
            session.cursor().execute(f"SET innodb_lock_wait_timeout = {seconds}")
            ended = pool.submit(session.cursor().execute, "UNINSTALL PLUGIN keyring_aws")
            wait_for(lambda: not stage.loaded())
            if ends == "KILL QUERY":
                stage.sql(f"KILL QUERY {session.thread_id()}")
            failed = ended.exception(20)
            assert failed and (failed.args[0] == error or not stage.expect.quotes)
        assert stage.sql("SELECT 1 FROM mysql.plugin WHERE name = 'keyring_aws'")
        again = tried(stage, "INSTALL PLUGIN keyring_aws SONAME 'keyring_aws.so'")
        assert again[:10] in limits and again.startswith("error 3883"), again
        stage.sql(cure)
        stage.install()
        assert stage.loaded() and tried(stage, ROTATE) == "" and count(stage) == 3
    stage.sql(cure)


# ---- containers ---------------------------------------------------------------------------------

@contextlib.contextmanager
def mounted(source: Path, target: Path, *options: str):
    """A mount as a container's engine makes it. If we may not mount, the test is skipped."""
    done = subprocess.run(["mount", "--bind", source, target], check=False, capture_output=True)
    if done.returncode:
        pytest.skip("this machine lets us mount nothing")
    try:
        if options:
            subprocess.run(["mount", "-o", ",".join(("remount", "bind", *options)), target],
                           check=True)
        yield
    finally:
        subprocess.run(["umount", "-l", target], check=True)


def test_what_a_container_mounts(stage):
    stage.start(*FORCED, NO_SCHEMA)
    stage.install_functions()
    assert stage.generate("kept") == 1
    assert stage.db.stop() == 0
    real = stage.db.folder / "volume"
    shutil.copy2(stage.data, real)
    with mounted(real, stage.data):
        stage.start(*FORCED, NO_SCHEMA)
        assert stage.generate("added") == 1 and stage.remove("kept") is None
        rotated = tried(stage, "SELECT keyring_aws_rotate_keys()")
        check("mount the keyring's folder, not the data file", log_since(stage) + rotated)
        assert rotated and stage.db.stop() == 0
    folder = stage.data.parent
    with mounted(folder, folder, "ro"):
        check("mount it writable", no_start(stage, *FORCED))
    with mounted(folder, folder):
        stage.start(*FORCED, NO_SCHEMA)
        assert stage.remove("kept") == 1 and stage.db.stop() == 0


def test_links_in_a_container(stage):
    stage.start(*FORCED, NO_SCHEMA)
    assert stage.db.stop() == 0
    secret = stage.conf.rename(stage.conf.with_name("secret"))
    stage.conf.symlink_to(secret.name)
    stage.start(*FORCED, NO_SCHEMA)
    assert stage.loaded() and not stage.said("ERROR") and stage.db.stop() == 0
    stage.data.symlink_to(stage.data.rename(stage.data.with_name("elsewhere")).name)
    check("the data file must not be a symbolic link", no_start(stage, *FORCED))


def test_how_a_container_loads_the_plugin(stage):
    """The database is made with the plugin loaded early, on a data file that another uses."""
    stage.start(*FORCED, NO_SCHEMA)
    options = [*stage.options(*FORCED), "--innodb-redo-log-encrypt=ON", "--initialize-insecure"]
    late = [each.replace("early-plugin-load", "plugin-load-add") for each in options]
    run = stage.db.run_once(*late, f"--datadir={stage.db.folder}/late")
    assert run.returncode == 1
    check("use `early-plugin-load`, not `plugin-load-add`, also for `--initialize`", run.stdout)
    run = stage.db.run_once(*options, f"--datadir={stage.db.folder}/early")
    assert run.returncode == 0, run.stdout
    check("mount it into one server only", run.stdout)
    stage.sql("CREATE DATABASE d")
    assert tried(stage, "CREATE TABLE d.t (n INT) ENCRYPTION = 'Y'") == ""     # it only added keys
    assert "another process has added to the data file" in log_since(stage)

    check("write the plugin's lines under `[mysqld]`, not under `[client]` or `[mysqld_safe]`", "")
    check("write `early-plugin-load` once", "")
    both = f"{EARLY};mysql_no_login.so".removeprefix("--")
    for group, lines, seen in (("mysqld", EARLY[2:], True), ("client", EARLY[2:], False),
                               ("mysqld_safe", EARLY[2:], False), ("mysqld", both, True),
                               ("mysqld", f"{EARLY[2:]}\nearly-plugin-load=mysql_no_login.so",
                                False)):
        file = stage.db.folder / "my.cnf"
        file.write_text(f"[{group}]\n{lines}\nloose-keyring_aws_region=eu-west-1\n")
        told = stage.db.run_once(f"--defaults-file={file}", *stage.db._options()[1:], "--verbose",
                                 "--help", bare=True).stdout
        assert bool(re.search(r"^keyring-aws-region +eu-west-1$", told, re.M)) == seen, lines


# ---- two servers --------------------------------------------------------------------------------

def network(number: int, *options: str) -> tuple[int, list[str]]:
    """A port on the loopback, and the options of a server that replicates by it."""
    port = free_port()
    return port, [*FORCED, f"--server-id={number}", "--skip-networking=OFF", f"--port={port}",
                  "--bind-address=127.0.0.1", "--report-host=127.0.0.1", "--skip-name-resolve",
                  "--log-bin=bin", "--gtid-mode=ON", "--enforce-gtid-consistency", *options]


@pytest.fixture(name="pair")
def make_pair():
    """Two servers, each with a KMS, a KMS key and a keyring of its own."""
    with Stage() as one, Stage() as two:
        two.settings["cmk_id"] = two.kms.add_key("us-east-1", ACCOUNT)
        yield one, two


def unlogged(stage: Stage, *queries: str) -> None:
    """Runs statements that are no transactions for others."""
    with contextlib.closing(stage.db.connect()) as connection, connection.cursor() as cursor:
        for query in ("SET sql_log_bin = 0", *queries):
            cursor.execute(query)


def replica(stage: Stage) -> dict:
    return stage.sql("SHOW REPLICA STATUS", cursorclass=pymysql.cursors.DictCursor)[0]


def stopped(stage: Stage, thread: str) -> str:
    """Waits for an error that has stopped a replica's IO or SQL thread, and tells it.  When a
    server has just started, the thread may not have."""
    def status() -> tuple[str, int, str]:
        row = replica(stage)
        return row[f"Replica_{thread}_Running"], row[f"Last_{thread}_Errno"], row[
            f"Last_{thread}_Error"]

    wait_for(lambda: (now := status())[0] == "No" and now[1], 30)
    _, number, text = status()
    return f"error {number}: {text}"


def in_step(one: Stage, two: Stage) -> bool:
    """Both have the same transactions within some seconds."""
    done = one.one("SELECT @@global.gtid_executed")
    return two.one("SELECT WAIT_FOR_EXECUTED_GTID_SET(%s, 20)", (done,)) == 0


def connect(source: Stage, copy: Stage, *options: str) -> tuple[list[str], list[str]]:
    """Starts a source, with these options, and its replica; returns the options of both."""
    port, of_source = network(1, NO_SCHEMA, *options)
    _, of_copy = network(2, NO_SCHEMA)
    source.start(*of_source)
    copy.start(*of_copy)
    for query in ("CREATE USER r IDENTIFIED BY 'x'", "GRANT REPLICATION SLAVE ON *.* TO r",
                  "CREATE DATABASE d"):
        source.sql(query)
    copy.sql(f"CHANGE REPLICATION SOURCE TO SOURCE_HOST = '127.0.0.1', SOURCE_PORT = {port},"
             " SOURCE_USER = 'r', SOURCE_PASSWORD = 'x', SOURCE_AUTO_POSITION = 1,"
             " GET_SOURCE_PUBLIC_KEY = 1, SOURCE_CONNECT_RETRY = 1")
    copy.sql("START REPLICA")
    assert in_step(source, copy)
    return of_source, of_copy


def test_what_stops_a_replica(pair):
    source, copy = pair
    of_source, of_copy = connect(source, copy, "--binlog-encryption=ON")
    source.sql("CREATE TABLE d.t (n INT PRIMARY KEY) ENCRYPTION = 'Y'")
    assert in_step(source, copy)

    row = "a source begins a binary log, or a replica connects, with `binlog_encryption` on"
    with away(source):
        source.sql("FLUSH BINARY LOGS")
        check(row, stopped(copy, "IO"))
        copy.sql("START REPLICA")
        check(row, stopped(copy, "IO"))
    insert(source, range(1))
    time.sleep(2)                       # it would have tried again
    assert replica(copy)["Replica_IO_Running"] == "No"
    copy.sql("START REPLICA")
    assert in_step(source, copy)
    source.restart(*of_source)          # and of the last one it lost the connection only
    assert in_step(source, copy)

    with away(copy):
        insert(source, range(1, 2))
        assert in_step(source, copy)    # the table is open
        source.sql("CREATE TABLE d.u (n INT PRIMARY KEY) ENCRYPTION = 'Y'")
        check("a replica applies `CREATE TABLE`", stopped(copy, "SQL"))
    copy.sql("START REPLICA")
    assert in_step(source, copy)

    assert copy.db.stop() == 0
    insert(source, range(2, 3))
    row = "a replica that started without KMS applies a change"
    with away(copy):
        copy.start(*of_copy)
        check(row, stopped(copy, "SQL"))
    copy.sql("START REPLICA")
    check(row, stopped(copy, "SQL"))
    copy.restart(*of_copy)
    assert in_step(source, copy) and count(copy) == count(source) == 3


def test_a_replica_does_not_rotate_again(pair):
    """Not even if it repeats the statement."""
    source, copy = pair
    connect(*pair, "--binlog-format=STATEMENT")
    for stage in pair:
        unlogged(stage, "CREATE FUNCTION keyring_aws_rotate_cmk RETURNS INTEGER"
                        " SONAME 'keyring_aws.so'")
    for query in ("CREATE TABLE d.t (n INT)", "INSERT INTO d.t SELECT keyring_aws_rotate_cmk()"):
        source.sql(query)
    assert in_step(source, copy)
    assert source.kms.count("RotateKeyOnDemand") == 1
    assert copy.sql("SELECT n FROM d.t") == [(1,)]
    assert copy.kms.count("RotateKeyOnDemand") == 0
    assert copy.sql("SELECT keyring_aws_rotate_cmk()") == [(1,)]        # its own statement
    assert copy.kms.count("RotateKeyOnDemand") == 1


def state(stage: Stage, member: Stage) -> list[tuple]:
    """[]: a member that goes into error ends its connections, perhaps this one."""
    with contextlib.suppress(pymysql.err.OperationalError):
        return stage.sql("SELECT member_state FROM performance_schema.replication_group_members"
                         " WHERE member_id = %s", (member.one("SELECT @@server_uuid"),))
    return []


def test_what_ends_a_membership(pair):
    """A member of a replication group that cannot reach KMS leaves the group."""
    seeds = [network(0)[0] for _ in pair]
    for number, (stage, seed) in enumerate(zip(pair, seeds), 1):
        group = {"group_name": "aaaaaaaa-bbbb-cccc-dddd-eeeeeeeeeeee", "start_on_boot": "OFF",
                 "local_address": f"127.0.0.1:{seed}", "recovery_get_public_key": "ON",
                 "group_seeds": ",".join(f"127.0.0.1:{each}" for each in seeds)}
        stage.start(*network(number, "--plugin-load-add=group_replication.so", *(
            f"--loose-group_replication_{name}={value}" for name, value in group.items()))[1])
        unlogged(stage, "CREATE USER r IDENTIFIED BY 'x'", "GRANT REPLICATION SLAVE,"
                 " CONNECTION_ADMIN, BACKUP_ADMIN, GROUP_REPLICATION_STREAM ON *.* TO r",
                 "CHANGE REPLICATION SOURCE TO SOURCE_USER = 'r', SOURCE_PASSWORD = 'x'"
                 " FOR CHANNEL 'group_replication_recovery'")
    first, second = pair
    first.sql("SET GLOBAL group_replication_bootstrap_group = ON")
    first.sql("START GROUP_REPLICATION")
    wait_for(lambda: first.one("SELECT @@super_read_only") == 0, 30)     # 8.0 takes a second
    first.sql("CREATE DATABASE d")
    second.sql("START GROUP_REPLICATION")
    wait_for(lambda: state(second, second) == [("ONLINE",)], 30)
    row = "a member of a group applies `CREATE TABLE`"
    with away(second):
        first.sql("CREATE TABLE d.t (n INT PRIMARY KEY) ENCRYPTION = 'Y'")
        wait_for(lambda: state(second, second) == [("ERROR",)], 30)
        check(row, log_since(second))
        wait_for(lambda: tried(second, "CREATE DATABASE e").startswith("error 1290"), 30)
    insert(first, range(3))
    second.sql("STOP GROUP_REPLICATION")
    second.sql("START GROUP_REPLICATION")
    wait_for(lambda: state(second, second) == [("ONLINE",)], 30)
    assert in_step(first, second) and count(second) == 3


def test_what_a_clone_takes_along(pair):
    donor, recipient = pair
    port, options = network(1, NO_SCHEMA)
    _, of_recipient = network(2, NO_SCHEMA)
    donor.start(*options)
    recipient.start(*of_recipient)
    for stage in pair:
        stage.sql("INSTALL PLUGIN clone SONAME 'mysql_clone.so'")
        stage.sql("CREATE DATABASE d")
    donor.install_functions()
    assert donor.generate("donor's") == 1
    for query in ("CREATE USER c IDENTIFIED BY 'x'", "GRANT BACKUP_ADMIN ON *.* TO c",
                  "CREATE TABLE d.t (n INT PRIMARY KEY) ENCRYPTION = 'Y'"):
        donor.sql(query)
    insert(donor, range(3))
    recipient.sql("CREATE TABLE d.own (n INT)")
    recipient.sql(f"SET GLOBAL clone_valid_donor_list = '127.0.0.1:{port}'")
    clone = f"CLONE INSTANCE FROM 'c'@'127.0.0.1':{port} IDENTIFIED BY 'x'"
    row = "`CLONE INSTANCE` runs without KMS at the recipient, or without a plugin there"
    with away(recipient):
        check(row, tried(recipient, clone))
    assert tried(recipient, "SELECT * FROM d.own").startswith("error 1")
    recipient.uninstall()
    check(row, tried(recipient, clone))
    recipient.install()
    assert tried(recipient, clone).startswith("error 3707")     # it cannot restart itself
    recipient.db.wait()
    recipient.start(*of_recipient)
    assert count(recipient) == 3 and recipient.fetch("donor's") is None
    assert {each.arn for each in recipient.entries().values()} == {recipient.settings["cmk_id"]}
