"""Two real servers share one data file, and each reaches it by a name of its own.

Two names have two lock files.  So the lock on the data file itself makes the servers take turns,
and each reads in the keys that the other has added.  Nothing is refused, no key is lost, and no
table stays closed.
"""

import ctypes
import os
import subprocess

import pytest

from mysql_fixtures import LONG, NO_SCHEMA, Client, Stage
from patience import calm

ROUNDS = 60 if LONG else 12
CLONE_NEWNS = 0x00020000


class Worker(Client):
    """Makes keys, master keys and encrypted tables."""

    def __init__(self, stage: Stage, name: str) -> None:
        super().__init__(stage, name, ROUNDS)
        self.keys: dict[str, str] = {}

    def step(self, name: str) -> None:
        assert self.one(f"SELECT keyring_key_generate('{name}', 'AES', 32)") == 1
        self.session.execute("ALTER INSTANCE ROTATE INNODB MASTER KEY")
        self.session.execute(f"CREATE TABLE d.{name} (n INT PRIMARY KEY) ENCRYPTION = 'Y'")
        self.session.execute(f"INSERT INTO d.{name} VALUES (42)")
        self.keys[name] = self.one(f"SELECT HEX(keyring_key_fetch('{name}'))")

    def check(self, other: Stage) -> None:
        assert not self.surprises, self.surprises
        assert len(self.keys) == ROUNDS
        for name, key in self.keys.items():
            assert self.stage.fetch(name) == other.fetch(name) == bytes.fromhex(key), name
            assert self.stage.one(f"SELECT n FROM d.{name}") == 42


def own_mounts() -> None:
    """What this process mounts is seen by it and its children only."""
    if ctypes.CDLL(None).unshare(CLONE_NEWNS) != 0:
        pytest.skip("no mount namespace of our own")
    subprocess.run(["mount", "--make-rprivate", "/"], check=True)


def give_second_name(how: str, stage: Stage, other: Stage) -> None:
    folder, owner = other.data.parent, stage.data.stat()
    folder.mkdir()
    if how == "link":
        os.link(stage.data, other.data)
    else:
        other.data.touch()
        own_mounts()
        subprocess.run(["mount", "--bind", stage.data, other.data], check=True)
    os.chown(folder, owner.st_uid, owner.st_gid)


@pytest.mark.parametrize("how", ["link", "mount"])
def test_two_servers_with_a_name_each(how):
    with Stage() as stage:
        stage.start(NO_SCHEMA)
        stage.install_functions()
        with Stage(endpoint=stage.kms.url) as other:
            give_second_name(how, stage, other)
            try:
                play(how, stage, other)
            finally:
                other.db.stop()
                if how == "mount":
                    subprocess.run(["umount", other.data], check=True)


def play(how: str, stage: Stage, other: Stage) -> None:
    other.start(NO_SCHEMA)
    other.install_functions()
    warnings = "\n".join(other.said("Warning"))
    assert "in use by another process, too, by another name" in warnings
    assert ("has 2 names (hard links)" if how == "link" else "is a mount point") in warnings
    clients = [Worker(stage, "first"), Worker(other, "second")]
    for client in clients:
        client.stage.sql("CREATE DATABASE d")
    for client in clients:
        client.start()
    for client in clients:
        client.join()
    calm(not [line for client in clients for line in client.stage.said("ERROR")
              if "another process has been changing the data file" in line],
         "one server kept the other waiting for 2 s")
    for client, another in zip(clients, reversed(clients)):
        assert not client.surprises, client.surprises
        assert client.stage.fetch(f"{another.stem}_{ROUNDS - 1}")       # if it came too late to see
        assert "another process has added" in "\n".join(client.stage.said("Note"))
        client.stage.restart(NO_SCHEMA)
    for client, another in zip(clients, reversed(clients)):
        client.check(another.stage)
    assert not [line for client in clients for line in client.stage.said("ERROR")
                if "damaged" in line]
    check_removal(how, stage, other)


def check_removal(how: str, stage: Stage, other: Stage) -> None:
    """Two hard links refuse it on either side.  A mounted file can be replaced behind the mount:
    who has that name is told so, and is promised nothing more."""
    stage.mark()
    other.mark()
    assert stage.generate("last") == 1 and other.generate("more") == 1
    if how == "link":
        assert stage.remove("last") is None
        assert "has 2 names (hard links)" in "\n".join(stage.said("ERROR"))
        assert stage.fetch("last") == stage.plain("last")
        return
    assert stage.remove("last") == 1
    assert other.generate("refused") is None and other.remove("second_0") is None
    assert "it was replaced under another name" in "\n".join(other.said("ERROR"))
