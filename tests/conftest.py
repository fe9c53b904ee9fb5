"""What the test files share: a KMS emulator over TLS, credentials, and the library's driver."""

import contextlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE / "hosts"), str(HERE / "package")]

from patience import (pytest_runtest_makereport, pytest_runtest_protocol,      # noqa: E402, F401
                      pytest_terminal_summary)

LONG = os.environ.get("KAWS_LONG", "") not in ("", "0")


def forget_the_user() -> None:
    """Drops what the account that runs the tests has set: its umask, AWS's variables, proxies for
    this machine."""
    os.umask(0o022)
    proxies = [name for name in os.environ if name.lower().endswith("_proxy")]
    for name in [each for each in os.environ if each.startswith("AWS_")]:
        del os.environ[name]
    for name in ("no_proxy", "NO_PROXY") if proxies else ():
        os.environ[name] = ",".join(filter(None, (os.environ.get(name), "127.0.0.1", "localhost")))


def pytest_configure(config) -> None:
    from servers import ServerError, mysqld, tree
    forget_the_user()
    try:
        tree()               # before botocore is looked for: the emulator takes it from there
        if os.environ.get("MYSQLD"):
            mysqld()
    except ServerError as error:
        pytest.exit(str(error), 2)
    config.addinivalue_line("markers", "long: runs only with KAWS_LONG=1 in the environment")
    config.addinivalue_line("markers", "needs(row): of the table of versions, for its server")


def pytest_collection_modifyitems(items) -> None:
    from servers import mysqld
    from versions import Expect
    for item in items:
        for needs in item.iter_markers("needs"):
            if reason := Expect(mysqld().version).lacks(*needs.args):
                item.add_marker(pytest.mark.skip(reason=reason))
        if item.get_closest_marker("long") and not LONG:
            item.add_marker(pytest.mark.skip(reason="long: set KAWS_LONG=1"))


@pytest.fixture(scope="session")
def certs():
    """servers.Certificates: a test CA's, and servers' good and bad ones."""
    from servers import certificates
    return certificates()


@pytest.fixture(scope="session")
def driver_program():
    """The library behind a command line, built once."""
    from driver import build_c
    return build_c("driver.c")


@pytest.fixture
def emulator(certs):
    """A kms_emulator.Emulator over TLS, with its usual user and key."""
    from kms_emulator import Emulator
    with Emulator(certs.good.cert, certs.good.key) as kms:
        yield kms
    assert kms.crashes == []


def write_conf(path: Path, *lines: str) -> Path:
    """A conf file as an administrator should write it: whole or not at all, 0600."""
    new = path.with_name(path.name + ".new")
    new.touch(mode=0o600)
    new.write_text("".join(line + "\n" for line in lines))
    new.replace(path)
    return path


@pytest.fixture
def small_volume(tmp_path):
    """A volume of 64 KiB that nobody else sees: a process has it in a mount namespace of its own,
    and by /proc it can be reached from here."""
    place = tmp_path / "volume"
    place.mkdir()
    command = f"mount -t tmpfs -o size=64k,mode=0700 none '{place}' && echo mounted && exec cat"
    with subprocess.Popen(["unshare", "--mount", "sh", "-c", command], stdin=subprocess.PIPE,
                          stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as holder:
        if not holder.stdout.readline():
            pytest.skip("no volume can be mounted here")
        yield Path(f"/proc/{holder.pid}/root{place}")


def tear(data: Path) -> bytes:
    """Gives a closed data file the end that a crash in the middle of an append leaves."""
    torn = data.read_bytes()[80:180]
    with data.open("ab") as file:
        file.write(torn)
    return torn


def fill(folder: Path) -> Path:
    """Takes all room that a volume has left; returns what to remove to give it back."""
    filler = folder / "filler"
    with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(512))
    return filler


@pytest.fixture(name="stage")
def make_stage():
    """A mysql_fixtures.Stage: a MySQL server that has not started, and its KMS."""
    from mysql_fixtures import Stage
    with Stage() as stage:
        yield stage


@pytest.fixture
def conf(tmp_path):
    """A conf file with the credentials of the emulator's usual user."""
    from kms_emulator import ACCESS_KEY_ID, SECRET
    return write_conf(tmp_path / "conf", ACCESS_KEY_ID, SECRET)


@pytest.fixture
def settings(tmp_path, request):
    """What a ring is opened with if a test does not say otherwise."""
    from kms_emulator import KEY_ARN
    emulator, certs, conf = map(request.getfixturevalue, ("emulator", "certs", "conf"))
    return {"data_file": tmp_path / "keyring" / "data", "conf_file": conf, "ca_file": certs.ca,
            "endpoint": emulator.url, "kms_key_id": KEY_ARN}


@pytest.fixture
def driver(driver_program, settings):
    """Makes drivers, each a process with an open ring: driver(region="eu-west-1", ...)."""
    from driver import Driver
    made = []

    def make(env=None, **changes):
        made.append(Driver(driver_program, env))
        answer = made[-1].open(**{**settings, **changes})
        assert answer.status == "OK", answer
        return made[-1]

    yield make
    for each in made:
        each.stop()
