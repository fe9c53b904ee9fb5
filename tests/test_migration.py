"""Keys move between keyrings, by MySQL's own means, and none is lost on the way.

A server in migration mode carries keys between a plugin and a component; mysql_migrate_keyring does
it between two components.  The other end is MySQL's component_keyring_file, or ours again, as what
it is not yet.  Two hundred keys move; KAWS_LONG=1 moves 10,000, and `pytest -s` shows the times.
(component_keyring_file writes its whole file anew for each key, so 10,000 take it many minutes.)
"""

import json
import os
import random
import re
import subprocess
import time
from pathlib import Path
from typing import NamedTuple

import pytest

from conftest import LONG
from demo import read_data_file
from kms_emulator import unseal
from manual import command
from mysql_fixtures import COMPONENT, NO_SCHEMA, QUICK, Stage, component_settings
from servers import clean_environment, run_in_tree

CHAPTER, TOOL = "From one keyring to another", "mysql_migrate_keyring"
FILE = "component_keyring_file"
COUNT = 10000 if LONG else 200
DATA_KEY = "GenerateDataKeyWithoutPlaintext"

Keys = dict[tuple[str, str], tuple[str, bytes]]         # (key id, owner): type and bytes


class Run(NamedTuple):
    code: int
    text: str
    seconds: float


class Place(Stage):
    """The folders of a server that need not run, with every keyring that keys can be in.

    file        of component_keyring_file
    data        of our component; a setting that is given to Place is one of it
    other       of our plugin
    """

    def __init__(self, **settings: object) -> None:
        super().__init__("component", **settings)
        if self.db.mysqld.script:
            pytest.skip("MYSQLD is a script: its server looks for the manifest where it knows")
        self.file, self.other = self.db.folder / "file", self.db.folder / "plugins-keys"
        self.configure()

    def configure(self, *active: str, **settings: object) -> None:
        """Writes both components' settings; the manifest names those that are active."""
        ours = {name: value for name, value in {**self.settings, **settings}.items()
                if value is not None}
        both = {FILE: {"path": str(self.file), "read_only": False},
                COMPONENT: component_settings(ours)}
        self.db.components(both)
        self.db.components({name: both[name] for name in active} or None)

    # -- the keys in each place

    def put(self, keys: Keys, path: Path | None = None) -> Keys:
        (path or self.file).write_text(json.dumps({"version": "1.0", "elements": [
            {"user": owner, "data_id": key_id, "data_type": kind, "data": key.hex().upper(),
             "extension": []} for (key_id, owner), (kind, key) in keys.items()]}))
        return keys

    def in_file(self) -> Keys:
        text = self.file.read_text() if self.file.exists() else ""
        return {(each["data_id"], each["user"]): (each["data_type"], bytes.fromhex(each["data"]))
                for each in (json.loads(text)["elements"] if text else [])}

    def in_ours(self, path: Path | None = None) -> Keys:
        """What a data file of ours has, as KMS decrypts it."""
        if not (path or self.data).exists():
            return {}
        file = read_data_file(path or self.data)
        return {(each.key_id, each.user_id): (each.key_type, unseal(
            self.kms.key(each.arn), each.context(file.file_id), each.blob)[0])
            for each in file.entries}

    # -- the two programs

    def tool(self, source: str, destination: str, *options: object) -> Run:
        """mysql_migrate_keyring, from a component to another."""
        ends = {"--component-dir": self.db.plugin_dir, "--source-keyring": source,
                "--destination-keyring": destination}
        named = [each.partition("=")[0] for each in command(CHAPTER, f"sudo -u mysql {TOOL}")[4:]]
        args = ["--no-defaults", *(f"{name}={ends[name]}" for name in named), *map(str, options)]
        program = self.db.mysqld.program
        if program:
            program = program.parent / TOOL
            if not program.exists():
                pytest.skip(f"there is no {program}")
            argv, env = [str(program), *args], clean_environment()
        else:
            argv, env = run_in_tree(TOOL, *args)
        start = time.monotonic()
        done = subprocess.run(argv, env=env, text=True, errors="replace", check=False,
                              stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, timeout=3600)
        return Run(done.returncode, done.stdout, time.monotonic() - start)

    def server(self, source: str, destination: str, *options: str) -> Run:
        """A server in migration mode, which refuses options that it does not use."""
        ends = (source, destination)
        modes = [f"--keyring-migration-{way}-component" for way, end in zip(("from", "to"), ends)
                 if end != "keyring_aws"]
        names = [f"--keyring-migration-{role}={end}.so"
                 for role, end in zip(("source", "destination"), ends)]
        if ends == ("keyring_aws", COMPONENT):          # as the manual has it of another plugin
            assert [*modes, *names] == [each.replace("keyring_file", "keyring_aws") for each in
                                        command(CHAPTER, "sudo -u mysql mysqld ")[5:]]
        plain = [each for each in self.db._options()
                 if not each.startswith(("--innodb", "--loose"))]
        ours = [f"--keyring-aws-{name.replace('_', '-')}={value}" for name, value in
                {**self.settings, "data_file": self.other}.items() if value is not None]
        start = time.monotonic()
        done = self.db.run_once(*plain, *modes, *names, "--log-error-verbosity=3", *options, *ours,
                                bare=True, timeout=3600)
        return Run(done.returncode, done.stdout, time.monotonic() - start)


@pytest.fixture(name="place")
def make_place():
    with Place() as place:
        yield place


@pytest.fixture(name="hasty")
def make_hasty_place():
    """It waits for a KMS that is away for a second."""
    with Place(start_seconds=1) as place:
        yield place


pytestmark = pytest.mark.needs("from_component")


def some_keys(count: int) -> Keys:
    """Keys of every type, of the least and the greatest length and of others, of the server's own
    and of accounts'; a smaller count gives the first of them."""
    dice = random.Random(1)

    def size(number: int, kind: str) -> int:
        if kind == "AES":
            return (16, 24, 32)[number // 4 % 3]
        return 1 if number < 4 else 4096 if number < 8 else dice.randint(1, 4096)

    keys = {}
    for number in range(count):
        kind = ("AES", "SECRET", "RSA", "DSA")[number % 4]
        name = f"it's %00 \"key\" {number}" if number % 7 == 0 else f"key {number}"
        owner = ("", "root@localhost", "somebody@%")[number % 3]
        keys[name, owner] = kind, dice.randbytes(size(number, kind))
    return keys


def works(run: Run) -> Run:
    assert run.code == 0, run.text
    return run


def fails(run: Run, *words: str) -> Run:
    """It has said these words, and has an exit code that a script sees."""
    assert run.code > 0, run.text
    for each in words:
        assert each in run.text, run.text
    return run


def opened(run: Run) -> int:
    return run.text.count("[KAWS-101] opened ")


# ---- in all directions --------------------------------------------------------------------------

def asked(place: Place) -> tuple[int, int, int, int]:
    """How often KMS was asked since the last time: connections, and calls of each kind."""
    log, count = place.kms.log(), place.kms.count
    numbers = log["connections"], count("Encrypt"), count("Decrypt"), count(DATA_KEY)
    place.kms.reset_log()
    return numbers


def told(what: str, run: Run) -> None:
    print(f"\n{COUNT} keys, {what}: {run.seconds:.1f} s, {run.seconds / COUNT * 1000:.2f} ms a key")


@pytest.fixture(name="full", scope="module")
def make_full_place():
    """Each test takes up the keys where the one before has put them."""
    with Place() as place:
        place.keys = place.put(some_keys(COUNT))
        yield place


def test_1_from_the_file_component_to_our_component(full):
    run = works(full.tool(FILE, COMPONENT))
    told("component_keyring_file to component_keyring_aws", run)
    assert full.in_ours() == full.keys
    assert asked(full) == (1, COUNT, COUNT, 0) and opened(run) == 1
    assert run.text.count("[KAWS-102] ") == COUNT
    assert f"migrated {COUNT} keys" in run.text


def test_2_from_our_component_to_our_plugin(full):
    run = works(full.server(COMPONENT, "keyring_aws"))
    told("component_keyring_aws to the plugin keyring_aws", run)
    assert full.in_ours(full.other) == full.keys
    assert asked(full) == (2, COUNT, 2 * COUNT + 1, 1) and opened(run) == 2
    full.data.unlink()


def test_3_from_our_plugin_to_our_component(full):
    before = full.other.stat()
    run = works(full.server("keyring_aws", COMPONENT))
    told("the plugin keyring_aws to component_keyring_aws", run)
    assert full.in_ours() == full.keys
    assert asked(full) == (2, COUNT, 2 * COUNT + 1, 1) and opened(run) == 2
    after = full.other.stat()                   # it was opened to read only
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    full.other.unlink()


def test_4_from_our_component_to_the_file_component(full):
    full.file.unlink()
    before = full.data.stat()
    run = works(full.tool(COMPONENT, FILE))
    told("component_keyring_aws to component_keyring_file", run)
    assert full.in_file() == full.keys
    assert asked(full) == (1, 0, COUNT, 0) and opened(run) == 1
    after = full.data.stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_5_from_the_file_component_to_our_plugin(full):
    run = works(full.server(FILE, "keyring_aws"))
    told("component_keyring_file to the plugin keyring_aws", run)
    assert full.in_ours(full.other) == full.keys
    assert asked(full) == (1, COUNT, COUNT + 1, 1) and opened(run) == 1


def test_6_from_our_plugin_to_the_file_component(full):
    full.file.unlink()
    run = works(full.server("keyring_aws", FILE))
    told("the plugin keyring_aws to component_keyring_file", run)
    assert full.in_file() == full.keys
    assert asked(full) == (1, 0, COUNT + 1, 1) and opened(run) == 1


# ---- servers change over ------------------------------------------------------------------------

def check_table(place: Place) -> None:
    assert place.one("SELECT text FROM d.sealed") == "Attack the castle at dawn"


def test_a_running_server_changes_over_and_back(place):
    """Online migration: the server makes no key in the meantime, and encrypted tables open with the
    other component after a restart."""
    online = ("--online-migration", f"--socket={place.db.socket}", "--user=root")
    place.configure(FILE)
    place.db.start(*QUICK, NO_SCHEMA)
    place.db.install_keyring_udf()
    place.sql("CREATE DATABASE d")
    place.sql("CREATE TABLE d.sealed (text VARCHAR(50)) ENCRYPTION = 'Y'")
    place.sql("INSERT INTO d.sealed VALUES ('Attack the castle at dawn')")
    assert place.generate("mine") == 1
    mine = place.fetch("mine")
    works(place.tool(FILE, COMPONENT, *online))
    assert place.one("SELECT @@GLOBAL.keyring_operations") == 1
    assert place.db.stop() == 0

    place.configure(COMPONENT)
    place.db.start(*QUICK, NO_SCHEMA)
    check_table(place)
    assert place.fetch("mine") == mine
    place.sql("ALTER INSTANCE ROTATE INNODB MASTER KEY")
    keys = place.in_ours()
    place.file.unlink()
    run = works(place.tool(COMPONENT, FILE, *online))
    assert place.in_file() == keys and len(keys) == 3
    assert "in use by another process, too" in run.text     # which goes on
    assert place.generate("afterwards") == 1 and place.remove("afterwards") == 1
    assert place.db.stop() == 0

    place.configure(FILE)
    place.db.start(*QUICK, NO_SCHEMA)
    check_table(place)
    assert place.fetch("mine") == mine


def test_a_running_server_leaves_our_plugin_for_our_component(place):
    place.door, place.settings["data_file"] = "plugin", place.other
    place.start(NO_SCHEMA)
    place.install_functions()
    assert place.generate("mine") == 1
    mine = place.fetch("mine")
    place.settings["data_file"] = place.data
    place.configure()
    works(place.server("keyring_aws", COMPONENT, f"--keyring-migration-socket={place.db.socket}",
                       "--keyring-migration-user=root"))
    assert place.generate("afterwards") == 1
    assert place.db.stop() == 0
    place.configure(COMPONENT)
    place.db.start(*QUICK, NO_SCHEMA)
    assert place.fetch("mine") == mine and place.fetch("afterwards") is None


@pytest.mark.parametrize("end", ["source", "destination"])
def test_an_end_that_the_manifest_names_is_refused(place, end):
    """The server has loaded it before, and loads nothing twice."""
    place.put(some_keys(4))
    place.configure(COMPONENT)
    ends = (COMPONENT, "keyring_aws") if end == "source" else ("keyring_aws", COMPONENT)
    if end == "destination":
        works(place.server(FILE, "keyring_aws"))
    fails(place.server(*ends), f"Failed to initialize {end} keyring")
    place.configure()
    if end == "destination":
        works(place.server(*ends))
        assert place.in_ours() == place.in_file()


# ---- what cannot be carried ---------------------------------------------------------------------

WRONG = [("SECRET", 4097, "it has to have 1 to 4096 bytes, and has 4097"),
         ("SECRET", 16384, "it has to have 1 to 4096 bytes, and has 16384"),
         ("AES", 20, "an AES key has to have 16, 24 or 32 bytes, and it has 20"),
         ("Blowfish", 16, "its type has to be AES, SECRET, RSA or DSA, and is 'Blowfish'")]


def with_one_more(kind: str, size: int) -> tuple[Keys, Keys]:
    good = some_keys(12)
    return good, {**good, ("the odd one", "bob@%"): (kind, bytes(size))}


@pytest.mark.parametrize("kind, size, why", WRONG)
def test_mysql_migrate_keyring_ends_at_a_key_that_kms_cannot_take(place, kind, size, why):
    """The keys that came before stay, whole; a second run without the odd one brings the rest."""
    good, all_of_them = with_one_more(kind, size)
    place.put(all_of_them)
    fails(place.tool(FILE, COMPONENT), f"cannot store key 'the odd one' of 'bob@%': {why}",
          "Failed to write data pointed by data_id: the odd one, auth_id: bob@%")
    part = place.in_ours()
    assert part.items() <= good.items()
    place.put(good)
    place.kms.reset_log()
    works(place.tool(FILE, COMPONENT))
    assert place.in_ours() == good
    assert place.kms.count("Encrypt") == len(good) - len(part)


@pytest.mark.parametrize("kind, size, why", WRONG)
def test_a_server_takes_all_back_at_a_key_that_kms_cannot_take(place, kind, size, why):
    good, all_of_them = with_one_more(kind, size)
    place.put(all_of_them)
    fails(place.server(FILE, "keyring_aws"), f"cannot store key 'the odd one' of 'bob@%': {why}",
          "Keyring migration failed")
    assert place.in_ours(place.other) == {}
    place.put(good)
    works(place.server(FILE, "keyring_aws"))
    assert place.in_ours(place.other) == good


def test_no_key_is_taken_for_another_of_its_name(place):
    """A second run finds the same keys there: good. Other bytes, or another type: it ends."""
    keys = place.put({("a key", "bob@%"): ("SECRET", b"first")})
    works(place.tool(FILE, COMPONENT))
    works(place.tool(FILE, COMPONENT))
    for kind, key in (("SECRET", b"other"), ("RSA", b"first"), ("SECRET", b"firs"),
                      ("SECRET", b"first\0")):
        place.put({("a key", "bob@%"): (kind, key)})
        fails(place.tool(FILE, COMPONENT),
              "cannot store key 'a key' of 'bob@%': the key 'a key' is already there")
        assert place.in_ours() == keys


def test_a_server_does_not_take_back_what_was_there_before(place):
    """So to a server a key that is there is always an error."""
    keys = place.put({("a key", "bob@%"): ("SECRET", b"first")})
    for _ in range(2):
        run = place.server(FILE, "keyring_aws")
    fails(run, "the key 'a key' is already there")
    assert place.in_ours(place.other) == keys
    works(place.server("keyring_aws", COMPONENT))
    fails(place.server("keyring_aws", COMPONENT), "the key 'a key' is already there")
    assert place.in_ours() == keys


# ---- KMS goes away ------------------------------------------------------------------------------

def away(place: Place, action: str, after: int) -> None:
    place.kms.fault(action, "error", times=0, after=after, type="KMSInternalException")


def back(place: Place) -> None:
    place.kms.clear_faults()
    place.kms.reset_log()


def test_kms_goes_away_from_mysql_migrate_keyring_as_it_writes(hasty):
    keys = hasty.put(some_keys(12))
    away(hasty, "Encrypt", 5)
    fails(hasty.tool(FILE, COMPONENT), "refused Encrypt (KMSInternalException", "cannot store key",
          "into destination keyring")
    part = hasty.in_ours()
    assert len(part) == 5 and part.items() <= keys.items()
    back(hasty)
    works(hasty.tool(FILE, COMPONENT))
    assert hasty.in_ours() == keys and hasty.kms.count("Encrypt") == 7


def test_kms_goes_away_from_mysql_migrate_keyring_as_it_reads(hasty):
    """component_keyring_file takes no key twice: a second run needs an empty one."""
    keys = hasty.put(some_keys(12))
    works(hasty.tool(FILE, COMPONENT))
    hasty.file.unlink()
    away(hasty, "Decrypt", 5)
    run = fails(hasty.tool(COMPONENT, FILE), "refused Decrypt (KMSInternalException",
                "cannot fetch key")
    assert "innodb_force_recovery" not in run.text      # advice for servers
    part = hasty.in_file()
    assert len(part) == 5 and part.items() <= keys.items()
    back(hasty)
    fails(hasty.tool(COMPONENT, FILE), "Failed to write data")
    hasty.file.unlink()
    works(hasty.tool(COMPONENT, FILE))
    assert hasty.in_file() == keys


@pytest.mark.parametrize("source, destination", [(FILE, "keyring_aws"), ("keyring_aws", FILE),
                                                 ("keyring_aws", COMPONENT),
                                                 (COMPONENT, "keyring_aws")])
def test_kms_goes_away_from_a_server(hasty, source, destination):
    """It takes back what it has stored, so a second run finds nothing in its way."""
    keys = hasty.put(some_keys(12))
    if source == "keyring_aws":
        works(hasty.server(FILE, source))
    elif source == COMPONENT:
        works(hasty.tool(FILE, source))
    if source != FILE:
        hasty.file.unlink()

    def there() -> Keys:
        return {FILE: hasty.in_file, COMPONENT: hasty.in_ours,
                "keyring_aws": lambda: hasty.in_ours(hasty.other)}[destination]()

    away(hasty, "Encrypt" if source == FILE else "Decrypt", 6)
    fails(hasty.server(source, destination), "(KMSInternalException", "Keyring migration failed")
    assert there() == {}
    back(hasty)
    works(hasty.server(source, destination))
    assert there() == keys


# ---- files --------------------------------------------------------------------------------------

def test_a_source_whose_data_file_is_missing_is_refused(place):
    """It is not taken for a keyring without keys; and no file is made in its place."""
    fails(place.server("keyring_aws", COMPONENT), f"there is no data file {place.other}, and none"
          " is made (read_only)")
    assert not place.other.exists()
    why = f"there is no data file {place.data} to migrate keys from: put it back, or set data_file"
    fails(place.tool(COMPONENT, FILE), f"cannot list the keys: {why}")
    fails(place.server(COMPONENT, "keyring_aws"), f"cannot list the keys: {why}")
    assert not place.data.parent.exists()


def test_a_source_without_keys_is_no_error(place):
    place.put({})
    works(place.tool(FILE, COMPONENT))
    assert not place.data.exists()
    works(place.server(FILE, "keyring_aws"))
    assert place.in_ours(place.other) == {}
    run = works(place.server("keyring_aws", FILE))
    assert "does not have any keys" in run.text


def test_a_destination_that_may_not_be_made_is_refused(place):
    place.put(some_keys(2))
    place.configure(create=False)
    fails(place.tool(FILE, COMPONENT), f"there is no data file {place.data}")
    assert not place.data.exists()
    place.configure()
    works(place.tool(FILE, COMPONENT))
    place.configure(create=False)
    place.put(some_keys(3))
    works(place.tool(FILE, COMPONENT))
    assert place.in_ours() == some_keys(3)


def test_a_relative_data_file_counts_from_the_folder_that_is_given(place):
    """Neither program has a data folder, unless mysql_migrate_keyring is told one."""
    keys = place.put(some_keys(2))
    place.configure(data_file="keys")
    why = ("component_keyring_aws.cnf: data_file is a relative path, and this program has no data"
           " folder: write the full path. Correct that, and migrate again")
    fails(place.tool(FILE, COMPONENT), why)
    fails(place.tool(COMPONENT, FILE), why)
    fails(place.server("keyring_aws", COMPONENT), "there is no data file")
    works(place.server(FILE, "keyring_aws"))
    fails(place.server("keyring_aws", COMPONENT), why)
    folder = place.db.folder / "instance"
    folder.mkdir()
    works(place.tool(FILE, COMPONENT, f"--destination-keyring-configuration-dir={folder}"))
    assert place.in_ours(folder / "keys") == keys
    place.file.unlink()
    works(place.tool(COMPONENT, FILE, f"--source-keyring-configuration-dir={folder}"))
    assert place.in_file() == keys


def test_settings_may_be_in_the_folder_that_is_given(place):
    keys = place.put(some_keys(2))
    folder = place.db.folder / "instance"
    folder.mkdir()
    settings = place.db.plugin_dir / f"{COMPONENT}.cnf"
    (folder / settings.name).write_bytes(settings.read_bytes())
    settings.write_text('{"read_local_config": true}')
    works(place.tool(FILE, COMPONENT, f"--destination-keyring-configuration-dir={folder}"))
    assert place.in_ours() == keys


def test_the_key_of_persisted_variables_is_carried_on_the_same_connection(place):
    """A server reads it before it forks, and then ends the connection; a migration does not."""
    keys = place.put({**some_keys(20), ("persisted_variables_key", ""): ("AES", bytes(32)),
                      ("INNODBKey-1", ""): ("AES", bytes(32))})
    works(place.tool(FILE, COMPONENT))
    place.file.unlink()
    place.kms.reset_log()
    run = works(place.tool(COMPONENT, FILE))
    assert place.in_file() == keys
    assert asked(place) == (1, 0, 22, 0) and opened(run) == 1
    assert not re.search(r"\[KAWS-31[012]\]", run.text)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_root_is_told_whose_keys_they_are(place):
    """What root would write, the server's account could not read: sudo -u mysql."""
    place.put(some_keys(2))
    works(place.tool(FILE, COMPONENT))
    place.file.unlink()
    for path in (place.db.scratch, *place.db.scratch.rglob("*")):
        os.chown(path, 12345, 12345, follow_symlinks=False)
    why = f"the data file {place.data} belongs to another user than the one this process runs as"
    fails(place.tool(COMPONENT, FILE), why)
    assert place.in_file() == {}
