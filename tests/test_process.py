"""credential_process: a helper of a profile gives the credentials, and does what it likes.

Whatever it does, the call ends in time, nothing of its output is shown, and afterwards no process
of it is left: neither running nor waiting to be reaped.
"""

import contextlib
import json
import os
import re
import shlex
import shutil
import signal
import sys
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pymysql
import pytest

from conftest import write_conf
from driver import Driver
from kms_emulator import ACCESS_KEY_ID, ACCOUNT, KEY_ARN, SECRET, Emulator
from mysql_fixtures import NO_SCHEMA, cursor, wait_for
from patience import calm, in_time, within

from test_native import NO_EC2, cloud, fetch_for, role                      # noqa: F401
from test_secrets import Searched

USED = f"arn:aws:iam::{ACCOUNT}:role/user"
GOOD = {"Version": 1, "AccessKeyId": ACCESS_KEY_ID, "SecretAccessKey": SECRET}
SAY = f"echo '{json.dumps(GOOD)}'\n"
S3CR = "S3CR-of-the-helper"             # in what must not be shown


def write_helper(path: Path, body: str, mode: int = 0o700, head: str = "#!/bin/sh") -> Path:
    """A script; whole at once, because nobody can run what is open for writing."""
    new = path.with_name(path.name + ".new")
    new.write_text(f"{head}\n{body}")
    new.chmod(mode)
    new.replace(path)
    return path


def families(mark: str) -> list[str]:
    """What there is of processes that have a mark in their environment."""
    found = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if entry.name.isdigit() and mark.encode() in (entry / "environ").read_bytes():
                found.append((entry / "cmdline").read_bytes().replace(b"\0", b" ").decode())
    return found


def children(pid: int) -> list[str]:
    """The children that a process has, zombies too."""
    found = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError, IndexError):
            if entry.name.isdigit():
                state, parent = (entry / "stat").read_text().rpartition(")")[2].split()[:2]
                if int(parent) == pid:
                    found.append(f"{entry.name} {state}")
    return found


class Helped:
    """A ring whose credentials come from a helper."""

    def __init__(self, role, cloud, folder: Path):                          # noqa: F811
        self.role, self.cloud, self.folder, self.mark = role, cloud, folder, uuid.uuid4().hex
        self.path = folder / "helper"

    def open(self, command=None, env=(), **more):
        config = write_conf(self.folder / "config", "[profile app]",
                            f"credential_process = {command or self.path}")
        self.lib = self.role({"KAWS_MARK": self.mark, **dict(env)}, config_file=config,
                             profile="app", **more)
        return self.lib

    @contextlib.contextmanager
    def hosted(self, command: str, **more):
        """As open(), in a driver that a shell starts in its own way."""
        script = write_helper(self.folder / "driver", command)
        config = write_conf(self.folder / "config", "[profile app]",
                            f"credential_process = {self.path} 'a b'")
        with Driver(script, {"KAWS_MARK": self.mark}) as self.lib:
            self.role.made.append(self.lib)
            assert self.lib.open(auth="native", profile="app", config_file=config,
                                 kms_key_id=KEY_ARN, endpoint=self.cloud.url).status == "OK"
            yield self.lib
        self.role.made.clear()

    def run(self, body: str, seconds: float = 3, **more):
        """What a call comes to with a helper that does so."""
        write_helper(self.path, SAY)
        self.open(**more)
        write_helper(self.path, body)
        answer = self.lib.call("reload_creds")
        in_time(answer.ms, seconds * 1000, answer)
        self.nothing_is_left()
        assert S3CR not in answer.text and SECRET not in answer.text
        assert not self.lib.said(S3CR) and not self.lib.said(re.escape(SECRET))
        return answer

    def nothing_is_left(self) -> None:
        assert children(self.lib.process.pid) == []
        wait_for(lambda: len(families(self.mark)) <= len(self.role.made), 2)
        assert all("driver" in each for each in families(self.mark)), families(self.mark)


@pytest.fixture
def helped(role, cloud, tmp_path):                                          # noqa: F811
    role.made = []
    opened = role

    def counted(*args, **more):
        role.made.append(opened(*args, **more))
        return role.made[-1]

    counted.made = role.made
    yield Helped(counted, cloud, tmp_path)


# ---- well ----------------------------------------------------------------------------

def test_a_process(helped, cloud):
    """It is run once, and not again until AWS refuses what it gave, or the ring is told to."""
    runs = helped.folder / "runs"
    write_helper(helped.path, f"echo x >> {runs}\n{SAY}")
    lib = helped.open(must_have_creds=1)
    lib.ok("generate", "a", None, "AES", 32)
    key = lib.fetch("a")
    assert lib.ok("whoami")[1] == ACCESS_KEY_ID[-4:].encode()
    (line,) = lib.said(r"\[KAWS-165\]", 2)
    assert line.endswith("come from the profile app; they belong to an account that it does not"
                         f" name, their access key id ends in {ACCESS_KEY_ID[-4:]}, and they"
                         " expire: never")
    assert runs.read_text() == "x\n"
    keys = cloud.session(USED)
    cloud.remove_user(ACCESS_KEY_ID)
    say = {"Version": 1, "AccessKeyId": keys["AccessKeyId"], "AccountId": ACCOUNT,
           "SecretAccessKey": keys["SecretAccessKey"], "SessionToken": keys["Token"],
           "Expiration": keys["Expiration"]}
    write_helper(helped.path, f"echo x >> {runs}\necho '{json.dumps(say)}'\n")
    assert lib.fetch("a") == key and runs.read_text() == "x\nx\n"
    assert f"they belong to account {ACCOUNT}, their" in lib.said(r"\[KAWS-165\]", 2)[-1]
    lib.ok("reload_creds")
    assert runs.read_text() == "x\nx\nx\n"
    helped.nothing_is_left()
    for secret in (SECRET, "role+", "tok/"):
        assert not lib.said(re.escape(secret))


TELL = r"""
import json, os, re, sys
files = {}
for number in os.listdir("/proc/self/fd"):
    try:
        files[number] = os.readlink("/proc/self/fd/" + number)
    except OSError:
        pass                            # it was for the list itself
status = dict(re.findall(r"(\w+):\s*(\S+)", open("/proc/self/status").read()))
with open(os.path.join(os.path.dirname(sys.argv[0]), "tell"), "w") as out:
    json.dump({"words": sys.argv[1:], "mark": os.environ["KAWS_MARK"], "input": sys.stdin.read(),
               "files": files, "blocked": status["SigBlk"], "ignored": status["SigIgn"],
               "group": os.getpgrp(), "pid": os.getpid()}, out)
"""


def test_what_the_helper_gets(helped):
    """Its words as they were written; no input; the environment; its own process group; no file
    of ours; and signals as every program expects them."""
    write_helper(helped.path, f"{TELL}print({json.dumps(GOOD)!r})", head=f"#!{sys.executable} -S")
    helped.open(f"{helped.path} 'a b' \"c \\\"d\" $HOME e\\ f '' ~ | x > /nowhere").ok("check")
    told = json.loads((helped.folder / "tell").read_text())
    assert told["words"] == ["a b", 'c "d', "$HOME", "e f", "", "~", "|", "x", ">", "/nowhere"]
    assert told["mark"] == helped.mark and told["input"] == ""
    assert told["files"].pop("1").startswith("pipe:")
    assert told["files"] == {"0": "/dev/null", "2": "/dev/null"}, "it has files of ours"
    assert int(told["blocked"], 16) == 0 and told["group"] == told["pid"]
    ignored = int(told["ignored"], 16)
    for number in range(1, 32):         # Python itself ignores SIGPIPE, and SIGXFSZ
        assert not ignored >> (number - 1) & 1 or number in (signal.SIGPIPE, signal.SIGXFSZ)
    helped.nothing_is_left()


def test_a_role_from_a_process(helped, cloud):
    cloud.add_role(USED)
    write_helper(helped.path, SAY)
    lib = helped.open(role_arn=USED, sts_endpoint=cloud.url)
    lib.ok("check")
    (*_, last) = [each for each in cloud.log()["requests"] if each["body"]]
    assert cloud.users[last["access_key_id"]].path == (ACCESS_KEY_ID, USED)


def session_helper(helped, cloud, life: float) -> None:
    """A helper that gives new credentials each time, of so many seconds."""
    script = f"""
import json, urllib.request
order = json.dumps({{"do": "session", "role_arn": "{USED}", "life": {life}}}).encode()
keys = json.load(urllib.request.urlopen("http://127.0.0.1:{helped.control}", order))["result"]
print(json.dumps({{"Version": 1, "AccessKeyId": keys["AccessKeyId"],
                   "SecretAccessKey": keys["SecretAccessKey"], "SessionToken": keys["Token"],
                   "Expiration": keys["Expiration"]}}))
"""
    write_helper(helped.path, script, head=f"#!{sys.executable} -S")


@pytest.fixture
def control(helped, cloud, monkeypatch):                                    # noqa: F811
    """The emulator's control port, by which a helper gets what it gives."""
    import kms_emulator
    monkeypatch.setattr(Emulator, "CONTROLS", ("session",))
    server = kms_emulator.serve_control(cloud)
    helped.control = server.server_port
    yield
    server.shutdown()
    server.server_close()


def test_credentials_that_expire_during_a_load(helped, cloud, control):
    """They live 4 seconds: one of 8 threads has the helper run, and no call fails."""
    session_helper(helped, cloud, 4)
    lib = helped.open()
    lib.ok("generate", "a", None, "AES", 32)
    fetch_for(lib, 8)
    assert 3 <= len(cloud.given) <= 12
    assert {each["signed"] for each in cloud.log()["requests"] if each["body"]} == {"OK"}
    helped.nothing_is_left()


def test_a_slow_helper_is_run_once_for_all(helped, cloud):                      # noqa: F811
    """AWS refuses what it gave first: of 8 calls one has it run again, and the others wait."""
    runs = helped.folder / "runs"
    write_helper(helped.path, f"echo x >> {runs}\n{SAY}")
    lib = helped.open()
    cloud.add_user("AKIDNEW", SECRET, ACCOUNT)
    cloud.remove_user(ACCESS_KEY_ID)
    write_helper(helped.path, f"echo x >> {runs}\nsleep 1\n{SAY.replace(ACCESS_KEY_ID, 'AKIDNEW')}")
    answers = [pending.result(10) for pending in [lib.begin("check") for _ in range(8)]]
    assert {each.status for each in answers} == {"OK"} and runs.read_text() == "x\nx\n"
    helped.nothing_is_left()


def test_the_host_ignores_its_children(helped, driver_program):
    """Under SIGCHLD = SIG_IGN the kernel reaps them itself; and that stays as it is."""
    write_helper(helped.path, SAY)
    with helped.hosted(f"exec env --ignore-signal=CHLD {driver_program}\n") as lib:
        for _ in range(20):
            lib.ok("reload_creds")
            lib.ok("check")
        status = Path(f"/proc/{lib.process.pid}/status").read_text()
        ignored = int(re.search(r"SigIgn:\s*(\w+)", status)[1], 16)
        assert ignored >> (signal.SIGCHLD - 1) & 1
        helped.nothing_is_left()
        write_helper(helped.path, "exit 3\n")       # how it ended cannot be known then
        answer = lib.call("reload_creds")
        assert answer.status == "CREDENTIALS" and "object" in answer.text
        helped.nothing_is_left()


def test_nothing_odd_about_the_host_is_handed_on(helped, driver_program):
    """Neither signals that it ignores or blocks, nor files that it left open for all."""
    write_helper(helped.path, f"{TELL}print({json.dumps(GOOD)!r})", head=f"#!{sys.executable} -S")
    with helped.hosted("exec 7</etc/passwd\nexec env --ignore-signal=INT,HUP,ALRM"
                       f" --block-signal=USR1,ALRM {driver_program}\n") as lib:
        lib.ok("check")
        told = json.loads((helped.folder / "tell").read_text())
        assert set(told["files"]) == {"0", "1", "2"} and told["words"] == ["a b"]
        assert int(told["blocked"], 16) == 0
        for name in ("INT", "HUP", "ALRM", "CHLD", "TERM", "USR1"):
            assert not int(told["ignored"], 16) >> (getattr(signal, f"SIG{name}") - 1) & 1
        helped.nothing_is_left()


# ---- what it prints ------------------------------------------------------------------

@pytest.mark.parametrize("reply, words", [
    ({"Version": 2}, "Version"), ({"Version": "1"}, "Version"), ({"Version": None}, "Version"),
    ({"AccessKeyId": None}, "AccessKeyId"), ({"SecretAccessKey": None}, "SecretAccessKey"),
    ({"Expiration": S3CR}, "Expiration"), ({"AccessKeyId": "A B"}, "AccessKeyId"),
    ({"SessionToken": "x" * 4097}, "SessionToken"), ({"SessionToken": [S3CR]}, "object"),
    ("", "object"), (S3CR, "object"), ("[]", "object"), ('{"Version": 1', "object")])
def test_an_odd_reply(helped, reply, words):
    """The error says what is wrong with it, and shows nothing of it."""
    text = reply if isinstance(reply, str) else json.dumps(
        {key: value for key, value in {**GOOD, **reply}.items() if value is not None})
    (helped.folder / "reply").write_text(text)
    answer = helped.run(f"cat {helped.folder}/reply\n")
    assert answer.status == "CREDENTIALS" and words.lower() in answer.text.lower(), answer
    assert "app" in answer.text


@pytest.mark.parametrize("size, well", [(65535, True), (65536, False)])
def test_how_much_it_may_print(helped, size, well):
    text = json.dumps(GOOD)
    (helped.folder / "reply").write_text(text + " " * (size - len(text)))
    answer = helped.run(f"cat {helped.folder}/reply\n")
    assert answer.status == ("OK" if well else "CREDENTIALS"), answer
    assert well or "more than 65535 bytes" in answer.text


# ---- attacks -------------------------------------------------------------------------

@pytest.mark.parametrize("body, words", [
    (f"echo {S3CR} >&2; echo {S3CR}; exit 1\n", "exit status (is )?1"),
    (f"{SAY}exit 255\n", "exit status (is )?255"), (f"{SAY}kill -9 $$\n", "a signal ended it"),
    (f"{SAY}kill -TERM $$\n", "a signal ended it"),
    ("exec /nowhere/at/all\n", "exit status (is )?127")],
    ids=["1", "255", "SIGKILL", "SIGTERM", "127"])
def test_it_fails(helped, body, words):
    """By its exit status, also if it printed credentials; what it said is not shown."""
    answer = helped.run(body)
    assert answer.status == "SERVICE" and re.search(rf"\b{words}\b", answer.text), answer
    assert f"the credential_process {helped.path} of the profile app" in answer.text


def test_what_it_says_on_standard_error_is_never_shown(helped, tmp_path):
    answer = helped.run(f"echo '{S3CR}' >&2; {SAY}")
    assert answer.status == "OK" and S3CR not in helped.lib.stderr()


HANGS = {
    "it sleeps": "exec sleep 1000\n",
    "it ignores SIGTERM": "trap '' TERM INT HUP QUIT PIPE\nwhile :; do sleep 1; done\n",
    "it prints and goes on": f"{SAY}exec sleep 1000\n",
    "it closes its output and goes on": f"{SAY}exec >&-\nexec sleep 1000\n",
    "it stops itself": "kill -STOP $$\n",
    "its child hangs": "sleep 1000\n",
    "it reads its input, and then hangs": "cat; exec sleep 1000\n",
    "it prints a byte at a time": "while :; do printf ' '; sleep 0.01; done\n",
}


@pytest.mark.parametrize("body", HANGS.values(), ids=HANGS)
def test_it_hangs(helped, body):
    """It is killed with its group when the call's time is up, and the error says so."""
    answer = helped.run(body, timeout_ms=1000)
    assert answer.status == "NETWORK" and answer.ms > 700, answer
    assert "it did not end in time, and was ended" in answer.text
    helped.lib.ok("check")              # by what it gave before


def test_a_helper_that_hangs_is_not_waited_for_again(helped):
    """Until a minute is over, or the ring is told to."""
    write_helper(helped.path, f"echo x >> {helped.folder}/runs\nexec sleep 1000\n")
    lib = helped.open(timeout_ms=1500)
    assert 1000 < lib.opened.ms
    in_time(lib.opened.ms, 3000)
    for _ in range(5):
        assert lib.call("check").status == "NETWORK"
    assert (helped.folder / "runs").read_text() == "x\n"
    write_helper(helped.path, SAY)
    lib.ok("reload_creds")
    lib.ok("check")
    helped.nothing_is_left()


def test_a_helper_that_hangs_while_credentials_live(helped, cloud):         # noqa: F811
    """One caller waits for it, and then uses what there is; nobody else waits, and for a minute
    nobody has it run again."""
    keys = cloud.session(USED, life=15)
    say = {**GOOD, "AccessKeyId": keys["AccessKeyId"], "SessionToken": keys["Token"],
           "SecretAccessKey": keys["SecretAccessKey"], "Expiration": keys["Expiration"]}
    write_helper(helped.path, f"echo '{json.dumps(say)}'\n")
    lib = helped.open(timeout_ms=3000)
    lib.ok("check")
    write_helper(helped.path, f"echo x >> {helped.folder}/runs\nexec sleep 1000\n")
    end, calls = time.monotonic() + 12, []

    def load() -> None:
        while time.monotonic() < end:
            calls.append(lib.begin("check").result(10))
            time.sleep(0.02)

    with ThreadPoolExecutor(4) as pool:
        for done in [pool.submit(load) for _ in range(4)]:
            done.result()
    assert {call.status for call in calls} == {"OK"}
    waited = [call.ms for call in calls if call.ms > 1400]
    assert waited
    calm(len(waited) == 1, f"they waited {waited} ms")
    assert (helped.folder / "runs").read_text() == "x\n"
    assert len(lib.said("it did not end in time", 1)) == 1
    helped.nothing_is_left()


def test_its_child_holds_the_pipe(helped):
    """A grandchild in its group goes with it, be the reply used or not."""
    answer = helped.run(f"sleep 1000 &\n{SAY}exit 0\n", timeout_ms=1500)
    assert answer.status == "OK", answer
    in_time(answer.ms, 1000)


def test_a_child_that_left_its_group_holds_the_pipe(helped):
    """Nobody can find that one; but nobody waits for it beyond the call's time either."""
    left = "until grep -qx sleep /proc/$!/comm; do sleep 0.01; done"        # and has left
    write_helper(helped.path, f"setsid sleep 1000 &\n{left}\n{SAY}exit 0\n")
    try:
        with within(3):
            helped.open(timeout_ms=1500).ok("check")
        assert children(helped.lib.process.pid) == []
        assert [each for each in families(helped.mark) if "sleep 1000" in each]
    finally:
        for entry in Path("/proc").iterdir():
            with contextlib.suppress(OSError):
                if entry.name.isdigit() and (entry / "cmdline").read_bytes() == (
                        b"sleep\0001000\0") and helped.mark.encode() in (
                            entry / "environ").read_bytes():
                    os.kill(int(entry.name), signal.SIGKILL)


@pytest.mark.parametrize("body", [
    "exec head -c 1073741824 /dev/zero\n", "exec yes\n",
    "trap '' PIPE\nwhile :; do echo 0123456789012345678901234567890123456789; done 2>/dev/null\n"],
    ids=["a gigabyte", "without end", "and ignores the broken pipe"])
def test_it_prints_without_end(helped, body):
    """It is ended as soon as it has printed too much."""
    answer = helped.run(body, seconds=1.5, timeout_ms=10000)
    assert answer.status == "CREDENTIALS" and "more than 65535 bytes" in answer.text
    status = Path(f"/proc/{helped.lib.process.pid}/status").read_text()
    assert int(re.search(r"VmHWM:\s*(\d+)", status)[1]) < 60000


@pytest.mark.parametrize("mode, well", [(0o777, False), (0o775, False), (0o702, False),
                                        (0o755, True), (0o700, True), (0o600, False)])
def test_others_must_not_write_it(helped, mode, well):
    """Who may write it would be who the server is."""
    write_helper(helped.path, f"touch {helped.folder}/ran\n{SAY}", mode)
    answer = helped.open().call("check")
    assert answer.status == ("OK" if well else "CONFIG"), answer
    assert (helped.folder / "ran").exists() == well
    assert well or str(helped.path) in answer.text and (
        "execut" if mode == 0o600 else "write") in answer.text, answer


@pytest.mark.parametrize("command, words", [
    ("helper", "full path"), ("./helper", "full path"), ("~/helper", "full path"),
    ("$HOME/helper", "full path"), ("''", "full path"), ("FOLDER", "is not a file"),
    ("/dev/null", "is not a file"), ("FOLDER/nothing", "No such file"),
    ("'FOLDER/helper", "quote"), ("FOLDER/helper \"a", "quote"), ("FOLDER/helper \\", "backslash"),
    ("FOLDER/helper " + "x " * 3000, "more than 4096 bytes")])
def test_a_command_that_cannot_be_run(helped, command, words):
    write_helper(helped.path, f"touch {helped.folder}/ran\n{SAY}")
    env = {"HOME": str(helped.folder), "PATH": f"{helped.folder}:/usr/bin:/bin"}
    lib = helped.open(command.replace("FOLDER", str(helped.folder)), env)
    answer = lib.call("check")
    assert answer.status == "CONFIG" and words in answer.text, answer
    assert not (helped.folder / "ran").exists() and "profile app" in answer.text
    helped.nothing_is_left()


def test_a_program_that_is_none(helped):
    write_helper(helped.path, S3CR, head="\x7fELF nonsense")
    answer = helped.open().call("check")
    assert answer.status == "CONFIG" and str(helped.path) in answer.text, answer
    assert "#!" in answer.text
    helped.nothing_is_left()


def test_through_a_link(helped):
    """As packages install programs; the file itself is what nobody else may write."""
    write_helper(helped.path, SAY)
    link = helped.folder / "link"
    link.symlink_to("helper")
    helped.open(str(link)).ok("check")
    helped.path.chmod(0o777)
    assert "other users may change it" in helped.lib.call("reload_creds").text


@pytest.mark.skipif(os.geteuid() != 0, reason="takes root")
def test_a_stranger_who_starts_a_setuid_program_has_it_run_nothing(driver_program, cloud, tmp_path):
    """The environment names no profile, and no file, if others than the user started it."""
    program, ran = tmp_path / "driver", tmp_path / "ran"
    shutil.copy(driver_program, program)
    os.chown(program, 12345, 12345)
    program.chmod(0o4755)
    helper = write_helper(tmp_path / "helper", f"id -u >> {ran}\n{SAY}", 0o755)
    ran.touch()
    ran.chmod(0o666)
    line = f"credential_process = {helper}"
    config = write_conf(tmp_path / "config", "[default]", line, "[profile app]", line)
    config.chmod(0o644)
    for folder in [tmp_path, *tmp_path.parents]:
        if folder.stat().st_uid == os.geteuid() and folder != Path("/"):
            folder.chmod(folder.stat().st_mode | 0o055)
    env = {**NO_EC2, "AWS_PROFILE": "app", "AWS_CONFIG_FILE": str(config)}

    def opened(user: int):
        words = ["setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups"]
        script = write_helper(tmp_path / f"as{user}", f'exec {shlex.join(words)} "{program}"\n',
                              0o755)
        with Driver(script, env) as lib:
            return lib.open(auth="native", kms_key_id=KEY_ARN, endpoint=cloud.url,
                            must_have_creds=1)

    answer = opened(12346)
    assert answer.status != "OK" and ran.read_text() == "", answer
    assert opened(12345).status == "OK" and ran.read_text() == "12345\n"


def test_the_ring_is_closed_while_it_runs(helped):
    """The call that waits for it has its time; then the program ends in good order, and so has the
    helper."""
    write_helper(helped.path, SAY)
    lib = helped.open(timeout_ms=2000)
    write_helper(helped.path, "exec sleep 1000\n")
    pending = lib.begin("reload_creds")
    wait_for(lambda: children(lib.process.pid), 2)
    lib.close()
    answer = pending.result(1)
    assert answer.status == "NETWORK" and "did not end in time" in answer.text, answer
    helped.role.made.clear()
    wait_for(lambda: families(helped.mark) == [], 2)


def test_no_secret_of_a_process_is_left_in_memory(driver_program, cloud, tmp_path):
    """Neither what it printed nor what it printed before; also if that cannot be used."""
    helper, reply = tmp_path / "helper", tmp_path / "reply"
    write_helper(helper, f"cat {reply}\n")
    config = write_conf(tmp_path / "config", "[profile app]", f"credential_process = {helper}")

    def renew(**change) -> str:
        keys = cloud.session(USED)
        reply.write_text(json.dumps({
            "Version": 1, "AccessKeyId": keys["AccessKeyId"], "SessionToken": keys["Token"],
            "SecretAccessKey": keys["SecretAccessKey"], "Expiration": keys["Expiration"],
            **change}))
        return keys["SecretAccessKey"]

    renew()
    with Searched(driver_program, NO_EC2, endpoint=cloud.url, kms_key_id=KEY_ARN, auth="native",
                  profile="app", config_file=config) as lib:
        for _ in range(3):
            secret = renew()
            lib.do("reload_creds")
            lib.look_for("secret", secret.encode())
            lib.do("check")
            lib.nothing_is_found()
            lib.pieces.clear()
        for change, tail in (({"Expiration": "tomorrow"}, ""), ({"Version": 2}, ""),
                             ({}, "exit 1")):
            secret = renew(**change)
            write_helper(helper, f"cat {reply}\n{tail}\n")
            lib.look_for("bad", secret.encode())
            lib.fail("reload_creds")
            assert lib.find() == []
            lib.pieces.clear()


# ---- in a MySQL server ---------------------------------------------------------------

def test_a_server_with_a_process(stage):
    """Without a conf file. Its credentials expire while tables are used. A helper that hangs makes
    no statement hang, and leaves nothing behind."""
    mark = uuid.uuid4().hex
    with Emulator() as cloud:
        cloud.users = stage.kms.users
        stage.conf.unlink()
        folder, reply = stage.db.folder, stage.db.folder / "reply"
        helper = write_helper(folder / "helper", f"cat {reply}\n")

        def renew(life: float) -> None:
            keys = cloud.session(USED, life=life)
            (folder / "reply.new").write_text(json.dumps({
                "Version": 1, "AccessKeyId": keys["AccessKeyId"], "SessionToken": keys["Token"],
                "SecretAccessKey": keys["SecretAccessKey"], "Expiration": keys["Expiration"]}))
            (folder / "reply.new").replace(reply)

        renew(4)
        config = write_conf(folder / "config", "[profile app]",
                            f"credential_process = {helper}")
        native = {"auth": "native", "config_file": config, "profile": "app", "timeout": 2000}
        stage.start(NO_SCHEMA, "--keyring-aws=FORCE", **native, env={"KAWS_MARK": mark})
        (line,) = stage.tagged("KAWS-165")
        assert "come from the profile app" in line
        stage.db.install_keyring_udf()
        renew(4)                        # to start may have taken longer
        assert stage.generate("a") == 1
        for _ in range(12):             # 8 s; each of them is renewed within 3.7 s
            renew(4)
            assert stage.fetch("a") == stage.plain("a")
            time.sleep(0.7)
        assert len(stage.tagged("KAWS-165")) >= 3 and not stage.said("ERROR")
        pid = stage.db.process.pid
        assert children(pid) == []

        runs = folder / "runs"
        write_helper(helper, f"echo x >> {runs}\nexec sleep 1000\n")
        time.sleep(4.1)
        with within(5):
            assert stage.fetch("a") is None
        assert stage.said("ERROR")
        assert stage.fetch("a") is None and runs.read_text() == "x\n", "it is remembered"
        wait_for(lambda: children(pid) == [], 2)
        write_helper(helper, f"cat {reply}\n")
        renew(3600)
        assert stage.db.stop() == 0 and families(mark) == []
        stage.start(NO_SCHEMA, "--keyring-aws=FORCE", **native)
        assert stage.fetch("a") == stage.plain("a") and not stage.said("ERROR")
    assert not cloud.crashes


def test_a_statement_that_waits_for_the_helper_can_be_killed(stage):
    """Then the helper is killed, too."""
    stage.conf.unlink()
    helper = write_helper(stage.db.folder / "helper", SAY)
    config = write_conf(stage.db.folder / "config", "[profile app]",
                        f"credential_process = {helper}")
    stage.start(NO_SCHEMA, "--keyring-aws=FORCE", auth="native", config_file=config, profile="app",
                timeout=30000)
    stage.db.install_keyring_udf()
    assert stage.generate("a") == 1
    write_helper(helper, "exec sleep 1000\n")
    stage.kms.remove_user(ACCESS_KEY_ID)        # AWS refuses them, so the helper is run
    with cursor(stage) as session, ThreadPoolExecutor(1) as pool:
        session.execute("SELECT CONNECTION_ID()")
        ((number,),) = session.fetchall()
        running = pool.submit(session.execute, "SELECT keyring_key_fetch('a')")
        wait_for(lambda: children(stage.db.process.pid))
        with within(2):
            stage.sql(f"KILL QUERY {number}")
            with contextlib.suppress(pymysql.err.MySQLError):
                running.result(20)
        assert children(stage.db.process.pid) == []
