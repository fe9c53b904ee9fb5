"""How a MySQL server starts with the component: as which account, in which process, from what
settings file; and what an early read of a key leaves behind.

From 8.0.29 on a server loads the component before it forks and takes its account.
"""

import contextlib
import json
import os
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

from demo import read_data_file
from kms_emulator import ACCESS_KEY_ID, ACCOUNT, KEY_ARN, SECRET
from mysql_fixtures import (COMPONENT, FUNCTIONS, NO_SCHEMA, RELOAD, ROOT, Stage,
                            heed_persisted_settings, plugin_options, wait_for, wait_for_kms)
from servers import open_files

pytestmark = pytest.mark.needs("components")
HOSTS = Path(__file__).resolve().parent / "hosts"
SENSITIVE = "--plugin-load-add=sensitive=sensitive.so"
OTHER_USER = "nobody"


@pytest.fixture(name="stage")
def component_stage():
    with Stage(door="component") as stage:
        yield stage


def files(stage: Stage) -> dict[str, tuple[int, int, int]]:
    """What a keyring could have made or changed, with its owner, and when that was."""
    made = {}
    for path in (stage.conf, stage.data.parent, *stage.db.folder.glob("plugin/*.cnf"),
                 *stage.data.parent.rglob("*")):
        with contextlib.suppress(FileNotFoundError):
            st = path.lstat()
            made[str(path)] = st.st_uid, st.st_ino, st.st_mtime_ns
    return made


# ---- a variable that the server reads before all else -------------------------------------------

@pytest.fixture(name="secretive")
def stage_with_a_secret(stage):
    """A server, shut down, with a variable that was persisted and whose value is encrypted."""
    if not stage.expect.sensitive:
        pytest.skip(stage.expect.lacks("sensitive"))
    first, second, third = stage.db.version
    subprocess.run(["gcc", "-shared", "-fPIC", f"-DVERSION={first * 10000 + second * 100 + third}",
                    "-o", stage.db.plugin_dir / "sensitive.so", HOSTS / "sensitive_plugin.c"],
                   check=True)
    heed_persisted_settings(stage)
    stage.start(SENSITIVE)
    stage.install_functions()
    assert stage.generate("kept") == 1
    stage.sql("SET PERSIST sensitive_secret = 'hush-hush'")
    assert ("persisted_variables_key", "") in stage.entries()
    assert stage.db.stop() == 0
    assert b"hush-hush" not in (stage.db.data / "mysqld-auto.cnf").read_bytes()
    return stage


def secret(stage: Stage) -> str:
    return stage.one("SELECT @@GLOBAL.sensitive_secret")


def test_a_persisted_secret_is_read_and_leaves_nothing_behind(secretive):
    """Neither do the runs of the server's program that only tell or check. With KMS away the
    server starts without the value, and the file keeps it for the next start."""
    stage, before = secretive, files(secretive)
    for options in (("--verbose", "--help"), ("--validate-config",)):
        run = stage.db.run_once(*stage.options(SENSITIVE, *options))
        assert run.returncode == 0 and files(stage).keys() == before.keys()
    before, asked = files(stage), stage.kms.count("Decrypt")
    stage.db.start(SENSITIVE, NO_SCHEMA)
    assert secret(stage) == "hush-hush" and stage.kms.count("Decrypt") == asked + 1
    assert not [name for name in open_files(stage.db.process.pid).values() if "keyring" in name]
    assert files(stage) == before
    assert stage.fetch("kept") == stage.plain("kept")
    assert stage.db.stop() == 0

    stage.kms.stop()
    stage.start(SENSITIVE, NO_SCHEMA, start_seconds=1)
    assert not secret(stage)
    assert [line for line in stage.said("ERROR") if "fetch key 'persisted_variables_key'" in line]
    assert len(stage.tagged("KAWS-310")) == 1 and "MY-013840" in stage.db.log()
    stage.kms.start()
    wait_for_kms(stage)
    stage.restart(SENSITIVE, NO_SCHEMA)
    assert secret(stage) == "hush-hush" and not stage.said("ERROR")


# ---- another account, another process -----------------------------------------------------------

def give_away(stage: Stage, account: str) -> None:
    """From now on the server's files are this account's, and root starts it with --user."""
    subprocess.run(["chown", "-R", account, stage.db.scratch], check=True)
    options = [each for each in stage.db._options() if not each.startswith("--user=")]
    stage.db._options = lambda: [*options, f"--user={account}"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can start a server as another account")
def test_root_starts_a_server_as_another_account(secretive):
    """Root loads the component, and the account then has the keyring: from its first key, at each
    later start, and with a variable to decrypt before that."""
    stage = secretive
    shutil.rmtree(stage.data.parent)
    (stage.db.data / "mysqld-auto.cnf").unlink()
    give_away(stage, OTHER_USER)
    stage.start(SENSITIVE)
    assert not stage.data.exists()
    assert stage.generate("first") == 1
    stage.sql("SET PERSIST sensitive_secret = 'hush-hush'")
    owner = stage.db.data.stat().st_uid
    for again in (False, True):
        if again:
            stage.restart(SENSITIVE)
        made = [stage.data.parent, *stage.data.parent.iterdir()]
        assert len(made) == 3 and {path.stat().st_uid for path in made} == {owner}
        assert not stage.said("ERROR") and secret(stage) == "hush-hush"
        assert stage.fetch("first") == stage.plain("first")
    stage.sql(RELOAD)
    assert stage.fetch("first") == stage.plain("first") and not stage.said("ERROR")


def test_a_daemon_has_the_keyring_and_its_parent_made_nothing(secretive):
    stage, pid_file = secretive, secretive.db.folder / "daemon.pid"
    before = files(stage)
    started = stage.db.run_once(f"--log-error={stage.db.folder / 'error.log'}",
                                "--loose-performance-schema-error-size=0", SENSITIVE,
                                f"--pid-file={pid_file}", "--daemonize")
    assert started.returncode == 0, started.stdout
    wait_for(stage.db.ready, 30)
    pid = int(pid_file.read_text())
    try:
        assert files(stage) == before and secret(stage) == "hush-hush"
        assert not [name for name in open_files(pid).values() if "keyring" in name]
        assert stage.fetch("kept") == stage.plain("kept")
        assert stage.generate("more") == 1 and stage.fetch("more") == stage.plain("more")
        stage.sql(RELOAD)
        assert stage.fetch("kept") == stage.plain("kept")
    finally:
        os.kill(pid, signal.SIGTERM)
        wait_for(lambda: not Path(f"/proc/{pid}").exists(), 30)
    assert "KAWS-139" not in stage.db.log() and not stage.said("ERROR")


def test_a_run_that_starts_no_server_makes_nothing(stage):
    before = None
    for options in ((f"--datadir={stage.db.folder / 'new'}", "--initialize-insecure"),
                    ("--verbose", "--help"), ("--validate-config",)):
        arguments = stage.options(*options)
        before = before or files(stage)
        run = stage.db.run_once(*arguments)
        assert run.returncode == 0, run.stdout
        assert files(stage).keys() == before.keys() and not stage.kms.count()
        assert not stage.data.parent.exists()
        assert "KAWS-326" in run.stdout


# ---- a settings file that is broken, and other sources of credentials ---------------------------

def test_a_server_starts_without_a_keyring_and_a_reload_heals_it(stage):
    """Its settings file is broken: the log has the line and column, and so has the status."""
    stage.start(NO_SCHEMA)
    stage.install_functions()
    stage.sql("CREATE DATABASE d")
    stage.sql("CREATE TABLE d.t (n INT) ENCRYPTION = 'Y'")
    assert stage.generate("kept") == 1 and stage.db.stop() == 0
    arguments = stage.options()
    good = (stage.db.plugin_dir / f"{COMPONENT}.cnf").read_text()
    stage.write_file(good[:-1] + ",\n oops}")
    stage.mark()
    stage.db.start(*arguments)
    (line,) = stage.tagged("KAWS-324")
    why = f"{COMPONENT}.cnf, line 2, column 2: "
    assert line.startswith("the component has no keyring: ") and why in line
    assert "ALTER INSTANCE RELOAD KEYRING" in line and line in stage.said("ERROR")
    rows = stage.rows()
    assert list(rows)[5:8] == ["Component_status", "Data_file", "Read_only"] and len(rows) == 24
    assert rows.pop("Component_status") == "Disabled" and why in rows.pop("Last_error")
    assert rows.pop("Last_error_time").endswith("UTC")
    for name in ("Component_name", "Author", "License", "Implementation_name", "Version"):
        assert "<" not in rows.pop(name)
    assert set(rows.values()) == {"<NOT APPLICABLE>"}
    assert stage.listed() == [] and stage.fetch("kept") is None and stage.generate("no") is None
    assert any(why in each for each in stage.tagged("KAWS-308"))
    assert stage.refused("CREATE TABLE d.u (n INT) ENCRYPTION = 'Y'")[0] == 3185
    number, text = stage.refused(f"SELECT {FUNCTIONS[0]}()")
    assert why in text

    assert stage.refused(RELOAD)[0] == 4035 and len(stage.tagged("KAWS-324")) == 2
    stage.write_file(good)
    stage.sql(RELOAD)
    assert stage.loaded() and stage.fetch("kept") == stage.plain("kept")
    stage.sql("CREATE TABLE d.u (n INT) ENCRYPTION = 'Y'")
    assert stage.one(f"SELECT {FUNCTIONS[1]}()") == 1
    stage.restart(NO_SCHEMA)            # InnoDB opens what it had asked for in vain
    assert stage.sql("SELECT * FROM d.t") == stage.sql("SELECT * FROM d.u") == []


def test_a_settings_file_that_others_may_change(stage):
    """It has the secret access key: then it has to be root's or the server's own."""
    stage.options()
    path = stage.db.plugin_dir / f"{COMPONENT}.cnf"
    stage.write_file(json.dumps({"data_file": str(stage.data), "cmk_id": KEY_ARN,
                                 "aws_authentication": {"mode": "simple",
                                                        "access_key_id": ACCESS_KEY_ID,
                                                        "access_key_secret": SECRET}}))
    if os.geteuid() != 0:
        pytest.skip("only root can give a file away")
    shutil.chown(path, OTHER_USER)
    run = stage.db.run_once("--validate-config")
    assert "KAWS-324" in run.stdout and "belongs to another account" in run.stdout
    assert SECRET not in run.stdout


def test_credentials_of_the_environment(stage):
    """aws_authentication.mode native: the server's environment has them."""
    arguments, west = stage.options(), stage.kms.add_key("us-west-2", ACCOUNT)
    stage.write_file(json.dumps({
        "data_file": str(stage.data), "cmk_id": west.rpartition("/")[2],
        "aws_authentication": {"mode": "native", "region": "us-west-2"},
        "keyring_aws": {"endpoint": stage.kms.url, "ca_file": str(stage.certs.ca)}}))
    stage.kms.add_user("AKIDNATIVE", "native/" + SECRET, ACCOUNT)
    stage.mark()
    stage.db.start(*arguments, env={"AWS_ACCESS_KEY_ID": "AKIDNATIVE",
                                    "AWS_SECRET_ACCESS_KEY": "native/" + SECRET})
    stage.install_functions()
    assert stage.generate("native") == 1 and stage.fetch("native") == stage.plain("native")
    assert stage.entries()["native", ROOT].arn == west
    assert {each["access_key_id"] for each in stage.kms.log()["requests"]} == {"AKIDNATIVE"}
    assert "environment" in stage.rows()["Credentials_source"]
    assert not stage.said("ERROR") and SECRET not in stage.db.log()


# ---- both doors ---------------------------------------------------------------------------------

def both(stage: Stage, *extra: str, **plugins: object) -> list[str]:
    return [*stage.options(), *plugin_options({**stage.settings, **plugins}), *extra]


def test_both_doors_in_one_server(stage):
    """Each has its own file and settings. The server's keys and keyring_udf's are the
    component's; the plugin's variables are the plugin's."""
    second = stage.kms.add_key("us-east-1", ACCOUNT)
    other = stage.db.folder / "plugins" / "data"
    stage.db.start(*both(stage, data_file=other, cmk_id=second))
    stage.install_functions()
    stage.sql("CREATE DATABASE d")
    stage.sql("CREATE TABLE d.t (n INT) ENCRYPTION = 'Y'")
    assert stage.generate("mine") == 1
    blob = stage.entries()["mine", ROOT].blob
    assert stage.one("SELECT keyring_aws_rotate_keys()") == 1
    assert stage.entries()["mine", ROOT].blob != blob
    assert len(stage.entries()) == 2 and not read_data_file(other).entries
    assert {each.arn for each in stage.entries().values()} == {KEY_ARN}
    assert stage.variable("cmk_id") == second and stage.rows()["Kms_key"] == KEY_ARN
    stage.sql("SET GLOBAL keyring_aws_cmk_id = %s", (second,))
    assert stage.generate("still") == 1 and stage.entries()["still", ROOT].arn == KEY_ARN
    stage.sql(RELOAD)
    assert stage.variable("data_file") == str(other) and stage.fetch("mine") == stage.plain("mine")
    stage.uninstall()                   # and the component goes on
    assert stage.fetch("mine") == stage.plain("mine") and stage.generate("later") == 1
    stage.install()
    assert stage.one("SELECT keyring_aws_refresh()") == 1
    assert not stage.tagged("KAWS-327") and not stage.said("ERROR")


def test_both_doors_to_one_file(stage):
    """That is a warning, and loses nothing: what each makes, the other has."""
    stage.door = "plugin"
    stage.start(NO_SCHEMA)
    stage.install_functions()
    assert stage.generate("the plugin's") == 1
    key = stage.fetch("the plugin's")
    stage.sql("CREATE DATABASE d")
    stage.sql("CREATE TABLE d.t (n INT) ENCRYPTION = 'Y'")
    stage.sql("INSERT INTO d.t VALUES (1)")
    assert stage.db.stop() == 0

    stage.door = "component"
    stage.mark()
    stage.db.start(*both(stage, NO_SCHEMA))
    assert stage.fetch("the plugin's") == key and stage.sql("SELECT n FROM d.t") == [(1,)]
    assert str(stage.data) in stage.tagged("KAWS-327")[0]
    assert stage.generate("the component's") == 1 and stage.generate("removed") == 1
    stage.sql("SET GLOBAL keyring_aws_timeout = 9000")
    assert stage.remove("removed") == 1 and stage.generate("again") == 1
    stage.sql(RELOAD)
    assert stage.generate("reloaded") == 1
    made = dict(stage.entries())
    assert stage.db.stop() == 0 and not stage.said("ERROR")

    stage.door = "plugin"
    stage.start(NO_SCHEMA)
    assert stage.entries().keys() == made.keys() and len(made) == 5
    assert stage.fetch("the plugin's") == key and stage.fetch("reloaded") is not None
    assert stage.sql("SELECT n FROM d.t") == [(1,)] and not stage.said("ERROR")
