"""What a hostile day does to the component in a real MySQL server: a volume that is not mounted,
a source of credentials that hangs, a RELOAD at the wrong time.
"""

import json
import shutil
import socket
import time
from concurrent.futures import ThreadPoolExecutor

import pymysql
import pytest

from conftest import write_conf
from kms_emulator import ACCESS_KEY_ID, SECRET
from mysql_fixtures import (COMPONENT, EARLY, NO_SCHEMA, Stage, component_settings, wait_for)
from patience import calm

pytestmark = pytest.mark.needs("components")
BINARY_LOG = ("--log-bin=bin", "--server-id=1", "--binlog-encryption=ON")
RELOAD = "ALTER INSTANCE RELOAD KEYRING"


@pytest.fixture(name="stage")
def component_stage():
    with Stage(door="component") as stage:
        yield stage


def reload(stage: Stage, **settings: object) -> None:
    """With these settings in place of those that the server was started with."""
    stage.db.components({COMPONENT: component_settings({**stage.settings, **settings})})
    stage.sql(RELOAD)


# ---- a data file that is not there --------------------------------------------------------------

def test_a_start_without_the_data_file_says_which_keys_are_missing(stage):
    """It made none, so nothing else in the log names the file, and InnoDB's own advice would lose
    rows. But the first start of a server misses no key."""
    stage.start(*BINARY_LOG)
    stage.sql("CREATE DATABASE d")
    stage.sql("CREATE TABLE d.t (a INT) ENCRYPTION = 'Y'")
    assert not stage.tagged("KAWS-311")
    assert stage.db.stop() == 0
    kept = shutil.move(stage.data.parent, stage.db.folder / "unmounted")

    stage.mark()
    stage.db.start(*stage.options("--binlog-encryption=OFF", *BINARY_LOG[:2]), wait=False)
    assert stage.db.wait() == 1         # the binary log is encrypted, and was to be read
    lines = stage.tagged("KAWS-311")
    assert ["INNODBKey-" in line for line in lines] == [True, False]
    assert all(f"{stage.data} does not have it (there is no such file; " in line for line in lines)
    assert not stage.data.parent.exists()

    shutil.move(kept, stage.data.parent)
    stage.start(*BINARY_LOG)
    assert stage.sql("SELECT * FROM d.t") == [] and not stage.said("ERROR")


def use_program(stage: Stage, command: str) -> None:
    """A program gives the credentials, if the command succeeds."""
    helper, profiles = stage.db.folder / "helper", stage.db.folder / "profiles"
    answer = {"Version": 1, "AccessKeyId": ACCESS_KEY_ID, "SecretAccessKey": SECRET}
    helper.write_text(f"#!/bin/sh\n{command} && echo '{json.dumps(answer)}'\n")
    profiles.write_text(f"[default]\ncredential_process = {helper}\n")
    helper.chmod(0o700), profiles.chmod(0o600)
    stage.settings.update(auth="native", config_file=profiles, conf_file=None,
                          credentials_file=stage.db.folder / "none")


# ---- load asks nobody ---------------------------------------------------------------------------

def test_load_runs_no_program_for_credentials(stage):
    """It runs before the server takes its account: so the program would run as root. It also runs
    for --validate-config."""
    runs = stage.db.folder / "runs"
    use_program(stage, f"echo run >> {runs}")
    stage.start(NO_SCHEMA)
    assert not runs.exists() and not stage.said("ERROR")
    stage.install_functions()
    assert stage.generate("key") == 1 and runs.read_text() == "run\n"
    assert stage.db.stop() == 0
    assert stage.db.run_once(*stage.options("--validate-config")).returncode == 0
    assert runs.read_text() == "run\n"


def test_load_assumes_no_role(stage):
    """Nor is AWS STS, which may hang, asked before the server has its account and its options."""
    with socket.create_server(("127.0.0.1", 0)) as sts:
        url = f"https://127.0.0.1:{sts.getsockname()[1]}"
        stage.settings.update(role_arn="arn:aws:iam::111122223333:role/keyring", sts_endpoint=url)
        stage.start(NO_SCHEMA)
        sts.settimeout(0.1)
        with pytest.raises(TimeoutError):
            sts.accept()
        assert not stage.said("ERROR")
    stage.conf.unlink()                 # load does look at the file
    stage.restart(NO_SCHEMA)
    assert "cannot read the conf file" in stage.said("ERROR")[0]


# ---- RELOAD -------------------------------------------------------------------------------------

def test_reload_swaps_no_keys_for_none(stage):
    """A data file that is missing is made for a keyring without keys only, whether its name is a
    new one or the old one."""
    other = stage.db.folder / "other" / "data"
    stage.start(NO_SCHEMA)
    stage.install_functions()
    reload(stage, data_file=stage.db.folder / "first")      # nothing is lost yet
    reload(stage)
    assert stage.generate("key") == 1
    with pytest.raises(pymysql.err.OperationalError, match="4035|reload failed"):
        reload(stage, data_file=other)
    kept = shutil.move(stage.data, stage.db.folder / "kept")
    with pytest.raises(pymysql.err.OperationalError):
        reload(stage)
    assert len(stage.tagged("KAWS-325")) == 2 and not other.parent.exists()
    assert all("the keyring that is open has 1 key: " in line for line in stage.tagged("KAWS-325"))
    assert stage.fetch("key") is not None and not stage.data.exists()
    shutil.move(kept, stage.data)
    reload(stage)
    assert stage.fetch("key") == stage.plain("key")


def test_each_reload_that_fails_says_why(stage):
    """Its client is told to look into the error log: so there has to be a line, however often it
    fails within a minute. And none comes when one succeeds."""
    cnf = stage.db.plugin_dir / f"{COMPONENT}.cnf"
    stage.start(NO_SCHEMA)
    good = cnf.read_text()
    for text, failures in (("{", 1), ("{", 1), (good, 0), ("{", 1), (good, 0)):
        cnf.write_text(text)
        stage.mark()
        assert (stage.refused(RELOAD)[0] == 4035) if failures else stage.sql(RELOAD) == []
        assert len(stage.tagged("KAWS-325")) == failures


def test_a_setting_without_a_name_sets_nothing(stage):
    """The server's own hidden setting, which makes a keyring read-only, has no name here."""
    stage.start(NO_SCHEMA)
    stage.install_functions()
    cnf = stage.db.plugin_dir / f"{COMPONENT}.cnf"
    cnf.write_text(cnf.read_text()[:-1] + ', "": true}')
    stage.sql(RELOAD)
    assert stage.generate("key") == 1 and len(stage.tagged("KAWS-323")) == 1


def test_a_reload_keeps_the_credentials_if_their_source_is_away(stage):
    """The keyring has some, which are good for hours; a new one would have none. One that has none
    itself is replaced all the same."""
    away = stage.db.folder / "away"
    use_program(stage, f"test ! -e {away}")
    stage.start(NO_SCHEMA)
    stage.install_functions()
    assert stage.generate("key") == 1
    away.touch()
    assert stage.refused(RELOAD)[0] == 4035
    (line,) = stage.tagged("KAWS-325")
    assert "gave no credentials" in line and stage.fetch("key") == stage.plain("key")

    stage.restart(NO_SCHEMA)            # now it has none
    assert stage.fetch("key") is None and stage.sql(RELOAD) == []
    stage.use(auth=None, config_file=None, conf_file=stage.conf)
    assert stage.fetch("key") == stage.plain("key")
    odd = write_conf(stage.db.folder / "odd", "odd", SECRET)    # as an emulator of KMS may have
    stage.use(auth=None, config_file=None, conf_file=odd)
    assert stage.rows()["Credentials_source"] == "the conf file" and stage.fetch("key") is None


def test_a_reload_while_keys_are_rewrapped_stops_no_later_change(stage):
    """The old ring, which one function still uses, has replaced the file that the new one knows."""
    stage.start(NO_SCHEMA)
    stage.install_functions()
    for number in range(8):
        assert stage.generate(f"key{number}") == 1
    stage.kms.fault("ReEncrypt", "latency", times=0, ms=500)
    stage.kms.fault("RotateKeyOnDemand", "latency", times=1, ms=5000)
    with ThreadPoolExecutor() as pool:
        slow = pool.submit(stage.sql, "SELECT keyring_aws_rotate_cmk()")
        wait_for(lambda: stage.kms.count("RotateKeyOnDemand"))
        rewrap = pool.submit(stage.sql, "SELECT keyring_aws_rotate_keys()")
        wait_for(lambda: stage.kms.count("ReEncrypt"))
        stage.sql(RELOAD)
        assert rewrap.result() == [(1,)]
        assert stage.generate("new") == 1 and stage.remove("key0") == 1
        calm(not slow.done(), "the rotation takes 5 s, and had to be slower than the re-wrap")
        assert slow.result() == [(1,)]
    assert stage.generate("last") == 1
    assert [stage.fetch(f"key{number}") is None for number in range(8)] == [True, *[False] * 7]


def test_a_file_of_both_doors_is_said_at_the_start(stage):
    """Though the component opens its ring long after the plugin has opened its own."""
    stage.start(EARLY, NO_SCHEMA, *(f"--keyring-aws-{name.replace('_', '-')}={value}"
                                    for name, value in stage.settings.items()))
    stage.install_functions()
    assert stage.generate("key") == 1
    assert len(stage.tagged("KAWS-327")) == 1 and not stage.tagged("KAWS-115")


# ---- a keyring that cannot be opened ------------------------------------------------------------

def test_calls_share_the_answer_that_the_keyring_cannot_be_opened(stage):
    """Each table of a starting server would ask again, and each call later, one after another."""
    stage.start(NO_SCHEMA)
    stage.install_functions()
    assert stage.generate("key") == 1
    stage.sql("CREATE DATABASE d")
    for number in range(8):
        stage.sql(f"CREATE TABLE d.t{number} (a INT) ENCRYPTION = 'Y'")
    assert stage.db.stop() == 0
    stage.kms.fault("AssumeRole", "latency", times=0, ms=300)
    stage.start(NO_SCHEMA, role_arn="arn:aws:iam::111122223333:role/nobody",
                sts_endpoint=stage.kms.url)
    asked = stage.kms.count("AssumeRole")
    assert 1 <= asked
    calm(asked < 5, f"{asked} requests, one a second")
    time.sleep(1)                       # so long is an answer good
    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(lambda _: stage.fetch("key"), range(8))) == {None}
    again = stage.kms.count("AssumeRole") - asked
    assert 0 < again
    calm(again < 5, f"{again} requests, one a second")
    assert len(stage.tagged("KAWS-328")) == 1 and "AccessDenied" in stage.tagged("KAWS-328")[0]
    reload(stage)
    assert stage.fetch("key") == stage.plain("key")


# ---- another file at the same path --------------------------------------------------------------

def test_a_reload_takes_an_older_copy_with_a_warning_and_no_other_keyring(stage):
    """RELOAD means to read the file again, so an older copy counts; but it is said."""
    stage.start(NO_SCHEMA)
    stage.install_functions()
    assert stage.generate("one") == 1
    older = shutil.copy(stage.data, stage.db.folder / "older")
    assert stage.generate("two") == 1
    newer = shutil.copy(stage.data, stage.db.folder / "newer")
    shutil.copy(older, stage.data.with_suffix(".new")).rename(stage.data)
    stage.mark()
    stage.sql(RELOAD)
    assert len(stage.tagged("KAWS-147")) == 1
    assert stage.fetch("one") is not None and stage.fetch("two") is None
    shutil.copy(newer, stage.data.with_suffix(".new")).rename(stage.data)
    stage.sql(RELOAD)
    assert stage.fetch("two") == stage.plain("two")

    with Stage() as other:
        other.start(NO_SCHEMA)
        other.install_functions()
        assert other.generate("three") == 1
        shutil.copy(other.data, stage.data.with_suffix(".new"))
    kept = stage.data.rename(stage.db.folder / "kept")
    stage.data.with_suffix(".new").rename(stage.data)
    assert stage.refused(RELOAD)[0] == 4035
    assert len(stage.tagged("KAWS-325")) == 1
    kept.rename(stage.data)
    stage.sql(RELOAD)
    assert stage.fetch("two") == stage.plain("two") and not stage.tagged("KAWS-115")


def test_nobody_makes_a_data_file_by_asking_for_the_status(stage):
    """Nor by a function that he may not call: its volume may not be mounted."""
    stage.start()
    for name in ("keyring_aws_rotate_keys", "keyring_aws_refresh"):
        stage.sql(f"CREATE FUNCTION {name} RETURNS INTEGER SONAME '{COMPONENT}.so'")
    stage.sql("CREATE USER nobody")
    assert stage.sql("SELECT * FROM performance_schema.keyring_component_status")
    for name in ("keyring_aws_rotate_keys", "keyring_aws_refresh"):
        assert stage.refused(f"SELECT {name}()", user="nobody")[0] == 1123
    assert not stage.data.exists()
    assert stage.one("SELECT keyring_aws_refresh()") == 1 and stage.data.exists()
