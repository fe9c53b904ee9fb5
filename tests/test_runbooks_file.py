"""The runbooks for the data file, run from the manual step by step."""

import re
import shutil
from pathlib import Path

import pytest

from demo import read_data_file
from kms_emulator import ACCOUNT
from mysql_fixtures import COMPONENT, QUICK, RELOAD
from runbook import Machine

pytestmark = pytest.mark.needs("quotes")        # the messages are those of 9.7
ROTATE = "ALTER INSTANCE ROTATE INNODB MASTER KEY"
COPY = "keyring_aws_data.copy"


@pytest.fixture(name="machine")
def make_machine(request):
    with Machine(getattr(request, "param", "component")) as machine:
        yield machine


def keys_in(path: Path) -> list:
    """What stays the same when the server is stopped."""
    return read_data_file(path).entries


BOTH_DOORS = pytest.mark.parametrize("machine", ["component", "plugin"], indirect=True)


def copy(machine: Machine) -> None:
    """What the administrator has made some day."""
    machine.safe.mkdir(mode=0o700)
    shutil.copy(machine.data, machine.safe / COPY)


@BOTH_DOORS
def test_the_file_is_gone_and_the_server_runs(machine):
    """It is deleted, or overwritten: the server works again at once, with all its keys."""
    machine.begin().sql(ROTATE)
    right = machine.data.read_bytes()
    with machine.play("The data file is gone, and the server runs") as book:
        machine.data.write_bytes(b"\0" * 10 + right[10:])
        said = book.sql(ROTATE, fails=True) + machine.log()
        machine.data.write_bytes(right)
        machine.data.unlink()
        book.sees(book.sql(ROTATE, fails=True), said, machine.log())
        assert book.sql(RELOAD, fails=True).startswith("error 4035")
        (book.words["FOUND"],) = book.run("(deleted)").split()
        book.run("FOUND")
        book.run("install")
        assert machine.data.read_bytes() == right
        book.run("ROTATE INNODB MASTER KEY")
    machine.systemctl("restart")
    assert machine.rows_of() == [1]


def test_what_to_do_if_no_copy_is_new_enough(machine):
    """The running server refuses the older copy, and can decrypt all tables."""
    machine.begin()
    copy(machine)
    machine.sql(ROTATE)
    shutil.copyfile(machine.safe / COPY, machine.data)      # in place: the file is lost
    with pytest.raises(Exception, match="3185"):
        machine.sql(ROTATE)
    machine.sql("ALTER TABLE d.t ENCRYPTION = 'N'")
    machine.systemctl("restart")
    assert machine.rows_of() == [1]


def test_the_file_is_gone_and_the_server_was_restarted(machine):
    machine.begin()
    copy(machine)
    machine.data.unlink()
    machine.systemctl("restart")
    with machine.play("The data file is gone, and the server was restarted") as book:
        book.sees(book.sql("SELECT * FROM d.t", fails=True), machine.log())
        assert book.run("KAWS-123").count("\n") == 1, "of the first start"
        book.run("systemctl stop mysql")
        assert machine.data.name not in book.run("findmnt").split()
        book.run("install")
        book.run("systemctl start mysql")
        assert book.run("CHECK TABLE").endswith("OK")
        book.sql(ROTATE)


def test_what_is_said_without_create(machine):
    """KAWS-311, and once a key is made, KAWS-123.  A table that was made since is saved, as that
    runbook says, and the new file is kept."""
    machine.begin()
    copy(machine)
    machine.edit_settings(lambda text: text.replace('"create": false, ', ""))
    machine.data.unlink()
    machine.systemctl("restart")
    assert "KAWS-311" in machine.log() and "KAWS-324" not in machine.log()
    machine.sql("CREATE TABLE d.u (n INT) ENCRYPTION = 'Y'")
    with machine.play("The data file is gone, and the server was restarted") as book:
        book.wanted = []
        assert book.run("KAWS-123").count("\n") == 2
        machine.sql("ALTER TABLE d.u ENCRYPTION = 'N'")
        new = keys_in(machine.data)
        book.run("systemctl stop mysql")
        assert keys_in(machine.safe / "keyring_aws_data.new") == new
        book.run("findmnt")
        book.run("install")
        book.run("systemctl start mysql")
        assert book.run("CHECK TABLE").endswith("OK")
    assert machine.rows_of() == [1] and machine.rows_of("d.u") == []


def test_the_plugin_with_force_does_not_start_without_its_file():
    with Machine("plugin") as machine:
        machine.begin("--keyring_aws=FORCE")
        machine.argv.append("--keyring_aws_create=OFF")
        machine.systemctl("stop")
        machine.data.unlink()
        assert "there is no data file" in machine.systemctl("start", fails=True)


def damage(machine: Machine, place: int, running: bool = False) -> int:
    """A byte of the file changes; where the damaged entry begins, by what the server says."""
    if not running:                     # when it stops, it writes the file's length into it
        machine.systemctl("stop")
    data = bytearray(machine.data.read_bytes())
    data[place] ^= 1
    machine.data.write_bytes(data)
    machine.systemctl("restart")
    return int(machine.log().split("is damaged at byte ")[1].split(":")[0])


@pytest.mark.parametrize("running", [False, True])
def test_the_file_is_damaged(machine, running):
    """An older copy lacks the newest master key, and the front of the damaged file has it."""
    machine.begin()
    copy(machine)
    machine.sql(ROTATE)
    whole = machine.data.stat().st_size
    machine.sql("CREATE TABLE d.u (n INT) ENCRYPTION = 'Y'")
    machine.db.install_keyring_udf()
    assert machine.generate("the last one") == 1
    place = damage(machine, machine.data.stat().st_size - 10, running)
    assert place == whole
    with machine.play("The data file is damaged") as book:
        book.sees(book.sql("SELECT * FROM d.t", fails=True), machine.log())
        book.run("cp -a")
        book.run("keyring_aws_data.copy")
        assert "KAWS-311" in machine.log()
        assert book.sql("SELECT * FROM d.t", fails=True).startswith("error 3185")
        book.words["BYTE"] = str(place)
        book.run("python3")
        assert book.run("CHECK TABLE").endswith("OK")
        book.sql(ROTATE)
    assert machine.rows_of() == [1] and machine.rows_of("d.u") == []


def test_only_the_length_in_the_header_is_damaged(machine):
    """No key is lost."""
    machine.begin().sql(ROTATE)
    keys = keys_in(machine.data)
    assert damage(machine, 33) == 32
    with machine.play("The data file is damaged") as book:
        (book.blocks,) = [book.blocks[:1] + [each] for each in book.blocks if "python3" in each]
        book.wanted = []
        book.run("cp -a")
        book.words["BYTE"] = str(machine.data.stat().st_size)
        book.run("python3")
    assert machine.rows_of() == [1] and keys_in(machine.data) == keys


@BOTH_DOORS
def test_the_file_is_older_than_the_tables(machine):
    """The copy that is put there first lacks the key. The file of the last note has it."""
    machine.begin()
    older = machine.data.read_bytes()
    machine.sql(ROTATE)
    machine.systemctl("stop")
    copy(machine)
    machine.data.write_bytes(older)
    machine.systemctl("start")
    with machine.play("The data file is older than the tables") as book:
        book.sees(book.sql("SELECT * FROM d.t", fails=True), machine.log())
        notes = book.run("KAWS-(101|102|147|311)")
        last = [line for line in notes.split("\n") if "KAWS-102" in line][-1]
        assert "2 keys, checksum begins with" in last and "1 key, checksum" in notes
        checksum = last.split("checksum begins with ")[1][:8]
        assert book.run("tail -c 32").startswith(checksum)
        book.run("keyring_aws_data.copy")
        assert f"2 keys, checksum begins with {checksum}" in machine.log(), "KAWS-101"
        assert book.run("CHECK TABLE").endswith("OK")
    assert machine.rows_of() == [1] and "KAWS-311" not in machine.log()


def test_copy_and_restore(machine):
    machine.begin()
    with machine.play("Copy and restore the data file") as book:
        book.run("$SAFE/keyring_aws_data.copy")
        assert (machine.safe / COPY).read_bytes() == machine.data.read_bytes()
        checksum = book.run("tail -c 32").strip()
        rows = dict(line.split("\t") for line in book.run("File_checksum").split("\n"))
        assert rows == {"Keys": "1", "File_checksum": checksum}
        machine.sql("CREATE TABLE d.u (n INT) ENCRYPTION = 'Y'")
        book.run("keyring_aws_data.copy")
        assert book.run("CHECK TABLE").endswith("OK")
        told = book.run("KAWS-(101|311)").strip()
        assert f"checksum begins with {rows['File_checksum'][:8]}" in told.split("\n")[-1]
        assert "KAWS-311" not in told
    assert machine.rows_of("d.u") == []


@pytest.mark.parametrize("title, words, kept", [
    ("Copy and restore the data file", "mv --backup", "before"),
    ("The data file is older than the tables", "mv --backup", "older"),
    ("The data file is damaged", "cp -a", "damaged")])
def test_a_step_that_is_done_twice_keeps_the_file(machine, title, words, kept):
    """The copy was the wrong one, and the step is done again: the file that was there first has the
    newest keys."""
    machine.begin()
    copy(machine)
    machine.sql(ROTATE)
    first = keys_in(machine.data)
    with machine.play(title) as book:
        (step,) = [each for each in book.blocks if words in each]
        book.blocks, book.wanted = [step, step], []
        book.run(words)
        shutil.copy(machine.safe / COPY, machine.data)
        book.run(words)
    assert keys_in(machine.data.with_name(f"{machine.data.name}.{kept}.~1~")) == first


def test_an_older_copy_is_kept(machine):
    """The file was damaged when it was copied."""
    machine.begin()
    right = machine.data.read_bytes()
    with machine.play("Copy and restore the data file") as book:
        book.blocks, book.wanted = book.blocks[:1] * 2, []
        book.run("install")
        machine.data.write_bytes(b"")
        book.run("install")
    assert (machine.safe / f"{COPY}.~1~").read_bytes() == right


def test_the_server_moves(machine):
    machine.begin()
    keys = machine.entries().items()
    with Machine() as new, machine.play("Move the server") as book:
        new.kms.keys, new.argv = machine.kms.keys, machine.argv     # the same AWS
        new.db.start(*QUICK)            # as its package does
        new.db.components({COMPONENT: {}})
        new.cnf.unlink()
        new.access_key = "AKIDNEW", "new/" + new.access_key[1]
        new.kms.add_user(*new.access_key, ACCOUNT)
        book.on(new)                    # the variables are set there
        book.on(machine)
        book.run("systemctl stop mysql")
        book.other, book.words["NEW"] = new.root, "new.example.com"
        book.run("tar -C")
        book.on(new)

        def adapt(text: str) -> str:
            assert str(machine.data) in text
            return new.settings_text(create=False)

        unpack = "\n".join(re.findall("(?m)^(?:mv|tar) .*", book.blocks[0]))
        book.run("-xzpf", editor=adapt)
        assert "OK" in book.run("CHECK TABLE")
        assert keys < new.entries().items() and new.rows_of() == [1]
        assert {each["access_key_id"] for each in new.kms.log()["requests"]} == {"AKIDNEW"}
        present = new.data.read_bytes()
        assert "not empty" in book.sh(unpack, fails=True), "no key is lost by a second time"
        book.run("rm $SAFE")
        assert [each.name for each in new.safe.iterdir()] == [COPY]
        book.sh(book.blocks[-1])        # on the wrong machine, whose server runs
        assert new.data.read_bytes() == present
        book.on(machine)
        book.run("shred")
        assert not machine.data.exists() and not machine.cnf.exists()
