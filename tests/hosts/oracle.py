"""Asks the C side of the differential tests, tests/hosts/oracle.c, a line at a time."""

import os
import subprocess
from pathlib import Path

TOP = Path(__file__).resolve().parents[2]
PROGRAM = "build/tests/hosts/oracle"
LONG = bool(os.environ.get("KAWS_LONG"))
SEED = int(os.environ.get("KAWS_SEED") or 1)


def field(value: bytes | str | int | None) -> str:
    if value is None:
        return "-"
    if isinstance(value, int):
        return str(value)
    data = value.encode() if isinstance(value, str) else value
    return data.hex() or "."


def unfield(text: str) -> bytes | None:
    return None if text == "-" else b"" if text == "." else bytes.fromhex(text)


class Oracle:
    """Runs the program as long as the object lives; a question that kills it fails the test."""

    def __init__(self):
        if not os.environ.get("KAWS_ORACLE"):
            subprocess.run(["make", "-s", PROGRAM], cwd=TOP, check=True)
        program = os.environ.get("KAWS_ORACLE") or TOP / PROGRAM
        self.process = subprocess.Popen([program], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                        text=True, bufsize=1)

    def __call__(self, command: str, *values: bytes | str | int | None) -> list[str]:
        question = " ".join([command, *map(field, values)])
        self.process.stdin.write(question + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        if not answer.endswith("\n"):
            raise AssertionError(f"the oracle died (exit {self.process.wait()}) of: {question}")
        return answer.split()

    def close(self) -> None:
        self.process.stdin.close()
        assert self.process.wait() == 0         # a sanitizer counts leaks at the end
        self.process.stdout.close()
