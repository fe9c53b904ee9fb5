"""The manual's table of ways to back up is true: what can run here is run, and restored.

A row says "run here", and then a test here has its words, or "not run".  The source has all that a
server can encrypt: tables, redo log, undo tablespaces and binary logs.
"""

import contextlib
import os
import re
import shutil
import signal
import subprocess
from pathlib import Path
from typing import Iterator, NamedTuple

import pymysql
import pytest

from kms_emulator import ACCOUNT
from manual import command, section
from mysql_fixtures import Stage
from servers import free_port, run_in_tree

pytestmark = pytest.mark.needs("quotes")        # the messages are those of 9.7

BACKUP = section("Backup")
LOGS = ("--innodb-redo-log-encrypt=ON", "--innodb-undo-log-encrypt=ON", "--log-bin=bin",
        "--binlog-encryption=ON", "--server-id=1")
CLONE = ("--plugin-load-add=mysql_clone.so",)
ROTATE = "ALTER INSTANCE ROTATE INNODB MASTER KEY"
TABLE = ("CREATE DATABASE d",
         "CREATE TABLE d.t (n INT PRIMARY KEY, v VARCHAR(40)) ENCRYPTION = 'Y'")
ROWS = [(1, "a row to be found"), (2, "another")]


def table() -> dict[str, str]:
    """Of each way in the manual's table: whether it was run."""
    rows = [[" ".join(cell.split()) for cell in row.split("|")[1:-1]]
            for row in re.findall(r"^\|.*", BACKUP, re.M)]
    assert [len(row) for row in rows] == [5] * len(rows), rows
    return {row[0]: row[-1] for row in rows[2:]}


def seen() -> dict[str, list[str]]:
    """What is bold in the manual's list of what a restore says, and what is quoted after it, up to
    *Then:*."""
    found = re.findall(r"^\* \*\*([^*]+)\*\*:(.*?)(?=^\*|^$|\Z)", BACKUP, re.M | re.S)
    return {" ".join(bold.split()): re.findall(
        r"`([^`]+)`|(error \d+|KAWS-\d+)", " ".join(text.split()).partition("*Then:*")[0])
            for bold, text in found}


SEEN = seen()


def check(item: str, said: str) -> None:
    """A server said all that the manual quotes there."""
    quoted = [each for pair in SEEN[item] for each in pair if each]
    missing = [each for each in quoted if each not in said]
    assert quoted and not missing, f"{item}: not said: {missing}; but:\n{said[-6000:]}"


def test_every_row_is_run_or_says_that_it_is_not():
    code = Path(__file__).read_text()
    ways = table()
    assert set(ways.values()) == {"run here", "not run"}
    for way, run in ways.items():
        assert (f'way("{way}")' in code) == (run == "run here"), way
    assert not [item for item in SEEN if f'"{item}"' not in code]


def way(row: str) -> None:
    """Names the row that a test is about."""
    assert table()[row] == "run here"


# ---- a server, and what is taken from it ---------------------------------------------------------

@pytest.fixture(name="source", scope="module", params=["component", "plugin"])
def make_source(request) -> Iterator[Stage]:
    with Stage(door=request.param) as stage:
        stage.options_of_source = network(*LOGS, *CLONE)
        stage.start(*stage.options_of_source)
        for query in TABLE:
            stage.sql(query)
        with contextlib.closing(stage.db.connect()) as connection:
            connection.cursor().executemany("INSERT INTO d.t VALUES (%s, %s)", ROWS)
        yield stage


def network(*options: str) -> list[str]:
    """The options of a server that also listens on the loopback."""
    return [*options, "--skip-networking=OFF", f"--port={free_port()}",
            "--bind-address=127.0.0.1"]


class Copy(NamedTuple):
    tables: Path
    keyring: Path


@pytest.fixture(name="freeze")
def make_freeze(source, tmp_path):
    """What a volume's snapshot has: the source's files, while no thread of it can write."""
    def freeze() -> Copy:
        folder = tmp_path / f"snapshot-{len(list(tmp_path.iterdir()))}"
        folder.mkdir()
        os.kill(source.db.process.pid, signal.SIGSTOP)
        try:
            return copy(source, folder)
        finally:
            os.kill(source.db.process.pid, signal.SIGCONT)
    return freeze


def copy(source: Stage, folder: Path) -> Copy:
    subprocess.run(["cp", "-a", "--reflink=auto", source.db.data, folder / "data"], check=True)
    shutil.copy(source.data, folder / "keyring")
    return Copy(folder / "data", folder / "keyring")


@contextlib.contextmanager
def machine(source: Stage, tables: Path, keyring: Path | None, **settings: object):
    """Another server with the same settings and the right to use the same KMS key.  It has not
    started; its data folder is a copy, and its data file, too, or is not there."""
    with Stage(source.door, endpoint=source.kms.url, **settings) as target:
        subprocess.run(["cp", "-a", "--reflink=auto", tables, target.db.data], check=True)
        target.data.parent.mkdir(mode=0o700)
        if keyring:
            put(keyring, target)
        yield target


def put(keyring: Path, target: Stage) -> None:
    """By the manual's `install`; but there may be no account named mysql."""
    program, _, owner, _, group, *mode, _, _ = command("Backup", "install -o mysql")
    assert owner == group == "mysql" and mode == ["-m", "600"]
    subprocess.run([program, *mode, keyring, target.data], check=True)


def no_start(target: Stage, *options: str) -> str:
    """What a server says that does not start."""
    run = target.db.run_once(*target.options(*options))
    assert run.returncode == 1, run.stdout[-3000:]
    return run.stdout


def refused(target: Stage, query: str) -> str:
    number, text = target.refused(query)
    return f"error {number}: {text}"


@contextlib.contextmanager
def asks(stage: Stage, whether: bool):
    """Within it, a server asks its KMS, or does not."""
    before = stage.kms.count()
    yield
    assert (stage.kms.count() > before) == whether, stage.kms.counts


def has_all(stage: Stage) -> None:
    assert stage.sql("CHECK TABLE d.t")[0][3] == "OK"
    assert stage.sql("SELECT * FROM d.t") == ROWS
    assert stage.one("SELECT encryption FROM information_schema.innodb_tablespaces"
                     " WHERE name = 'd/t'") == "Y"


# ---- dumps ---------------------------------------------------------------------------------------

def client(stage: Stage, program: str, *args: str, **options: object):
    argv, env = run_in_tree(program, "--no-defaults", f"--socket={stage.db.socket}", "-uroot",
                            *args)
    return subprocess.run(argv, env=env, text=True, capture_output=True, **options)


def test_a_dump_is_in_the_clear_and_needs_no_data_file(source):
    way("`mysqldump`")
    with asks(source, False):
        dump = client(source, "mysqldump", "--single-transaction", "--set-gtid-purged=OFF",
                      "--databases", "d")
    assert dump.returncode == 0, dump.stderr
    assert ROWS[0][1] in dump.stdout and "ENCRYPTION='Y'" in dump.stdout
    with Stage(source.door) as target:
        target.settings["cmk_id"] = target.kms.add_key("us-east-1", ACCOUNT)    # its own
        target.start()
        assert client(target, "mysql", input=dump.stdout).returncode == 0
        has_all(target)
        assert {each.arn for each in target.entries().values()} == {target.settings["cmk_id"]}
        target.db.stop()
        target.db.components(None)
        target.db.start()                       # with no keyring at all
        target.sql("DROP DATABASE d")
        without = client(target, "mysql", input=dump.stdout)
        assert without.returncode == 1
        check("a dump, and the target has no keyring",
              without.stderr.replace("ERROR ", "error "))


# ---- clones --------------------------------------------------------------------------------------

def test_a_local_clone_needs_a_copy_of_the_data_file(source, tmp_path):
    way("`CLONE LOCAL DATA DIRECTORY`")
    clone, keyring = tmp_path / "clone", tmp_path / "keyring"
    with asks(source, True):
        source.sql(f"CLONE LOCAL DATA DIRECTORY = '{clone}'")
    shutil.copy(source.data, keyring)
    with machine(source, clone, keyring) as target:
        target.start(*LOGS)
        has_all(target)
    with machine(source, clone, None) as target:
        item, said = "no data file, and `create` is on", no_start(target, *LOGS)
        (other,) = re.findall(r"A clone may say `(.*?)`", " ".join(BACKUP.split()))
        usual = SEEN[item][-1][0]       # by chance: whether the clone's redo log is encrypted yet
        check(item, said.replace(other, f"{other} {usual}"))
        put(keyring, target)                    # nothing was lost by the attempt
        target.start(*LOGS)
        has_all(target)


def test_a_remote_clone_takes_the_recipient_s_keyring(source):
    way("`CLONE INSTANCE`")
    port = source.one("SELECT @@port")
    for query in ("CREATE USER c IDENTIFIED BY 'x'", "GRANT BACKUP_ADMIN ON *.* TO c"):
        source.sql(query)
    with Stage(source.door) as target:
        own = target.settings["cmk_id"] = target.kms.add_key("us-east-1", ACCOUNT)
        options = network(*LOGS, *CLONE)
        target.start(*options)
        target.sql(f"SET GLOBAL clone_valid_donor_list = '127.0.0.1:{port}'")
        with asks(source, False), asks(target, True):
            said = refused(target, f"CLONE INSTANCE FROM 'c'@'127.0.0.1':{port} IDENTIFIED BY 'x'")
        assert said.startswith("error 3707")    # it cannot restart itself
        target.db.wait()
        target.start(*options)
        has_all(target)
        assert {each.arn for each in target.entries().values()} == {own}
    source.sql("DROP USER c")


# ---- single tables -------------------------------------------------------------------------------

def exported(source: Stage, folder: Path) -> None:
    with contextlib.closing(source.db.connect()) as connection, connection.cursor() as cursor:
        cursor.execute("FLUSH TABLES d.t FOR EXPORT")
        for file in (source.db.data / "d").glob("t.*"):
            shutil.copy(file, folder)
        cursor.execute("UNLOCK TABLES")


def opened(mode: str, key: bytes, data: bytes, *more: str) -> bytes:
    return subprocess.run(["openssl", "enc", "-d", f"-aes-256-{mode}", "-nopad", "-K", key.hex(),
                           *more], input=data, capture_output=True, check=True).stdout


def found_in_pages(folder: Path) -> bool:
    """Whether who has the files t.cfp and t.ibd can read the table, without a keyring."""
    cfp, table_space = (folder / "t.cfp").read_bytes(), (folder / "t.ibd").read_bytes()
    transfer, key, vector = (cfp[at:at + 32] for at in (4, 36, 68))
    key, vector = opened("ecb", transfer, key), opened("ecb", transfer, vector)[:16]
    pages = (table_space[at + 38:at + 38 + 16336] for at in range(0, len(table_space), 16384))
    return any(ROWS[0][1].encode() in opened("cbc", key, page, "-iv", vector.hex())
               for page in pages)


def test_an_exported_table_takes_the_importer_s_keyring(source, tmp_path):
    way("`FLUSH TABLES ... FOR EXPORT`")
    with asks(source, False):
        exported(source, tmp_path)
    assert {file.name for file in tmp_path.iterdir()} == {"t.ibd", "t.cfg", "t.cfp"}
    assert ROWS[0][1].encode() not in (tmp_path / "t.ibd").read_bytes()
    assert found_in_pages(tmp_path)             # so the file .cfp is as secret as the rows
    with Stage(source.door) as target:
        own = target.settings["cmk_id"] = target.kms.add_key("us-east-1", ACCOUNT)
        target.start()
        for query in (*TABLE, "ALTER TABLE d.t DISCARD TABLESPACE"):
            target.sql(query)
        for name in ("t.ibd", "t.cfg"):
            shutil.copy(tmp_path / name, target.db.data / "d")
        check("an import without the file .cfp",
              refused(target, "ALTER TABLE d.t IMPORT TABLESPACE"))
        shutil.copy(tmp_path / "t.cfp", target.db.data / "d")
        target.sql("ALTER TABLE d.t IMPORT TABLESPACE")
        has_all(target)
        assert {each.arn for each in target.entries().values()} == {own}


# ---- files ---------------------------------------------------------------------------------------

def test_a_stopped_server_s_files(source, tmp_path):
    way("a stopped server's folder")
    assert source.db.stop() == 0
    taken = copy(source, tmp_path)
    source.start(*source.options_of_source)
    with machine(source, *taken) as target:
        target.start(*LOGS)
        has_all(target)


def test_a_running_server_s_snapshot(source, freeze):
    """The restored server recovers as after a crash, and needs KMS for that."""
    way("a running server's snapshot")
    taken = freeze()
    with machine(source, *taken) as target:
        target.start(*LOGS)
        has_all(target)
    with machine(source, taken.tables, None, create=False) as target:
        check("no data file, and `create` is off", no_start(target, *LOGS))


def test_the_copy_of_the_data_file_may_be_newer_but_not_older(source, freeze):
    older = freeze()
    source.sql(ROTATE)
    newer = freeze()
    with machine(source, older.tables, newer.keyring) as target:
        target.start(*LOGS)
        has_all(target)
    with machine(source, newer.tables, older.keyring) as target:
        check("the data file is older than the tables", no_start(target, *LOGS))
        put(newer.keyring, target)              # nothing was lost by the attempt
        target.start(*LOGS)
        has_all(target)


def test_binary_logs_need_the_data_file_of_their_time(source, freeze):
    """The rotation removes the keys that they had."""
    way("encrypted binary logs")
    older = freeze()
    source.sql("ALTER INSTANCE ROTATE BINLOG MASTER KEY")
    newer = freeze()
    with machine(source, older.tables, newer.keyring) as target:
        check("the binary logs are older than the data file", no_start(target, *LOGS))
        put(older.keyring, target)
        target.start(*LOGS)
        has_all(target)
    with machine(source, older.tables, newer.keyring) as target:
        for log in target.db.data.glob("bin.*"):        # all of it that is needed is in the tables
            log.unlink()
        target.start(*LOGS)
        has_all(target)


def test_only_tables_are_encrypted(tmp_path):
    """Then a server starts with the wrong data file, and keeps the tables closed."""
    with Stage("component") as source:
        source.start()
        for query in TABLE:
            source.sql(query)
        shutil.copy(source.data, tmp_path / "older")
        source.sql(ROTATE)
        assert source.db.stop() == 0
        taken = copy(source, tmp_path)
        with machine(source, taken.tables, tmp_path / "older") as target:
            target.start()
            said = refused(target, "SELECT * FROM d.t")
            check("only tables are encrypted, and the data file is older, or missing",
                  said + target.db.log())
            assert target.db.stop() == 0
            put(taken.keyring, target)
            target.start()
            assert target.sql("SELECT * FROM d.t") == []
