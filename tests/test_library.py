"""The C library end to end: every public function, real libcurl, TLS, the KMS emulator.

story() goes once through a keyring's whole life; test_moto.py runs it with another KMS.
"""

import fcntl
import hashlib
import os
import re
import resource
import shutil
import socket
import struct
import subprocess
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path

import pytest

from conftest import fill, tear, write_conf
from driver import Driver, build_c
from kms_emulator import (ACCESS_KEY_ID, ACCOUNT, ALIAS, KEY_ARN, KEY_ID, MULTI_REGION_ID,
                          OTHER_ACCOUNT, SECRET, Emulator, Reply, tls_context, to_json)
from patience import in_time

DRIVER_C = Path(__file__).parent / "hosts" / "driver.c"
EU = "eu-west-1"
HOUR = 3600


# ---- the story -----------------------------------------------------------------------------------


def story(lib: Driver, restart, other_arn: str, far_arn: str, data) -> None:
    """A keyring's life; other_arn is another KMS key there, far_arn one of another region."""
    lib.ok("check")
    lib.ok("generate", "MyKey", None, "AES", 32)
    lib.ok("generate", "MyKey", "app@%", "AES", 16)
    secret = bytes(range(256)) * 16
    lib.ok("store", "Stored", "app@%", "SECRET", secret)
    mine, theirs = lib.fetch("MyKey"), lib.fetch("MyKey", "app@%")
    assert (len(mine), len(theirs)) == (32, 16) and theirs not in mine
    assert lib.fetch("Stored", "app@%") == secret
    assert lib.ok("fetch", "MyKey", "")[:2] == [b"AES", mine]     # "" and NULL: the same owner
    before = data.read_bytes()
    for command in (("generate", "MyKey", "", "AES", 32), ("store", "MyKey", None, "AES", b"x")):
        assert lib.call(*command).status == "EXISTS"
    for command in ("fetch", "remove"):
        answer = lib.call(command, "Nobody", None)
        assert (answer.status, answer.http) == ("NOT_FOUND", 0) and "'Nobody'" in answer.text
    assert data.read_bytes() == before

    names = [(b"MyKey", b"", "AES", 32), (b"MyKey", b"app@%", "AES", 16),
             (b"Stored", b"app@%", "SECRET", 4096)]
    assert [entry[:4] for entry in lib.walk()] == names
    assert all(abs(entry.created - time.time()) < 60 for entry in lib.walk())
    home_arn = lib.walk()[0].arn

    def same_keys(who: Driver) -> None:
        assert [entry[:4] for entry in who.walk()] == names
        assert (who.fetch("MyKey"), who.fetch("MyKey", "app@%")) == (mine, theirs)
        assert who.fetch("Stored", "app@%") == secret

    for arn in (other_arn, far_arn, home_arn):      # near, far, and back home
        lib.ok("use_kms_key", arn)
        same_keys(lib)
        lib.ok("rewrap")
        assert {entry.arn for entry in lib.walk()} == {arn}
        same_keys(lib)
    lib.ok("rotate")
    lib.ok("rewrap")
    same_keys(lib)
    lib.ok("remove", "MyKey", "app@%")
    assert lib.call("fetch", "MyKey", "app@%").status == "NOT_FOUND"
    stats, whole = lib.stats(), data.read_bytes()
    assert stats["keys"] == 2 and stats["checksum"] == whole[-32:]
    assert secret[:16] not in whole and mine not in whole
    lib.close()
    lib = restart()
    assert data.read_bytes() == whole and lib.stats()["checksum"] == whole[-32:]
    del names[1]
    assert [entry[:4] for entry in lib.walk()] == names
    assert lib.fetch("MyKey") == mine and lib.fetch("Stored", "app@%") == secret
    assert [line for level, line in lib.logs if level < 2] == []
    lib.close()


def test_story(driver, emulator, settings):
    other = emulator.add_key("us-east-1", ACCOUNT)
    far = emulator.add_key(EU, ACCOUNT)
    story(driver(), driver, other, far, settings["data_file"])
    log = emulator.log()
    assert {each["signed"] for each in log["requests"]} == {"OK"}
    assert {each["region"] for each in log["requests"]} == {"us-east-1", EU}
    assert emulator.count("RotateKeyOnDemand") == 1 and emulator.count("GenerateDataKey") == 0


def test_every_public_function_has_a_command():
    """The driver calls all that the header declares."""
    header = (build_c("driver.c").parents[2] / "keyring_aws.h").read_text()
    part_two = header[header.index("PART II  "):header.index("PART III  ")]
    names = set(re.findall(r"KAWS_API\s[\w\s*]*?\b(kaws_\w+)\s*\(", part_two))
    driver_c = DRIVER_C.read_text()
    assert len(names) >= 26
    assert {name for name in names if not re.search(rf"\b{name}\(", driver_c)} == set()


class Squeezed(Driver):
    """Each call is made on a thread of its own, with the stack that the manual asks for."""

    def __init__(self, program, stack: int):
        super().__init__(program, {"KAWS_STACK": str(stack)})
        self.done = set()

    def call(self, command: str, *words, timeout: float = 120):
        self.done.add(command)
        return self.begin(command, *words).result(timeout)


@pytest.mark.parametrize("level", ["-Os", "-O0"])
def test_a_thread_needs_no_more_stack_than_the_manual_says(emulator, settings, tmp_path, level):
    tests = Path(__file__).parent
    said = re.search(r"needs (\d+) KiB[\s*]+of stack", (tests.parent / "keyring_aws.h").read_text())
    subprocess.run(["cc", "-std=c99", level, "-o", tmp_path / "driver", DRIVER_C,
                    "-l:libbearssl.a", "-lcurl", "-lpthread", "-ldl"], check=True)
    done = set()

    def opened(**changes) -> Driver:
        lib = Squeezed(tmp_path / "driver", int(said[1]) * 1024)
        lib.done = done
        assert lib.open(**{**settings, **changes}).status == "OK"
        return lib

    other, far = (emulator.add_key(region, ACCOUNT) for region in ("us-east-1", EU))
    story(opened(), opened, other, far, settings["data_file"])
    lib = opened()
    blob, arn, _, _ = lib.ok("kms_generate", 1024, 1)
    lib.ok("kms_decrypt", blob, arn, 4096)
    blob, arn, material = lib.ok("kms_encrypt", b"x" * 4096)
    lib.ok("sealed_unpack", *lib.ok("sealed_pack", blob, arn, material))
    lib.ok("kms_reencrypt", blob, "")
    lib.ok("use_kms_key", far)
    lib.ok("kms_reencrypt", blob, arn)
    lib.ok("use_kms_key", ALIAS)
    lib.ok("use_region", "us-east-1")
    lib.ok("try", far, EU)
    lib.ok("could_use", far, EU)
    lib.ok("use", KEY_ARN, EU)
    lib.ok("use", ALIAS, "us-east-1")
    emulator.fault("*", "error", times=1, type="InternalFailure", status=500)
    lib.ok("reload_creds")
    lib.ok("check")
    theirs = opened()
    theirs.ok("generate", "theirs", None, "AES", 32)
    assert len(lib.fetch("theirs")) == 32               # which has to read the file again
    theirs.ok("remove", "theirs", None)
    lib.ok("refresh")
    theirs.ok("close")
    theirs.close()
    lib.ok("whoami")
    conf = settings["conf_file"]
    good = conf.read_bytes()
    conf.write_text("half of it\n")     # what takes most: a line about it in the midst of a call
    emulator.fault("*", "error", times=1, type="ExpiredTokenException")
    assert lib.call("check").status == "CREDENTIALS"
    conf.write_bytes(good)
    lib.ok("use_timeouts", 0, 0)
    lib.ok("later")
    lib.ok("use_cache", 60)
    lib.ok("generate", "kept", None, "AES", 32)
    assert lib.fetch("kept") == lib.fetch("kept")
    lib.ok("use_cache", 0)
    lib.ok("walk_begin")
    lib.ok("walk_next")
    lib.ok("walk_end")
    for expires in (0, 60):
        lib.ok("sign", "POST", "/", None, EU, "kms", b"{}", 1795482123, "AKID", "secret", "token",
               1, "UNSIGNED-PAYLOAD", 1, expires, "Host: h")
    lib.ok("texts")
    lib.ok("wipe", b"secret")
    lib.ok("show", "a name")
    assert lib.ok("reply_line", 'ETag: "1b2c"') == [b"", b'"1b2c"']
    lib.ok("close")
    lib.close()
    elsewhere(opened, settings, emulator)
    assert done == set(re.findall(r'^    (?:\{ "|X\()(\w+)"?, \d', DRIVER_C.read_text(), re.M))


def elsewhere(opened, settings: dict, emulator: Emulator) -> None:
    """What another region is asked takes more, and so does the error that tells of both."""
    arn = emulator.add_key("us-east-1", ACCOUNT, MULTI_REGION_ID)
    emulator.replicate(arn, EU)
    changes = {"data_file": f"{settings['data_file']}.2", "kms_key_id": arn, "cancellable": 1,
               "endpoint": "https://127.0.0.1:1", "failover_regions": f"{EU}={emulator.url}"}
    lib = opened(**changes)
    lib.ok("store", "far", None, "SECRET", b"x" * 4096)
    words = [f"{name}={value}" for name, value in {**settings, **changes}.items()]
    first, second, _ = map(int, lib.ok("child", "far", None, *words))
    assert first != 0 and second == 0
    emulator.set_key(arn.replace("us-east-1", EU), denied=["Decrypt"])
    answer = lib.call("fetch", "far", None)
    assert answer.status == "NETWORK" and f"{EU} could not answer in its place" in answer.text
    lib.ok("cancel", 1)
    assert lib.call("fetch", "far", None).status == "CANCELLED"
    lib.close()


def test_a_torn_end_on_a_full_volume(driver, small_volume):
    """The file opens, because no acknowledged key is missing. Changes fail until there is room."""
    data = small_volume / "keys"
    lib = driver(data_file=data)
    lib.ok("generate", "a", None, "AES", 32)
    key = lib.fetch("a")
    lib.close()
    torn, filler = tear(data), fill(small_volume)
    whole = data.read_bytes()
    for _ in range(2):                  # closing and opening again change nothing
        lib = driver(data_file=data)
        assert lib.fetch("a") == key and lib.said("No space left on device.*keys can be read", 1)
        for command in (("generate", "c", None, "AES", 32), ("remove", "a", None), ("rewrap",)):
            assert lib.call(*command).status == "FILE"
        lib.close()
        assert data.read_bytes() == whole and len(list(small_volume.iterdir())) == 3
    lib = driver(data_file=data)
    filler.unlink()
    data.chmod(0o400)                   # other times: the digest before the torn end decides
    data.chmod(0o600)
    lib.ok("generate", "c", None, "AES", 32)
    (aside,) = small_volume.glob("keys.torn-*")
    assert aside.read_bytes() == torn
    lib.close()
    lib = driver(data_file=data)
    assert [each.key_id for each in lib.walk()] == [b"a", b"c"]
    assert lib.fetch("a") == key and not lib.said("", 1)


# ---- files of absurd sizes -----------------------------------------------------------------------


TERABYTE = 1 << 40                      # on the disk, these files are holes
LARGE = (256 << 20) + 1                 # surveyed even without holes
END = "not entries, and too long for one that was cut off (a copy of the file up to there has"


def committed(whole: bytes, length: int) -> bytes:
    """The data file, with another committed length."""
    value = length.to_bytes(8, "little")
    return whole[:32] + value + hashlib.sha256(whole[16:32] + value).digest()[:8] + whole[48:]


@pytest.mark.parametrize("size", [TERABYTE, (1 << 20) + 1, 1 << 20])
@pytest.mark.parametrize("change, words", [
    (lambda whole, size: b"", "byte 0: it is not a data file"),
    (lambda whole, size: committed(whole, 80)[:80], f"byte 80: what follows is {END}"),
    (lambda whole, size: whole, f"byte {{len}}: what follows is {END}"),
    (lambda whole, size: committed(whole, size), "byte {len}: the entry there does not match"),
    (lambda whole, size: committed(whole, size + 1), "byte {size}: it ends there, but more was"),
    (lambda whole, size: whole + bytes.fromhex("ffffffff00000000"),
     f"byte {{len}}: what follows is {END}"),
    (lambda whole, size: b"\xff" + whole[1:], "byte 0: it is not a data file"),
], ids=["zeros", "header", "keys", "promise", "false promise", "huge entry", "magic"])
def test_a_data_file_of_a_terabyte(driver, driver_program, settings, change, words, size):
    """It is refused at once, and uses neither memory nor disk."""
    surveyed_and_refused(driver, driver_program, settings, change, words, size)


def test_a_large_data_file_without_holes(driver, driver_program, settings):
    """It is refused as well, although all its bytes exist."""
    surveyed_and_refused(driver, driver_program, settings, lambda whole, size: whole,
                    f"byte {{len}}: what follows is {END}", LARGE, full=True)


def surveyed_and_refused(driver, driver_program, settings, change, words, size, full=False):
    data = settings["data_file"]
    lib = driver()
    for name in "abc":
        lib.ok("generate", name, None, "AES", 32)
    lib.close()
    whole = data.read_bytes()
    data.write_bytes(change(whole, size))
    if full:
        with data.open("r+b") as f:
            os.posix_fallocate(f.fileno(), 0, size)
        assert data.stat().st_blocks * 512 >= size
    os.truncate(data, size)
    before = data.stat().st_mtime_ns, data.stat().st_size, data.stat().st_blocks
    with Driver(driver_program) as lib:
        pid = lib.process.pid
        used = int(Path(f"/proc/{pid}/statm").read_text().split()[0]) * 4096
        resource.prlimit(pid, resource.RLIMIT_AS, (used + (200 << 20), -1))
        answer = lib.open(**settings)
        peak = re.search(r"VmHWM:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())
    assert answer.status == "CORRUPT" and "nothing was changed" in answer.text
    assert words.format(len=len(whole), size=size) in answer.text
    assert int(peak[1]) < 30000
    in_time(answer.ms, 200)
    assert (data.stat().st_mtime_ns, data.stat().st_size, data.stat().st_blocks) == before
    assert len(list(data.parent.iterdir())) == 2
    if END in answer.text:              # its advice helps
        os.truncate(data, int(re.search(r"byte (\d+)", answer.text)[1]))
        assert driver().stats()["keys"] == (0 if data.stat().st_size == 80 else 3)


def test_a_large_data_file(driver, driver_program, settings):
    """A file that is checked before memory is allocated opens, whole or with a torn end."""
    data, count = settings["data_file"], 50000
    lib = driver()
    lib.ok("generate", "key 00000", None, "AES", 32)
    lib.close()
    whole = data.read_bytes()
    record, digest = whole[80:-32], hashlib.sha256(whole[:32] + bytes(16))
    parts = [committed(whole, len(whole))[:80]]
    digest.update(digest.digest())
    for n in range(count):
        parts.append(record[:32] + b"key %05d" % n + record[41:])
        digest.update(parts[-1])
        parts.append(digest.digest())
        digest.update(parts[-1])
    whole, step = b"".join(parts), len(record) + 32
    assert len(whole) > 16 << 20
    for cut, keys in ((0, count), (40, count - 1), (step - 7, count - 1), (step, count - 1)):
        data.write_bytes(whole[:len(whole) - cut])
        lib = driver()
        assert lib.stats()["keys"] == keys and bool(lib.said("was cut off", 1)) == (cut % step > 0)
        lib.close()
    at = 80 + 30000 * step
    data.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1:])
    with Driver(driver_program) as lib:
        answer = lib.open(**settings)
        assert answer.status == "CORRUPT" and f"byte {at}: what follows is {END}" in answer.text


# ---- restart, second process, locks --------------------------------------------------------------


def test_a_path_is_taken_as_it_is_meant(driver, settings, tmp_path):
    """A second slash, "." and a slash at the end change nothing. The system follows ".."."""
    (tmp_path / "there" / "below").mkdir(parents=True)
    (tmp_path / "link").symlink_to("there/below")
    driver(data_file=f"{tmp_path}/link/..//./new///keys/", conf_file=f"{settings['conf_file']}/",
           ca_file=f"{tmp_path.root}/.{settings['ca_file']}").ok("check")
    assert sorted(each.name for each in (tmp_path / "there" / "new").iterdir()) == [
        "keys", "keys.lock"]


@pytest.fixture
def quick_folder(tmp_path):
    """A folder in memory if there is one, because a busy disk may sync only ten times a second."""
    memory = "/dev/shm"
    with tempfile.TemporaryDirectory(dir=memory if os.path.isdir(memory) else tmp_path) as folder:
        yield Path(folder)


def test_processes_that_add_keys_at_once(driver, settings, quick_folder):
    """Both add 200 keys as fast as they can, and neither is ever told to reopen the file."""
    settings["data_file"] = quick_folder / "data"
    rings = [driver(), driver()]
    names = sorted(f"{n}-{i}".encode() for n in range(200) for i in range(2))
    with ThreadPoolExecutor(2) as pool:
        done = [pool.submit(ring.many, [("generate", f"{n}-{i}", None, "AES", 16)
                                        for n in range(200)], 4) for i, ring in enumerate(rings)]
    assert {each.status for ring in done for each in ring.result()} == {"OK"}
    for ring in (*rings, driver(), driver(read_only=1)):
        ring.ok("refresh")
        assert sorted(each.key_id for each in ring.walk()) == names
    assert rings[0].ok("refresh") == [] and len(rings[1].fetch("199-0")) == 16


def test_processes_that_share_a_file(driver, emulator):
    """Two writers and a reader share a file, and none of them has to reopen it."""
    one, two, reader = driver(), driver(), driver(read_only=1, kms_key_id=None)
    one.ok("generate", "a", None, "AES", 32)
    key = one.fetch("a")
    assert two.fetch("a") == reader.fetch("a") == key
    assert two.call("generate", "a", None, "AES", 32).status == "EXISTS"
    one.ok("generate", "b", None, "AES", 32)
    assert reader.fetch("b") == one.fetch("b")
    two.ok("remove", "b", None)                               # which it sees at that moment
    asked = emulator.count("Decrypt")
    for ring in (one, reader):
        assert ring.call("fetch", "c", None).status == "CHANGED"
        assert ring.fetch("a") == key and len(ring.walk()) == 2
        ring.ok("refresh")
        assert ring.call("fetch", "b", None).status == "NOT_FOUND"
        assert re.search(": 1 key, .*; before, 2 keys,", ring.said("KAWS-147", 1)[0])
    assert emulator.count("Decrypt") == asked + 2
    two.ok("generate", "c", None, "AES", 32)
    one.ok("rewrap")
    two.ok("refresh")
    reader.ok("refresh")
    assert one.fetch("c") == two.fetch("c") == reader.fetch("c")
    assert [each.key_id for each in reader.walk()] == [b"a", b"c"]


def test_a_process_that_ends_between_write_and_sync(driver, settings):
    """The others go on with what it wrote, even if the file was cut in the middle."""
    one, two = driver(), driver()
    one.ok("generate", "a", None, "AES", 32)
    one.ok("generate", "b", None, "AES", 32)
    one.kill()
    whole = settings["data_file"].read_bytes()
    settings["data_file"].write_bytes(whole[:-9])
    two.ok("generate", "c", None, "AES", 32)
    assert two.said("was moved to", 1) and [each.key_id for each in two.walk()] == [b"a", b"c"]


def hold_change_lock(path):
    """Takes the lock that a change takes: an open file description's, on byte 1."""
    file = open(path, "r+b")
    fcntl.fcntl(file, 37, struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, 1, 1, 0))
    return file


def test_a_change_waits_for_the_lock_but_not_for_ever(driver, settings):
    lib, data = driver(), settings["data_file"]
    lib.ok("generate", "a", None, "AES", 32)
    before = data.read_bytes()
    held = hold_change_lock(f"{data}.lock")
    answer = lib.call("generate", "b", None, "AES", 32)
    assert answer.status == "LOCKED" and 1900 < answer.ms < 15000
    assert f"{data}.lock" in answer.text
    assert data.read_bytes() == before
    pending = lib.begin("generate", "b", None, "AES", 32)
    time.sleep(0.3)
    assert not pending.done()
    held.close()
    answer = pending.result(60)
    in_time(answer.ms, 1900, answer)
    assert answer.status == "OK"


@pytest.mark.parametrize("lock", [".lock", ""])
def test_no_fetch_waits_for_the_lock(driver, settings, lock):
    """Another process holds the lock for 5 s, and there is always a change that waits for it."""
    lib, waiting, fetched, began = driver(), [], 0, time.monotonic()
    lib.ok("generate", "a", None, "AES", 32)
    key = lib.fetch("a")
    with hold_change_lock(f"{settings['data_file']}{lock}"):
        while fetched < 1000 or time.monotonic() - began < 5 or len(waiting) < 2:
            assert time.monotonic() - began < 60, "a change waits for ever"
            if all(each.done() for each in waiting):
                waiting.append(lib.begin("generate", f"b{len(waiting)}", None, "AES", 32))
            answer = lib.call("fetch", "a", None)
            assert answer.status == "OK" and answer.results[1] == key
            in_time(answer.ms, 1000)
            fetched += 1
    answers = [each.result(60) for each in waiting]
    assert len(answers) > 1 and {each.status for each in answers[:-1]} == {"LOCKED"}


# ---- what protects the keys ----------------------------------------------------------------------


def test_rotation_renews_the_material(driver, emulator, settings):
    """After rotate and rewrap nothing needs the old material any more."""
    lib, materials = driver(), emulator.key(KEY_ARN).materials
    lib.ok("generate", "a", None, "AES", 32)
    key, old = lib.fetch("a"), materials.current_id
    emulator.set(rotation_ms=400)
    answer = lib.call("rotate")
    assert answer.status == "OK" and answer.ms > 300, "it has to wait until KMS is done"
    assert materials.current_id != old
    sealed = lib.ok("kms_encrypt", b"x")
    assert lib.ok("kms_generate", 1, 0)[2].decode() == materials.current_id != old
    assert lib.fetch("a") == key
    lib.ok("rewrap")
    assert not lib.said("nothing was renewed")
    del materials.secrets[old]
    assert lib.fetch("a") == key and lib.ok("kms_decrypt", *sealed[:2], 1) == [b"x"]
    lib.ok("rewrap")
    assert lib.said("nothing was renewed", 1)


def test_rotate_uses_a_connection_of_its_own(driver, emulator):
    lib = driver(kms_key_id=ALIAS)
    lib.ok("check")
    lib.ok("rotate")
    lib.ok("check")
    log = emulator.log()
    alone = [each for each in log["requests"] if each["action"] == "RotateKeyOnDemand"]
    assert len(alone) == 1 and alone[0]["body"] == {"KeyId": KEY_ARN}
    assert [each["connection"] for each in log["requests"]].count(alone[0]["connection"]) == 1
    assert log["connections"] == 2


def test_a_new_connection_resumes_the_old_one_s_session(driver, emulator):
    """The server closes idle connections. The next connection must need no full handshake."""
    lib = driver()
    lib.ok("check")
    for _ in range(3):
        emulator.cut()
        lib.ok("check")
    log = emulator.log()
    assert (log["connections"], log["resumed"], len(emulator.open)) == (4, 3, 1)


def test_rewrap_near_keeps_keys_in_kms(driver, emulator, settings):
    lib, other = driver(), emulator.add_key("us-east-1", ACCOUNT)
    keys = {}
    for n in range(5):
        lib.ok("generate", f"k{n}", "u" * n, "AES", 32)
        keys[n] = lib.fetch(f"k{n}", "u" * n)
    lib.ok("use_kms_key", other)
    emulator.reset_log()
    lib.ok("rewrap")
    assert emulator.count("ReEncrypt") == 5
    assert emulator.count("Decrypt") == 5                   # the proofs, dry runs
    assert emulator.count("GenerateDataKeyWithoutPlaintext") == 1
    assert emulator.count() == 11
    for each in emulator.log()["requests"]:
        if each["action"] == "ReEncrypt":
            body = each["body"]
            assert body["SourceEncryptionContext"] == body["DestinationEncryptionContext"]
            assert (body["SourceKeyId"], body["DestinationKeyId"]) == (KEY_ARN, other)
    emulator.remove_key(KEY_ARN)
    assert all(lib.fetch(f"k{n}", "u" * n) == key for n, key in keys.items())
    assert [entry.key_id for entry in lib.walk()] == [b"k%d" % n for n in range(5)]


@pytest.mark.parametrize("name", [KEY_ID, ALIAS, KEY_ARN,
                                  f"arn:aws:kms:us-east-1:{ACCOUNT}:{ALIAS}"])
def test_a_kms_key_may_have_any_of_its_names(driver, name):
    lib = driver(kms_key_id=name)
    lib.ok("generate", "a", None, "AES", 32)
    key = lib.fetch("a")
    lib.ok("rotate")
    lib.ok("rewrap")
    assert lib.fetch("a") == key and lib.walk()[0].arn == KEY_ARN
    lib.close()
    assert driver(kms_key_id=name).fetch("a") == key        # nothing else was asked before


# ---- credentials, clock, time --------------------------------------------------------------------


def test_renewed_credentials_are_read_from_the_conf_file(driver, emulator, conf):
    lib = driver()
    lib.ok("generate", "a", None, "AES", 32)
    key = lib.fetch("a")
    emulator.add_user("AKIDNEW", "new/" + SECRET, ACCOUNT)
    emulator.remove_user(ACCESS_KEY_ID)
    answer = lib.call("fetch", "a", None)
    assert (answer.status, answer.aws) == ("CREDENTIALS", "UnrecognizedClientException")
    assert "conf file" in answer.text and emulator.count("Decrypt") == 2
    conf.write_text("AKIDNEW\n")                            # only half of it is there yet
    answer = lib.call("fetch", "a", None)
    assert answer.status == "CREDENTIALS" and lib.said("line 2", 1)
    write_conf(conf, "AKIDNEW", "new/" + SECRET)
    emulator.reset_log()
    assert lib.fetch("a") == key
    assert [each["signed"] for each in emulator.log()["requests"]] == [
        "UnrecognizedClientException", "OK"]
    lib.ok("generate", "b", None, "AES", 32)
    assert emulator.count() == 3 and lib.stats()["kms_retries"] == 0


def test_an_expired_session_token_is_replaced(driver, emulator, conf):
    token = "token/" + "x" * 1500 + "=="
    emulator.add_user("ASIA1", "s1", ACCOUNT, token=token, token_expires=time.time() + 100)
    write_conf(conf, "ASIA1", "s1", token)
    lib = driver()
    lib.ok("generate", "a", None, "AES", 32)
    key = lib.fetch("a")
    emulator.add_user("ASIA1", "s1", ACCOUNT, token=token, token_expires=time.time() - 1)
    answer = lib.call("fetch", "a", None)
    assert (answer.status, answer.aws) == ("CREDENTIALS", "ExpiredTokenException")
    assert "session token" in answer.text and token not in answer.text
    emulator.add_user("ASIA2", "s2", ACCOUNT, token="t2", token_expires=time.time() + 100)
    write_conf(conf, "ASIA2", "s2", "t2")
    assert lib.fetch("a") == key
    write_conf(conf, ACCESS_KEY_ID, SECRET)                 # from a token to none
    lib.ok("reload_creds")
    assert lib.fetch("a") == key
    assert emulator.log()["requests"][-1]["headers"].get("x-amz-security-token") is None


def test_reload_creds_takes_good_credentials_only(driver, emulator, conf):
    lib = driver()
    lib.ok("check")
    for text, words in (("", "empty"), ("AKID\n", "line 2"), ("\nsecret\n", "line 2"),
                        ("A B\nsecret\n", "line 1"), ("AKID\ns\xe9cret\n", "line 2"),
                        ("AKID\nsecret\n\nmore\nmore\n", "line 5, column 1: one value too many"),
                        ("A\nb\n" + "t" * 5000, "line 3"), ("A" * 7000, "longer")):
        conf.write_text(text, "latin-1")
        answer = lib.call("reload_creds")
        assert answer.status == "CONFIG" and words in answer.text and str(conf) in answer.text
        lib.ok("check")                                     # the old ones stay
    conf.unlink()
    assert (lib.call("reload_creds").status, lib.call("reload_creds").os) == ("CONFIG", 2)
    emulator.add_user("AKIDNEW", "other", ACCOUNT)
    conf.write_bytes(b"AKIDNEW \r\nother\t\r\n\r\n")         # as Windows and editors leave it
    conf.chmod(0o600)
    lib.ok("reload_creds")
    lib.ok("check")
    assert emulator.log()["requests"][-1]["access_key_id"] == "AKIDNEW"


PASTED = {                              # what people have, and where they have it from
    "an editor": "\ufeff\r\n  {id} \r\n\r\n\t{secret}\r\n{token}\r\n",
    "a comment": "# the server's user\n{id}\n{secret}\n{token}\n",
    "a password manager": "'{id}'\n\"{secret}\"\n'{token}'",
    "~/.aws/credentials": "[default]\naws_access_key_id = {id}\n"
                          "aws_secret_access_key = {secret}\naws_session_token = {token}\n"
                          "region = eu-west-1\n",
    "saml2aws": "[saml]\naws_access_key_id      = {id}\naws_secret_access_key  = {secret}\n"
                "aws_session_token      = {token}\naws_security_token     = {token}\n"
                "x_principal_arn        = arn:aws:sts::111122223333:assumed-role/a/b\n",
    "the access portal": 'export AWS_ACCESS_KEY_ID="{id}"\n'
                         'export AWS_SECRET_ACCESS_KEY="{secret}"\n'
                         'export AWS_SESSION_TOKEN="{token}"\n',
    "its Windows": "SET AWS_ACCESS_KEY_ID={id}\r\nSET AWS_SECRET_ACCESS_KEY={secret}\r\n"
                   "SET AWS_SESSION_TOKEN={token}\r\n",
    "its PowerShell": '$Env:AWS_ACCESS_KEY_ID="{id}"\r\n$Env:AWS_SECRET_ACCESS_KEY="{secret}"\r\n'
                      '$Env:AWS_SESSION_TOKEN="{token}"\r\n',
    "aws configure export-credentials --format env": (
        "export AWS_ACCESS_KEY_ID={id}\nexport AWS_SECRET_ACCESS_KEY={secret}\n"
        "export AWS_SESSION_TOKEN={token}\n"
        "export AWS_CREDENTIAL_EXPIRATION=2026-11-28T15:10:00Z\n"),
    "a .env file": "AWS_SECRET_ACCESS_KEY={secret}\nAWS_SESSION_TOKEN={token}\n"
                   "AWS_ACCESS_KEY_ID={id}\n",
}


@pytest.mark.parametrize("name", PASTED)
def test_what_people_paste(driver, emulator, conf, name):
    """The signature proves that the secret is exactly what was pasted."""
    who = {"id": "ASIAIOSFODNN7EXAMPLE", "secret": "/+" + SECRET + "=",
           "token": "IQoJ/" * 99 + "=="}
    emulator.add_user(who["id"], who["secret"], ACCOUNT, token=who["token"],
                      token_expires=time.time() + 100)
    conf.write_bytes(PASTED[name].format(**who).encode())
    lib = driver()
    lib.ok("check")
    assert emulator.log()["requests"][-1]["access_key_id"] == who["id"]
    assert [line for level, line in lib.logs if level < 2 and "no data file" not in line
            and "made the folder" not in line] == []


def test_an_id_and_a_token_that_do_not_fit(driver_program, driver, emulator, settings, conf):
    """ASIA takes a token, AKIA has none. A file that is half written changes nothing."""
    token, brief, lasting = "IQoJ" * 30, "ASIAIOSFODNN7EXAMPLE", "AKIAIOSFODNN7LASTING"
    emulator.add_user(brief, SECRET, ACCOUNT, token=token, token_expires=time.time() + 100)
    emulator.add_user(lasting, SECRET, ACCOUNT)
    write_conf(conf, brief, SECRET)
    with Driver(driver_program) as lib:
        answer = lib.open(**settings, must_have_creds=1)
        assert answer.status == "CONFIG" and "begins with ASIA needs one" in answer.text
    write_conf(conf, brief, SECRET, token)
    lib = driver()
    lib.ok("check")
    write_conf(conf, brief, SECRET)
    assert lib.call("reload_creds").status == "CONFIG"
    lib.ok("check")
    write_conf(conf, lasting, SECRET, token)
    lib.ok("reload_creds")
    answer = lib.call("check")
    assert (answer.status, answer.aws) == ("CREDENTIALS", "UnrecognizedClientException")
    assert "begins with AKIA takes no session token" in answer.text and token[:8] not in answer.text
    write_conf(conf, lasting, SECRET)
    lib.ok("check")                                         # it is read again by itself


@pytest.mark.parametrize("offset", [5 * HOUR, -5 * HOUR, 400, -400, 30 * 24 * HOUR])
def test_a_clock_that_is_off(driver, emulator, offset):
    emulator.set(clock_offset=offset)
    lib = driver()
    lib.ok("generate", "a", None, "AES", 32)
    line, = lib.said("this machine's clock", 1)
    way = "behind" if offset > 0 else "ahead of"
    assert any(f"{abs(offset + late)} seconds {way} that of AWS" in line
               for late in (-2, -1, 0, 1, 2))
    assert [each["signed"] for each in emulator.log()["requests"]] == [
        "InvalidSignatureException", "OK"]
    lib.fetch("a")
    assert emulator.count() == 3, "once known, the offset is kept"
    emulator.set(clock_offset=0)                            # and it can be mended again
    lib.fetch("a")
    lib.fetch("a")
    assert emulator.count() == 6 and len(lib.said("this machine's clock", 1)) == 2
    assert "agrees with that of AWS again" in lib.said("this machine's clock", 1)[1]


def test_a_timeout_ends_a_call(driver, emulator):
    lib = driver()
    lib.ok("generate", "a", None, "AES", 32)
    emulator.fault("Decrypt", "latency", times=0, ms=2000)
    lib.ok("use_timeouts", 200, 300)
    answer = lib.call("fetch", "a", None)
    assert answer.status == "NETWORK" and "time" in answer.text.lower() and answer.ms > 250
    in_time(answer.ms, 1800)
    lib.ok("use_timeouts", 0, 0)                            # the defaults: 10 s
    assert len(lib.fetch("a")) == 32
    lib.close()
    emulator.clear_faults()
    lib = driver(timeout_ms=300)
    emulator.fault("Decrypt", "black_hole")
    assert lib.call("fetch", "a", None).status == "NETWORK"


# ---- connections ---------------------------------------------------------------------------------


def test_connections_are_kept_and_shared(driver, emulator):
    lib = driver()
    for n in range(4):
        lib.ok("generate", f"k{n}", None, "AES", 32)
        lib.fetch(f"k{n}")
        lib.ok("check")
    assert emulator.connections == 1
    emulator.fault("Decrypt", "latency", times=8, ms=1500)  # so that all are in flight at once
    wait([lib.begin("fetch", "k0", None) for _ in range(8)])
    assert emulator.connections == 8
    for _ in range(3):
        wait([lib.begin("fetch", "k1", None) for _ in range(8)])
    lib.ok("rewrap")
    assert emulator.connections == 8, "none was opened after that"


def answers(status: int, body, **headers: str):
    """What the emulator says to everything: these bytes, or that error of KMS's."""
    if isinstance(body, str):
        body = to_json({"__type": body, "message": "no"})
    return lambda request, record: Reply(status, body, headers)


HELD = {"KeyId": KEY_ARN, "Plaintext": b"x" * 32}


@pytest.mark.parametrize("status, body, kept", [
    (400, "AccessDeniedException", True),               # KMS's own: as good as a 200
    (409, "DisabledException", True), (429, "ThrottlingException", True),
    (400, "InvalidCiphertextException", True),
    (412, "DryRunOperationException", False),           # nobody asked for that
    (408, "AccessDeniedException", False), (425, "AccessDeniedException", False),
    (500, "KMSInternalException", False), (503, "KMSInternalException", False),
    (399, "AccessDeniedException", False), (400, b"<html>Bad Request</html>", False),
    (403, b"{}", False), (429, b"", False), (200, b"{}", False), (200, b"<html></html>", False),
    (200, to_json({**HELD, "Plaintext": b"x" * 31}), False),
    (200, to_json({**HELD, "KeyId": f"{KEY_ARN[:-1]}0"}), False), (200, b" " * 20000, False)],
    ids=lambda each: repr(each)[:40])
def test_a_connection_is_kept_after_what_is_surely_kms(driver, emulator, status, body, kept):
    lib = driver(max_attempts=1)
    lib.ok("generate", "a", None, "AES", 32)
    true, emulator.reply_to = emulator.reply_to, answers(status, body)
    assert lib.call("fetch", "a", None).status != "OK" and emulator.connections == 1
    emulator.reply_to = true
    time.sleep(0.3 if status >= 500 else 0)     # until a probe is due
    lib.fetch("a")
    assert emulator.connections == (1 if kept else 2)


def test_a_connection_is_not_kept_after_a_request_id_that_came_before(driver, emulator):
    lib = driver(max_attempts=1)
    lib.ok("generate", "a", None, "AES", 32)
    true = emulator.reply_to
    emulator.reply_to = answers(400, "DisabledException", **{"x-amzn-RequestId": "one"})
    assert [lib.call("fetch", "a", None).status for _ in range(2)] == ["KMS_KEY", "REPLY"]
    assert emulator.connections == 1
    emulator.reply_to = true
    lib.fetch("a")
    assert emulator.connections == 2


def test_a_connection_is_not_kept_after_a_timeout(driver, emulator):
    lib = driver(max_attempts=1)
    lib.ok("generate", "a", None, "AES", 32)
    lib.ok("use_timeouts", 0, 300)
    emulator.fault("Decrypt", "latency", ms=600)
    assert lib.call("fetch", "a", None).status == "NETWORK" and emulator.connections == 1
    lib.ok("use_timeouts", 0, 0)        # 300 ms may be too little for a new connection
    lib.fetch("a")
    assert emulator.connections == 2


def test_a_kept_connection_that_the_server_closed(driver, emulator):
    lib = driver()
    lib.ok("generate", "a", None, "AES", 32)
    for _ in range(3):
        emulator.cut()
        lib.fetch("a")
    assert lib.stats()["kms_retries"] == 0
    emulator.stop()
    emulator.start()                    # a restart of the whole service
    lib.fetch("a")


# ---- names, sizes, numbers -----------------------------------------------------------------------


def percent(data: bytes) -> str:
    return "".join(chr(b) if 0x20 <= b <= 0x7e and b != 0x25 else f"%{b:02X}" for b in data)


ODD_BYTES = [bytes([b]) for b in range(1, 256)]


def test_the_context_is_exact(driver, emulator, settings):
    """What CloudTrail shows, and IAM policies test: these members, these values, no others."""
    lib = driver()
    lib.ok("generate", "MyKey", None, "AES", 32)
    lib.ok("store", "MyKey", "me@host", "SECRET", b"x")
    lib.ok("check")
    lib.fetch("MyKey", "me@host")
    file = emulator.log()["requests"][0]["body"]["EncryptionContext"]["file"]
    assert len(file) == 32 and bytes.fromhex(file) in settings["data_file"].read_bytes()[:64]
    mine = {"app": "keyring_aws", "file": file, "key_id": "MyKey", "key_type": "AES"}
    theirs = {**mine, "key_type": "SECRET", "user_id": "me@host"}
    app = {"app": "keyring_aws"}
    bodies = [(each["action"], each["body"]["EncryptionContext"])
              for each in emulator.log()["requests"]]
    assert bodies == [("GenerateDataKeyWithoutPlaintext", mine), ("Encrypt", theirs),
                      ("Decrypt", theirs), ("GenerateDataKeyWithoutPlaintext", app),
                      ("Decrypt", app),
                      ("Decrypt", theirs)]
    first = emulator.log()["requests"][0]
    assert first["body"] == {"KeyId": KEY_ARN, "NumberOfBytes": 32, "EncryptionContext": mine}
    assert first["headers"]["host"] == f"127.0.0.1:{emulator.port}"
    assert first["headers"]["content-type"] == "application/x-amz-json-1.1"


def test_the_least_policy_suffices(driver, emulator):
    """The README's: on condition that the context names the app; rotation without."""
    app = {"StringEquals": {"kms:EncryptionContext:app": "keyring_aws"}}
    emulator.add_user(ACCESS_KEY_ID, SECRET, ACCOUNT, policy={"Statement": [
        {"Effect": "Allow", "Resource": KEY_ARN, "Condition": app,
         "Action": ["kms:GenerateDataKeyWithoutPlaintext", "kms:Encrypt", "kms:Decrypt",
                    "kms:ReEncryptFrom", "kms:ReEncryptTo"]},
        {"Effect": "Allow", "Resource": KEY_ARN, "Action": "kms:RotateKeyOnDemand"}]})
    lib = driver()
    for command in (("check",), ("generate", "a", None, "AES", 32),
                    ("store", "b", None, "AES", b"x"), ("fetch", "a", None), ("rotate",),
                    ("rewrap",), ("fetch", "b", None)):
        lib.ok(*command)


def test_without_the_right_to_decrypt(driver, emulator, settings):
    """A store is acknowledged, unproved, with one note; a re-wrap is refused in words."""
    def may(*actions: str) -> None:
        emulator.add_user(ACCESS_KEY_ID, SECRET, ACCOUNT, policy={"Statement": [
            {"Effect": "Allow", "Resource": KEY_ARN,
             "Action": ["kms:GenerateDataKeyWithoutPlaintext", "kms:Encrypt",
                        "kms:ReEncryptFrom", "kms:ReEncryptTo", *actions]}]})

    may()
    lib = driver()
    for name in ("a", "b"):
        lib.ok("store", name, None, "SECRET", name.encode())
    assert len(lib.said("kms:Decrypt is not allowed", 1)) == 1
    assert lib.call("check").status == "DENIED"
    before = settings["data_file"].read_bytes()
    answer = lib.call("rewrap")
    assert answer.status == "DENIED" and "each new blob is verified" in answer.text
    assert "kms:Decrypt" in answer.text and "nothing was changed" in answer.text
    assert settings["data_file"].read_bytes() == before
    may("kms:Decrypt")
    lib.ok("rewrap")
    assert [lib.fetch(name) for name in ("a", "b")] == [b"a", b"b"]


def test_names_may_have_any_bytes(driver, emulator):
    names = [(byte, None) for byte in ODD_BYTES] + [(b"k", byte) for byte in ODD_BYTES]
    names += [(b"%41", None), (b"%2541", None), (b"A%00", None), (b"'\"\\\n\r\t", b"\\u0000"),
              (b"\xff" * 255, b"%" * 255), ("schl\u00fcssel".encode(), b"\xc3"),
              (b"k", b"kk"), (b"kk", None), (b"a/b", b"../.."), (b"~", b"~")]
    lib = driver()
    answers = lib.many(("generate", *name, "AES", 16) for name in names)
    assert {each.status for each in answers} == {"OK"}
    assert {(each.key_id, each.user_id) for each in lib.walk()} == {
        (key_id, user_id or b"") for key_id, user_id in names}
    contexts = {}
    for each in emulator.log()["requests"]:
        context = each["body"]["EncryptionContext"]
        contexts[context["key_id"], context.get("user_id")] = context
    assert set(contexts) == {(percent(key_id), percent(user_id) if user_id else None)
                             for key_id, user_id in names}
    assert len(contexts) == len(names), "no two names share a context"
    for key_id, user_id in names[::17] + names[-10:]:
        assert len(lib.fetch(key_id, user_id)) == 16
    assert all(line.isprintable() and line.isascii() for _, line in lib.logs)
    answer = lib.call("fetch", b"no\nsuch\x1b[31m'key\xff", None)
    assert answer.status == "NOT_FOUND" and answer.text.isprintable() and answer.text.isascii()
    lib.close()
    lib = driver()
    assert len(lib.walk()) == len(names)
    assert all(len(lib.fetch(*name)) == 16 for name in names[-10:])


def test_a_big_key_goes_far(driver, emulator):
    """The longest request and reply that there can be, across regions."""
    lib, far, big = driver(), emulator.add_key(EU, ACCOUNT), os.urandom(4096)
    lib.ok("store", b"\xff" * 255, b"\xff" * 255, "SECRET", big)
    lib.ok("use_kms_key", far)
    lib.ok("rewrap")
    assert lib.fetch(b"\xff" * 255, b"\xff" * 255) == big


def test_two_thousand_keys_survive_a_kill(driver, emulator, settings, quick_folder):
    settings["data_file"] = quick_folder / "data"
    count = 2000
    lib = driver()
    began = time.monotonic()
    answers = lib.many(("generate", f"key {n}", f"u{n % 7}", "AES", 32) for n in range(count))
    assert {each.status for each in answers} == {"OK"}
    listed = lib.walk()
    assert sorted(each.key_id for each in listed) == sorted(b"key %d" % n for n in range(count))
    keys = {n: lib.fetch(f"key {n}", f"u{n % 7}") for n in range(0, count, 199)}
    lib.kill()
    lib = driver()
    assert lib.walk() == listed and lib.stats()["keys"] == count
    other = emulator.add_key("us-east-1", ACCOUNT)
    lib.ok("use_kms_key", other)
    lib.ok("rewrap")
    assert [each.key_id for each in lib.walk()] == [each.key_id for each in listed]
    assert {each.arn for each in lib.walk()} == {other}
    emulator.remove_key(KEY_ARN)
    assert all(lib.fetch(f"key {n}", f"u{n % 7}") == key for n, key in keys.items())
    lib.close()
    assert driver().stats()["checksum"] == settings["data_file"].read_bytes()[-32:]
    print(f"2,000 keys made and re-wrapped in {time.monotonic() - began:.1f} s")


# ---- AWS KMS by itself ---------------------------------------------------------------------------


def test_the_kms_calls_need_no_data_file(driver, emulator, tmp_path):
    lib = driver(data_file=None)
    context = ("app", "mine", "cl\u00e9", "\u20ac")
    blob, arn, material, plain = lib.ok("kms_generate", 32, 1, *context)
    assert arn.decode() == KEY_ARN and len(plain) == 32
    assert material.decode() == emulator.key(KEY_ARN).materials.current_id
    assert lib.ok("kms_decrypt", blob, arn, 32, *context) == [plain]
    assert lib.ok("kms_decrypt", blob, "", 4096, *context) == [plain]   # "": the current key
    assert lib.call("kms_decrypt", blob, arn, 32).status == "MISMATCH"
    assert lib.call("kms_decrypt", blob, arn, 32, "app", "yours").status == "MISMATCH"
    assert lib.call("kms_decrypt", blob[:-1], arn, 32, *context).status == "MISMATCH"
    answer = lib.call("kms_decrypt", blob, arn, 31, *context)
    assert answer.status == "ARGUMENT" and "has 32 bytes, and there is room for 31" in answer.text
    assert len(lib.ok("kms_generate", 32, 0)) == 3
    sealed = lib.ok("kms_encrypt", b"hello", *context)
    assert lib.ok("kms_decrypt", *sealed[:2], 5, *context) == [b"hello"]
    far = emulator.add_key(EU, ACCOUNT)
    lib.ok("use_kms_key", far)
    moved = lib.ok("kms_reencrypt", *sealed[:2], *context)
    assert moved[1].decode() == far
    assert lib.ok("kms_decrypt", *moved[:2], 5, *context) == [b"hello"]
    again = lib.ok("kms_reencrypt", *moved[:2], *context)
    assert again[2].decode() == emulator.key(far).materials.current_id
    assert emulator.count("ReEncrypt") == 1
    assert emulator.count("GenerateDataKey") == 1
    for bad in (("kms_generate", 0, 1), ("kms_generate", 1025, 1), ("kms_encrypt", b""),
                ("kms_encrypt", b"x" * 4097), ("kms_encrypt", b"x", "", "v"),
                ("kms_encrypt", b"x", "n", ""), ("kms_encrypt", b"x", "n", b"\xff"),
                ("kms_encrypt", b"x", None, "v"), ("kms_decrypt", b"", arn, 5),
                ("kms_encrypt", b"x", "n", "v", "n", "v"),
                ("kms_generate", 1, 1, *context, *context),
                ("kms_decrypt", blob, arn, 32, *context, "app", "mine"),
                ("kms_reencrypt", blob, arn, "n", "v", "m", "v", "n", "w"),
                ("kms_decrypt", blob, "nonsense", 5), ("kms_reencrypt", b"", arn)):
        answer = lib.call(*bad)
        assert answer.status == "ARGUMENT" and answer.http == 0, bad
    assert lib.call("kms_decrypt", blob, KEY_ARN.replace(ACCOUNT, OTHER_ACCOUNT),
                    5).status == "FOREIGN"
    for command in (("generate", "a", None, "AES", 32), ("fetch", "a", None), ("remove", "a", None),
                    ("rewrap",)):
        assert lib.call(*command).status == "CONFIG"
    lib.ok("check")
    lib.ok("rotate")
    assert lib.walk() == [] and lib.stats()["keys"] == 0
    lib.close()


def test_a_sealed_value_travels(driver, emulator):
    """It goes to another process as bytes. Some of its bytes are protected, some are not."""
    here, there = driver(data_file=None), driver(data_file=None)
    far = emulator.add_key(EU, ACCOUNT)
    for key, longest in ((KEY_ARN, 4096), (far, 1)):
        here.ok("use_kms_key", key)
        sealed = here.ok("kms_encrypt", b"x" * longest, "app", "mine")
        (packed,) = here.ok("sealed_pack", *sealed)
        assert packed[:10] == b"KAWSSEAL\1\0" and len(packed) == 16 + sum(map(len, sealed))
        assert there.ok("sealed_unpack", packed) == sealed
        assert there.ok("kms_decrypt", *sealed[:2], 4096, "app", "mine") == [b"x" * longest]

    def opened(packed: bytes, value: str = "mine"):
        blob, arn, _ = there.ok("sealed_unpack", packed)
        return there.call("kms_decrypt", blob, arn, 4096, "app", value)

    *sealed, plain = here.ok("kms_generate", 32, 1, "app", "mine")
    (other,) = here.ok("sealed_pack", *sealed)
    assert opened(other).results == [plain]             # exchanged: only the context tells
    assert opened(other, "yours").status == "MISMATCH"
    assert opened(other[:-1] + bytes([other[-1] ^ 1])).status == "MISMATCH"
    assert opened(other.replace(sealed[2], b"0" * len(sealed[2]))).results == [plain]
    assert opened(other.replace(ACCOUNT.encode(), OTHER_ACCOUNT.encode())).status == "FOREIGN"
    wrong = far[:-1] + ("0" if far[-1] != "0" else "1")
    assert opened(other.replace(far.encode(), wrong.encode())).status == "KMS_KEY"
    requests = len(emulator.log()["requests"])
    for bad in (other[:-1], other + b"!", other[:8] + b"\2" + other[9:], b"", b"KAWSSEAL"):
        answer = there.call("sealed_unpack", bad)
        assert (answer.status, answer.results) == ("ARGUMENT", []), bad
    assert len(emulator.log()["requests"]) == requests
    for process in (here, there):
        process.close()


# ---- local mistakes, which are no outage -------------------------------------------------------


def refused_at_once(program, settings, env=None, **change) -> str:
    """The sentence with which opening is refused, without a look at the network."""
    with socket.create_server(("127.0.0.1", 0)) as server, Driver(program, env) as lib:
        endpoint = f"https://127.0.0.1:{server.getsockname()[1]}"
        opening = lib.begin("open", *(f"{name}={value}" for name, value in {
            **settings, "endpoint": endpoint, **change}.items()))
        answer = opening.result(10)
        assert (answer.status, answer.http) == ("CONFIG", 0), answer
        in_time(answer.ms, 100, answer)
        server.setblocking(False)
        with pytest.raises(BlockingIOError):
            server.accept()
        assert not settings["data_file"].exists()
        lib.close()
        return answer.text


@pytest.mark.parametrize("kind, words", [
    ("missing", "cannot read the CA file .*No such file"), ("folder", "is not a file"),
    ("fifo", "is not a file"), ("empty", "is empty"), ("key", "no certificate in it"),
    ("link to nowhere", "No such file"), ("terabyte", "no certificate in it"),
    ("device", "is not a file"), ("certificate in a terabyte", "is larger than 16 MiB")])
def test_a_ca_file_that_is_none(driver_program, settings, certs, tmp_path, kind, words):
    path = tmp_path / "ca"
    {"missing": lambda: None, "folder": path.mkdir, "fifo": lambda: os.mkfifo(path),
     "empty": path.touch, "key": lambda: shutil.copyfile(certs.good.key, path),
     "link to nowhere": lambda: path.symlink_to("nowhere"), "terabyte": path.touch,
     "certificate in a terabyte": lambda: shutil.copyfile(certs.ca, path),
     "device": lambda: path.symlink_to("/dev/zero")}[kind]()
    if "terabyte" in kind:
        os.truncate(path, TERABYTE)
    text = refused_at_once(driver_program, settings, ca_file=path)
    assert re.search(words, text) and str(path) in text


@pytest.mark.parametrize("kind, words", [
    ("folder", "it is not a file"), ("fifo", "it is not a file"), ("device", "it is not a file"),
    ("terabyte", "line 1 is not|longer than 6143 bytes")])
def test_a_conf_file_that_is_none(driver_program, settings, tmp_path, kind, words):
    path = tmp_path / "it"
    {"folder": path.mkdir, "fifo": lambda: os.mkfifo(path), "terabyte": path.touch,
     "device": lambda: path.symlink_to("/dev/zero")}[kind]()
    if kind == "terabyte":
        os.truncate(path, TERABYTE)
    text = refused_at_once(driver_program, settings, conf_file=path, must_have_creds=1)
    assert re.search(words, text) and str(path) in text


def test_a_ring_without_credentials(driver, emulator, settings, conf, tmp_path):
    """It opens, and says so; once the conf file is there, it works."""
    first = driver()
    first.ok("generate", "a", None, "AES", 32)
    first.close()
    lib = driver(conf_file=tmp_path / "later")
    assert [entry.key_id for entry in lib.walk()] == [b"a"] and lib.stats()["keys"] == 1
    assert len(lib.said(r"\[KAWS-142\] .*cannot read the conf file .*/later: No such file", 1)) == 1
    before = emulator.count()
    for call in (("check",), ("fetch", "a", None), ("generate", "b", None, "AES", 32),
                 ("try", KEY_ARN, None), ("rotate",), ("rewrap",), ("reload_creds",), ("whoami",)):
        answer = lib.call(*call)
        assert answer.status == "CONFIG" and "later: No such file" in answer.text, call
    assert emulator.count() == before
    write_conf(tmp_path / "later", *conf.read_text().splitlines())
    assert len(lib.fetch("a")) == 32
    assert lib.ok("whoami") == [b"the conf file", ACCESS_KEY_ID[-4:].encode(), ACCOUNT.encode(),
                                b"0", b"us-east-1", f"{settings['endpoint']}/".encode()]
    lib.ok("remove", "a", None)


def test_a_ca_file_that_only_libcurl_can_refuse(driver, tmp_path):
    """The file looks like PEM. The error is no outage, so no request is repeated."""
    path = tmp_path / "ca"
    path.write_text("-----BEGIN CERTIFICATE-----\nMIIBAAAA\n-----END CERTIFICATE-----\n")
    answer = driver(ca_file=path).call("check")
    assert answer.status == "CONFIG" and "check the endpoint, ca_file and the proxy" in answer.text
    assert re.search(r"error adding trust anchors from file|error setting certificate", answer.text)
    assert "attempts" not in answer.text


@pytest.mark.parametrize("variable", ["https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"])
@pytest.mark.parametrize("value", ["http://user:pass/word@127.0.0.1:9", "127.0.0.1:99999",
                                   "ftp://127.0.0.1:9", "http://user:pass word@127.0.0.1:9"])
def test_a_proxy_that_is_none(driver_program, settings, variable, value):
    text = refused_at_once(driver_program, settings, {variable: value})
    assert text.startswith(f"{variable} in the environment is not of the form")
    assert "pass" not in text.replace("password", "") and "127" not in text


@pytest.mark.parametrize("endpoint", ["https://h:1:2", "https://[::1", "https://h:0", "https://h:",
                                      "https://h:65536"])
def test_an_endpoint_that_is_none(driver_program, settings, endpoint):
    text = refused_at_once(driver_program, settings, endpoint=endpoint)
    assert f"endpoint '{endpoint}'" in text


@pytest.mark.parametrize("accounts", [",", " ", " ,, "])
def test_a_list_of_no_accounts(driver_program, settings, accounts):
    assert "12 digits" in refused_at_once(driver_program, settings, accounts=accounts)


def test_a_bad_proxy_that_may_not_be_used_is_a_warning(driver):
    lib = driver({"https_proxy": "http://user:p/w@127.0.0.1", "no_proxy": "127.0.0.1"})
    lib.ok("check")
    assert len(lib.said("https_proxy in the environment is not of the form", 1)) == 1
    assert not lib.said("p/w")
    driver({"https_proxy": "http://user:p/w@127.0.0.1", "no_proxy": "*"}).ok("check")


def test_no_variable_names_a_ca_file(driver, certs):
    names = ("AWS_CA_BUNDLE", "SSL_CERT_FILE", "CURL_CA_BUNDLE")
    driver({name: "/nowhere" for name in names}).ok("check")
    lib = driver({name: str(certs.ca) for name in names}, ca_file=None, max_attempts=1)
    answer = lib.call("check")
    assert answer.status == "NETWORK" and "certificate" in answer.text


def test_certificates_that_are_added_and_removed(driver, emulator, certs, tmp_path):
    """A CA that is added counts at once, though connections are kept. One that is removed counts
    until the ring is opened again: libcurl keeps it with them."""
    ca, other = tmp_path / "ca.pem", certs.ca.with_name("other_ca.crt")
    ca.write_bytes(certs.ca.read_bytes())
    lib = driver(ca_file=ca)
    lib.ok("check")
    ca.write_bytes(other.read_bytes())
    emulator.tls = tls_context(*certs.unknown_ca, None)
    emulator.cut()
    lib.ok("check")
    ca.write_bytes(certs.ca.read_bytes())
    emulator.cut()
    answer = driver(ca_file=ca, max_attempts=1).call("check")
    assert answer.status == "NETWORK" and "certificate" in answer.text


# ---- the small functions -------------------------------------------------------------------------


def test_small_functions(driver_program):
    with Driver(driver_program) as lib:
        version, *texts = lib.ok("texts")
        assert version == b"1.0.0" and len(texts) == len(set(texts)) == 23 and b"" not in texts
        assert lib.ok("wipe", b"secret") == [b"\0" * 6]
        for name, shown in ((None, b""), ("it's\n\u00e9\\", rb"it\x27s\x0a\xc3\xa9\x5c"),
                            ("http://svc:Pa#ss@host/", b"http://***@host/"),
                            ("a" * 300, b"a" * 252 + b"...")):
            assert lib.ok("show", name) == [shown]
        lib.close()


PASSWORDS = ["Xy7q#Wv8z", "Xy7q/Wv8z", "Xy7q?Wv8z", "Xy7q Wv8z", "Xy7q@Wv8z", "Xy7q:Wv8z",
             "Xy7q\\nWv8z", "Xy7q\x1bWv8z", "7890#Wv8z", "7890/Wv8z", "Xy7q@Wv8z#", "Xy7q'Wv8z/",
             "Xy7q%23Wv8z", "Xy7q#Wv8z" * 30, "Xy7qWv8z" * 30]


@pytest.mark.parametrize("variable", ["https_proxy", "ALL_PROXY"])
@pytest.mark.parametrize("scheme", ["http://", ""])
@pytest.mark.parametrize("port", ["1", "nine", "99999"])
def test_libcurl_shows_no_password_of_a_proxy(driver, variable, scheme, port):
    """Its own words of a URL that it takes apart in another way than was meant.  With a no_proxy
    that may name KMS we only warn of such a URL, and libcurl gets it."""
    for password in PASSWORDS:
        lib = driver({variable: f"{scheme}svc:{password}@127.0.0.1:{port}",
                      "no_proxy": "nobody.example"}, max_attempts=1)
        answer = lib.call("check")
        said = answer.text + str(lib.logs) + lib.stderr()
        assert answer.status in ("NETWORK", "CONFIG")
        assert answer.text.isprintable() and answer.text.isascii()
        assert not re.search("(?i)Xy7q|Wv8z|7890", said), (password, said)
        assert "proxy" in answer.text or "port 1" in answer.text
        lib.stop()


@pytest.mark.parametrize("variable", ["http_proxy", "all_proxy"])
def test_plain_http_is_for_this_machine_and_for_no_proxy(driver, variable):
    with socket.create_server(("127.0.0.1", 0)) as proxy, socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))                       # a port that refuses
        lib = driver({variable: f"http://127.0.0.1:{proxy.getsockname()[1]}"}, max_attempts=1,
                     endpoint=f"http://127.0.0.1:{nobody.getsockname()[1]}", ca_file=None)
        answer = lib.call("store", "a", None, "SECRET", b"in the clear")
        assert answer.status == "NETWORK", answer
        proxy.settimeout(0.2)
        with pytest.raises(TimeoutError):
            proxy.accept()


# ---- another OpenSSL in the process --------------------------------------------------------------

OTHER_OPENSSL = """
#include <stdlib.h>
int SSL_has_pending(const void *s) { (void)s; abort(); }
unsigned long SSL_CTX_set_options(void *c, unsigned long o) { (void)c; (void)o; abort(); }
"""


def test_another_openssl_is_left_alone(driver, tmp_path):
    """A mysqld may bring an OpenSSL of its own while libcurl uses the system's.  Only the OpenSSL
    that libcurl uses is called with libcurl's objects."""
    (tmp_path / "other.c").write_text(OTHER_OPENSSL)
    (tmp_path / "other.map").write_text("OPENSSL_1_1_0 { global: *; };\n")
    other = tmp_path / "libssl.so.1.1"
    subprocess.run(["cc", "-shared", "-fPIC", "-Wl,-soname,libssl.so.1.1", "-o", other,
                    tmp_path / "other.c", f"-Wl,--version-script={tmp_path / 'other.map'}"],
                   check=True)
    library = driver(env={"LD_PRELOAD": str(other)})
    library.ok("generate", "a", None, "AES", 32)
    assert len(library.fetch("a")) == 32
