"""The runbooks for a KMS key or a KMS that is not there, run from the manual step by step."""

import json
import time

import pytest

from kms_emulator import ACCOUNT, MULTI_REGION_ID
from manual import section
from runbook import Machine

pytestmark = pytest.mark.needs("quotes")        # the messages are those of 9.7
MAKE = "CREATE TABLE d.u (n INT) ENCRYPTION = 'Y'"
CRASHES = ("--loose-innodb-idle-flush-pct=0",       # on a slow machine these save rows
           "--innodb-adaptive-flushing=OFF", "--innodb-max-dirty-pages-pct-lwm=0")


@pytest.fixture(name="machine")
def make_machine():
    with Machine() as machine:
        yield machine


def test_the_key_is_disabled(machine):
    """A restart in the meantime closes tables, until the next one."""
    machine.begin().kms.set_key(machine.key, state="Disabled")
    with machine.play("The KMS key is disabled") as book:
        book.sees(book.sql(MAKE, fails=True), machine.log())
        assert machine.rows_of() == [1], "a running server works with what it has open"
        machine.systemctl("restart")
        assert book.sql("SELECT * FROM d.t", fails=True).startswith("error 3185")
        assert '"Disabled"' in book.run("describe-key")
        book.run("enable-key")
        book.run("ROTATE INNODB MASTER KEY")
        assert book.sql("SELECT * FROM d.t", fails=True).startswith("error 3185")
        told = book.sql("CHECK TABLE d.t")
        for quote in ("Can't find master key", "missing, corrupt or contains bad data", "Corrupt"):
            assert quote in told and f"`{quote}" in section("Runbooks")
        book.run("systemctl restart mysql")
        assert machine.rows_of() == [1]


def test_the_plugin_is_refused_if_the_key_is_disabled():
    with Machine("plugin") as machine:
        machine.begin("--keyring_aws=FORCE").kms.set_key(machine.key, state="Disabled")
        machine.systemctl("stop")
        said = machine.systemctl("start", fails=True)
        assert "[KAWS-302]" in said and "DisabledException" in said
        machine.kms.set_key(machine.key, state="Enabled")
        machine.systemctl("start")
        assert machine.rows_of() == [1]


def test_the_key_is_pending_deletion(machine):
    machine.begin().kms.set_key(machine.key, state="PendingDeletion")
    with machine.play("The KMS key is pending deletion") as book:
        book.sees(book.sql(MAKE, fails=True), machine.log())
        state, date = json.loads(book.run("DeletionDate"))
        assert state == "PendingDeletion" and date[:4].isdigit()
        book.run("cancel-key-deletion")
        book.run("ROTATE INNODB MASTER KEY")
        book.run("ScheduleKeyDeletion")
        assert machine.rows_of() == [1]


OTHER = "eu-west-1"


class FarMachine(Machine):
    """Its KMS key has a replica in another region, and no endpoint is set for all regions."""

    def settings_file(self, **ours: object) -> dict:
        file = super().settings_file(failover_regions=(
            f"us-east-1={self.kms.url}, {OTHER}={self.other.url}"), **ours)
        del file["keyring_aws"]["endpoint"]
        return file


def test_the_key_s_region_is_down():
    """Its replica answers, then encrypts, too, and gives way when the region is back."""
    with FarMachine() as machine, machine.kms.sister(OTHER) as machine.other:
        machine.key = machine.kms.add_key("us-east-1", ACCOUNT, MULTI_REGION_ID)
        replica = machine.kms.replicate(machine.key, OTHER)
        machine.begin().kms.stop()
        with machine.play("The KMS key's region is down") as book:
            assert book.sql(MAKE) == "" and machine.rows_of() == [1]
            book.sees(machine.log())
            rows = dict(row.split("\t") for row in book.run("Region_in_use").splitlines())
            assert (rows["Region"], rows["Region_in_use"]) == ("us-east-1", OTHER)
            assert int(rows["Failovers"]) > 0
            book.run("ROTATE INNODB MASTER KEY")
            number, text = machine.refused("SELECT keyring_aws_rotate_keys()")
            assert number == 3198 and "us-east-1" in text
            book.run("editor", editor=lambda text: text.replace(machine.key, replica))
            book.run("RELOAD")
            assert replica in {each.arn for each in machine.entries().values()}
            machine.systemctl("restart")
            assert machine.rows_of() == [1]
            machine.kms.start()
            time.sleep(5)
            book.run("editor", editor=lambda text: text.replace(replica, machine.key))
            book.run("rotate_keys")
            assert {each.arn for each in machine.entries().values()} == {machine.key}
            machine.kms.stop()
            machine.sql("ALTER INSTANCE ROTATE INNODB MASTER KEY")
            machine.kms.start()
            (again,) = book.blocks
            book.run("ROTATE INNODB MASTER KEY")
            for _ in range(4):
                if machine.rows()["Region_in_use"] != "us-east-1":
                    time.sleep(5)
                    book.sql(again)
            assert machine.rows()["Region_in_use"] == "us-east-1" and "[KAWS-171]" in machine.log()


LOGS = ("innodb_redo_log_encrypt", "innodb_undo_log_encrypt", "binlog_encryption")


def encrypt_logs(machine: Machine) -> Machine:
    """Logs, undo tablespaces and a general tablespace; with binary logs that were there before."""
    machine.begin("--log-bin=bin", "--server-id=1")
    for query in ("CREATE TABLESPACE g ADD DATAFILE 'g.ibd' ENCRYPTION = 'Y'",
                  "CREATE TABLE d.g (n INT PRIMARY KEY) TABLESPACE g ENCRYPTION = 'Y'",
                  "INSERT INTO d.g VALUES (7)"):
        machine.sql(query)
    for _ in range(2):
        for name in LOGS:
            machine.sql(f"SET GLOBAL {name} = ON")
        machine.systemctl("restart")
    return machine


def test_the_key_is_deleted(machine):
    """What a running server has open is saved, to the last row, and encrypted again."""
    encrypt_logs(machine).kms.remove_key(machine.key)
    with machine.play("The KMS key is deleted") as book:
        book.sees(book.sql(MAKE, fails=True), machine.log())
        assert "NotFoundException" in book.run("describe-key", fails=True)
        book.run("mysqldump")
        assert "the castle is in the north" in next(machine.safe.glob("all.*.sql")).read_text()
        assert machine.safe.stat().st_mode & 0o77 == 0
        assert {*book.run("CREATE_OPTIONS").split("\n")} == {"d\tg", "d\tt"}
        book.run("ALTER TABLE d.t ENCRYPTION = 'N'")
        book.run("innodb_redo_log_encrypt")
        book.borrow("Decommission", "SET INACTIVE")
        book.renew_undo()
        book.words["LAST"] = f"bin.{1 + len(machine.sql('SHOW BINARY LOGS')):06}"
        book.borrow("Decommission", "PURGE")
        assert book.sql("ALTER TABLESPACE g ENCRYPTION = 'N'", fails=True)[:10] == "error 3185"
        book.run("innodb_file_per_table")
        book.sql("DROP TABLESPACE g")
        new = []

        def type_key(text: str) -> str:
            new[:] = [each.arn for each in machine.kms.keys.values()]
            return text.replace(machine.key, new[0]).replace('"create": false, ', "")

        assert "arn:aws:kms" in book.run("create-key", editor=type_key)
        book.run("ALTER TABLE d.t ENCRYPTION = 'Y'")
    machine.systemctl("restart")
    assert machine.rows_of() == [1] and machine.rows_of("d.g") == [7]
    assert {each.arn for each in machine.entries().values()} == {*new} and new[0] != machine.key


def test_a_table_that_is_closed_does_not_end_the_dump(machine):
    """It is named, and the tables after it are dumped."""
    machine.begin()
    machine.sql("CREATE DATABASE a")
    machine.sql("CREATE TABLE a.u (n INT) ENCRYPTION = 'Y'")
    machine.kms.set_key(machine.key, state="Disabled")
    machine.systemctl("restart")
    with pytest.raises(Exception, match="3185"):
        machine.sql("SELECT * FROM a.u")
    machine.kms.set_key(machine.key, state="Enabled")
    assert machine.rows_of() == [1]
    with machine.play("The KMS key is deleted") as book:
        book.blocks, book.wanted = [each for each in book.blocks if "mysqldump" in each], []
        assert "`u`" in book.run("mysqldump", fails=True)
    assert "the castle is in the north" in next(machine.safe.glob("all.*.sql")).read_text()


def test_what_the_deleted_key_takes_along(machine):
    """With the tablespace mysql encrypted, it is the whole server."""
    machine.begin().sql("ALTER TABLESPACE mysql ENCRYPTION = 'Y'")
    machine.kms.remove_key(machine.key)
    with pytest.raises(Exception, match="3185"):
        machine.sql("ALTER TABLESPACE mysql ENCRYPTION = 'N'")
    machine.systemctl("stop")
    assert "valid tablespace file for `mysql`" in machine.systemctl("start", fails=True)


def test_kms_is_unreachable(machine):
    machine.begin().kms.stop()
    with machine.play("KMS is unreachable") as book:
        book.sees(book.sql(MAKE, fails=True), machine.log())
        book.run("curl", fails=True)
        assert "Unreachable" in book.run("keyring_component_status")
        machine.kms.start()
        assert book.sh("curl -sS -m 5 -o /dev/null -w '%{http_code}\\n'"
                       f" {machine.kms.url}/").strip().isdigit(), "any answer will do"
        time.sleep(5)
        book.run("ROTATE INNODB MASTER KEY")
        assert "[KAWS-161]" in machine.log() and "answers again" in machine.log()


def test_no_start_after_a_crash(machine):
    """What InnoDB advises is not done, and no row is lost: neither of a table that was just made
    nor of one that was written to."""
    machine.begin(*CRASHES).db.kill()
    machine.kms.stop()
    said = machine.systemctl("start", fails=True)
    machine.kms.start()
    machine.systemctl("start")
    machine.systemctl("restart")
    machine.sql("INSERT INTO d.t (n) VALUES (2), (3)")
    machine.db.kill()
    machine.kms.stop()
    with machine.play("No start after a crash") as book:
        book.sees(said, machine.systemctl("start", fails=True))
        assert "[KAWS-310]" in book.run("grep")
        machine.kms.start()
        book.run("systemctl start mysql")
        assert book.run("CHECK TABLE").endswith("OK")
        book.run("editor", editor=lambda text: text.replace('"start_seconds": 0',
                                                            '"start_seconds": 240'))
    assert machine.rows_of() == [1, 2, 3]
    machine.sql("ALTER INSTANCE RELOAD KEYRING")
