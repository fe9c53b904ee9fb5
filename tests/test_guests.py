"""The library in other people's programs: tests/guests/, each as a stranger would write it."""

import subprocess
from pathlib import Path

import pytest

from kms_emulator import KEY_ARN

GUESTS = Path(__file__).resolve().parent / "guests"
PLAIN = ("gcc", "-O2")
ASAN = ("gcc", "-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")
TSAN = ("gcc", "-O1", "-fsanitize=thread")


@pytest.fixture
def guest(tmp_path, settings):
    """Builds a guest, runs it with the usual settings, and returns the lines that it says."""
    def run(name: str, compiler, timeout: float = 60) -> list[str]:
        program = tmp_path / name
        subprocess.run([*compiler, "-std=gnu99", "-g", "-Wall", "-Wextra", "-Werror", "-o", program,
                        GUESTS / f"{name}.c", "-l:libbearssl.a", "-lcurl", "-lpthread"], check=True)
        done = subprocess.run(
            [program, *(settings[each] for each in ("data_file", "conf_file", "ca_file",
                                                    "endpoint")), KEY_ARN],
            capture_output=True, text=True, timeout=timeout, check=False)
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout.splitlines()
    return run


@pytest.mark.parametrize("compiler", [PLAIN, ASAN], ids=["plain", "asan"])
def test_a_child_process_has_no_ring(guest, emulator, settings, compiler):
    """All that it may do is to close it; its parent, and KMS, do not notice."""
    emulator.latency_ms = 100
    lines = guest("forks", compiler)
    assert lines[-2:] == ["child closed", "parent done"]
    says = [line for line in lines[:-2] if line.startswith("says")]
    assert len(says) == 1 and "is its child" in says[0]
    assert len(lines) == 21
    assert {line.split(" ", line.startswith("bad") + 1)[-1] for line in lines[:-2]
            if line not in says} == {"bad or missing setting"}
    log = emulator.log()
    assert emulator.count("Decrypt") == 3
    assert log["connections"] == 6          # those of the six threads that were at work at once
    assert not settings["data_file"].with_name("data.tmp").exists()


@pytest.mark.parametrize("compiler", [PLAIN, TSAN], ids=["plain", "tsan"])
def test_a_cancelled_thread_finishes_its_call(guest, emulator, compiler):
    emulator.latency_ms = 10
    assert guest("cancels", compiler) == ["finished 40"]
