"""keyring_aws.so, loaded as MySQL 5.7 does and as 8.0 to 9.x do, under sanitizers and valgrind.

tests/plugin_host.c is the server; it counts its own checks, and each of them is shown where one
fails. What the sanitizers print fails the run, too.
"""

import re
import subprocess
from pathlib import Path

import pytest
from conftest import LONG
from kms_emulator import serve_control

BUILT = Path(__file__).resolve().parent.parent / "build" / "tests"


def run(emulator, certs, folder: Path, kind: str, host: str, *options: str,
        under: tuple[str, ...] = ()) -> int:
    """Runs a host against the emulator; returns how many of its checks passed."""
    control = serve_control(emulator)
    done = subprocess.run(
        [*under, BUILT / kind / host, BUILT / kind / "keyring_aws.so", folder,
         f"endpoint={emulator.url}", f"control={control.server_address[1]}",
         f"ca_file={certs.ca}", *options],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        timeout=600)
    control.shutdown()
    bad = [line for line in done.stdout.splitlines() if line.startswith("not ok")]
    closing = re.search(r"^(\d+) passed, (\d+) failed$", done.stdout, re.M)
    assert not bad and closing and done.returncode == 0, "\n".join(bad) + done.stdout[-4000:]
    assert int(closing[2]) == 0
    return int(closing[1])


@pytest.mark.parametrize("server", ["57", "80"])
def test_all_calls_under_asan_and_ubsan(emulator, certs, tmp_path, server):
    rounds = "rounds=50" if LONG else "rounds=20"
    assert run(emulator, certs, tmp_path, "asan", f"host_{server}", rounds) >= 170


@pytest.mark.parametrize("server", ["57", "80"])
def test_threads_under_tsan(emulator, certs, tmp_path, server):
    rounds = "rounds=50" if LONG else "rounds=20"
    assert run(emulator, certs, tmp_path, "tsan", f"host_{server}",
               rounds) >= 170


def test_a_host_that_cannot_be_recognised(emulator, certs, tmp_path):
    assert run(emulator, certs, tmp_path, "asan", "host_unknown") >= 4


@pytest.mark.parametrize("server", ["57", "80"] if LONG else ["80"])
def test_all_calls_under_valgrind(emulator, certs, tmp_path, server):
    memcheck = ("valgrind", "--quiet", "--error-exitcode=9", "--leak-check=full",
                "--errors-for-leak-kinds=definite", "--child-silent-after-fork=yes")
    assert run(emulator, certs, tmp_path, "plain", f"host_{server}",
               "threads=8", "rounds=5", under=memcheck) >= 170
