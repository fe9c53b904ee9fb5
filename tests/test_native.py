"""Credentials from elsewhere than the conf file: auth = native, in programs and in a MySQL server.

The emulated KMS checks every signature, so a request that is answered was signed with them.
"""

import os
import re
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from conftest import write_conf
from driver import HEADER, HERE, Driver
from kms_emulator import ACCESS_KEY_ID, ACCOUNT, KEY_ARN, SECRET
from mysql_fixtures import NO_SCHEMA, ROOT, said
from servers import BUILD, clean_environment

KEYS = {"AWS_ACCESS_KEY_ID": ACCESS_KEY_ID, "AWS_SECRET_ACCESS_KEY": SECRET}


def write_profiles(path: Path, **profiles: tuple[str, ...]) -> Path:
    """A credentials file: for each profile its id, its secret and perhaps its token."""
    names = ("aws_access_key_id", "aws_secret_access_key", "aws_session_token")
    return write_conf(path, *(line for profile, values in profiles.items()
                              for line in (f"[{profile}]", *(f"{name} = {value}" for name, value in
                                                             zip(names, values)), "")))


@pytest.fixture
def native(settings, tmp_path):
    """What a ring without a conf file is opened with."""
    settings["conf_file"] = tmp_path / "nothing is here"
    return settings | {"auth": "native"}


def trapped(folder: Path, native_too: bool) -> Path:
    """The driver, in which every function of the rooms native and ini, and the one that reads an
    environment of credentials, aborts the process."""
    text, traps = HEADER.read_text(), 0
    for room in ("native", "ini"):
        head, door, rest = re.split(rf"(?m)(^ \* ROOM  {room} .*$)", text)
        body, end, tail = rest.partition("\n/* =====" + "=" * 60)
        body, count = re.subn(r"(?m)^\{$", "{ abort();" if native_too else "{", body)
        text, traps = head + door + body + end + tail, traps + count
    text, count = re.subn(r"(?m)^(kaws__sys_own_env\(.*\)\n\{)$",
                          r"\1 abort();" if native_too else r"\1", text)
    assert traps > 20 and count == 1
    (folder / "keyring_aws.h").write_text(text)
    source = (HERE / "driver.c").read_text()
    place = '#include "../../keyring_aws.h"'
    assert source.count(place) == 1
    (folder / "driver.c").write_text(source.replace(place, '#include "keyring_aws.h"'))
    subprocess.run(["gcc", "-w", "-O1", "-o", folder / "driver", folder / "driver.c",
                    "-l:libbearssl.a", "-lcurl"], check=True)
    return folder / "driver"


@pytest.mark.parametrize("auth", [{}, {"auth": "file"}])
def test_with_the_conf_file_no_native_code_runs(tmp_path, settings, emulator, conf, auth):
    """Not when a ring opens, works, reads new credentials or is refused; whatever the environment
    and the other settings say. And the trap works: with native the process aborts."""
    program = trapped(tmp_path, native_too=True)
    env = {**KEYS, "AWS_PROFILE": "p", "AWS_CONFIG_FILE": str(conf), "AWS_SESSION_TOKEN": "no"}
    with Driver(program, env) as lib:
        assert lib.open(**settings, **auth, profile="p", config_file=conf,
                        must_have_creds=1).status == "OK"
        lib.ok("generate", "a", None, "AES", 32)
        key = lib.fetch("a")
        for name in ("check", "whoami", "reload_creds", "rewrap", "rotate", "refresh"):
            lib.ok(name)
        emulator.add_user("AKIDNEW", "new/" + SECRET, ACCOUNT)
        emulator.remove_user(ACCESS_KEY_ID)
        assert lib.call("check").status == "CREDENTIALS"
        write_conf(conf, "AKIDNEW", "new/" + SECRET)
        assert lib.fetch("a") == key
        conf.unlink()
        assert lib.call("reload_creds").status == "CONFIG"
    with Driver(program, env) as lib, pytest.raises(Exception):
        lib.open(**{**settings, "auth": "native"})


# ---- the environment ----------------------------------------------------------------------------

def test_keys_in_the_environment(driver, native, emulator):
    lib = driver(KEYS, **native)
    lib.ok("generate", "a", None, "AES", 32)
    assert len(lib.fetch("a")) == 32
    assert lib.ok("whoami")[:2] == [b"the environment", ACCESS_KEY_ID[-4:].encode()]
    (line,) = lib.said(r"\[KAWS-165\]", 2)
    assert "from the environment (AWS_ACCESS_KEY_ID); their access key id" in line


def test_a_session_token_in_the_environment(driver, native, emulator):
    emulator.add_user("ASIAENV", "s1", ACCOUNT, token="tok/en==", token_expires=time.time() + 100)
    lib = driver({"AWS_ACCESS_KEY_ID": "ASIAENV", "AWS_SECRET_ACCESS_KEY": "s1",
                  "AWS_SESSION_TOKEN": "tok/en=="}, **native)
    lib.ok("check")
    emulator.remove_user("ASIAENV")
    answer = lib.call("check")
    assert answer.status == "CREDENTIALS" and "come from the environment" in answer.text
    assert "conf file" not in answer.text and emulator.count() == 3     # nothing new to try


@pytest.mark.parametrize("left_out", KEYS)
def test_half_a_pair_is_an_error(driver_program, native, left_out):
    """It names the variable, and no other source is asked."""
    env = {name: value for name, value in KEYS.items() if name != left_out}
    with Driver(driver_program, env) as lib:
        answer = lib.open(**native, must_have_creds=1)
    assert answer.status == "CONFIG" and f"{left_out} is missing" in answer.text
    assert SECRET not in answer.text


@pytest.mark.skipif(os.geteuid() != 0, reason="takes root")
def test_a_stranger_who_starts_a_setuid_program_lends_it_no_credentials(driver_program, native,
                                                                        tmp_path):
    """Nor does he say which files it reads."""
    program = tmp_path / "driver"
    shutil.copy(driver_program, program)
    os.chown(program, 12345, 12345)
    program.chmod(0o4755)
    credentials = write_profiles(tmp_path / "credentials", default=(ACCESS_KEY_ID, SECRET))
    credentials.chmod(0o644)
    for folder in [tmp_path, *tmp_path.parents]:
        if folder.stat().st_uid == os.geteuid() and folder != Path("/"):
            folder.chmod(folder.stat().st_mode | 0o055)
    native = {key: value for key, value in native.items() if key != "data_file"}
    env = {**KEYS, "AWS_SHARED_CREDENTIALS_FILE": str(credentials)}

    def opened(user: int):
        words = ["setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups"]
        script = tmp_path / f"as{user}"
        script.write_text(f'#!/bin/sh\nexec {" ".join(words)} "{program}" "$@"\n')
        script.chmod(0o755)
        with Driver(script, env) as lib:
            return lib.open(**native, must_have_creds=1)

    assert opened(12345).status == "OK"                 # who starts it is who it runs as
    answer = opened(12346)
    assert answer.status == "CONFIG" and "no source of AWS credentials" in answer.text


# ---- profiles -----------------------------------------------------------------------------------

def test_a_profile(driver, native, emulator, tmp_path):
    credentials = write_profiles(tmp_path / "credentials", default=("AKIDNO", "no"),
                                 app=(ACCESS_KEY_ID, SECRET))
    lib = driver(**native, profile="app", credentials_file=credentials)
    lib.ok("generate", "a", None, "AES", 32)
    key = lib.fetch("a")
    assert lib.ok("whoami")[:2] == [b"the profile", ACCESS_KEY_ID[-4:].encode()]

    emulator.add_user("AKIDNEW1", "new/" + SECRET, ACCOUNT)
    emulator.remove_user(ACCESS_KEY_ID)
    assert lib.call("check").status == "CREDENTIALS"
    write_profiles(credentials, app=("AKIDNEW1",))      # half of it is there yet
    answer = lib.call("check")
    assert answer.status == "CREDENTIALS"
    (line,) = lib.said("and reading them again failed", 1)
    assert "the profile app: aws_secret_access_key is missing" in line
    write_profiles(credentials, app=("AKIDNEW1", "new/" + SECRET))
    assert lib.fetch("a") == key
    (line,) = lib.said(r"\[KAWS-107\]", 2)
    assert "the profile app has newer ones" in line and line.endswith("ends in NEW1")
    assert not lib.said(re.escape(SECRET))


def test_the_profile_of_the_environment(driver, native, tmp_path):
    """The files, too; and no file in HOME is ever looked at."""
    aws = tmp_path / ".aws"
    aws.mkdir()
    write_profiles(aws / "credentials", default=("AKIDHOME", "no"), app=("AKIDHOME", "no"))
    config = tmp_path / "config"
    config.write_text("[profile app]\nregion = eu-west-1\n"
                      f"aws_access_key_id = {ACCESS_KEY_ID}\n"
                      f"aws_secret_access_key = {SECRET} # x\n")
    lib = driver({"HOME": str(tmp_path), "AWS_PROFILE": "app", "AWS_CONFIG_FILE": str(config)},
                 **native)
    lib.ok("check")
    assert len(lib.said(rf"\[KAWS-104\] the config file {config} may be read by others", 1)) == 1
    lib = driver({"HOME": str(tmp_path)}, **native)
    answer = lib.call("check")
    assert answer.status == "CONFIG" and "no source of AWS credentials" in answer.text


# ---- in a MySQL server --------------------------------------------------------------------------

REFUSED = [
    ({"profile": "none"}, r"there is no profile none: the credentials file \S+ does not have it,"
                          r" and the config file is not set"),
    ({"auth": "nativ"}, "auth is 'nativ', and has to be 'file' or 'native'"),
    ({"credentials_file": "/nowhere/at/all"}, "the credentials file /nowhere/at/all is not there"),
    ({"profile": None, "credentials_file": None}, "no source of AWS credentials is configured"),
]


def test_a_server_without_a_conf_file(stage):
    """It starts with a profile's credentials, encrypts, takes new keys while it runs, and names
    its source at the start; SQL sees the settings and cannot change them."""
    stage.conf.unlink()
    credentials = write_profiles(stage.db.folder / "credentials", default=("AKIDNO", "no"),
                                 mysql=(ACCESS_KEY_ID, SECRET))
    native = {"auth": "native", "profile": "mysql", "credentials_file": credentials}
    stage.start(NO_SCHEMA, "--keyring-aws=FORCE", **native)
    (line,) = stage.tagged("KAWS-165")
    assert line == ("the AWS credentials come from the profile mysql; their access key id ends in"
                    f" {ACCESS_KEY_ID[-4:]}, and they expire: never")
    assert [stage.variable(name) for name in ("auth", "profile", "config_file")] == [
        "native", "mysql", None]
    assert not stage.said("ERROR")
    assert all("the data file" in line or "no data file" in line for line in stage.said("Warning"))
    stage.db.install_keyring_udf()
    assert stage.generate("a") == 1 and stage.fetch("a") == stage.plain("a")
    stage.sql("CREATE DATABASE d")
    stage.sql("CREATE TABLE d.t (a INT) ENCRYPTION = 'Y'")
    stage.sql("INSERT INTO d.t VALUES (42)")

    stage.kms.add_user("AKIDNEW1", "new/" + SECRET, ACCOUNT)
    stage.kms.remove_user(ACCESS_KEY_ID)
    write_profiles(credentials, mysql=("AKIDNEW1", "new/" + SECRET))
    assert stage.fetch("a") == stage.plain("a")
    assert [line[-12:] for line in stage.tagged("KAWS-107")] == ["ends in NEW1"]
    stage.restart(NO_SCHEMA, "--keyring-aws=FORCE", **native)
    assert stage.one("SELECT a FROM d.t") == 42 and stage.entries()["a", ROOT].arn == KEY_ARN
    assert stage.db.stop() == 0
    asked = stage.kms.count()
    for change, words in REFUSED:
        run = stage.db.run_once(*stage.options(NO_SCHEMA, "--keyring-aws=FORCE",
                                               **{**native, **change}), timeout=60)
        assert run.returncode == 1 and "Failed to initialize early plugins" in run.stdout
        (line,) = said("ERROR", run.stdout)
        assert re.search(words, line), line
    assert stage.kms.count() == asked
