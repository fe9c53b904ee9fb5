"""keyring_aws.so, loaded as MySQL 5.7 does and as 8.0 to 9.x do, under sanitizers and valgrind.

tests/hosts/plugin_host.c plays the server.  It counts its own checks, and shows all of them if one
fails.  Any output of the sanitizers fails the run, too.
"""

import re
import subprocess
from pathlib import Path

import pytest
from conftest import LONG
from kms_emulator import serve_control

BUILT = Path(__file__).resolve().parent.parent / "build" / "tests"


def run(emulator, certs, folder: Path, kind: str, host: str, *options: str,
        under: tuple[str, ...] = ()) -> str:
    """Runs a host against the emulator, all of whose checks must pass; returns what it says."""
    control = serve_control(emulator)
    done = subprocess.run(
        [*under, BUILT / kind / host, BUILT / kind / "keyring_aws.so", folder,
         f"endpoint={emulator.url}", f"control={control.server_address[1]}",
         f"ca_file={certs.ca}", *options],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        timeout=600)
    control.shutdown()
    bad = [line for line in done.stdout.splitlines() if line.startswith("not ok")]
    closing = re.search(r"^(\d+) passed, 0 failed$", done.stdout, re.M)
    assert not bad and closing and done.returncode == 0, "\n".join(bad) + done.stdout[-4000:]
    assert int(closing[1]) >= (3 if host == "host_unknown" else 150)
    return done.stdout


ROUNDS = "rounds=50" if LONG else "rounds=20"


@pytest.mark.parametrize("server", ["57", "80"])
@pytest.mark.parametrize("kind", ["asan", "tsan"])
def test_all_calls_under_sanitizers(emulator, certs, tmp_path, kind, server):
    run(emulator, certs, tmp_path, kind, f"host_{server}", ROUNDS)


def test_a_host_that_cannot_be_recognised(emulator, certs, tmp_path):
    said = run(emulator, certs, tmp_path, "asan", "host_unknown")
    assert re.findall("^keyring_aws: .*", said, re.M) == [
        "keyring_aws: [KAWS-301] cannot start: this program does not look like MySQL 5.7, 8.0 or"
        " newer: load the plugin into one of these"]


@pytest.mark.parametrize("server", ["57", "80"] if LONG else ["80"])
def test_all_calls_under_valgrind(emulator, certs, tmp_path, server):
    memcheck = ("valgrind", "--quiet", "--error-exitcode=9", "--leak-check=full",
                "--errors-for-leak-kinds=definite", "--child-silent-after-fork=yes")
    run(emulator, certs, tmp_path, "plain", f"host_{server}", "threads=8", "rounds=5",
        under=memcheck)
