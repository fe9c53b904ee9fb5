"""When the plugin starts in a MySQL server, and when it does not; and its credentials."""

import contextlib
import os
import re
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pymysql
import pytest

from demo import read_data_file
from kms_emulator import ACCESS_KEY_ID, ACCOUNT, ALIAS, KEY_ARN, OTHER_ACCOUNT, SECRET
from manual import MANUAL
from mysql_fixtures import (FUNCTIONS, LONG, NO_SCHEMA, QUICK, ROOT, Stage, cursor,
                            heed_persisted_settings, said, wait_for, wait_for_kms, works)
from patience import calm, in_time, within

AGAIN = ("start the server again: that loses nothing. Do not set innodb_force_recovery, and remove"
         " no log files: that loses rows")


# ---- the manual's own procedure -----------------------------------------------------------------

def test_the_manuals_own_procedure(stage):
    """Start without a KMS key, CREATE FUNCTION with the manual's misprint, name a key of another
    region than the default, generate."""
    west = stage.kms.add_key("us-west-2", ACCOUNT)
    stage.start(NO_SCHEMA, cmk_id=None)
    assert [line for line in stage.said("Warning") if "keyring_aws_cmk_id has to be set" in line]
    assert stage.variable("cmk_id") is None and not stage.kms.count()
    stage.db.install_keyring_udf()
    stage.sql("CREATE FUNCTION keyring_aws_rotate_cms RETURNS INTEGER SONAME 'keyring_aws.so'")
    stage.sql("CREATE FUNCTION keyring_aws_rotate_keys RETURNS INTEGER SONAME 'keyring_aws.so'")
    check_only_fetching(stage, "keyring_aws_rotate_cms", "keyring_aws_rotate_keys")

    stage.sql(f"SET GLOBAL keyring_aws_cmk_id = '{west}'")
    assert stage.variable("cmk_id") == west and stage.variable("region") == "us-east-1"
    assert stage.generate("MyKey") == 1
    assert stage.entries()["MyKey", ROOT].arn == west
    assert stage.one("SELECT keyring_aws_rotate_cms()") == 1
    assert (stage.kms.count("RotateKeyOnDemand"), stage.kms.count("ReEncrypt")) == (1, 0)
    assert stage.one("SELECT keyring_aws_rotate_keys()") == 1
    assert (stage.kms.count("RotateKeyOnDemand"), stage.kms.count("ReEncrypt")) == (1, 1)
    assert {each["region"] for each in stage.kms.log()["requests"]} == {"us-west-2"}

    stage.restart(NO_SCHEMA, cmk_id=None)               # it was set for the life of the server
    assert stage.fetch("MyKey") == stage.plain("MyKey")
    check_only_fetching(stage, "keyring_aws_rotate_cms", "keyring_aws_rotate_keys")


def check_only_fetching(stage: Stage, *functions: str) -> None:
    stage.mark()
    assert stage.generate("early") is None and stage.store("early", "SECRET", b"x") is None
    for name in functions:
        number, text = stage.refused(f"SELECT {name}()")
        assert number == 3198 and "keyring_aws_cmk_id has to be set" in text
    assert len(stage.said("ERROR")) == 4
    assert all("keyring_aws_cmk_id has to be set" in line for line in stage.said("ERROR"))


# ---- what it does not start with ----------------------------------------------------------------
#
# Each fault spoils something, or is the settings to start with.


def opening_is_denied(stage):
    stage.kms.add_user("AKIDSEALER", SECRET, ACCOUNT, denied=["Decrypt"])
    stage.write_conf("AKIDSEALER")


def damaged_data_file(stage):
    content = bytearray(stage.data.read_bytes())
    content[200] ^= 1
    stage.data.write_bytes(content)


def missing_data_file(stage):
    stage.data.unlink()
    return {"create": "OFF"}


def data_file_that_is_a_link(stage):
    stage.data.symlink_to(stage.data.rename(stage.data.with_name("elsewhere")).name)


def data_file_that_is_a_folder(stage):
    stage.data.unlink()
    stage.data.mkdir()


def folder_that_cannot_be_made(stage):
    (stage.db.folder / "file").touch()
    return {"data_file": stage.db.folder / "file" / "keyring" / "data"}


def conf_file_that_a_change_would_remove(stage):
    os.link(stage.conf, stage.data.with_name("data.tmp"))


def ca_file_that_is_a_pipe(stage):
    os.mkfifo(stage.data.parent / "pipe")
    return {"ca_file": stage.data.parent / "pipe"}


FAULTS = [                              # and what the one sentence says; first the list
    (lambda stage: stage.conf.unlink(), r"cannot read the conf file \S+/conf: No such file"),
    (lambda stage: write(stage.conf, ""), r"conf file \S+/conf: it is empty"),
    (lambda stage: write(stage.conf, ACCESS_KEY_ID + "\n"), r"conf file \S+/conf: .*line 2"),
    (folder_that_cannot_be_made, r"/file/keyring.*Not a directory"),
    (lambda stage: write(stage.data, ""), r"data file \S+/data is empty \(0 bytes\)"),
    (lambda stage: stage.write_conf("AKIDUNKNOWN"), r"UnrecognizedClientException"),
    ({"cmk_id": KEY_ARN[:-1] + "0"}, r"NotFoundException"),
    (damaged_data_file, r"data file \S+/data is damaged at byte 80"),
    (missing_data_file, r"no data file \S+/data, and none is made .*keyring_aws_create = OFF"),
    (lambda stage: write(stage.conf, f"{ACCESS_KEY_ID}\n{SECRET}%"),
     r"conf file \S+/conf: line 2, column \d+: '%', which zsh prints"),
]
MORE_FAULTS = [
    (lambda stage: write(stage.conf, f"{ACCESS_KEY_ID}\nnot a {SECRET}\n"),
     r"conf file \S+/conf: .*line 2"),
    (lambda stage: stage.write_conf(secret=SECRET[::-1]), r"InvalidSignatureException"),
    ({"cmk_id": "alias/nobody-knows"}, r"NotFoundException"),
    (opening_is_denied, r"refused Decrypt \(AccessDeniedException"),
    (lambda stage: os.truncate(stage.data, stage.data.stat().st_size - 1),
     r"data file \S+/data is damaged at byte \d+"),
    (lambda stage: write(stage.data, "-----BEGIN KEYRING-----\n" * 9),
     r"not a data file of keyring_aws"),
    (data_file_that_is_a_link, r"/data\b.*link"),
    (data_file_that_is_a_folder, r"/data is not a"),
    ({"endpoint": "http://kms.example.com"}, r"endpoint"),
    ({"region": "us_east_1"}, r"region"),
    (ca_file_that_is_a_pipe, r"CA file \S+/pipe: it is not a file"),
    (lambda stage: {"ca_file": stage.certs.good.key}, r"no certificate in it"),
    ({"env": {"https_proxy": "http://user:pass/Wv8z@127.0.0.1:9"}},
     r"https_proxy in the environment is not of the form"),
    *(({"env": {"https_proxy": proxy, "no_proxy": "nobody.example"}}, r"https_proxy") for proxy in (
        "http://svc:Xy7q#Wv8z@127.0.0.1:1", "svc:Xy7q/Wv8z@127.0.0.1:1",
        "http://svc:Xy7qWv8z@127.0.0.1:x")),
    ({"endpoint": "https://127.0.0.1:1:2"}, r"endpoint 'https://127.0.0.1:1:2' is not"),
    ({"accounts": ","}, r"accounts is not a list"),
    ({"cmk_id": KEY_ARN.replace("arn:aws:", "arn:aws-cn:")},
     r"is not the ARN of a KMS key: its region belongs to another partition"),
    (conf_file_that_a_change_would_remove, r"conf_file and data_file name the same file, \S+\.tmp"),
    (lambda stage: stage.write_conf("ASIAIOSFODNN7EXAMPLE"),
     r"the session token \(line 3, or aws_session_token\) is missing; an id that begins with ASIA"),
]


def write(path, text: str) -> None:
    path.write_text(text)


def spoil(stage: Stage, fault) -> dict:
    """The settings to start with."""
    return dict(fault if isinstance(fault, dict) else fault(stage) or {})


@pytest.fixture(scope="module", name="data_folder")
def keep_data_folder():
    """A server with a key in its keyring, shut down."""
    with Stage() as stage:
        stage.start(NO_SCHEMA)
        stage.install_functions()
        assert stage.generate("kept") == 1
        assert stage.db.stop() == 0
        stage.good = stage.data.read_bytes()
        yield stage


@pytest.fixture(name="spoilable")
def mended_stage(data_folder):
    yield data_folder
    data_folder.db.kill()
    data_folder.write_conf()
    for path in data_folder.data.parent.iterdir():
        path.rmdir() if path.is_dir() else path.unlink()
    data_folder.data.touch(0o600)
    data_folder.data.write_bytes(data_folder.good)


def remains(stage: Stage) -> dict:
    """Names and contents of the files in the keyring's folder, without the lock files."""
    return {path.name: path.read_bytes() if path.is_file() else None
            for path in stage.data.parent.iterdir() if path.suffix != ".lock"}


def check_one_sentence(log: str, sentence: str) -> None:
    (line,) = said("ERROR", log)
    assert line.startswith("cannot start: ") and re.search(sentence, line)
    assert line.endswith(AGAIN)
    assert SECRET not in log and SECRET[::-1] not in log
    assert "Plugin 'keyring_aws' init function returned error" in log


@pytest.mark.parametrize("fault, sentence", FAULTS)
def test_the_server_starts_without_the_plugin(spoilable, fault, sentence):
    settings, before = spoil(spoilable, fault), remains(spoilable)
    spoilable.start(NO_SCHEMA, **settings)
    check_one_sentence(spoilable.db.log(), sentence)
    assert not spoilable.loaded()
    assert "is not loaded" in spoilable.refused("SELECT keyring_aws_rotate_keys()")[1]
    assert spoilable.fetch("kept") is None and remains(spoilable) == before


@pytest.mark.parametrize("fault, sentence", FAULTS + MORE_FAULTS)
def test_the_server_aborts_if_the_plugin_is_forced(spoilable, fault, sentence):
    settings, before = spoil(spoilable, fault), remains(spoilable)
    env = settings.pop("env", None)
    run = spoilable.db.run_once(*spoilable.options(NO_SCHEMA, "--keyring-aws=FORCE", **settings),
                                timeout=300, env=env)
    assert run.returncode == 1 and "Failed to initialize early plugins" in run.stdout
    check_one_sentence(run.stdout, sentence)
    assert not re.search("Xy7q|Wv8z", run.stdout)
    assert remains(spoilable) == before


def test_the_unspoilt_server_starts(spoilable):
    """If it did not, the tests above would prove nothing."""
    spoilable.start(NO_SCHEMA, "--keyring-aws=FORCE")
    assert not spoilable.said("ERROR") and not spoilable.said("Warning")
    assert spoilable.fetch("kept") == spoilable.plain("kept")


# ---- what it starts with all the same -----------------------------------------------------------

OUTAGES = {
    "unreachable": lambda kms: kms.stop(),
    "throttling": lambda kms: kms.fault("*", "throttle", times=0),
    "500": lambda kms: kms.fault("*", "error", times=0, type="KMSInternalException", status=500),
    "503 HTML": lambda kms: kms.fault("*", "reply", times=0, status=503, body="html"),
    "reset": lambda kms: kms.fault("*", "reset", times=0, where="accept"),
    "black hole": lambda kms: kms.fault("*", "black_hole", times=0, where="accept"),
}


def check_recovery(stage: Stage, name: str) -> None:
    """The plugin has warned; with KMS back it works, as soon as a probe is due."""
    assert stage.loaded() and not stage.said("ERROR")
    assert [line for line in stage.said("Warning") if line.startswith("starting without KMS: ")]
    assert stage.generate(name) is None and len(stage.said("ERROR")) == 1
    stage.kms.clear_faults()
    if stage.kms.listener is None:
        stage.kms.start()
    wait_for(lambda: stage.generate(name) == 1, 6)
    assert stage.fetch(name) == stage.plain(name)
    assert stage.fetch("kept") == stage.plain("kept")


@pytest.mark.parametrize("outage", ["unreachable", "throttling", "500"])
def test_the_server_starts_without_kms_and_works_with_it(spoilable, outage):
    OUTAGES[outage](spoilable.kms)
    spoilable.start(NO_SCHEMA, "--keyring-aws=FORCE", start_seconds=1)
    (waits,), (starts,) = spoilable.tagged("KAWS-304"), spoilable.tagged("KAWS-305")
    out = spoilable.tagged("KAWS-160")
    assert len(out) == (outage != "throttling") and len(spoilable.said("Warning")) == 2 + len(out)
    assert waits.startswith("the server is starting, and waits for KMS for up to 1 s (keyring_aws_")
    assert starts.endswith(AGAIN)
    check_recovery(spoilable, outage)


def test_the_plugin_is_installed_without_kms_and_works_with_it(spoilable):
    """Any outage, when the plugin is installed into a running server."""
    spoilable.start(NO_SCHEMA, timeout=1500)
    for outage, begin in OUTAGES.items():
        spoilable.uninstall()
        begin(spoilable.kms)
        spoilable.mark()
        spoilable.install()
        check_recovery(spoilable, f"again: {outage}")
    spoilable.uninstall()               # and with it its row in mysql.plugin


# ---- a start that waits for KMS -----------------------------------------------------------------

LOGS = (NO_SCHEMA, "--log-bin", "--server-id=1", "--binlog-encryption=ON")
REDO, UNDO = "--innodb-redo-log-encrypt=ON", "--innodb-undo-log-encrypt=ON"
ROWS = [(1,), (2,), (3,)]


@pytest.fixture(name="crashed")
def crashed_stage(stage):
    """A server that was killed, with all its logs encrypted and rows to recover; KMS is away."""
    stage.start(*LOGS, REDO, UNDO)
    stage.sql("CREATE DATABASE d")
    stage.sql("CREATE TABLE d.t (n INT) ENCRYPTION = 'Y'")
    stage.sql("INSERT INTO d.t VALUES (1), (2), (3)")
    stage.db.kill()
    stage.kms.stop()
    yield stage
    if stage.kms.listener is None:
        stage.kms.start()


def begin(stage: Stage, *options: str, **settings: object) -> float:
    stage.mark()
    stage.db.start(*stage.options(*LOGS, *options, **settings), wait=False)
    return time.monotonic()


def it_waits(stage: Stage) -> None:
    """Until the server has said that it waits, which a slow one says late."""
    wait_for(lambda: stage.tagged("KAWS-304"), 60)


def check_rows(stage: Stage) -> None:
    wait_for(stage.db.ready, 60)
    assert stage.sql("SELECT n FROM d.t") == ROWS


@pytest.mark.needs("logs")
@pytest.mark.parametrize("force, seconds", [("FORCE", 8), ("ON", 3)])
def test_a_start_waits_for_kms(crashed, force, seconds):
    """The network comes up after the server: the port is refused, and then it is not."""
    begin(crashed, REDO, UNDO, f"--keyring-aws={force}")
    it_waits(crashed)
    time.sleep(20 if LONG else seconds)
    assert crashed.db.process.poll() is None and not crashed.db.ready()
    crashed.kms.start()
    check_rows(crashed)
    assert not crashed.said("ERROR")
    (line,), (_,) = crashed.tagged("KAWS-304"), crashed.tagged("KAWS-160")
    assert len(crashed.said("Warning")) == 2 and len(crashed.tagged("KAWS-161")) == 1
    assert "waits for KMS for up to 30 s" in line and "cannot reach AWS KMS" in line
    crashed.kms.stop()                  # the start is over: nobody waits any more
    crashed.install_functions()
    with within(5):
        assert crashed.generate("away") is None


@pytest.mark.needs("logs")
def test_innodb_waits_for_kms(crashed):
    """Without keyring_aws_cmk_id the plugin's start does not ask KMS, but InnoDB's fetch does."""
    begin(crashed, cmk_id=None)
    it_waits(crashed)
    time.sleep(3)
    assert crashed.db.process.poll() is None and not crashed.db.ready()
    crashed.kms.start()
    check_rows(crashed)
    assert "cannot fetch" not in crashed.db.log()


@pytest.mark.needs("logs")
@pytest.mark.parametrize("settings, ends", [({}, signal.SIGTERM), ({}, signal.SIGQUIT),
                                            ({"cmk_id": None}, signal.SIGTERM)],
                         ids=["init", "quit", "fetch"])
def test_a_start_that_waits_can_be_ended(crashed, settings, ends):
    begin(crashed, **settings)
    it_waits(crashed)
    with within(10):
        os.kill(crashed.db.process.pid, ends)
        crashed.db.wait(60)


@pytest.mark.needs("logs")
@pytest.mark.parametrize("force", ["FORCE", "ON"])
@pytest.mark.parametrize("settings", [{}, {"cmk_id": None}], ids=["init", "fetch"])
def test_a_start_without_kms_says_what_to_do(crashed, force, settings):
    """InnoDB gives up. Our advice stands beside its own, and following ours loses nothing."""
    begun = begin(crashed, f"--keyring-aws={force}", start_seconds=2, **settings)
    assert crashed.db.wait() != 0
    took = time.monotonic() - begun
    assert took > 2
    in_time(took, 15)
    said_it = [line for line in crashed.said("ERROR") + crashed.said("Warning") if AGAIN in line]
    assert len(said_it) == (1 if settings else 2) and all("bring KMS back" in it for it in said_it)
    log = crashed.db.log()
    assert log.index(said_it[0]) < log.index("MY-012930")          # "Plugin initialization aborted"
    crashed.kms.start()
    begin(crashed, f"--keyring-aws={force}")
    check_rows(crashed)


# ---- a start while KMS hangs ---------------------------------------------------------------------

TABLES = 50


def hang_start(stage: Stage, seconds: int, **settings: object) -> tuple[float, int]:
    """Starts while KMS accepts and never answers, and asks for all tables. Returns how long that
    took, and how often KMS was asked."""
    stage.kms.fault("*", "black_hole", times=0)
    before, begun = stage.kms.count(), time.monotonic()
    stage.start(NO_SCHEMA, start_seconds=seconds, **settings)
    return time.monotonic() - begun, stage.kms.count() - before


@pytest.mark.needs("logs")
@pytest.mark.parametrize("defaults", [False, pytest.param(True, marks=pytest.mark.long)],
                         ids=["short", "defaults"])
def test_a_start_while_kms_hangs_costs_seconds_not_tables(stage, defaults):
    """One deadline for init and all fetches; then they fail at once, and one at a time tries. When
    KMS is back, one line says what stays closed. A restart opens it."""
    short = {} if defaults else {"timeout": 2000, "connect_timeout": 500}
    stage.start(NO_SCHEMA)
    stage.sql("CREATE DATABASE d")
    with cursor(stage) as each:
        for number in range(TABLES):
            each.execute(f"CREATE TABLE d.t{number} (n INT) ENCRYPTION = 'Y'")
    assert stage.db.stop() == 0
    took, asked = hang_start(stage, 30 if defaults else 3, **short)
    (most,) = re.findall(r"at most (\d+)\s+seconds\s+with\s+the\s+defaults", MANUAL)
    in_time(took, int(most) if defaults else 2 + 3 + 1.5 + 3)
    assert asked < (25 if defaults else 10), asked
    (waits,) = stage.tagged("KAWS-304")
    assert "cannot reach AWS KMS" in waits
    (out,) = stage.tagged("KAWS-160")
    assert "is unreachable: until it answers, calls fail at once" in out

    begun, before = time.monotonic(), stage.kms.count()
    for number in range(TABLES - 1):    # each is asked for, and none of them is there
        assert stage.refused(f"SELECT * FROM d.t{number}")[0] in (3185, 1146)
    took, asked = time.monotonic() - begun, stage.kms.count() - before
    in_time(took, 10)
    assert asked <= 1 + took / 1.5, (took, asked)
    assert not stage.tagged("KAWS-322")
    failed = stage.tagged("KAWS-308")
    assert len(failed) < 20, "equal lines are thinned, whatever their figures"

    stage.kms.clear_faults()
    wait_for_kms(stage, "CREATE TABLE d.new (n INT) ENCRYPTION = 'Y'")
    (back,) = stage.tagged("KAWS-322")
    assert "the key of InnoDB: what answers with error 3185 or 1146" in back
    assert "binary log" not in back and len(stage.tagged("KAWS-161")) == 1
    assert works(stage, f"SELECT * FROM d.t{TABLES - 1}"), "nobody had asked for it"
    assert stage.refused("SELECT * FROM d.t0")[0] in (3185, 1146)
    stage.restart(NO_SCHEMA)
    assert stage.sql("SELECT * FROM d.t0") == []
    assert not stage.tagged("KAWS-322")


@pytest.mark.needs("logs")
def test_what_an_outage_may_have_closed_is_named(stage):
    """InnoDB's keys and the binary log's, each by its own words; but not a user's key that has the
    name of one."""
    stage.start(NO_SCHEMA, "--log-bin=log")
    stage.db.install_keyring_udf()
    stage.sql("SET GLOBAL binlog_encryption = ON")
    stage.sql("CREATE DATABASE d")
    assert stage.generate("INNODBKey-mine") == 1
    innodb = "CREATE TABLE d.new (n INT) ENCRYPTION = 'Y'"
    binlog = "SHOW BINLOG EVENTS IN 'log.000002'"
    stage.sql(innodb)
    stage.sql("DROP TABLE d.new")
    for failing, words in (([], []), ([innodb], ["InnoDB"]), ([binlog], ["the binary log"]),
                           ([innodb, binlog], ["InnoDB", "the binary log"])):
        stage.kms.stop()
        with contextlib.suppress(Exception):
            stage.fetch("INNODBKey-mine")
        for query in failing:
            assert not works(stage, query), query
        stage.kms.start()
        before = len(stage.tagged("KAWS-322"))
        wait_for_kms(stage)
        lines = stage.tagged("KAWS-322")[before:]
        assert len(lines) == bool(failing), (failing, lines)
        for word in ("InnoDB", "the binary log"):
            assert (f"the key of {word}:" in lines[0] or f"for that of {word}:" in lines[0]
                    if word in words else not lines or word not in lines[0]), lines


@pytest.mark.needs("logs")
@pytest.mark.parametrize("cmk_id", [{}, {"cmk_id": None}], ids=["init", "fetch"])
@pytest.mark.parametrize("seconds", [0, 2])
def test_a_start_while_kms_throttles_costs_seconds_not_tables(stage, seconds, cmk_id):
    """If throttling lasts longer than the server waits, the fetches after that are sent once, until
    one succeeds. What is throttled now and then has all its tries."""
    stage.start(NO_SCHEMA)
    stage.sql("CREATE DATABASE d")
    with cursor(stage) as each:
        for number in range(12):
            each.execute(f"CREATE TABLE d.t{number} (n INT) ENCRYPTION = 'Y'")
    assert stage.db.stop() == 0
    stage.kms.fault("*", "throttle", times=0)
    begun = time.monotonic()
    stage.start(NO_SCHEMA, start_seconds=seconds, timeout=2500, **cmk_id)
    took = time.monotonic() - begun
    assert seconds < took
    in_time(took, seconds + 2 * 2.5 + 4)
    assert stage.refused("SELECT * FROM d.t0")[0] in (3185, 1146)
    stage.kms.clear_faults()
    assert works(stage, "CREATE TABLE d.new (n INT) ENCRYPTION = 'Y'"), "and at once"
    assert len(stage.tagged("KAWS-322")) == 1 and not stage.tagged("KAWS-160")

    assert stage.db.stop() == 0         # two of three are throttled: each is given in the end
    for number in range(40):
        stage.kms.fault("*", "throttle", times=2, after=number)
    stage.start(NO_SCHEMA, start_seconds=seconds)
    stage.kms.clear_faults()
    for number in range(12):
        assert stage.sql(f"SELECT * FROM d.t{number}") == []


def test_a_missing_volume_is_no_new_keyring(stage):
    """As README has it: the first start, then keyring_aws_create = OFF in my.cnf."""
    stage.start(NO_SCHEMA, "--keyring-aws=FORCE")
    assert [line for line in stage.said("Warning") if "keyring_aws_create = OFF" in line]
    stage.install_functions()
    assert stage.generate("kept") == 1
    assert stage.db.stop() == 0
    volume = stage.data.parent.rename(stage.data.parent.with_name("elsewhere"))
    run = stage.db.run_once(*stage.options(NO_SCHEMA, "--keyring-aws=FORCE", create="OFF"),
                            timeout=300)
    assert run.returncode == 1
    check_one_sentence(run.stdout, "mount its volume, or put the file back")
    assert not stage.data.parent.exists()
    volume.rename(stage.data.parent)
    stage.start(NO_SCHEMA, "--keyring-aws=FORCE", create="OFF")
    assert stage.variable("create") == 0 and stage.fetch("kept") == stage.plain("kept")
    assert not stage.said("ERROR") and not stage.said("Warning")

    stage.uninstall()                                   # and while the server runs
    kept = stage.data.rename(stage.data.with_name("kept"))
    assert "initialization function failed" in stage.refused(
        "INSTALL PLUGIN keyring_aws SONAME 'keyring_aws.so'")[1]
    (line,) = stage.said("ERROR")
    assert "none is made" in line and "install the plugin again" in line
    assert not stage.data.exists() and not stage.data.with_name("data.tmp").exists()
    kept.rename(stage.data)
    stage.install()
    assert stage.fetch("kept") == stage.plain("kept")


def test_settings_that_contradict_each_other_are_named(stage):
    """Each has one line, once, and is used all the same."""
    stage.start(NO_SCHEMA, region="us-west-7", connect_timeout=20001, timeout=20000,
                start_seconds=19)
    stage.install_functions()
    warned = [line for line in stage.said("Warning") if "data file" not in line]
    assert len(warned) == 3
    for words in ("region is us-west-7, but the ARN of the KMS key is in us-east-1",
                  "connect_timeout is 20001 ms, but timeout, which limits the whole operation, is"
                  " 20000 ms",
                  "keyring_aws_timeout is 20000 ms, more than keyring_aws_start_seconds, 19"):
        assert [line for line in warned if words in line]
    assert stage.generate("used") == 1
    stage.mark()
    stage.sql("SET GLOBAL keyring_aws_connect_timeout = 30000")
    assert stage.fetch("used") and stage.fetch("used")
    (line,) = stage.said("Warning")
    assert "connect_timeout is 30000 ms" in line
    stage.mark()
    stage.sql("SET GLOBAL keyring_aws_region = 'us-esat-1'")    # the emulator is in any region
    (line,) = stage.said("Warning")
    assert "region us-esat-1 is not among those" in line and "typing error" in line


def test_files_are_made_for_their_owner_alone(stage):
    stage.start(NO_SCHEMA)
    made = " ".join(stage.said("Warning"))
    assert f"made the folder {stage.data.parent}" in made
    assert f"there was no data file {stage.data}" in made
    assert "chmod" not in made and "SSLKEYLOGFILE" not in made
    assert stage.data.parent.stat().st_mode & 0o777 == 0o750
    assert stage.data.stat().st_mode & 0o777 == 0o600
    assert not stage.entries()
    stage.conf.chmod(0o644)
    stage.restart(NO_SCHEMA, env={"SSLKEYLOGFILE": str(stage.db.folder / "keylog")})
    warned = stage.said("Warning")
    assert [line for line in warned if f"{stage.conf} may be read by others" in line]
    assert [line for line in warned if "SSLKEYLOGFILE" in line]


@pytest.mark.parametrize("proxy", ["http://svc:1#Xy7qWv8z@127.0.0.1:1",
                                   "svc:1/Xy7qWv8z@127.0.0.1:1", "http://svc:Xy7qWv8z@127.0.0.1:1"])
def test_no_password_of_a_proxy_is_shown(stage, proxy):
    """Not in the error log, not in its table, not to an account that may only SET variables.  If
    no_proxy may name KMS, libcurl reads the proxy."""
    stage.start("--performance-schema=ON", env={"https_proxy": proxy, "no_proxy": "nobody.example"})
    stage.sql("CREATE USER setter@localhost")
    stage.sql(f"GRANT {stage.expect.may_set} ON *.* TO setter@localhost")
    for name, value in (("cmk_id", "alias/other"), ("region", "eu-west-1")):
        number, text = stage.refused(f"SET GLOBAL keyring_aws_{name} = '{value}'", user="setter")
        assert number == 1231 and ("proxy" in text or "port 1" in text), text
        assert not re.search("Xy7q|Wv8z", text)
    assert stage.said("ERROR") and "Xy7q" not in stage.db.log(whole=True)
    if stage.expect.error_log:
        assert stage.one("SELECT COUNT(*) FROM performance_schema.error_log WHERE data LIKE"
                         " '%Xy7q%' OR data LIKE '%Wv8z%'") == 0


def test_functions_do_not_need_the_plugin_to_be_refused(spoilable):
    """CREATE FUNCTION has mapped the library, but no plugin was ever loaded from it."""
    spoilable.db.start(*QUICK, NO_SCHEMA)
    for name in FUNCTIONS:
        number, text = spoilable.refused(f"SELECT {name}()")
        assert number == 1123 and "plugin keyring_aws is not loaded" in text
    spoilable.mark()
    number, text = spoilable.refused("INSTALL PLUGIN keyring_aws SONAME 'keyring_aws.so'")
    assert number == 1123 and "initialization function failed" in text
    (line,) = spoilable.said("ERROR")
    assert "/var/lib/mysql-keyring/keyring_aws_conf" in line            # the default
    assert line.endswith("no keyring: correct that, and install the plugin again")   # not: restart


def test_a_rotation_outlives_the_plugin_but_not_the_server(stage):
    """UNINSTALL does not wait for the rotation; INSTALL does; a shutdown ends it."""
    stage.start(NO_SCHEMA)
    stage.install_functions()
    for number in range(20):
        stage.generate(f"key-{number}")
    for end, latency_ms in ((stage.install, 600), (stage.db.stop, 5000)):
        stage.kms.set(latency_ms=latency_ms)
        before = stage.entries()
        with ThreadPoolExecutor(1) as pool:
            asked = stage.kms.count("ReEncrypt")
            rotation = pool.submit(stage.one, "SELECT keyring_aws_rotate_keys()")
            wait_for(lambda: stage.kms.count("ReEncrypt") > asked)
            stage.sql("UNINSTALL PLUGIN keyring_aws")
            calm(not rotation.done(), "it had to be slower than UNINSTALL")
            end()
            if end == stage.install:
                with within(1):
                    assert rotation.result() == 1
                assert not set(stage.entries().values()) & set(before.values())
                assert not stage.said("ERROR")
                continue
            with pytest.raises(pymysql.err.OperationalError) as ended:
                rotation.result(60)
            # the server has two seconds to say it before it ends the connection
            calm("cancelled while it waited" in str(ended.value), ended.value)
            assert stage.entries() == before
    assert stage.db.process.returncode == 0


# ---- credentials --------------------------------------------------------------------------------

def signed_by(stage: Stage) -> str:
    return stage.kms.log()["requests"][-1]["access_key_id"]


def test_new_credentials_by_installing_again(stage):
    """As the manual has it, with an encrypted table in use; and a restart after it, with the row
    that this leaves in mysql.plugin."""
    stage.start(NO_SCHEMA)
    stage.install_functions()
    stage.sql("CREATE DATABASE d")
    stage.sql("CREATE TABLE d.t (n INT PRIMARY KEY) ENCRYPTION = 'Y'")
    stage.generate("old")
    stage.kms.add_user("AKIDNEW", "new-secret", ACCOUNT)
    stage.write_conf("AKIDNEW", "new-secret")
    stage.sql("UNINSTALL PLUGIN keyring_aws")
    stage.sql("INSERT INTO d.t VALUES (1)")
    stage.sql("INSTALL PLUGIN keyring_aws SONAME 'keyring_aws.so'")
    stage.kms.remove_user(ACCESS_KEY_ID)
    assert stage.generate("new") == 1 and signed_by(stage) == "AKIDNEW"
    assert stage.fetch("old") == stage.plain("old")
    stage.sql("ALTER INSTANCE ROTATE INNODB MASTER KEY")
    for name in FUNCTIONS:
        assert stage.one(f"SELECT {name}()") == 1
    assert not stage.said("ERROR")
    stage.restart(NO_SCHEMA)
    assert stage.sql("SELECT dl FROM mysql.plugin WHERE name = 'keyring_aws'")
    assert stage.loaded() and not stage.said("ERROR")
    assert stage.one("SELECT COUNT(*) FROM d.t") == 1
    assert stage.fetch("new") == stage.plain("new") and signed_by(stage) == "AKIDNEW"


def test_new_credentials_are_found_when_aws_refuses_the_old(stage):
    stage.start(NO_SCHEMA)
    stage.install_functions()
    stage.generate("kept")
    kms = stage.kms
    kms.add_user("AKIDNEW", "new-secret", ACCOUNT)
    kms.remove_user(ACCESS_KEY_ID)
    assert stage.generate("refused") is None            # nothing newer is there
    assert "UnrecognizedClientException" in stage.said("ERROR")[0]
    stage.conf.write_text("AKIDNEW\n")                  # half written: the old ones stay
    stage.mark()
    assert stage.fetch("kept") is None
    assert [line for line in stage.said("Warning") if "line 2" in line]
    stage.write_conf("AKIDNEW", "new-secret")
    stage.mark()
    assert stage.fetch("kept") == stage.plain("kept") and signed_by(stage) == "AKIDNEW"
    assert [line for line in stage.said("Note") if "newer ones" in line]
    asked = kms.count()
    assert stage.generate("later") == 1 and kms.count() == asked + 1    # known from now on

    kms.add_user("AKIDNEW", "new-secret", ACCOUNT, token="T1", token_expires=time.time() - 1)
    kms.add_user("AKIDSESSION", "its-secret", ACCOUNT, token="T2")
    stage.conf.write_text("AKIDSESSION\nits-secret\nT2\n")
    assert stage.one("SELECT keyring_aws_rotate_keys()") == 1 and signed_by(stage) == "AKIDSESSION"
    assert "secret" not in " ".join(stage.said("ERROR") + stage.said("Note"))


# ---- other accounts -----------------------------------------------------------------------------

def test_another_account_is_trusted_by_the_configuration_only(stage):
    """SET GLOBAL cannot make the plugin trust an account; keyring_aws_accounts in my.cnf can."""
    foreign = stage.kms.add_key("us-east-1", OTHER_ACCOUNT, shared_with=(ACCOUNT,))
    stage.start(NO_SCHEMA)
    stage.install_functions()
    stage.generate("moved")
    assert stage.refused("SET GLOBAL keyring_aws_cmk_id = %s", (foreign,))[0] == 1231
    stage.restart(NO_SCHEMA, accounts=f"{ACCOUNT},{OTHER_ACCOUNT}")
    stage.sql("SET GLOBAL keyring_aws_cmk_id = %s", (foreign,))
    assert stage.one("SELECT keyring_aws_rotate_keys()") == 1
    assert stage.entries()["moved", ROOT].arn == foreign
    assert stage.fetch("moved") == stage.plain("moved")
    stage.restart(NO_SCHEMA)                            # and without it, theirs is not asked
    asked = stage.kms.count("Decrypt")
    assert stage.fetch("moved") is None and stage.kms.count("Decrypt") == asked
    (line,) = stage.said("ERROR")
    assert "among the trusted" in line and foreign in line


@pytest.fixture(name="moved")
def stage_of_another_account(stage):
    """A server whose KMS key is named by its alias, with a key, shut down. Its conf file is
    replaced: by credentials of another account, which has an alias of that name."""
    stage.settings["cmk_id"] = ALIAS
    stage.theirs = stage.kms.add_key("us-east-1", OTHER_ACCOUNT, alias=ALIAS)
    stage.kms.add_user("AKIDTHEIRS", "their/" + SECRET, OTHER_ACCOUNT)
    stage.start(NO_SCHEMA, "--keyring-aws=FORCE")
    assert [line for line in stage.said("Note") if f"from here on, {ACCOUNT} (" in line]
    stage.install_functions()
    assert stage.generate("ours") == 1
    stage.restart(NO_SCHEMA, "--keyring-aws=FORCE")
    assert not [line for line in stage.said("Note") if "is trusted from here on" in line]
    assert stage.fetch("ours") == stage.plain("ours")
    assert stage.db.stop() == 0
    stage.write_conf("AKIDTHEIRS", "their/" + SECRET)
    return stage


def check_foreign(stage, *lines: str) -> None:
    """The line names both accounts, and says what to do."""
    assert lines
    for line in lines:
        assert f"sealed with the KMS key {stage.theirs}, whose account is not among the" in line
        assert f"trusted ones (aws {ACCOUNT}): if you trust that account, name the KMS" in line


def test_the_conf_file_cannot_move_trust(moved):
    """The server is not started with it, nothing is sealed for that account, and nothing lost."""
    before, asked = remains(moved), moved.kms.count()
    run = moved.db.run_once(*moved.options(NO_SCHEMA, "--keyring-aws=FORCE"), timeout=300)
    assert run.returncode == 1 and "Failed to initialize early plugins" in run.stdout
    check_foreign(moved, *said("ERROR", run.stdout))
    moved.start(NO_SCHEMA)                              # and without FORCE, without the plugin
    check_foreign(moved, *moved.said("ERROR"))
    assert not moved.loaded() and moved.generate("theirs") is None and moved.fetch("ours") is None
    assert moved.db.stop() == 0
    theirs = [each["action"] for each in moved.kms.log()["requests"][asked:]]
    assert theirs == ["GenerateDataKeyWithoutPlaintext"] * 2       # of one byte, thrown away
    assert remains(moved) == before

    moved.write_conf()
    moved.start(NO_SCHEMA, "--keyring-aws=FORCE")
    assert moved.fetch("ours") == moved.plain("ours") and moved.generate("more") == 1
    assert moved.entries()["more", ROOT].arn == KEY_ARN and not moved.said("ERROR")


@pytest.mark.parametrize("known", [True, False])
def test_the_conf_file_of_a_running_server_cannot_move_trust(moved, known):
    """It reads the file again when AWS refuses the old credentials: be KMS reachable at the
    start, or not, so that no account is known yet."""
    moved.write_conf()
    if not known:
        moved.kms.stop()
    moved.start(NO_SCHEMA, "--keyring-aws=FORCE", start_seconds=0)
    if not known:
        moved.kms.start()
    moved.write_conf("AKIDTHEIRS", "their/" + SECRET)
    moved.kms.remove_user(ACCESS_KEY_ID)
    wait_for(lambda: moved.generate("a") is None and "trusted" in moved.said("ERROR")[-1])
    before = moved.entries()
    moved.mark()
    assert moved.generate("a") is None and moved.store("b", "SECRET", b"x") is None
    number, text = moved.refused("SELECT keyring_aws_rotate_keys()")
    assert number == 3198
    check_foreign(moved, *moved.said("ERROR"))
    for query in ("cmk_id = '" + ALIAS + "'", "region = 'us-east-1'"):
        assert moved.refused("SET GLOBAL keyring_aws_" + query)[0] == 1231
    assert moved.refused("SET GLOBAL keyring_aws_cmk_id = %s", (moved.theirs,))[0] == 1231
    assert moved.fetch("ours") is None and moved.entries() == before
    assert moved.kms.count("ReEncrypt") == moved.kms.count("RotateKeyOnDemand") == 0
    assert {each.arn for each in before.values()} == {KEY_ARN}

    moved.kms.add_user(ACCESS_KEY_ID, SECRET, ACCOUNT)
    moved.write_conf()
    moved.kms.remove_user("AKIDTHEIRS")
    assert moved.fetch("ours") == moved.plain("ours") and moved.generate("more") == 1


def test_an_administrator_moves_to_another_account(moved):
    """He does what the refusal says: names the KMS key by its ARN, or lists the accounts."""
    moved.kms.set_key(KEY_ARN, shared_with=(OTHER_ACCOUNT,))
    moved.start(NO_SCHEMA, "--keyring-aws=FORCE", cmk_id=moved.theirs)
    assert moved.generate("theirs") == 1 and moved.entries()["theirs", ROOT].arn == moved.theirs
    assert moved.fetch("ours") is None                  # that takes the list as well
    moved.restart(NO_SCHEMA, "--keyring-aws=FORCE", accounts=f"{ACCOUNT},{OTHER_ACCOUNT}")
    assert moved.fetch("ours") == moved.plain("ours")
    assert moved.one("SELECT keyring_aws_rotate_keys()") == 1
    moved.restart(NO_SCHEMA, "--keyring-aws=FORCE")     # all keys are of the new account now
    assert {each.arn for each in moved.entries().values()} == {moved.theirs}
    assert moved.fetch("ours") == moved.plain("ours") and not moved.said("ERROR")


def test_new_credentials_of_the_same_account_need_nothing(moved):
    """The KMS key is named by its alias: the server is restarted with them."""
    for number in range(2):
        moved.kms.add_user(f"AKIDNEW{number}", "new/" + SECRET, ACCOUNT)
        moved.write_conf(f"AKIDNEW{number}", "new/" + SECRET)
        moved.start(NO_SCHEMA, "--keyring-aws=FORCE")
        assert moved.fetch("ours") == moved.plain("ours") and moved.generate(f"n{number}") == 1
        assert not moved.said("ERROR") and not moved.said("Warning")
        assert moved.db.stop() == 0


@pytest.mark.needs("persist")
def test_key_and_region_are_persisted_together(stage):
    """The server sets them in the order in which they were persisted, as one statement."""
    arn = stage.kms.add_key("us-west-2", ACCOUNT, alias="alias/west-only")
    heed_persisted_settings(stage)
    stage.start(NO_SCHEMA)
    stage.install_functions()
    stage.sql("SET PERSIST keyring_aws_cmk_id = %s", (arn,))
    stage.sql("SET PERSIST keyring_aws_region = 'us-west-2',"
              " PERSIST keyring_aws_cmk_id = 'alias/west-only'")
    stage.restart(NO_SCHEMA)
    assert stage.variable("cmk_id") == "alias/west-only" and stage.variable("region") == "us-west-2"
    stage.generate("west")
    assert stage.entries()["west", ROOT].arn == arn and not stage.said("ERROR")


@pytest.mark.needs("persist")
def test_a_foreign_key_cannot_be_persisted_into_use(stage):
    """SET PERSIST_ONLY checks nothing; the server applies the value when it has started.  8.0 then
    ends, and starts again without persisted values."""
    foreign = stage.kms.add_key("us-east-1", OTHER_ACCOUNT, shared_with=(ACCOUNT,))
    heed_persisted_settings(stage)
    stage.start(NO_SCHEMA)
    stage.install_functions()
    stage.generate("ours")
    stage.sql("SET PERSIST_ONLY keyring_aws_cmk_id = %s", (foreign,))
    for settings in ({}, {"cmk_id": None}):
        assert stage.db.stop() == 0
        stage.mark()
        stage.db.start(*stage.options(NO_SCHEMA, **settings), wait=stage.expect.drops_persisted)
        if not stage.expect.drops_persisted:
            assert stage.db.process.wait(60) == 1
        assert [line for line in stage.said("ERROR") if "among the trusted" in line]
        if not stage.expect.drops_persisted:
            stage.start(NO_SCHEMA, "--persisted-globals-load=OFF", **settings)
        with contextlib.suppress(Exception):            # without cmk_id it has none to seal with
            stage.sql("SELECT keyring_aws_rotate_keys()")
        assert stage.entries()["ours", ROOT].arn == KEY_ARN
        assert stage.fetch("ours") == stage.plain("ours")
    assert (stage.db.data / "mysqld-auto.cnf").exists()
    assert len(read_data_file(stage.data).entries) == 1


def test_a_stopping_server_waits_for_kms_no_longer(stage):
    """The sessions that wait for KMS are told to end, and do."""
    stage.start(timeout=90000)
    stage.install_functions()
    assert stage.generate("hanging") == 1
    stage.kms.fault("*", "black_hole", times=0, where="request")
    asked = stage.kms.count()
    with ThreadPoolExecutor(1) as pool:
        hanging = pool.submit(stage.fetch, "hanging")
        wait_for(lambda: stage.kms.count() > asked)
        with within(20):
            assert stage.db.stop() == 0
        with contextlib.suppress(pymysql.err.MySQLError):
            hanging.result()
    assert any("cancelled while it waited for AWS KMS" in line for line in stage.said("Warning"))


def test_a_server_that_becomes_a_daemon_has_its_keyring(stage, tmp_path):
    """A ring is its process's own, and such a server forks before it opens the ring."""
    pid_file = tmp_path / "pid"
    stage.start()
    stage.install_functions()
    assert stage.db.stop() == 0
    started = stage.db.run_once(f"--log-error={stage.db.folder / 'error.log'}",
                                *stage.options(f"--pid-file={pid_file}", "--daemonize"))
    assert started.returncode == 0, started.stdout
    wait_for(stage.db.ready, 30)
    pid = int(pid_file.read_text())
    try:
        assert stage.generate("k") == 1 and len(stage.fetch("k")) == 32
    finally:
        os.kill(pid, signal.SIGTERM)
        wait_for(lambda: not Path(f"/proc/{pid}").exists(), 30)
