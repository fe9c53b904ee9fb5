"""keyring_aws.so, loaded as a keyring component, in lives of servers that no package here has.

tests/hosts/component_host.c plays the server, one command at a time, under sanitizers.  Of all that
it does after each step, the kernel is asked what is on disk, which descriptors and threads there
are, and the emulator which requests it got.  A complaint of the host or of a sanitizer fails a test
when the host ends.
"""

import contextlib
import hashlib
import itertools
import json
import os
import pwd
import re
import shutil
import subprocess
import tempfile
import threading
from concurrent.futures import Future
from pathlib import Path
from typing import Iterator, NamedTuple

import pytest
from conftest import LONG
from driver import decode, encode
from kms_emulator import ACCESS_KEY_ID, ALIAS, SECRET
from mysql_fixtures import wait_for
from patience import within
from servers import clean_environment, open_files

BUILT = Path(__file__).resolve().parent.parent / "build" / "tests"
CNF = "component_keyring_aws.cnf"
SERVICES = ("keyring_load", "keyring_component_status", "keyring_component_metadata_query",
            "keyring_reader_with_status", "keyring_writer", "keyring_generator",
            "keyring_keys_metadata_iterator")
ACQUIRED = ("mysql_current_thread_reader", "mysql_thd_security_context",
            "mysql_security_context_options", "global_grants_check")
PERSISTED = "persisted_variables_key"           # of sensitive variables of SET PERSIST
ERROR, WARNING, NOTE = 1, 2, 3
FUNCTION_FAILED = 3198
NO_LEAK_CHECK = {"ASAN_OPTIONS": "detect_leaks=0"}
NOBODY = pwd.getpwnam("nobody")
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")


class Answer(NamedTuple):
    """What the component returned, and what it gave."""
    result: int
    words: list


class Host:
    """A process that has the component, or will have it."""

    def __init__(self, site: "Site", program: Path, env: dict) -> None:
        self.site, self.logs, self.numbers, self.pending = site, [], itertools.count(1), {}
        self.errors = tempfile.TemporaryFile()
        self.process = subprocess.Popen([program], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                        stderr=self.errors, env=clean_environment(env))
        self.pid = self.process.pid
        self.reader = threading.Thread(target=self.read, daemon=True)
        self.reader.start()

    def read(self) -> None:
        for line in self.process.stdout:
            first, *words = line.decode("latin-1").split()
            if first == "log":
                self.logs.append((int(words[0]), int(words[1]),
                                  *(decode(word).decode() for word in words[2:])))
            else:
                self.pending.pop(first).set_result(
                    Answer(int(words[0]), [decode(word) for word in words[1:]]))
        for future in list(self.pending.values()):
            future.set_exception(RuntimeError(f"the host ended: {self.stderr()}"))

    def begin(self, *words, how: tuple[str, ...] = ("&",)) -> Future:
        """Starts a command on a thread of its own."""
        number, future = str(next(self.numbers)), Future()
        self.pending[number] = future
        line = " ".join((number, *how, words[0], *map(encode, words[1:]))) + "\n"
        self.process.stdin.write(line.encode("ascii"))
        self.process.stdin.flush()
        return future

    def call(self, *words) -> Answer:
        return self.begin(*words, how=()).result(120)

    def ok(self, *words) -> list:
        answer = self.call(*words)
        assert answer.result == 0, (words, answer, self.logs)
        return answer.words

    def parent(self, *words) -> Answer:
        """As call(), in the process that has forked."""
        return self.begin(*words, how=("parent",)).result(120)

    def fork(self) -> None:
        (pid,) = self.ok("fork")
        self.pid = int(pid)

    def become(self, user: pwd.struct_passwd) -> None:
        self.ok("setuid", user.pw_uid, user.pw_gid)

    # -- the component

    def open(self) -> None:
        self.ok("open", self.site.library)
        self.ok("init")

    def load(self, component: str | None = None, instance: str | None = None) -> int:
        """With the paths as servers give them: a slash at the end."""
        return self.call("load", component or f"{self.site.plugins}/",
                         instance or f"{self.site.data}/").result

    def up(self) -> "Host":
        """A server that has started."""
        self.open()
        assert self.load() == 0, (self.logs, self.stderr())
        self.ok("started", 1)
        return self

    def down(self) -> None:
        self.ok("deinit")
        self.ok("close")
        assert self.ok("refs") == []

    def key(self, key_id: str, user: str | None = None) -> tuple | None:
        """Type and data; None: the key is absent."""
        return tuple(self.ok("read", key_id, user)) or None

    def keys(self) -> set:
        words = iter(self.ok("walk", "keys"))
        return {(key_id.decode(), user.decode()) for key_id, user in zip(words, words)}

    def says(self) -> dict:
        words = iter(self.ok("walk", "meta"))
        return {name.decode(): value.decode() for name, value in zip(words, words)}

    def select(self, name: str) -> tuple[int, int, str]:
        result, (number, text) = self.call("select", self.site.library, name)
        return result, int(number), text.decode()

    def said(self, pattern: str, priority: int) -> list[str]:
        return [text for level, _, _, text in self.logs
                if level == priority and re.search(pattern, text)]

    # -- what the kernel says of it

    def descriptors(self) -> dict:
        return {place.name: name for place, name in open_files(self.pid).items()}

    def threads(self) -> int:
        return len(list(Path(f"/proc/{self.pid}/task").iterdir()))

    def standing(self) -> list[str]:
        """Its accounts, and what it does about signals and modes."""
        return re.findall(r"(?m)^(?:Uid|Gid|Groups|Umask|Sig(?:Blk|Ign|Cgt)):.*",
                          Path(f"/proc/{self.pid}/status").read_text("ascii"))

    # -- the end

    def stderr(self) -> str:
        self.errors.seek(0)
        return self.errors.read().decode("utf-8", "replace")

    def end(self, stderr: str = "") -> None:
        """Of all processes; nobody may have had a complaint, nor a leak."""
        self.process.stdin.close()
        self.reader.join(60)                    # until all have closed their output
        assert not self.reader.is_alive()
        assert re.fullmatch(stderr, self.stderr()), self.stderr()
        assert self.process.wait(60) == 0

    def stop(self) -> None:
        if self.reader.is_alive():
            for pid in {self.pid, self.process.pid}:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, 9)
        self.process.wait()
        self.reader.join(10)
        for file in (self.process.stdin, self.process.stdout, self.errors):
            with contextlib.suppress(OSError):
                file.close()


class Site:
    """A server's folders, with a configuration, and the hosts that use them."""

    def __init__(self, root: Path, emulator, certs) -> None:
        self.root, self.emulator, self.hosts, self.kind = root, emulator, [], "asan"
        self.plugins, self.data = root / "plugin", root / "data"
        self.library = self.plugins / "component_keyring_aws.so"
        self.ca = root / "ca.pem"
        shutil.copyfile(certs.ca, self.ca)
        self.plugins.mkdir()
        self.data.mkdir()
        self.user = NOBODY if os.geteuid() == 0 else pwd.getpwuid(os.geteuid())
        self.give(self.data)
        self.install("asan")
        self.configure()

    def install(self, kind: str) -> None:
        self.kind = kind
        shutil.copy(BUILT / kind / "keyring_aws.so", self.library)

    def give(self, path: Path) -> None:
        """To the account that the server has in the end."""
        os.chown(path, self.user.pw_uid, self.user.pw_gid)

    def config(self, keyring_aws: dict | None = None, **changes) -> dict:
        """None takes a member out."""
        whole = {
            "cmk_id": ALIAS, "data_file": "keys.kaws", "read_only": False, "cache_keys": False,
            "aws_authentication": {"mode": "simple", "region": "us-east-1",
                                   "access_key_id": ACCESS_KEY_ID, "access_key_secret": SECRET},
            "keyring_aws": {"endpoint": self.emulator.url, "ca_file": str(self.ca),
                            "start_seconds": 0, **(keyring_aws or {})}, **changes}
        return {name: value for name, value in whole.items() if value is not None}

    def write(self, text: str, folder: Path | None = None) -> None:
        """As an administrator should: whole or not at all, and for the account's eyes only."""
        path = (folder or self.plugins) / CNF
        new = path.with_suffix(".new")
        new.touch(mode=0o600)
        new.write_text(text)
        self.give(new)
        new.replace(path)

    def configure(self, folder: Path | None = None, **changes) -> None:
        self.write(json.dumps(self.config(**changes)), folder)

    def broken(self) -> Path:
        """A folder with a configuration that is none."""
        folder = self.root / "broken"
        folder.mkdir(exist_ok=True)
        self.write('{"cmk_id": ', folder)
        return folder

    def host(self, env: dict | None = None) -> Host:
        self.hosts.append(Host(self, BUILT / self.kind / "component_host", env or {}))
        self.hosts[-1].ok("refs")       # a sanitizer's descriptors are closed by now
        return self.hosts[-1]

    def server(self, env: dict | None = None) -> Host:
        """A host that has had the server's account from the start."""
        host = self.host(env)
        if os.geteuid() == 0:
            host.become(self.user)
        return host

    def seed(self, *keys: str) -> None:
        """A server that ran before, and left these keys."""
        host = self.server().up()
        for key in keys:
            host.ok("generate", key, None, "AES", 32)
        host.down()
        host.end()
        self.emulator.reset_log()

    def disk(self) -> dict:
        """All that is there, and all that could change."""
        found = {}
        for path in sorted(self.root.rglob("*")):
            is_ = path.stat()
            found[str(path.relative_to(self.root))] = (
                oct(is_.st_mode), is_.st_uid, is_.st_ino, is_.st_mtime_ns,
                hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else None)
        return found

    def owners(self) -> set:
        return {path.stat().st_uid for path in self.data.rglob("*")}

    @contextlib.contextmanager
    def nothing_happens(self, host: Host, asks_kms: bool = False) -> Iterator[None]:
        """Nothing stays of what was done: on disk, or in the process.  Nor at KMS, unless it is
        to be asked; then no connection stays."""
        before, requests = self.disk(), self.emulator.count()
        descriptors, threads, standing = host.descriptors(), host.threads(), host.standing()
        yield
        assert host.standing() == standing
        assert self.disk() == before
        wait_for(lambda: host.threads() == threads, 2)
        assert host.descriptors() == descriptors
        assert (self.emulator.count() > requests) == asks_kms


@pytest.fixture
def site(emulator, certs):
    """Not in tmp_path, which is root's alone."""
    root = Path(tempfile.mkdtemp(prefix="kaws-", dir="/tmp"))
    root.chmod(0o711)
    made = Site(root, emulator, certs)
    yield made
    for host in made.hosts:
        host.stop()
    shutil.rmtree(root)


# ---- what a component is -------------------------------------------------------------

def test_the_descriptor(site):
    host = site.server()
    name, *words = [word.decode() for word in host.ok("open", site.library)]
    at, says = words.index("requires"), words.index("says")
    assert name == "component_keyring_aws"
    assert sorted(words[:at]) == sorted(f"{each}.{name}" for each in SERVICES)
    assert words[at + 1:says] == ["registry"]
    assert {"mysql.author", "mysql.license", f"{name}_service"} <= set(words[says + 1::2])
    host.ok("init")
    assert host.call("status").result == 0
    host.down()
    host.end()


def test_every_service_before_load_and_after_deinit(site):
    """It refuses, and says that it is not loaded."""
    host = site.server()
    host.open()
    for step in ("load", "deinit"):
        with site.nothing_happens(host):
            assert host.call("status").result == 0
            assert host.call("read", "a", None) == (1, [])
            assert host.call("store", "a", None, "AES", "x").result == 1
            assert host.call("generate", "a", None, "AES", 16).result == 1
            assert host.call("remove", "a", None).result == 1
            assert host.call("walk", "keys").result in (0, 1)
            result, number, text = host.select("refresh")
            assert (result, number) == (-2, 0) and "not loaded" in text
        if step == "load":
            assert host.load() == 0
            host.ok("started", 1)
            host.ok("generate", "a", None, "AES", 16)
            host.ok("deinit")
    host.ok("close")
    host.end()


# ---- conventions ---------------------------------------------------------------------

def test_keys_as_the_server_takes_them(site):
    host = site.server().up()
    host.ok("generate", "INNODBKey-1", None, "AES", 32)
    kind, made = host.key("INNODBKey-1")
    assert kind == b"AES" and len(made) == 32
    assert host.key("INNODBKey-1", "") == (kind, made)              # the same owner
    assert host.key("INNODBKey-1", "u@h") is None and host.key("INNODBKey") is None
    host.ok("store", "mine", "u@h", "SECRET", b"\0\1 bytes \xff")
    assert host.key("mine", "u@h") == (b"SECRET", b"\0\1 bytes \xff")
    for again in (("generate", "mine", "u@h", "AES", 16), ("store", "mine", "u@h", "AES", "x"),
                  ("store", "INNODBKey-1", None, "AES", "x"),
                  ("generate", "INNODBKey-1", "", "AES", 32)):
        assert host.call(*again).result == 1
    assert host.key("mine", "u@h") == (b"SECRET", b"\0\1 bytes \xff")
    assert host.key("INNODBKey-1") == (kind, made)
    assert host.keys() == {("INNODBKey-1", ""), ("mine", "u@h")}
    host.ok("remove", "mine", "u@h")
    assert host.call("remove", "mine", "u@h").result == 1           # it is absent
    assert host.key("mine", "u@h") is None and host.keys() == {("INNODBKey-1", "")}
    host.down()
    host.end()


def test_names_that_are_none(site):
    host = site.server().up()
    host.ok("generate", "a", None, "AES", 32)
    for key_id in (None, ""):
        assert host.call("read", key_id, None) == (1, [])
        assert host.call("store", key_id, None, "AES", "x").result == 1
        assert host.call("generate", key_id, None, "AES", 16).result == 1
        assert host.call("remove", key_id, None).result == 1
    assert host.call("store", "b", None, None, "x").result == 1
    assert host.call("generate", "b", None, None, 16).result == 1
    assert host.call("store", "b", None, "AES", "").result == 1     # empty would count as absent
    assert host.call("generate", "b", None, "AES", 0).result == 1
    assert host.call("generate", "b", None, "AES", 1 << 20).result == 1
    assert host.call("store", "b", None, "SECRET", b"x" * 20000).result == 1
    assert host.keys() == {("a", "")}
    host.down()
    host.end()


def test_a_reader_keeps_what_it_read(site):
    """Whatever happens to the key, and to KMS, between init and fetch."""
    host = site.server().up()
    host.ok("store", "a", None, "SECRET", "the bytes")
    assert host.ok("reader_init", 0, "a", None) == [b"1"]
    assert host.ok("reader_init", 1, "none", None) == [b"0"]
    host.ok("remove", "a", None)
    site.emulator.stop()
    assert host.ok("reader_length", 0) == [b"9", b"6"]
    assert host.call("reader_fetch", 0, 8, 6).result == 1
    assert host.call("reader_fetch", 0, 9, 5).result == 1
    assert host.ok("reader_fetch", 0, 9, 6) == [b"SECRET", b"the bytes"]    # no room for a NUL
    assert host.ok("reader_fetch", 0, 99, 99) == [b"SECRET", b"the bytes"]
    host.ok("reader_deinit", 0)
    host.down()
    host.end()


def test_kms_away_is_an_error_and_never_absent(site):
    host = site.server().up()
    for key in ("a", "b", PERSISTED):
        host.ok("generate", key, None, "AES", 32)
    kept = host.key("a")
    site.emulator.fault("Decrypt", "error", times=0, type="AccessDeniedException")
    for key in ("a", "b", PERSISTED):
        assert host.call("read", key, None) == (1, [])
    assert host.call("read", "none", None) == (0, [])
    site.emulator.clear_faults()
    site.emulator.stop()
    assert host.call("read", "a", None) == (1, [])
    assert host.call("read", "none", None) == (0, [])
    assert host.call("generate", "c", None, "AES", 32).result == 1
    assert host.keys() == {("a", ""), ("b", ""), (PERSISTED, "")}
    assert len(host.said("", ERROR)) >= 2
    site.emulator.start()
    wait_for(lambda: host.call("read", "a", None) == (0, list(kept)), 6)
    host.down()
    host.end()


def test_walking_the_keys(site):
    """Lengths without the NUL; what does not fit is cut, and is no error."""
    host = site.server().up()
    host.ok("walk_init", "keys")                                    # an empty ring
    assert host.call("walk_valid", "keys").result == 0
    assert host.call("walk_next", "keys").result == 1
    assert host.call("walk_length", "keys").result == 1
    assert host.call("walk_get", "keys", 256, 256).result == 1
    host.ok("walk_deinit", "keys")
    long = "k" * 255
    host.ok("store", long, "user@host", "SECRET", "x")
    host.ok("walk_init", "keys")
    host.ok("store", "later", None, "SECRET", "x")                  # the walk does not see it
    assert host.call("walk_valid", "keys").result == 1
    assert host.ok("walk_length", "keys") == [b"255", b"9"]
    assert host.ok("walk_get", "keys", 256, 10) == [long.encode(), b"user@host"]
    assert host.ok("walk_get", "keys", 64, 5) == [long[:63].encode(), b"user"]
    assert host.ok("walk_get", "keys", 1, 1) == [b"", b""]
    host.ok("remove", long, "user@host")
    assert host.ok("walk_get", "keys", 256, 10) == [long.encode(), b"user@host"]
    assert host.call("walk_next", "keys").result == 1
    assert host.call("walk_valid", "keys").result == 0
    assert host.call("walk_get", "keys", 256, 10).result == 1
    host.ok("walk_deinit", "keys")
    host.down()
    host.end()


def test_the_metadata(site):
    """Oracle's rows, in its order; lengths with the NUL; and never a secret."""
    host = site.server().up()
    says = host.says()
    assert list(says)[:8] == ["Component_name", "Author", "License", "Implementation_name",
                              "Version", "Component_status", "Data_file", "Read_only"]
    assert says["Component_name"] == says["Implementation_name"] == "component_keyring_aws"
    assert says["Component_status"] == "Active" and says["Read_only"] == "No"
    assert says["Data_file"] == str(site.data / "keys.kaws")
    assert SECRET not in str(says) and ACCESS_KEY_ID not in str(says)
    host.ok("walk_init", "meta")
    assert host.ok("walk_length", "meta") == [b"15", b"22"]
    assert host.ok("walk_get", "meta", 15, 22) == [b"Component_name", b"component_keyring_aws"]
    assert host.call("walk_get", "meta", 14, 22).result in (0, 1)   # but it stays in its room
    host.ok("walk_deinit", "meta")
    host.down()
    host.end()


def test_read_only(site):
    site.seed("a")
    site.configure(read_only=True)
    host = site.server().up()
    before = site.disk()
    assert host.key("a")[0] == b"AES" and host.says()["Read_only"] == "Yes"
    assert host.call("generate", "b", None, "AES", 16).result == 1
    assert host.call("store", "b", None, "AES", "x").result == 1
    assert host.call("remove", "a", None).result == 1
    assert site.disk() == before
    host.down()
    host.end()


# ---- load ----------------------------------------------------------------------------

@pytest.mark.parametrize("seeded", [False, True])
def test_load_only_reads(site, seeded):
    if seeded:
        site.seed("a")
    host = site.server()
    with site.nothing_happens(host):
        host.open()
        assert host.load() == 0 and host.call("status").result == 1
        host.down()
    host.open()
    with site.nothing_happens(host):
        assert host.load() == 0
        assert host.says()["Component_status"] == "Active"
    if seeded:
        site.seed("b")                  # nobody else has locked the file
    host.down()
    host.end()


def test_a_load_that_fails(site):
    """It says why, touches nothing, and the next one may succeed."""
    host = site.server()
    host.open()
    configured = json.dumps(site.config())
    for text, why in {
            "": "object", '{"cmk_id": ': "", configured[:-1]: "", configured + "{": "follows",
            configured.replace("false", '"false"', 1): "read_only",
            configured.replace('"data_file"', '"other_file"'): "data_file",
            configured.replace('"simple"', '"odd"'): "aws_authentication.mode"}.items():
        site.write(text)
        with site.nothing_happens(host):
            assert host.load() == 1, text
            assert host.call("status").result == 0
            assert host.says()["Component_status"] == "Disabled"
            assert host.call("read", "a", None) == (1, [])
        assert any(why in line for line in host.said("KAWS-324", ERROR)), host.logs
        assert not any(SECRET in line[3] for line in host.logs)
        host.logs.clear()
    (site.plugins / CNF).unlink()
    assert host.load() == 1 and host.logs[-1][0] == ERROR and CNF in host.logs[-1][3]
    site.configure()
    assert host.load() == 0 and host.call("status").result == 1
    host.down()
    host.end()


def test_a_local_configuration(site):
    """The first file may send it to the folder of the instance."""
    site.write('{"read_local_config": true}')
    host = site.server()
    host.open()
    assert host.load() == 1 and host.said(re.escape(str(site.data)), ERROR)
    site.configure(site.data)
    assert host.load() == 0
    host.ok("started", 1)
    host.ok("generate", "a", None, "AES", 16)
    assert (site.data / "keys.kaws").is_file()
    host.down()
    host.end()


def make_file(site):
    """The data file that is configured, without keys."""
    maker = site.server().up()
    maker.ok("generate", "first", None, "AES", 32)
    maker.ok("remove", "first", None)
    maker.down()
    maker.end()


@pytest.mark.parametrize("began", [True, False])
def test_reload(site, began):
    """A new configuration replaces the old one, if it is good."""
    site.emulator.add_key("us-east-1", "111122223333", alias="alias/two")
    host = site.server().up()
    if began:
        host.ok("generate", "a", None, "AES", 32)
    kept = host.key("a")
    before = site.disk()
    assert host.load(component=f"{site.broken()}/") == 1
    assert host.said("", ERROR) and host.call("status").result == 1
    assert host.key("a") == kept and site.disk().items() >= before.items()
    if began:
        assert host.says()["Component_status"] == "Active"
    site.configure(cmk_id="alias/two")
    assert host.load() == 0 and host.key("a") == kept
    host.ok("generate", "b", None, "AES", 32)
    assert "alias/two" in str(site.emulator.log()["requests"][-1]["body"])
    site.configure(data_file="other.kaws")
    assert host.load() == 1 and host.key("a") == kept   # no keys for two keys
    make_file(site)
    assert host.load() == 0 and host.key("a") is None
    host.ok("generate", "c", None, "AES", 32)
    assert host.keys() == {("c", "")}
    site.configure()
    other = site.server().up()            # the file of before is free again
    assert other.key("a") == kept and other.key("b")
    other.ok("generate", "d", None, "AES", 32)
    other.down()
    other.end()
    host.down()
    host.end()


def test_a_reload_meets_readers(site):
    host = site.server().up()
    host.ok("store", "a", None, "SECRET", "the bytes")
    host.ok("reader_init", 0, "a", None)
    host.ok("walk_init", "keys")
    host.ok("walk_init", "meta")
    site.configure(data_file="other.kaws")
    make_file(site)
    assert host.load() == 0
    assert host.ok("reader_fetch", 0, 9, 6) == [b"SECRET", b"the bytes"]
    assert host.ok("walk_get", "keys", 256, 256) == [b"a", b""]
    assert host.ok("walk_get", "meta", 256, 256)[0] == b"Component_name"
    host.ok("reader_deinit", 0)
    host.ok("walk_deinit", "keys")
    host.ok("walk_deinit", "meta")
    host.down()
    host.end()


# ---- while the server starts ---------------------------------------------------------

def test_reads_before_there_is_a_file(site):
    """A server that starts for the first time: nothing is there, and nothing is made."""
    host = site.server()
    host.open()
    assert host.load() == 0
    with site.nothing_happens(host):
        assert host.key(PERSISTED) is None
        assert host.key("INNODBKey-1") is None
        assert host.keys() == set()
    host.ok("generate", "INNODBKey-1", None, "AES", 32)
    assert (site.data / "keys.kaws").is_file() and host.key("INNODBKey-1")
    assert host.key(PERSISTED) is None
    host.down()
    host.end()


def test_the_key_of_persisted_variables(site):
    """Its first reader leaves nothing behind: no lock, no connection, no thread."""
    site.seed(PERSISTED, "a")
    host = site.server()
    host.open()
    assert host.load() == 0
    for _ in range(2):
        with site.nothing_happens(host, asks_kms=True):
            assert host.key(PERSISTED)[0] == b"AES"
    site.emulator.stop()
    with site.nothing_happens(host):
        assert host.call("read", PERSISTED, None) == (1, [])
    site.emulator.start()
    host.ok("started", 1)
    wait_for(lambda: host.call("read", PERSISTED, None).result == 0, 6)
    assert host.key("a")
    host.down()
    host.end()


# ---- lives ---------------------------------------------------------------------------

@as_root
@pytest.mark.parametrize("seeded", [False, True])
def test_the_life_of_8_0_24(site, seeded):
    """Fork, setuid and chdir come before load."""
    if seeded:
        site.seed("old")
    host = site.host()
    host.fork()
    host.become(NOBODY)
    host.ok("chdir", site.data)
    host.ok("version")
    host.open()
    with site.nothing_happens(host):
        assert host.load() == 0
    assert host.parent("exit").result == 0
    assert (host.key("old") is not None) == seeded
    host.ok("generate", "new", None, "AES", 32)
    host.ok("started", 1)
    assert host.load() == 0
    assert host.keys() == {("new", "")} | ({("old", "")} if seeded else set())
    assert site.owners() == {NOBODY.pw_uid}
    host.down()
    host.end()


@as_root
@pytest.mark.parametrize("ends", ["before", "amid", "after"])
@pytest.mark.parametrize("seeded", [False, True])
def test_the_life_of_8_0_29_daemonized(site, seeded, ends):
    """Load, and the key of persisted variables, come before fork, setuid and chdir.  The parent
    calls deinit before the child's first call, during one, or after it."""
    if seeded:
        site.seed(PERSISTED, "old")
    host = site.host()
    host.open()
    with site.nothing_happens(host):
        assert host.load() == 0
    with site.nothing_happens(host, asks_kms=seeded):
        assert (host.key(PERSISTED) is not None) == seeded
    host.fork()
    host.become(NOBODY)
    host.ok("chdir", site.data)

    def parent_ends() -> None:
        def state() -> tuple:           # which a change that is under way alters
            return () if ends == "amid" else (site.disk(), site.emulator.count())

        before = state()
        assert host.parent("deinit").result == 0
        assert host.parent("close").result == 0
        assert state() == before
        assert host.parent("exit").result == 0
        assert host.process.wait(60) == 0

    if ends == "before":
        parent_ends()
    site.emulator.set(latency_ms=200 if ends == "amid" else 0)
    made = host.begin("generate", "new", None, "AES", 32)
    if ends == "amid":
        parent_ends()
    assert made.result(60).result == 0
    site.emulator.set(latency_ms=0)
    if ends == "after":
        parent_ends()
    expected = {"new"} | ({PERSISTED, "old"} if seeded else set())
    assert all(host.key(each) for each in expected)
    host.ok("started", 1)
    assert host.load() == 0
    assert host.keys() == {(each, "") for each in expected}
    host.ok("generate", "last", None, "AES", 32)
    assert site.owners() == {NOBODY.pw_uid}
    host.down()
    host.end()


@as_root
def test_the_life_of_8_0_29_in_the_foreground(site):
    """As mysqld_safe and systemd start it: the same process has another user later."""
    site.seed(PERSISTED, "old")
    host = site.host()
    descriptors = host.descriptors()
    host.open()
    assert host.load() == 0
    with site.nothing_happens(host, asks_kms=True):
        assert host.key(PERSISTED)
    host.become(NOBODY)
    host.ok("chdir", site.data)
    assert host.key("old")
    host.ok("generate", "new", None, "AES", 32)
    host.ok("started", 1)
    assert host.load() == 0 and host.keys() == {("new", ""), ("old", ""), (PERSISTED, "")}
    assert site.owners() == {NOBODY.pw_uid}
    host.down()
    assert host.descriptors() == descriptors
    host.end()


@as_root
@pytest.mark.parametrize("group", [0, NOBODY.pw_gid])
def test_root_looks_with_the_groups_of_the_account(site, group):
    """Those of the data file's owner, whatever group a copy of root's has left on the file."""
    site.seed(PERSISTED)
    os.chown(site.data / "keys.kaws", NOBODY.pw_uid, 0)
    os.chown(site.plugins / CNF, 0, NOBODY.pw_gid)
    (site.plugins / CNF).chmod(0o640)
    host = site.host()
    host.ok("setuid", 0, group)
    host.open()
    with site.nothing_happens(host):
        assert host.load() == 0, host.logs
    with site.nothing_happens(host, asks_kms=True):
        assert host.key(PERSISTED)
    host.become(NOBODY)
    assert host.key(PERSISTED)
    host.down()
    host.end()


@as_root
def test_a_write_before_the_user_changes(site):
    """No server does that.  It is refused, because the account could not use what root wrote."""
    site.seed("old")
    host = site.host()
    host.open()
    assert host.load() == 0
    before = site.disk()
    assert host.call("generate", "of-root", None, "AES", 32).result == 1
    assert site.disk() == before
    host.become(NOBODY)
    assert host.key("old")
    host.ok("generate", "new", None, "AES", 32)
    assert host.keys() == {("old", ""), ("new", "")} and site.owners() == {NOBODY.pw_uid}
    host.down()
    host.end()


@as_root
def test_a_ring_is_the_accounts_that_opened_it(site):
    """It is opened again for another: what the one could read, the other may not be able to."""
    host = site.host()
    host.up()
    host.ok("generate", "of-root", None, "AES", 32)
    host.become(NOBODY)
    assert host.call("read", "of-root", None) == (1, [])
    assert host.call("generate", "new", None, "AES", 32).result == 1
    assert host.said("belongs to another user|Permission denied", ERROR)
    host.down()
    host.end()


def test_a_ring_that_was_open_before_a_fork(site):
    """The parent's descriptors, lock and connections are forgotten, not ended.  (What libcurl has
    of the parent's cannot be freed.)"""
    host = site.server(NO_LEAK_CHECK)
    host.open()
    assert host.load() == 0
    host.ok("generate", "of-parent", None, "AES", 32)
    host.fork()
    assert host.key("of-parent")
    connections = site.emulator.log()["connections"]
    assert host.parent("read", "of-parent", None).result == 0
    assert site.emulator.log()["connections"] == connections        # the parent's still serves
    assert host.parent("deinit").result == 0
    assert host.key("of-parent")
    host.ok("generate", "of-child", None, "AES", 32)
    assert host.keys() == {("of-parent", ""), ("of-child", "")}
    host.down()
    assert host.parent("close").result == 0
    host.end()


def test_a_child_that_never_calls(site):
    host = site.server(NO_LEAK_CHECK)
    host.open()
    assert host.load() == 0
    host.ok("generate", "a", None, "AES", 32)
    host.fork()
    before = site.disk()
    host.ok("deinit")                   # of what is not its own
    host.ok("close")
    assert site.disk() == before
    assert host.parent("read", "a", None).result == 0
    assert host.parent("generate", "b", None, "AES", 32).result == 0
    assert host.parent("deinit").result == 0
    assert host.parent("close").result == 0
    host.end()


def test_the_life_of_mysql_migrate_keyring(site):
    """No symbol of a server, no instance, and no slash at the end of the component's path."""
    file = site.root / "apart.kaws"
    site.install("plain")
    os.chown(site.plugins / CNF, os.geteuid(), -1)
    host = site.host()
    host.ok("missing", *ACQUIRED, "mysql_runtime_error")
    host.open()
    assert host.call("load", site.plugins, None).result == 1        # it would be relative to what?
    site.configure(data_file=str(file))
    os.chown(site.plugins / CNF, os.geteuid(), -1)
    assert host.call("load", site.plugins, None).result == 0, host.stderr()
    host.ok("store", "a", "u@h", "SECRET", "the bytes")
    host.ok("store", "b", None, "AES", "0123456789abcdef")
    assert host.keys() == {("a", "u@h"), ("b", "")}
    assert host.key("a", "u@h") == (b"SECRET", b"the bytes") and file.is_file()
    host.down()
    host.end(stderr=r"(component_keyring_aws: .*\n)+")
    assert "data_file" in host.stderr() and host.logs == []


# ---- deinit when nobody expects it ---------------------------------------------------

def test_deinit_in_odd_states(site):
    host = site.server()
    descriptors, before = host.descriptors(), site.disk()
    host.ok("open", site.library)
    host.ok("deinit")                   # without init
    host.ok("init")
    host.ok("deinit")                   # without load
    host.ok("deinit")                   # twice
    host.ok("init")
    assert host.load(component=f"{site.root}/none/") == 1
    host.down()                         # after a load that failed
    assert site.disk() == before
    for _ in range(2):                  # and it can be had again
        host.up()
        host.call("generate", "a", None, "AES", 32)
        assert host.key("a")
        host.ok("deinit")
        host.ok("deinit")
        host.ok("close")
    assert host.descriptors() == descriptors
    assert host.ok("refs") == []
    host.end()


def test_deinit_meets_readers(site):
    host = site.server().up()
    host.ok("store", "a", None, "SECRET", "the bytes")
    host.ok("reader_init", 0, "a", None)
    host.ok("walk_init", "keys")
    host.ok("walk_init", "meta")
    host.ok("deinit")
    assert host.ok("reader_fetch", 0, 9, 6) == [b"SECRET", b"the bytes"]
    assert host.ok("walk_get", "keys", 256, 256) == [b"a", b""]
    assert host.ok("walk_get", "meta", 256, 256)[0] == b"Component_name"
    host.ok("reader_deinit", 0)
    host.ok("walk_deinit", "keys")
    host.ok("walk_deinit", "meta")
    host.ok("close")
    host.end()


@pytest.mark.parametrize("call", [("select", "rotate_keys"), ("read", "a", None),
                                  ("generate", "b", None, "AES", 32)], ids=lambda call: call[0])
def test_deinit_meets_calls(site, call):
    """A call that runs ends well, or says why not; then the ring is closed."""
    if call[0] == "select":
        call = ("select", site.library, call[1])
    host = site.server()
    descriptors = host.descriptors()
    host.up()
    host.ok("generate", "a", None, "AES", 32)
    site.emulator.set(latency_ms=300)
    requests = site.emulator.count()
    running = host.begin(*call)
    wait_for(lambda: site.emulator.count() > requests)
    host.ok("deinit")
    assert host.call("read", "a", None) == (1, [])
    answer = running.result(60)
    assert answer.result == (1 if call[0] == "select" else 0), answer
    host.ok("close")
    wait_for(lambda: host.descriptors() == descriptors, 2)
    host.end()


# ---- SQL functions -------------------------------------------------------------------

@pytest.mark.parametrize("name", ["rotate_cmk", "rotate_cms", "rotate_keys", "refresh"])
def test_who_may_call_functions(site, name):
    host = site.server().up()
    host.ok("generate", "a", None, "AES", 32)
    for user in ("nobody", "none"):
        host.ok("user", user)
        requests = site.emulator.count()
        result, number, text = host.select(name)
        assert (result, number) == (-2, 0) and "privilege" in text
        assert site.emulator.count() == requests
    for user in ("super", "admin"):
        host.ok("user", user)
        assert host.select(name) == (1, 0, "")
    assert host.key("a") and host.ok("refs") == [b"registry", b"1"]
    host.down()
    host.end()


def test_a_function_that_fails(site):
    host = site.server().up()
    host.ok("generate", "a", None, "AES", 32)
    site.emulator.fault("*", "error", times=0, type="AccessDeniedException")
    result, number, text = host.select("rotate_keys")
    assert (result, number) == (-1, FUNCTION_FAILED)
    assert text.startswith("Function keyring_aws_rotate_keys failed due to: ")
    site.emulator.clear_faults()
    assert host.ok("refs") == [b"registry", b"1"]
    host.down()
    host.end()


@pytest.mark.parametrize("missing", ACQUIRED)
def test_missing_services(site, missing):
    """Keys need none of them.  A function that cannot ask what its caller may do refuses; who the
    caller is the server says by a symbol."""
    host = site.server()
    host.ok("missing", missing)
    host.up()
    host.ok("generate", "a", None, "AES", 32)
    assert host.key("a")
    host.ok("user", "nobody")
    assert host.select("refresh")[0] == -2
    may = {"mysql_current_thread_reader": {"super", "admin"},
           "mysql_security_context_options": {"admin"}, "global_grants_check": {"super"}}
    for user in ("super", "admin"):
        host.ok("user", user)
        result, number, text = host.select("refresh")
        assert (result, number) == ((1, 0) if user in may.get(missing, ()) else (-2, 0)), text
        assert bool(text) == (result == -2)
    assert host.ok("refs") == [b"registry", b"1"]
    host.ok("missing")
    host.ok("user", "admin")
    assert host.select("refresh") == (1, 0, "")
    host.down()
    host.end()


def test_kill_ends_a_function(site):
    host = site.server().up()
    host.ok("generate", "a", None, "AES", 32)
    site.emulator.set(latency_ms=8000)
    requests = site.emulator.count()
    running = host.begin("select", site.library, "rotate_keys")
    wait_for(lambda: site.emulator.count() > requests)
    with within(5):
        host.ok("kill", 1)
        assert running.result(60).result == -1
    host.ok("kill", 0)
    site.emulator.set(latency_ms=0)
    host.down()
    host.end()


# ---- many threads --------------------------------------------------------------------

@pytest.mark.parametrize("locks, functions", [(True, False), (True, True), (False, True)],
                         ids=["locked", "functions", "unlocked"])
@pytest.mark.parametrize("kind", ["asan", "tsan"])
def test_threads_and_reload(site, kind, locks, functions):
    """Nothing fails while RELOAD KEYRING comes again and again, and rotations, which no lock is
    for, run across it.  If nobody locks as the server does, calls may fail, but no more than
    that."""
    site.install(kind)
    host = site.server().up()
    threads, rounds = (16, 30) if LONG else (6, 10)
    loads, *wrong = map(int, host.ok("storm", threads, rounds, int(locks), f"{site.data}/",
                                     f"{site.plugins}/", f"{site.broken()}/",
                                     site.library if functions else None))
    assert loads > 3 and wrong[0] == 0 and (not locks or wrong == [0] * 8), (loads, wrong)
    host.ok("generate", "last", None, "AES", 32)
    keys = host.keys()
    assert ("last", "") in keys and (not locks or len(keys) == 3 * threads + 1)
    host.down()
    other = site.server().up()
    assert other.keys() == keys         # what is on disk
    assert all(other.key(*each) for each in keys)
    other.down()
    other.end()
    host.end()


def test_a_rotation_goes_on_across_a_reload(site):
    """It ends well in the keyring that it began with; the new one has its work, and new keys."""
    host = site.server().up()
    names = [f"k{i}" for i in range(8)]
    for name in names:
        host.ok("generate", name, None, "AES", 32)
    kept = {name: host.key(name) for name in names}
    site.emulator.set(latency_ms=150)
    running = host.begin("select", site.library, "rotate_keys")
    wait_for(lambda: site.emulator.count("ReEncrypt") >= 2)
    assert host.load() == 0
    host.ok("generate", "new", None, "AES", 32)
    assert running.result(60) == (1, [b"0", b""])
    site.emulator.set(latency_ms=0)
    host.ok("generate", "last", None, "AES", 32)
    assert host.keys() == {(name, "") for name in (*names, "new", "last")}
    assert {name: host.key(name) for name in names} == kept
    host.down()
    host.end()
