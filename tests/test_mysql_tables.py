"""InnoDB, the binary log and the server's migration of keys work with the plugin."""

import contextlib
import json

import pytest

from kms_emulator import KEY_ARN
from mysql_fixtures import (BOTH_DOORS, NO_SCHEMA, QUICK, ROOT, Stage, said,
                            stage_by_door)             # noqa: F401: a fixture

TEXT = "Attack the castle at dawn"
OPEN_TEXT = "The castle is in the north"


def make_tables(stage: Stage) -> None:
    stage.sql("CREATE DATABASE d")
    stage.sql("CREATE TABLE d.sealed (n INT PRIMARY KEY, text VARCHAR(50)) ENCRYPTION = 'Y'")
    stage.sql("CREATE TABLE d.plain (n INT PRIMARY KEY, text VARCHAR(50))")
    stage.sql("INSERT INTO d.sealed VALUES (1, %s)", (TEXT,))
    stage.sql("INSERT INTO d.plain VALUES (1, %s)", (OPEN_TEXT,))


def check_tables(stage: Stage) -> None:
    assert stage.one("SELECT text FROM d.sealed") == TEXT
    assert stage.one("SELECT text FROM d.plain") == OPEN_TEXT


def files_with(stage: Stage, text: str) -> list[str]:
    """The server's files that a text stands in.  It may remove some meanwhile."""
    found = []
    for path in stage.db.data.rglob("*"):
        with contextlib.suppress(FileNotFoundError):
            if path.is_file() and text.encode() in path.read_bytes():
                found.append(path.name)
    return sorted(found)


def innodb_keys(stage: Stage) -> list[str]:
    return [key_id for key_id, user_id in stage.entries()
            if key_id.startswith("INNODBKey-") and user_id == ""]


# ---- tables, redo, undo, binary log -------------------------------------------------------------

ENCRYPTED = ("--innodb-redo-log-encrypt=ON", "--innodb-undo-log-encrypt=ON", "--log-bin=bin",
             "--binlog-encryption=ON", "--server-id=1", NO_SCHEMA)


@BOTH_DOORS
@pytest.mark.needs("logs")
def test_all_that_the_server_writes_can_be_encrypted(stage):
    """Tables, redo and undo logs, the binary log; keys are rotated; it all survives restarts."""
    stage.start(*ENCRYPTED)
    stage.install_functions()
    make_tables(stage)
    uuid = stage.one("SELECT @@server_uuid")
    check_servers_keys(stage, uuid)
    stage.restart(*ENCRYPTED)
    check_tables(stage)
    assert files_with(stage, TEXT) == [] and "plain.ibd" in files_with(stage, OPEN_TEXT)
    check_binlog(stage)

    stage.sql("ALTER INSTANCE ROTATE INNODB MASTER KEY")
    stage.sql("ALTER INSTANCE ROTATE BINLOG MASTER KEY")
    assert stage.one("SELECT keyring_aws_rotate_cmk()") == 1
    assert stage.one("SELECT keyring_aws_rotate_keys()") == 1
    assert {each.material for each in stage.entries().values()} == {
        stage.kms.key(KEY_ARN).materials.current_id}
    assert innodb_keys(stage) == [f"INNODBKey-{uuid}-1", f"INNODBKey-{uuid}-2"]
    stage.sql("INSERT INTO d.sealed VALUES (2, 'more')")
    stage.db.kill()                                     # InnoDB needs its keys to recover
    stage.start(*ENCRYPTED)
    assert stage.one("SELECT COUNT(*) FROM d.sealed") == 2
    check_binlog(stage)
    assert files_with(stage, TEXT) == []
    assert not stage.said("ERROR")


def check_servers_keys(stage: Stage, uuid: str) -> None:
    """The server's own keys have no user. KMS takes no empty value, so no user is sent."""
    entries = stage.entries()
    assert {user_id for _, user_id in entries} == {""}
    kinds = {(key_id, each.key_type, each.size) for (key_id, _), each in entries.items()}
    assert (f"INNODBKey-{uuid}-1", "AES", 32) in kinds
    assert (f"MySQLReplicationKey_{uuid}_1", "AES", 32) in kinds
    stored = [key_id for key_id, _, size in kinds if size == 16]        # given by the server
    assert stored and all(each.startswith("MySQLReplicationKey_") for each in stored)
    contexts = [each["body"]["EncryptionContext"] for each in stage.kms.log()["requests"]
                if each["action"] in ("Encrypt", "Decrypt", "GenerateDataKeyWithoutPlaintext")]
    assert not [each for each in contexts if "user_id" in each]
    assert stage.kms.count("Encrypt") >= len(stored)


def check_binlog(stage: Stage) -> None:
    logs = stage.sql("SHOW BINARY LOGS")
    assert logs and all(encrypted == "Yes" for _, _, encrypted in logs)
    for name, _, _ in logs:
        assert (stage.db.data / name).read_bytes().startswith(b"\xfdbin")
    events = stage.sql(f"SHOW BINLOG EVENTS IN '{logs[0][0]}'")
    assert [info for *_, info in events if "CREATE TABLE d.sealed" in info]


@BOTH_DOORS
def test_the_server_keys_are_nobodys(stage):
    """NULL, "" and no owner at all are the same: InnoDB generates and fetches with NULL, the
    performance schema shows an empty owner, and an account's key of that name is another."""
    stage.start()
    stage.install_functions()
    make_tables(stage)
    (name,) = innodb_keys(stage)
    assert stage.listed() == [(name, "")]
    assert stage.fetch(name) is None                    # root@localhost has none of that name
    assert stage.generate(name) == 1
    assert stage.listed() == [(name, ""), (name, ROOT)]
    assert stage.remove(name) == 1
    assert stage.listed() == [(name, "")]
    stage.restart()
    check_tables(stage)


# ---- migration ----------------------------------------------------------------------------------

COMPONENT = "component_keyring_file"


def component(stage: Stage, name: str, active: bool) -> None:
    """Settings for the component, and whether the next start loads it by the manifest."""
    if stage.db.mysqld.script:
        pytest.skip("MYSQLD is a script: its server looks for the manifest where it knows")
    settings = {COMPONENT: {"path": str(stage.db.folder / name), "read_only": False}}
    stage.db.components(settings)
    if not active:
        stage.db.components(None)


def migrate(stage: Stage, *options: str) -> str:
    """Runs the server's migration mode, which refuses options that it does not use."""
    plain = [each for each in stage.db._options() if not each.startswith(("--innodb", "--loose"))]
    ours = [each for each in stage.options() if each.startswith("--keyring-aws")]
    run = stage.db.run_once(*plain, *options, *ours, bare=True)
    assert run.returncode == 0, run.stdout
    return run.stdout


TO_PLUGIN = ("--keyring-migration-from-component", f"--keyring-migration-source={COMPONENT}.so",
             "--keyring-migration-destination=keyring_aws=keyring_aws.so")
TO_COMPONENT = ("--keyring-migration-to-component",
                "--keyring-migration-source=keyring_aws=keyring_aws.so",
                f"--keyring-migration-destination={COMPONENT}.so")


@pytest.mark.needs("from_component")
def test_keys_are_carried_from_the_component_and_back(stage):
    component(stage, "first", active=True)
    stage.db.start(*QUICK, NO_SCHEMA)
    stage.db.install_keyring_udf()
    make_tables(stage)
    keys = {name: make(name) for name, make in {
        "made": lambda name: stage.generate(name) and stage.fetch(name),
        "stored": lambda name: stage.store(name, "SECRET", b"hello") and b"hello",
        "it's %00\n\"": lambda name: stage.generate(name, "AES", 16) and stage.fetch(name),
    }.items()}
    assert stage.db.stop() == 0

    component(stage, "first", active=False)
    migrate(stage, *TO_PLUGIN)
    assert len(stage.entries()) == len(keys) + 1
    stage.start(NO_SCHEMA)
    check_tables(stage)
    assert {name: stage.fetch(name) for name in keys} == keys
    stage.sql("ALTER INSTANCE ROTATE INNODB MASTER KEY")

    component(stage, "while-running", active=False)
    check_running_server_is_told(stage)
    assert stage.db.stop() == 0

    component(stage, "second", active=False)
    before = stage.data.stat()
    migrate(stage, *TO_COMPONENT)
    after = stage.data.stat()                           # it was opened to read only
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    component(stage, "second", active=True)
    stage.db.start(*QUICK, NO_SCHEMA)
    check_tables(stage)
    assert {name: stage.fetch(name) for name in keys} == keys


def check_running_server_is_told(stage: Stage) -> None:
    """Migration off a server that runs: it is the second process on the data file, and says so;
    the server goes on."""
    said = migrate(stage, *TO_COMPONENT, f"--keyring-migration-socket={stage.db.socket}",
                   "--keyring-migration-user=root")
    assert "another process" in said
    assert (stage.db.folder / "while-running").stat().st_size > 100
    assert stage.generate("afterwards") == 1 and stage.remove("afterwards") == 1


@pytest.mark.needs("components")
def test_a_key_whose_owner_is_too_long_is_left_out(stage):
    """Migration reads an owner into 96 bytes; longer ones would overrun the server's stack."""
    account = "\u65e5" * 32             # 96 bytes, and @localhost
    stage.start(NO_SCHEMA)
    stage.install_functions()
    stage.sql("CREATE USER %s@localhost", (account,))
    stage.sql("GRANT EXECUTE ON *.* TO %s@localhost", (account,))
    assert stage.generate("short") == 1
    assert stage.generate("long", user=account) == 1
    assert stage.db.stop() == 0
    component(stage, "copy", active=False)
    (line,) = said("ERROR", migrate(stage, *TO_COMPONENT))
    assert "key 'long'" in line and "is left out" in line
    copied = json.loads((stage.db.folder / "copy").read_text())
    assert [each["data_id"] for each in copied["elements"]] == ["short"]
