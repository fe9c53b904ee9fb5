"""The runbooks for a change of the server or of the plugin, run from the manual step by step."""

import json
import re
import tarfile
from pathlib import Path

import pytest

from demo import read_data_file
from manual import section
from mysql_fixtures import COMPONENT, PLUGIN, plugin_options
from runbook import Machine, others, runbooks

pytestmark = pytest.mark.needs("quotes")        # the messages are those of 9.7


@pytest.fixture(name="machine")
def make_machine():
    with Machine() as machine:
        yield machine


def test_every_runbook_is_run():
    """And what the list on top quotes from other chapters, these explain."""
    code = "".join(each.read_text() for each in Path(__file__).parent.glob("test_runbooks_*.py"))
    assert {*re.findall(r'[.]play\("(.+?)"\) as', code)} == {*runbooks()}
    assert len(others()) == 1
    for quotes, title in others():
        explained = " ".join(section(title).split())
        assert quotes and not [each for each in quotes if each not in explained]


def test_nothing_of_a_runbook_can_be_left_out(machine):
    """Neither a block nor a quote, and no block comes before its turn."""
    for played, reason in ((lambda book: None, "was not run"),
                           (lambda book: book.run("enable-key"), "not 'enable-key', but"),
                           (lambda book: book.blocks.clear(), "was not said")):
        with pytest.raises(AssertionError, match=reason):
            with machine.play("The KMS key is disabled") as book:
                played(book)


def build(machine: Machine, version: bytes = b"") -> None:
    """The file that make has written, where root is; with another version, if that is wanted."""
    made = machine.root / "root/build/keyring_aws.so"
    made.parent.mkdir()
    code = PLUGIN.read_bytes()
    (old,) = {*re.findall(rb"\d+[.]\d+[.]\d+(?=\0)", code)} & {present().encode()}
    assert len(version) in (0, len(old))
    made.write_bytes(code.replace(old + b"\0", version + b"\0") if version else code)


def present() -> str:
    """The header's version."""
    header = (PLUGIN.parents[1] / "keyring_aws.h").read_text()
    return re.search(r'^#define KAWS_VERSION "(.*)"', header, re.M)[1]


def test_an_upgrade_of_mysql(machine):
    """The new server's folder of plugins has not got ours yet, and mysqld no manifest."""
    machine.begin()
    build(machine)
    plugins, manifest = machine.root / "usr/lib/mysql/plugin", machine.db.folder / "bin/mysqld.my"
    with machine.play("Upgrade MySQL") as book:
        book.run("systemctl stop mysql")
        for name in ("keyring_aws.so", f"{COMPONENT}.so"):
            (plugins / name).unlink()
        said = machine.systemctl("start", fails=True)
        assert "manifest" not in machine.log(), "it has no log yet"
        manifest.rename(manifest.with_name("kept"))
        machine.systemctl("start")
        book.sees(said, book.sql("SELECT * FROM d.t", fails=True))
        assert "KAWS" not in machine.log()
        machine.systemctl("stop")
        manifest.with_name("kept").rename(manifest)
        book.run("ln -sf")
        book.run("systemctl start mysql")
        assert "Active" in book.run("keyring_component_status")
    assert machine.rows_of() == [1]
    machine.sql("ALTER INSTANCE ROTATE INNODB MASTER KEY")


def test_an_upgrade_of_the_plugin(machine):
    """The new file is ours with another version in it."""
    machine.begin()
    new = "9" + present()[1:]
    build(machine, new.encode())
    with machine.play("Upgrade the plugin") as book:
        assert book.run("'Version'") == f"Version\t{present()}"
        book.run("cp -a")
        book.run("systemctl restart mysql")
        told = book.run("Component_status")
        assert f"Version\t{new}" in told and "Active" in told
        assert machine.rows_of() == [1]
        book.run("keyring_aws.so.old")
    assert f"version {present()}" in machine.db.log() or machine.rows()["Version"] == present()
    assert machine.rows_of() == [1]


def test_from_the_plugin_to_the_component():
    with Machine("plugin") as machine:
        file = machine.root / "etc/mysql/mysql.cnf"     # as Debian has it
        name = file.with_name("my.cnf")
        name.symlink_to(file.name)
        file.write_text("[mysqld]\n" + "".join(f"{each.removeprefix('--')}\n" for each in
                                               plugin_options(machine.settings)))
        file.write_text(re.sub("(?m)^keyring-aws-.*?=", lambda name: name[0].replace("-", "_"),
                               file.read_text()))
        options = machine.db._options()
        machine.db._options = lambda: [f"--defaults-file={name}", *options[1:]]
        machine.my_cnf = True
        machine.begin()
        (machine.db.plugin_dir / f"{COMPONENT}.so").unlink()
        with machine.play("From the plugin to the component") as book:
            keys = len(machine.entries())
            written = file.read_text()
            assert book.run("FILES").strip() == str(file)
            assert "none is left" in book.run("systemctl stop mysql")
            assert "keyring" not in file.read_text() and "[mysqld]" in file.read_text()
            assert name.is_symlink()
            with tarfile.open(machine.safe / "my.cnf.tar") as kept:
                assert kept.extractfile(str(file).lstrip("/")).read().decode() == written

            def type_settings(_: str) -> str:
                made = json.loads(book.text('"cmk_id"').replace("KEY", machine.key).replace(
                    "/var/lib", f"{machine.root}/var/lib"))
                assert made["keyring_aws"].pop("create") is False
                made["keyring_aws"] |= {"endpoint": machine.kms.url, "create": False,
                                        "ca_file": str(machine.certs.ca)}
                return json.dumps(made)

            book.run("editor", editor=type_settings)
            book.run("mysqld.my")
            rows = dict(line.split("\t") for line in book.run("'Keys'").split("\n")
                        if line.count("\t") == 1)
            assert rows == {"Component_status": "Active", "Keys": str(keys)}
        assert machine.rows_of() == [1] and len(read_data_file(machine.data).entries) == keys
