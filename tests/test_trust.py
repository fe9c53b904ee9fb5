"""Whom a ring trusts if others write its conf file or its data file; and what it cannot notice.

The tests use the library by tests/hosts/driver.c, and the KMS emulator over TLS, with two accounts.
"""

import hashlib
import re
import struct
from pathlib import Path
from typing import NamedTuple

import pytest

from conftest import write_conf
from demo import read_data_file
from kms_emulator import ACCESS_KEY_ID, ACCOUNT, ALIAS, KEY_ARN, KEY_ID, OTHER_ACCOUNT, SECRET

# ---- whom a ring trusts --------------------------------------------------------------------------


class Theirs(NamedTuple):
    """Another account: credentials of it, and a KMS key with an alias of the usual name."""
    user: str
    secret: str
    arn: str

    @property
    def alias_arn(self) -> str:
        return f"{self.arn.rpartition(':')[0]}:{ALIAS}"


@pytest.fixture
def theirs(emulator) -> Theirs:
    arn = emulator.add_key("us-east-1", OTHER_ACCOUNT, alias=ALIAS)
    emulator.add_user("AKIDTHEIRS", "their/" + SECRET, OTHER_ACCOUNT)
    return Theirs("AKIDTHEIRS", "their/" + SECRET, arn)


def asked(emulator, lib, *command) -> list:
    """The results of a command, and what KMS was asked for meanwhile."""
    before = len(emulator.log()["requests"])
    results = lib.ok(*command)
    return [results, [(each["action"], each["body"]["KeyId"])
                      for each in emulator.log()["requests"][before:]]]


@pytest.mark.parametrize("how", ["opened", "renewed", "known"])
def test_the_conf_file_cannot_move_trust(driver, emulator, settings, conf, theirs, how):
    """Anyone who writes it may name credentials of his account, which has an alias of that name.
    Nothing is sealed for him: not by a ring that is opened with it, nor by one that is open, be
    the account known already or not."""
    ring = {"kms_key_id": ALIAS}
    lib = driver(**ring)
    lib.ok("generate", "a", None, "AES", 32)
    key = lib.fetch("a")
    lib.close()
    lib = driver(**ring)
    if how == "known":
        lib.ok("check")
    write_conf(conf, theirs.user, theirs.secret)
    if how == "opened":
        lib.close()
        lib = driver(**ring)
    else:
        lib.ok("reload_creds")
    before, sent = settings["data_file"].read_bytes(), emulator.count()
    for command in (("check",), ("generate", "b", None, "AES", 32),
                    ("store", "b", None, "SECRET", b"theirs"), ("rewrap",), ("rotate",),
                    ("use_kms_key", ALIAS), ("use_region", "us-east-1"),
                    ("try", ALIAS, "us-east-1"), ("use", ALIAS, "us-east-1"),
                    ("kms_generate", 32, 1), ("kms_encrypt", b"x")):
        answer = lib.call(*command)
        assert answer.status == "FOREIGN", (command, answer)
        assert theirs.arn in answer.text and f"(aws {ACCOUNT})" in answer.text
    assert lib.call("use_kms_key", theirs.arn).status == "FOREIGN"
    assert lib.call("fetch", "a", None).status in ("FOREIGN", "DENIED")
    assert settings["data_file"].read_bytes() == before
    assert {each["action"] for each in emulator.log()["requests"][sent:]} <= {
        "GenerateDataKeyWithoutPlaintext", "GenerateDataKey", "Encrypt", "Decrypt"}
    write_conf(conf, ACCESS_KEY_ID, SECRET)
    lib.ok("reload_creds")
    assert lib.fetch("a") == key
    lib.ok("check")
    assert not lib.said("444455556666")
    lib.close()


def test_moving_to_another_account(driver, emulator, conf, theirs):
    """What the sentence says to do: list the accounts, or name the KMS key by its ARN."""
    emulator.set_key(KEY_ARN, shared_with=(OTHER_ACCOUNT,))
    lib = driver(kms_key_id=ALIAS)
    lib.ok("generate", "a", None, "AES", 32)
    key = lib.fetch("a")
    lib.close()
    write_conf(conf, theirs.user, theirs.secret)
    answer = driver(kms_key_id=ALIAS).call("check")
    assert answer.status == "FOREIGN" and answer.http == 0
    assert ("if you trust that account, name the KMS key by its ARN, or add it to the list of"
            " accounts" in answer.text)

    lib = driver(kms_key_id=theirs.arn)                 # new keys are sealed; old ones want more
    lib.ok("generate", "b", None, "AES", 32)
    assert lib.call("fetch", "a", None).status == "FOREIGN"
    lib.close()
    lib = driver(kms_key_id=ALIAS, accounts=f"{ACCOUNT},{OTHER_ACCOUNT}")
    assert lib.fetch("a") == key
    lib.ok("rewrap")
    assert {each.arn for each in lib.walk()} == {theirs.arn}
    lib.close()
    lib = driver(kms_key_id=ALIAS)                      # all keys are of the new account
    lib.ok("check")
    assert lib.fetch("a") == key
    lib.close()


@pytest.mark.parametrize("named", ["arn", "alias_arn"])
def test_a_kms_key_of_another_account(driver, emulator, theirs, named):
    """It allows our credentials, and the settings name it by its ARN, or by its alias's ARN."""
    emulator.set_key(theirs.arn, shared_with=(ACCOUNT,))
    for life in range(2):
        lib = driver(kms_key_id=getattr(theirs, named))
        lib.ok("check")
        lib.ok("generate", f"k{life}", None, "AES", 32)
        assert len({lib.fetch(each.key_id) for each in lib.walk()}) == life + 1
        assert {each.arn for each in lib.walk()} == {theirs.arn}
        assert not lib.said("is trusted from here on")
        lib.close()
    assert driver(kms_key_id=ALIAS).call("check").status == "FOREIGN"


def test_new_credentials_of_the_same_account(driver, emulator, conf, settings):
    """They work while the ring is open, and when it is opened, without a change of settings."""
    lib = driver(kms_key_id=ALIAS)
    lib.ok("generate", "a", None, "AES", 32)
    assert len(lib.said(f"is trusted from here on, {ACCOUNT} ", 2)) == 1
    key = lib.fetch("a")
    for number in range(3):
        emulator.add_user(f"AKIDNEW{number}", "new/" + SECRET, ACCOUNT)
        write_conf(conf, f"AKIDNEW{number}", "new/" + SECRET)
        lib.ok("reload_creds")
        assert lib.fetch("a") == key
        lib.ok("generate", f"k{number}", None, "AES", 32)
        lib.close()
        lib = driver(kms_key_id=ALIAS)
        lib.ok("check")
        assert not lib.said("is trusted from here on")


@pytest.mark.parametrize("kms_key, accounts", [
    (KEY_ARN, None), (ALIAS, None), (KEY_ID, None), (ALIAS, ACCOUNT), (None, ACCOUNT),
    (None, None)])
def test_a_fetch_is_one_request(driver, emulator, conf, kms_key, accounts):
    """And needs no right but kms:Decrypt, however the settings say whom to trust."""
    lib = driver()
    lib.ok("generate", "a", None, "AES", 32)
    key, sealed = lib.fetch("a"), lib.ok("kms_encrypt", b"x")
    lib.close()
    emulator.add_user("AKIDREADER", SECRET, ACCOUNT,
                      denied=["GenerateDataKeyWithoutPlaintext", "Encrypt", "GenerateDataKey"])
    write_conf(conf, "AKIDREADER", SECRET)
    ring = {"kms_key_id": kms_key, "accounts": accounts}
    first = [("Decrypt", kms_key if kms_key and not accounts else KEY_ARN)]
    for command in (("fetch", "a", None), ("kms_decrypt", *sealed[:2], 5)):
        lib = driver(**ring)
        assert asked(emulator, lib, *command)[1] == first
        (_, plain, *_), requests = asked(emulator, lib, "fetch", "a", None)
        assert (plain, requests) == (key, [("Decrypt", KEY_ARN)])
        lib.close()


def test_a_fetch_after_the_alias_moved(driver, emulator):
    """The first fetch asks whose the alias is. KMS is not asked that again."""
    lib = driver(kms_key_id=ALIAS)
    lib.ok("generate", "a", None, "AES", 32)
    key, other = lib.fetch("a"), emulator.add_key("us-east-1", ACCOUNT, alias=ALIAS)
    lib.close()
    lib = driver(kms_key_id=ALIAS)
    (_, plain, *_), requests = asked(emulator, lib, "fetch", "a", None)
    assert plain == key and requests == [
        ("Decrypt", ALIAS), ("GenerateDataKeyWithoutPlaintext", ALIAS), ("Decrypt", KEY_ARN)]
    assert asked(emulator, lib, "fetch", "a", None)[1] == [("Decrypt", KEY_ARN)]
    lib.ok("rewrap")
    lib.close()
    lib = driver(kms_key_id=ALIAS)
    assert lib.walk()[0].arn == other
    assert asked(emulator, lib, "fetch", "a", None)[1] == [("Decrypt", ALIAS)]
    lib.close()


def test_planted_entries(driver, emulator, theirs):
    """Anyone who writes the data file may write entries of his KMS key, which lets us in: no
    request names it, and its keys are not given out."""
    emulator.set_key(theirs.arn, shared_with=(ACCOUNT,))
    lib = driver(kms_key_id=theirs.arn)
    lib.ok("store", "planted", None, "SECRET", b"theirs")
    lib.close()
    lib = driver()
    lib.ok("generate", "ours", None, "AES", 32)
    lib.close()
    emulator.reset_log()
    lib = driver(kms_key_id=ALIAS)
    for _ in range(2):
        assert lib.call("fetch", "planted", None).status == "FOREIGN"
        assert lib.call("use_kms_key", theirs.arn).status == "FOREIGN"
        assert len(lib.fetch("ours")) == 32
    assert theirs.arn not in str([each["body"] for each in emulator.log()["requests"]])
    lib.close()


# ---- what nobody can prove -----------------------------------------------------------------------


def forge(data: Path, records: list) -> None:
    """Writes the file again with these records: its digests need no secret."""
    start = data.read_bytes()[:32]
    running = hashlib.sha256(start + bytes(16))
    body = digest = running.digest()
    for record in records:
        running.update(digest + record)
        digest = running.digest()
        body += record + digest
    length = struct.pack("<Q", 48 + len(body))
    data.write_bytes(start + length + hashlib.sha256(start[16:] + length).digest()[:8] + body)


def records_of(data: Path) -> list:
    """The bytes of each record of a file."""
    content, at, found = data.read_bytes(), 80, []
    while at < len(content):
        size, = struct.unpack_from("<I", content, at)
        found.append(content[at:at + size])
        at += size + 32
    return found


def test_single_keys_can_be_brought_back(driver, emulator, settings):
    """As README says: anyone who writes the data file, and has an older copy, can bring back one
    key that was removed, and one as it was before a re-wrap, beside all that came since.  The
    note of the opening shows it, and nothing else does."""
    data = settings["data_file"]
    lib = driver()
    for name in ("a", "b"):
        lib.ok("store", name, None, "SECRET", name.encode())
    lib.close()
    old_a, old_b = records_of(data)
    lib = driver()
    lib.ok("remove", "b", None)
    lib.ok("use_kms_key", emulator.add_key("us-east-1", ACCOUNT))
    lib.ok("rewrap")
    lib.ok("store", "c", None, "SECRET", b"c")
    last = lib.said("added a key to .*: 2 keys, checksum begins with")[-1]
    lib.close()
    new_a, new_c = records_of(data)
    assert old_a != new_a

    forge(data, [old_a, old_b, new_c])
    read_data_file(data)
    lib = driver()
    assert {each.key_id.decode(): lib.fetch(each.key_id) for each in lib.walk()} == {
        name: name.encode() for name in ("a", "b", "c")}
    (note,) = lib.said("opened .*: 3 keys, checksum begins with", 2)
    assert note.split()[-1] != last.split()[-1] and not lib.said(".", 1)
    lib.close()

    forge(data, [new_a, new_c])                         # and that would be the file again
    lib = driver()
    (opened,) = lib.said("opened .*: 2 keys, checksum begins with", 2)
    assert re.search(r"begins with (\w+)", opened)[1] == last.split()[-1]
    lib.close()
