"""The plugin's lines in a MySQL server's error log: about missing keys, persisted settings and the
start; and lines that repeat."""

import re
import time

import pytest

from kms_emulator import ACCESS_KEY_ID, ACCOUNT, ALIAS, KEY_ARN, OTHER_ACCOUNT
from mysql_fixtures import (BOTH_DOORS, LONG, NO_SCHEMA, ROOT, Stage, heed_persisted_settings,
                            stage_by_door, wait_for, wait_for_kms)      # noqa: F401: a fixture
from patience import in_time

LOG_BIN = (NO_SCHEMA, "--log-bin", "--server-id=1")
ENCRYPTED = (*LOG_BIN, "--binlog-encryption=ON", "--innodb-redo-log-encrypt=ON",
             "--innodb-undo-log-encrypt=ON")
MISSING, MADE_AGAIN = "KAWS-311", "KAWS-312"


def make_table(stage: Stage) -> None:
    stage.sql("CREATE DATABASE d")
    stage.sql("CREATE TABLE d.t (n INT) ENCRYPTION = 'Y'")
    stage.sql("INSERT INTO d.t VALUES (1)")


def start_anyhow(stage: Stage, *options: str) -> None:
    """Until it is up, or has given up."""
    stage.mark()
    stage.db.start(*stage.options(*options), wait=False)
    wait_for(lambda: stage.db.process.poll() is not None or stage.db.ready(), 60)


# ---- keys that are missing ----------------------------------------------------------------------

@BOTH_DOORS
@pytest.mark.needs("logs")
def test_a_life_without_loss_misses_no_key(stage):
    """The server asks for keys before it makes them. None of these is logged as missing."""
    stage.start(*LOG_BIN)
    stage.install_functions()
    make_table(stage)
    stage.sql("SET GLOBAL binlog_encryption = ON")
    for statement in ("ALTER INSTANCE ROTATE INNODB MASTER KEY",
                      "ALTER INSTANCE ROTATE BINLOG MASTER KEY"):
        stage.sql(statement)
        stage.sql(statement)
    stage.restart(*LOG_BIN)                             # encrypted logs, but no new ones
    stage.sql("SET GLOBAL binlog_encryption = ON")
    stage.restart(*ENCRYPTED)                           # redo and undo: DefaultMasterKey
    stage.sql(stage.expect.reset_binlog)
    stage.sql("ALTER INSTANCE ROTATE BINLOG MASTER KEY")
    stage.restart(*ENCRYPTED)
    assert stage.fetch("INNODBKey-mine-1") is None      # of a user: it is only called so
    stage.sql("SET GLOBAL keyring_operations = OFF")
    stage.refused("CREATE TABLE d.t2 (n INT) ENCRYPTION = 'Y', TABLESPACE nowhere")
    stage.sql("SET GLOBAL keyring_operations = ON")
    stage.marked = 0
    assert not stage.tagged(MISSING) and not stage.tagged(MADE_AGAIN)


@BOTH_DOORS
@pytest.mark.needs("logs")
def test_a_first_start_with_all_logs_encrypted_misses_no_key(stage):
    stage.start(*ENCRYPTED)
    make_table(stage)
    stage.restart(*ENCRYPTED)
    stage.marked = 0
    assert not stage.said("ERROR")


FIRST = [
    "ALTER INSTANCE ROTATE INNODB MASTER KEY", "SET GLOBAL innodb_redo_log_encrypt = ON",
    "SET GLOBAL innodb_undo_log_encrypt = ON", "ALTER TABLESPACE mysql ENCRYPTION = 'Y'",
    "CREATE TABLESPACE s ADD DATAFILE 's.ibd' ENCRYPTION = 'Y'"]


@pytest.mark.needs("logs")
@pytest.mark.parametrize("first", FIRST if LONG else FIRST[:2])
def test_whatever_is_encrypted_first_misses_no_key(stage, first):
    stage.start(*LOG_BIN)
    stage.sql(first)
    stage.restart(*LOG_BIN)
    stage.sql("ALTER INSTANCE ROTATE INNODB MASTER KEY")
    stage.restart(*LOG_BIN)
    stage.marked = 0
    assert not stage.said("ERROR") and not stage.tagged(MADE_AGAIN)


@BOTH_DOORS
@pytest.mark.parametrize("away", ["KMS", "keyring_operations"])
def test_a_key_that_could_not_be_made_is_not_missing(stage, away):
    """InnoDB ignores the failure and fetches the key. The line before says why there is no key."""
    stage.start(NO_SCHEMA)
    stage.sql("CREATE DATABASE d")
    if away == "KMS":
        stage.kms.stop()
    else:
        stage.sql("SET GLOBAL keyring_operations = OFF")
    stage.mark()
    assert stage.refused("CREATE TABLE d.t (n INT) ENCRYPTION = 'Y'")[0] == 3185
    assert not stage.tagged(MISSING)
    assert len(stage.said("ERROR")) == (away == "KMS")
    if away == "KMS":
        stage.kms.start()
    else:
        stage.sql("SET GLOBAL keyring_operations = ON")
    wait_for_kms(stage, "CREATE TABLE d.t (n INT) ENCRYPTION = 'Y'")
    assert not stage.tagged(MISSING) and not stage.tagged(MADE_AGAIN)


@BOTH_DOORS
def test_a_key_that_is_there_but_out_of_reach_is_not_missing(stage):
    """If InnoDB cannot get its key, it also asks for the name that 5.7.11 gave it."""
    stage.start(NO_SCHEMA)
    make_table(stage)
    stage.kms.stop()
    stage.mark()
    for statement in ("CREATE TABLE d.t2 (n INT) ENCRYPTION = 'Y'",
                      *(["TRUNCATE TABLE d.t"] if stage.expect.truncate_asks else []),
                      "ALTER INSTANCE ROTATE INNODB MASTER KEY"):
        assert stage.refused(statement)[0] == 3185
    assert stage.said("ERROR") and not stage.tagged(MISSING)
    stage.kms.start()
    wait_for_kms(stage, "CREATE TABLE d.t2 (n INT) ENCRYPTION = 'Y'")
    assert not stage.tagged(MADE_AGAIN)


@BOTH_DOORS
@pytest.mark.needs("logs")
def test_a_key_that_kms_does_not_give_is_an_error_and_not_absent(stage):
    """For an absent key the binary log would make a new one."""
    stage.start(*LOG_BIN)
    stage.sql("SET GLOBAL binlog_encryption = ON")
    stage.sql("SET GLOBAL binlog_encryption = OFF")
    before = stage.entries().keys()
    stage.kms.fault("Decrypt", "error", times=0, type="AccessDeniedException")
    assert stage.refused("SET GLOBAL binlog_encryption = ON")[0] == 3794
    assert stage.entries().keys() == before and not stage.tagged(MISSING)
    stage.kms.clear_faults()
    stage.sql("SET GLOBAL binlog_encryption = ON")
    assert stage.entries().keys() == before


@BOTH_DOORS
def test_an_older_copy_is_noticed(stage):
    """One line, however many tables there are; and one more if the server makes the key again."""
    stage.start(NO_SCHEMA)
    make_table(stage)
    for number in range(5):
        stage.sql(f"CREATE TABLE d.t{number} (n INT) ENCRYPTION = 'Y'")
    older = stage.data.read_bytes()
    stage.sql("ALTER INSTANCE ROTATE INNODB MASTER KEY")
    assert stage.db.stop() == 0
    newer = stage.data.read_bytes()
    stage.data.write_bytes(older)
    stage.start(NO_SCHEMA)
    for number in range(5):
        assert stage.refused(f"SELECT * FROM d.t{number}")[0] == 3185
    (line,) = stage.tagged(MISSING)
    assert re.match(r"the server asked for the key 'INNODBKey-[-0-9a-f]{36}-2', and the data file"
                    rf" {stage.data} does not have it \(1 key, the newest of 20.{{17}} UTC,"
                    f" checksum begins with {older[-32:-28].hex()}\\): is the file an older copy",
                    line), line
    assert line in stage.said("ERROR")
    stage.install_functions()
    stage.generate("another state of the file")
    assert stage.refused("SELECT * FROM d.t")[0] == 3185 and stage.tagged(MISSING) == [line]
    stage.sql("CREATE DATABASE e")
    stage.sql("CREATE TABLE e.t (n INT) ENCRYPTION = 'Y'")
    stage.sql("ALTER INSTANCE ROTATE INNODB MASTER KEY")
    (line,) = stage.tagged(MADE_AGAIN)
    assert "-2' was missing, and the server has made a new one" in line and str(stage.data) in line
    assert len(stage.tagged(MISSING)) == 2              # the count, at last
    assert "this happened" in stage.tagged(MISSING)[1]
    if stage.expect.recovers_without_key:
        stage.db.kill()
    else:
        assert stage.db.stop() == 0
    stage.data.write_bytes(newer)
    stage.start(NO_SCHEMA)
    assert stage.sql("SELECT n FROM d.t") == [(1,)] and not stage.tagged(MISSING)


@BOTH_DOORS
@pytest.mark.needs("logs")
@pytest.mark.parametrize("lost", ["the file is lost", "the file is an older copy",
                                  "the file is another server's"])
def test_a_lost_key_of_the_logs_is_noticed(stage, lost):
    """The server does not start, and one line of ours, before its own lines, says why."""
    stage.start(*ENCRYPTED)
    older = stage.data.read_bytes()
    stage.sql("ALTER INSTANCE ROTATE BINLOG MASTER KEY")
    stage.sql("ALTER INSTANCE ROTATE INNODB MASTER KEY")
    stage.db.kill()
    if lost == "the file is an older copy":
        stage.data.write_bytes(older)
    elif lost == "the file is lost":
        stage.data.unlink()
    else:
        with Stage() as other:
            other.start(*ENCRYPTED)
            make_table(other)
            assert other.db.stop() == 0
            stage.data.write_bytes(other.data.read_bytes())
    start_anyhow(stage, *ENCRYPTED)
    assert stage.db.process.poll() not in (0, None)
    lines = stage.tagged(MISSING)
    assert lines and len(set(lines)) == len(lines)
    assert ("(0 keys, checksum" in lines[0]) == (lost == "the file is lost")
    log = stage.db.log()
    assert log.index(MISSING) < log.index("Data Dictionary initialization failed")


@BOTH_DOORS
@pytest.mark.needs("logs")
def test_a_lost_key_of_the_binary_log_alone_is_noticed(stage):
    options = (*LOG_BIN, "--binlog-encryption=ON")
    stage.start(*options)
    stage.sql("ALTER INSTANCE ROTATE BINLOG MASTER KEY")
    assert stage.db.stop() == 0
    stage.data.unlink()
    start_anyhow(stage, *options)
    (line,) = stage.tagged(MISSING)
    assert re.search(r"the key 'MySQLReplicationKey_[-0-9a-f]{36}_2'", line)


# ---- a start, and changes, in a line each -------------------------------------------------------

def test_one_line_says_how_it_starts(stage):
    stage.start(NO_SCHEMA)
    (line,) = stage.tagged("KAWS-101")
    sums = stage.data.read_bytes()[-32:-28].hex()
    assert line == (
        f"opened {stage.data}: 0 keys, checksum begins with {sums}; version 1.0.0, KMS key"
        f" {KEY_ARN} in us-east-1, requests go to {stage.kms.url}/, accounts trusted:"
        f" {ACCOUNT}, access key id ends in {ACCESS_KEY_ID[-4:]}, timeouts 1000 ms to connect and"
        " 10000 ms in all")
    (tls,) = stage.tagged("KAWS-168")
    assert re.match(rf"{stage.kms.url.removeprefix('https://')} answers over TLSv1.3", tls)
    assert [line, tls] == stage.said("Note")
    stage.mark()
    stage.sql("SET GLOBAL keyring_aws_timeout = 2000, GLOBAL keyring_aws_cmk_id ="
              f" '{ALIAS}'")
    stage.sql("SET GLOBAL keyring_aws_region = 'us-east-1'")
    assert sorted(stage.said("Note")) == [
        f"keyring_aws_cmk_id is '{ALIAS}' now, and was '{KEY_ARN}'",
        "keyring_aws_timeout is '2000' now, and was '10000'"]


def test_lines_that_repeat_are_counted(stage):
    """Each key that fails has one line of its own. The last line has the count of the others."""
    stage.start(NO_SCHEMA)
    stage.install_functions()
    for name in "ab":
        stage.generate(name)
    stage.kms.fault("Decrypt", "error", times=0, type="AccessDeniedException")
    stage.mark()
    for name in "aaaaab":
        assert stage.fetch(name) is None
    assert [line.split(":")[0] for line in stage.said("ERROR")] == [
        f"cannot fetch key '{name}' of '{ROOT}'" for name in "ab"]
    if LONG:
        time.sleep(61)
        stage.fetch("a")
        assert "(this happened 4 more times in the last 6" in stage.said("ERROR")[2]
    stage.kms.clear_faults()
    assert stage.fetch("a") == stage.plain("a")         # it works again: the count is said
    stage.kms.fault("Decrypt", "error", times=0, type="AccessDeniedException")
    stage.mark()
    assert stage.fetch("a") is None and stage.fetch("a") is None
    (line,) = stage.said("ERROR")
    stage.mark()
    stage.uninstall()
    (last,) = stage.said("ERROR")
    assert last == f"{line[:line.index('request id')]}{last[last.index('request id'):]}"
    (seconds,) = re.findall(r"\(this happened 1 more time in the last (\d+) s\)$", last)
    in_time(int(seconds), 1)


# ---- settings that were persisted ---------------------------------------------------------------

def settings(stage: Stage) -> tuple:
    return tuple(stage.variable(name) for name in ("cmk_id", "region", "timeout"))


@pytest.mark.needs("persist")
@pytest.mark.parametrize("kms, first, in_my_cnf", [
    ("there", "cmk_id", True), ("there", "region", False), ("away", "cmk_id", False),
    ("away", "region", True)])
def test_persisted_settings_hold(stage, kms, first, in_my_cnf):
    """The pair, in either order, and what is persisted after it; nothing is asked of KMS until a
    key is made."""
    arn = stage.kms.add_key("us-west-2", ACCOUNT, alias="alias/west-only")
    heed_persisted_settings(stage)
    stage.start(NO_SCHEMA)
    stage.install_functions()
    wanted = {"cmk_id": "alias/west-only", "region": "us-west-2"}
    stage.sql("SET GLOBAL keyring_aws_cmk_id = %s", (arn,))     # so that each order is accepted
    stage.sql("SET GLOBAL keyring_aws_region = 'us-west-2'")
    for name in sorted(wanted, key=lambda name: name != first):
        stage.sql(f"SET PERSIST keyring_aws_{name} = %s", (wanted[name],))
    stage.sql("SET PERSIST keyring_aws_timeout = 3000")
    stage.sql("SET PERSIST max_connections = 77")
    assert stage.db.stop() == 0
    if kms == "away":
        stage.kms.stop()
    cnf = {} if in_my_cnf else {"cmk_id": None}
    stage.start(NO_SCHEMA, start_seconds=0, **cnf)
    assert settings(stage) == ("alias/west-only", "us-west-2", 3000)
    assert stage.one("SELECT @@max_connections") == 77
    assert not stage.said("ERROR") and "Configuring persisted" not in stage.db.log()
    notes = stage.tagged("KAWS-306")
    assert [re.match(r"keyring_aws_(\w+) is '(.*?)' now", line).groups() for line in notes] == [
        *((name, wanted[name]) for name in sorted(wanted, key=lambda name: name != first)),
        ("timeout", "3000")]
    assert all("a value of SET PERSIST" in line for line in notes)
    if kms == "away":
        assert stage.generate("away") is None
        stage.kms.start()
        wait_for_kms(stage)
    assert stage.generate("west") == 1 and stage.entries()["west", ROOT].arn == arn

    if not stage.expect.persist_meets_install:
        for name in sorted(wanted, key=lambda name: name != first):
            stage.sql(f"SET PERSIST_ONLY keyring_aws_{name} = %s", (wanted[name],))
        stage.sql("SET PERSIST_ONLY keyring_aws_timeout = 3000")
    stage.uninstall()                   # and the same if the server runs already
    if kms == "away":
        stage.kms.stop()
    stage.mark()
    stage.install()
    assert settings(stage) == ("alias/west-only", "us-west-2", 3000)
    assert not stage.said("ERROR")
    if kms == "away":
        stage.kms.start()
        wait_for_kms(stage)
    assert stage.generate("again") == 1 and stage.entries()["again", ROOT].arn == arn
    number, text = stage.refused("SET GLOBAL keyring_aws_cmk_id = 'alias/nobody'")
    assert number == 1231 and "NotFoundException" in text       # a SET now is refused at once


@pytest.mark.needs("persist")
def test_a_persisted_key_that_kms_refuses_is_said_when_it_is_used(stage):
    disabled = stage.kms.add_key("us-east-1", ACCOUNT, state="Disabled")
    heed_persisted_settings(stage)
    stage.start(NO_SCHEMA)
    stage.install_functions()
    assert stage.generate("kept") == 1
    stage.sql("SET PERSIST_ONLY keyring_aws_cmk_id = %s", (disabled,))
    stage.restart(NO_SCHEMA)
    assert stage.variable("cmk_id") == disabled and not stage.said("ERROR")
    assert stage.generate("refused") is None and stage.fetch("kept") == stage.plain("kept")
    (line,) = stage.said("ERROR")
    assert "DisabledException" in line
    stage.sql("SET PERSIST keyring_aws_cmk_id = %s", (KEY_ARN,))
    assert stage.generate("accepted") == 1


@pytest.mark.needs("persist")
def test_an_install_uses_no_persisted_key_of_another_account(stage):
    """INSTALL PLUGIN fails.  Newer servers have then loaded the plugin, with my.cnf's KMS key."""
    foreign = stage.kms.add_key("us-east-1", OTHER_ACCOUNT, shared_with=(ACCOUNT,))
    heed_persisted_settings(stage)
    stage.start(NO_SCHEMA)
    stage.install_functions()
    stage.sql("SET PERSIST_ONLY keyring_aws_cmk_id = %s", (foreign,))
    stage.uninstall()
    number, _ = stage.refused("INSTALL PLUGIN keyring_aws SONAME 'keyring_aws.so'")
    (line,) = stage.said("ERROR")
    assert "among the trusted" in line
    drops = stage.expect.drops_persisted
    assert (number, stage.tagged("KAWS-307" if drops else "KAWS-302")) == (
        1231 if drops else 1123, [line])
    assert stage.loaded() == drops
    if not drops:
        assert "(RESET PERSIST removes it)" in line
        stage.sql("RESET PERSIST keyring_aws_cmk_id")
        stage.install()
    assert stage.variable("cmk_id") == KEY_ARN
    assert stage.generate("ours") == 1 and stage.entries()["ours", ROOT].arn == KEY_ARN


@pytest.mark.needs("persist")
def test_the_install_of_another_plugin_asks_kms_nothing(stage):
    """8.0 sets this plugin's persisted values in that statement, too."""
    heed_persisted_settings(stage)
    stage.start(NO_SCHEMA)
    stage.sql("SET PERSIST keyring_aws_cmk_id = %s", (KEY_ARN,))
    stage.kms.stop()
    stage.install_functions()
    assert not stage.said("ERROR")
    stage.kms.start()
    wait_for_kms(stage)


@pytest.mark.needs("persist")
def test_what_an_init_file_sets_is_asked_for(stage):
    """It is a SET GLOBAL like any other, though the server is still starting."""
    second = stage.kms.add_key("us-east-1", ACCOUNT)
    file = stage.db.folder / "init.sql"
    file.write_text(f"SET GLOBAL keyring_aws_cmk_id = '{second}';\n")
    stage.start(NO_SCHEMA, f"--init-file={file}")
    assert stage.variable("cmk_id") == second
    (line,) = stage.tagged("KAWS-306")
    assert line == f"keyring_aws_cmk_id is '{second}' now, and was '{KEY_ARN}'"
    asked = stage.kms.count()
    stage.install_functions()
    assert stage.generate("a") == 1 and stage.kms.count() == asked + 1
