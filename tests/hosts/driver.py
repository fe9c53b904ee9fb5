"""Calls the C library's public API from Python, by the program tests/hosts/driver.c.

    with Driver(build_c("driver.c")) as lib:
        lib.open(data_file=..., conf_file=..., kms_key_id="alias/keyring")
        assert lib.call("generate", "MyKey", None, "AES", 32).status == "OK"
        pending = lib.begin("fetch", "MyKey", None)     # on a thread of its own
        type_, key, _ = pending.result(5).results

Each driver is a process of its own, which ends with the with statement.
"""

import fcntl
import itertools
import os
import re
import shlex
import subprocess
import tempfile
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from servers import BUILD, clean_environment

HERE = Path(__file__).resolve().parent
HEADER = HERE.parents[1] / "keyring_aws.h"
STATS = ("keys", "kms_requests", "kms_errors", "kms_retries", "kms_time_us", "cache_hits",
         "rewrap_done", "rewrap_total", "failovers")


def build_c(source: str) -> Path:
    """The program made of one C file of this folder, in build/tests; CC and CFLAGS are obeyed.
    Where the environment says KAWS_DRIVER, that is the driver."""
    if source == "driver.c" and "KAWS_DRIVER" in os.environ:
        return Path(os.environ["KAWS_DRIVER"])
    path = HERE / source
    program = BUILD / "tests" / path.stem
    command = [*shlex.split(os.environ.get("CC", "cc")), "-std=c99", "-O1", "-g", "-Wall",
               "-Wextra", *shlex.split(os.environ.get("CFLAGS", "")), "-o", f"{program}.new",
               str(path), "-l:libbearssl.a", "-lcurl", "-lpthread", "-ldl", "-Wl,-z,now"]
    made_by, note = " ".join(command), program.with_suffix(".made")
    program.parent.mkdir(parents=True, exist_ok=True)
    with open(f"{program}.lock", "w", encoding="ascii") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        newest = max(path.stat().st_mtime, HEADER.stat().st_mtime)
        if (program.exists() and note.exists() and note.read_text() == made_by
                and note.stat().st_mtime >= program.stat().st_mtime > newest):
            return program
        run = subprocess.run(command, capture_output=True, text=True, check=False)
        if run.returncode:
            raise RuntimeError(f"{made_by} fails:\n{run.stderr}")
        os.replace(f"{program}.new", program)
        note.write_text(made_by)
    return program


def encode(word) -> str:
    """A word for driver.c: text, bytes, a number or None."""
    if word is None:
        return "~"
    data = word if isinstance(word, bytes) else str(word).encode()
    return "".join(chr(b) if 0x20 < b < 0x7f and b not in b"%~" else f"%{b:02X}"
                   for b in data) or "%"


def decode(word: str):
    if word == "~":
        return None
    return re.sub(rb"%([0-9A-F]{2})", lambda found: bytes([int(found[1], 16)]),
                  b"" if word == "%" else word.encode("latin-1"))


def text_of(word: str) -> str:
    return decode(word).decode("utf-8", "backslashreplace")


class Answer(NamedTuple):
    """What a command came to: the status's word, the kaws_error, the results as bytes."""
    ms: float
    status: str
    http: int
    os: int
    aws: str
    request_id: str
    text: str
    results: list


class Entry(NamedTuple):
    """A key as a walk shows it."""
    key_id: bytes
    user_id: bytes
    type: str
    length: int
    arn: str
    created: int


def entries(results: list) -> list:
    return [Entry(key_id, user_id, kind.decode(), int(length), arn.decode(), int(created))
            for key_id, user_id, kind, length, arn, created
            in zip(*(results[i::6] for i in range(6)))]


class Driver:
    def __init__(self, program: Path, env: dict = None):
        self.logs = []                  # (level, line): 0 error, 1 warning, 2 note
        self.ids, self.pending, self.lock = itertools.count(1), {}, threading.Lock()
        self.errors = tempfile.TemporaryFile()
        self.process = subprocess.Popen([program], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                        stderr=self.errors, env=clean_environment(env))
        self.reader = threading.Thread(target=self.read, daemon=True)
        self.reader.start()

    def __enter__(self) -> "Driver":
        return self

    def __exit__(self, *_) -> None:
        self.stop()

    def read(self) -> None:
        for line in self.process.stdout:
            first, *words = line.decode("latin-1").split()
            if first == "log":
                self.logs.append((int(words[0]), text_of(words[1])))
                continue
            ms, status, http, os_error = words[:4]
            answer = Answer(float(ms), status, int(http), int(os_error),
                            *map(text_of, words[4:7]), [decode(word) for word in words[7:]])
            self.pending.pop(first).set_result(answer)
        code = self.process.wait()
        for future in list(self.pending.values()):
            future.set_exception(RuntimeError(f"the driver ended with {code}: {self.stderr()}"))

    def send(self, *words) -> Future:
        future, number = Future(), str(next(self.ids))
        self.pending[number] = future
        line = " ".join((number, *words)) + "\n"
        with self.lock:
            try:
                self.process.stdin.write(line.encode("ascii"))
                self.process.stdin.flush()
            except OSError:             # it is gone: then the reader has said so, or does now
                self.reader.join(10)
                if not future.done():
                    future.set_exception(RuntimeError(f"the driver is gone: {self.stderr()}"))
        return future

    def begin(self, command: str, *words) -> Future:
        """Starts a command on a thread of its own; .result(timeout) is its answer."""
        return self.send("&", command, *map(encode, words))

    def call(self, command: str, *words, timeout: float = 120) -> Answer:
        return self.send(command, *map(encode, words)).result(timeout)

    def quietly(self, command: str, *words) -> Answer:
        """As call(), but without results: the driver itself keeps no secret in its memory."""
        return self.send("-", command, *map(encode, words)).result(120)

    def ok(self, command: str, *words) -> list:
        """The results of a command that has to succeed."""
        answer = self.call(command, *words)
        assert answer[1:7] == ("OK", 0, 0, "", "", ""), answer
        return answer.results

    def many(self, commands, at_once: int = 16) -> list:
        """The answers to many commands, some of which are under way at any time."""
        with ThreadPoolExecutor(at_once) as pool:
            return list(pool.map(lambda command: self.begin(*command).result(120), commands))

    def open(self, **settings) -> Answer:
        """Opens the ring; a setting of None is left out."""
        return self.call("open", *(name.encode() + b"=" + (value if isinstance(value, bytes)
                                                           else str(value).encode())
                                   for name, value in settings.items() if value is not None))

    def fetch(self, key_id, user_id=None) -> bytes:
        """The key's bytes; they have to be there, and wiped by kaws_key_free."""
        _, key, wiped = self.ok("fetch", key_id, user_id)
        assert wiped == b"1"
        return key

    def walk(self) -> list:
        return entries(self.ok("walk"))

    def stats(self) -> dict:
        *figures, checksum, region = self.ok("stats")
        return {**dict(zip(STATS, map(int, figures))), "checksum": checksum,
                "region_in_use": region.decode()}

    def said(self, pattern: str, level: int = None) -> list:
        """The log lines that match, of one level or any."""
        return [line for number, line in self.logs
                if level in (None, number) and re.search(pattern, line)]

    def stderr(self) -> str:
        self.errors.seek(0)
        return self.errors.read().decode("utf-8", "replace")

    def close(self, timeout: float = 60) -> None:
        """Ends it in good order; it must have nothing to complain of."""
        self.process.stdin.close()
        code = self.process.wait(timeout)
        self.reader.join(10)
        assert (code, self.stderr()) == (0, "")

    def kill(self) -> None:
        """As kill -9 does."""
        self.process.kill()
        self.process.wait()
        self.reader.join(10)

    def stop(self) -> None:
        """Ends it at whatever it is at: kindly, for tests/coverage.py's driver counts then."""
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                pass
            self.kill()
        for file in (self.process.stdin, self.process.stdout, self.errors):
            try:
                file.close()
            except BrokenPipeError:
                pass
