"""The library works in programs as strangers would write them: those in tests/guests/."""

import re
import subprocess
import time
from pathlib import Path
from typing import Callable

import pytest

from kms_emulator import ACCESS_KEY_ID, ACCOUNT, KEY_ARN, REGION, Emulator
from patience import calm, in_time, wait_for

GUESTS = Path(__file__).resolve().parent / "guests"
PLAIN = ("gcc", "-O2")
ASAN = ("gcc", "-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")
TSAN = ("gcc", "-O1", "-fsanitize=thread")


@pytest.fixture
def guest(tmp_path, settings):
    """Builds a guest, runs it with the usual settings, and returns the lines that it says.  A line
    of one word of `pages` is answered, once that has been called, by what that returns."""
    def run(name: str, compiler, *, endpoint="", **pages: Callable[[], str | None]) -> list[str]:
        program, lines = tmp_path / name, []
        subprocess.run([*compiler, "-std=gnu99", "-g", "-Wall", "-Wextra", "-Werror", "-o", program,
                        GUESTS / f"{name}.c", "-l:libbearssl.a", "-lcurl", "-lpthread"], check=True)
        words = [settings[each] for each in ("data_file", "conf_file", "ca_file", "endpoint")]
        words[3] = endpoint or words[3]
        with subprocess.Popen(["timeout", "60", program, *words, KEY_ARN], text=True,
                              stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
            for line in map(str.rstrip, process.stdout):
                if line in pages:
                    process.stdin.write((pages[line]() or "") + "\n")
                    process.stdin.flush()
                else:
                    lines.append(line)
        assert process.returncode == 0, lines
        return lines
    return run


@pytest.mark.parametrize("compiler", [PLAIN, ASAN], ids=["plain", "asan"])
def test_a_child_process_has_no_ring(guest, emulator, settings, compiler):
    """It may only close its parent's ring; its parent and KMS do not notice."""
    def answered():
        wait_for(lambda: [each["status"] for each in emulator.log()["requests"]] == [200] * 7)
    emulator.latency_ms = 100
    lines = guest("forks", compiler, answered=answered)
    assert lines[-2:] == ["child closed", "parent done"]
    says = [line for line in lines[:-2] if line.startswith("says")]
    assert len(says) == 1 and "is its child" in says[0]
    assert len(lines) == (GUESTS / "forks.c").read_text().count("\n    say(") + 3 > 20
    assert {line.split(" ", line.startswith("bad") + 1)[-1] for line in lines[:-2]
            if line not in says} == {"bad or missing setting"}
    log = emulator.log()
    assert emulator.count("Decrypt") == 3
    assert log["connections"] <= 6          # those of the six threads that were at work at once
    calm(log["connections"] == 6, "a thread came so late that another's connection was idle")
    assert not settings["data_file"].with_name("data.tmp").exists()


@pytest.mark.parametrize("compiler", [PLAIN, TSAN], ids=["plain", "tsan"])
def test_a_cancelled_thread_finishes_its_call(guest, emulator, compiler):
    emulator.latency_ms = 10
    assert guest("cancels", compiler) == ["finished 40"]


@pytest.mark.parametrize("compiler", [PLAIN, TSAN], ids=["plain", "tsan"])
def test_what_is_cancelled_ends_at_once(guest, emulator, settings, compiler):
    """It ends whether it waits for a reply, a pause, the file's lock or another thread."""
    data, before = settings["data_file"], []

    def slow():
        before.append(data.read_bytes())
        emulator.latency_ms = 2500

    def throttled():
        emulator.latency_ms = 0
        emulator.fault("*", "throttle", times=0, retry_after=3000)

    def fast():
        emulator.clear_faults()

    def done():
        assert data.read_bytes() == before.pop()
    lines = guest("stops", compiler, slow=slow, throttled=throttled, fast=fast, done=done)
    assert lines.pop() == "end" and len(lines) == 12
    for line in lines:
        name, status, after, why = re.fullmatch(r"(.*): (.*) after (\d+) ms: (.*)", line).groups()
        assert status == "the caller cancelled it", line
        in_time(int(after), 200, line)
        waited = ("another process" if "locked" in name else
                  "another thread" if "behind" in name else "AWS KMS")
        assert f"while it waited for {waited}, and nothing was changed" in why, line


@pytest.mark.parametrize("compiler", [PLAIN, TSAN], ids=["plain", "tsan"])
def test_a_kms_that_comes_and_goes(guest, emulator, compiler):
    """16 threads on two rings: what is not sent fails at once, one probe at a time is under way,
    and the first call succeeds within 5.5 s after KMS is back."""
    most = []

    def hang():
        emulator.fault("*", "black_hole", times=0, where="accept")
        emulator.cut()

    def look():
        end, seen = time.monotonic() + 4, 0
        while time.monotonic() < end:
            seen = max(seen, len(emulator.open))
            time.sleep(0.002)
        most.append(seen)

    def back():
        emulator.clear_faults()
        if emulator.listener is None:
            emulator.start()
    lines = guest("outages", compiler, hang=hang, refuse=emulator.stop, look=look, back=back)
    assert len(lines) == 6 and len(most) == 2
    at_once = 50 if compiler is PLAIN else 500      # where a race is looked for, all is slow
    calm(max(most) == 1, f"one probe at a time, and the emulator saw {most} connections")
    for line in lines:
        words, figure = re.search(r": (\w+) within (\d+) ms", line).groups()
        in_time(int(figure), {"refused": at_once, "back": 5500, "all": 6500}[words], lines)
        if words == "refused":              # probes of 1 s, at pauses that have grown
            assert 1 <= int(re.search(r"(\d+) sent", line)[1]) <= 5, lines


class Broker:
    """Gives session tokens for three seconds, as KMS knows them."""

    def __init__(self, emulator):
        self.emulator, self.given = emulator, []

    def give(self) -> str:
        number, expires = len(self.given) + 1, int(time.time()) + 3
        name, *others = f"ASIA{number:012}", f"secret/{number}", f"token/{number}" + "x" * 900
        self.emulator.add_user(name, others[0], ACCOUNT, token=others[1], token_expires=expires)
        self.given.append(name)
        return " ".join((name, *others, str(expires)))

    def revoke(self) -> None:
        """AWS says that they have expired, before the broker said that they would."""
        self.emulator.users[self.given[-1]].token_expires = 0


@pytest.mark.parametrize("compiler", [PLAIN, ASAN, TSAN], ids=["plain", "asan", "tsan"])
def test_tokens_of_a_broker(guest, emulator, compiler):
    """Sixteen threads fetch across five expiries, and KMS refuses nothing; then it refuses what all
    of them hold.  One of them asks each time."""
    broker, before = Broker(emulator), []

    def reset():
        before.extend(emulator.log()["requests"])
    emulator.latency_ms = 5
    *lines, fetched, failed, at_most = guest("tokens", compiler, give=broker.give,
                                             revoke=broker.revoke, reset=reset)
    assert (fetched, failed, at_most) == ("fetched 960", "failed 0", "in the hook 1")
    calls = [tuple(map(int, re.fullmatch(r"call (\d) at (\d+)", line).groups()))
             for line in lines[:-3]]
    assert {told for told, _ in calls} == {0} and len(calls) >= 6
    calm(len(calls) <= 9, calls)
    assert {each["access_key_id"] for each in before} == set(broker.given[:-6])
    if compiler == PLAIN:               # with a sanitizer, a request may come too late
        calm(len(before) == 961 and {each["signed"] for each in before} == {"OK"},
             "a request came too late")
    for (_, then), (_, now) in zip(calls[1:], calls[2:]):
        assert 1000 < now - then        # when a third of the three seconds was left: whole ones
        in_time(now - then, 3100)
    for line in lines[-3:]:
        assert re.fullmatch(r"refused (?:[1-9]|1[0-6]), asked 1, told 1", line)


@pytest.mark.parametrize("compiler", [PLAIN, ASAN, TSAN], ids=["plain", "asan", "tsan"])
def test_without_credentials(guest, emulator, settings, compiler):
    conf, later = settings["conf_file"], settings["data_file"].with_name("data.conf")

    def write():
        later.touch(0o600)
        later.write_bytes(conf.read_bytes())
    lines = iter(guest("keyless", compiler, write=write))

    def says(*words: str) -> None:
        for each in words:
            line = next(lines)
            assert each in line, line

    def without(source: str, words: str) -> None:
        says(words, f"{source} in {REGION} at here, account {ACCOUNT}")
    without("the conf file", "conf_file is not set: it names the file with the AWS credentials")
    missing = f"cannot read the conf file {later}: No such file"
    says("[KAWS-142] there are no AWS credentials yet; each call that needs AWS KMS looks for them"
         f" again, and fails until there are some: {missing}")
    without("the conf file", missing)
    says(f"the conf file, ends in {ACCESS_KEY_ID[-4:]}, expires 0")
    without("the program", "the program (hooks.creds) gave no credentials: the vault is sealed")
    junk = "the program (hooks.creds) gave credentials that"
    says(*(f"{junk} cannot be used: the {each}" for each in (
        "access key id is missing", "access key id is missing", "secret access key: a blank",
        "session token is missing; an id that begins with ASIA needs one",
        "session token: a byte that is not visible ASCII")),
        f"{junk} expire at no time in Unix seconds",
        "UnrecognizedClientException", f"ends in {ACCESS_KEY_ID[-4:]}, expires 1", "end")
    assert next(lines, None) is None
    assert {each["signed"] for each in emulator.log()["requests"]} == {
        "OK", "UnrecognizedClientException"}


@pytest.mark.parametrize("compiler", [PLAIN, ASAN], ids=["plain", "asan"])
def test_a_hook_over_plain_sockets(guest, compiler):
    """A program without libcurl: its hook learns the method, and hands over a reply's head."""
    with Emulator() as emulator:
        lines = guest("sockets", compiler, endpoint=emulator.url)
        assert emulator.log()["crashes"] == []
    assert lines[0] == "sent 5"         # all of them POST, or KMS would have refused them
    assert [line.split()[:2] for line in lines[1:3]] == [["GET", "0"], ["HEAD", "0"]]
    for line in lines[1:3]:
        assert re.fullmatch(r"(GET|HEAD) 0 4\d\d 1 1 application/x-amz-json-1.1 0 \d+", line), line
    assert int(lines[1].split()[-1]) > 0 and int(lines[2].split()[-1]) == 0
    assert lines[3:] == ["PATCH 1 0 0 0  0 0 cannot send PATCH"]
