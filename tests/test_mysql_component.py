"""The component in a running MySQL server: what the plugin's tests ask for, and what it alone has.

The first part is the plugin's own tests, met by the other door. test_mysql_component_start.py has
how a server starts with the component, and what is in its settings file.
"""

import contextlib
import json
import re
import shutil
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timezone

import pymysql
import pytest

import test_mysql as plugin
from demo import read_data_file
from kms_emulator import ACCESS_KEY_ID, ACCOUNT, ALIAS, KEY_ARN, OTHER_ACCOUNT, SECRET
from mysql_fixtures import COMPONENT, FUNCTIONS, RELOAD, ROOT, Stage, cursor, wait_for
from patience import calm, in_time, within
from test_mysql import count_rotations, make_tables             # noqa: F401: fixtures

pytestmark = pytest.mark.needs("components")


@pytest.fixture(scope="module", name="server")
def start_server():
    with Stage(door="component") as stage:
        kms = stage.kms
        stage.second = kms.add_key("us-east-1", ACCOUNT)
        stage.west = kms.add_key("us-west-2", ACCOUNT, alias=ALIAS)
        stage.foreign = kms.add_key("us-east-1", OTHER_ACCOUNT, alias="alias/theirs",
                                    shared_with=(ACCOUNT,))
        stage.start("--thread-stack=262144")
        stage.install_functions()
        stage.sql(RELOAD)               # which makes the data file
        assert stage.rows()["Keys"] == "0"
        stage.empty = stage.data.read_bytes()
        yield stage


@pytest.fixture(name="stage")
def calm_stage(server):
    """The server, with its settings file as it was at the start."""
    file = server.db.plugin_dir / f"{COMPONENT}.cnf"
    before = file.read_bytes()
    server.mark()
    yield server
    server.kms.clear_faults()
    server.kms.set(latency_ms=0)
    if file.read_bytes() != before:
        server.write_file(before)
        server.sql(RELOAD)


# ---- what the plugin does, it does, too ---------------------------------------------------------

THE_SAME = (
    plugin.test_keys_are_generated_and_fetched,
    plugin.test_keys_are_stored_and_fetched,
    plugin.test_keys_that_kms_cannot_make_or_seal_are_refused,
    plugin.test_an_absent_key_is_null_and_no_error,
    plugin.test_an_existing_name_is_not_taken_again,
    plugin.test_each_account_has_names_of_its_own,
    plugin.test_the_performance_schema_lists_the_names,
    plugin.test_a_failing_kms_changes_nothing,
    plugin.test_hostile_names_confuse_neither_log_nor_json_nor_context,
    plugin.test_hostile_owners_confuse_nothing_either,
    plugin.test_rotate_cmk_renews_the_key_material_once,
    plugin.test_a_key_that_another_process_added,
    plugin.test_a_file_that_another_process_replaced,
    plugin.test_a_file_that_is_not_taken_over,
    plugin.test_who_may_refresh,
    plugin.test_rotate_keys_seals_every_key_anew,
    plugin.test_rotate_keys_is_all_or_nothing,
    plugin.test_a_statement_rotates_once,
    plugin.test_the_next_statement_rotates_again,
    plugin.test_a_failed_rotation_is_not_tried_again_by_its_statement,
    plugin.test_each_session_rotates_for_itself,
    plugin.test_a_killed_statement_is_over,
    plugin.test_keyring_operations_off_stops_the_functions,
    plugin.test_functions_need_super_and_take_no_arguments,
    plugin.test_a_role_with_super_must_be_active,
    plugin.test_a_killed_statement_waits_for_kms_no_longer,
    plugin.test_a_killed_rotation_may_have_happened,
    plugin.test_neither_keys_nor_the_secret_are_left_in_the_servers_memory,
)
globals().update({each.__name__: each for each in THE_SAME})


# ---- what it says of itself ---------------------------------------------------------------------

ROWS = ("Component_name", "Author", "License", "Implementation_name", "Version",
        "Component_status", "Data_file", "Read_only",               # as Oracle's component has them
        "Kms_key", "Region", "Region_in_use", "Endpoint", "Credentials_source", "Keys",
        "File_checksum", "Kms_requests", "Kms_errors", "Kms_retries", "Kms_time", "Failovers",
        "Last_error", "Last_error_time", "Cache", "Kms_state")


def test_the_status_rows(stage):
    stage.sql(RELOAD)
    stage.generate("counted")
    before, asked = stage.rows(), stage.kms.count()
    assert tuple(before) == ROWS
    assert stage.fetch("counted") == stage.plain("counted") and stage.remove("counted") == 1
    rows = stage.rows()
    assert int(rows["Kms_requests"]) - int(before["Kms_requests"]) == stage.kms.count() - asked == 1
    assert int(before["Keys"]) == int(rows["Keys"]) + 1 == len(stage.entries()) + 1
    assert rows["File_checksum"] == stage.data.read_bytes()[-32:].hex()
    assert re.fullmatch(r"\d+\.\d+\.\d+", rows["Version"])
    assert {name: rows[name] for name in (*ROWS[:4], *ROWS[5:13], *ROWS[16:18], *ROWS[19:20],
                                       *ROWS[22:])} == {
        "Component_name": COMPONENT, "Author": "The keyring_aws authors",
        "License": "BSD-2-Clause", "Implementation_name": COMPONENT, "Component_status": "Active",
        "Data_file": str(stage.data), "Read_only": "No", "Kms_key": KEY_ARN,
        "Region": "us-east-1", "Region_in_use": "us-east-1", "Endpoint": f"{stage.kms.url}/",
        "Credentials_source": "the conf file", "Kms_errors": "0", "Kms_retries": "0",
        "Failovers": "0", "Cache": "Off", "Kms_state": "Answers"}
    took = int(rows["Kms_time"]) - int(before["Kms_time"])
    assert 0 < took < 10_000_000


def test_the_status_tells_of_an_outage(stage):
    """It goes by what the last calls met; the last error stays, with its time.  KMS asks for so
    long a pause that nothing is sent in the last moment, when no reply would come in time."""
    assert stage.generate("known") == 1
    stage.use(timeout=5000)
    assert stage.rows()["Kms_state"] == "Not asked yet"
    for begin, state in ((stage.kms.stop, "Unreachable"),
                         (lambda: stage.kms.fault("*", "throttle", times=0, retry_after=5000),
                          "Throttles")):
        begin()
        assert stage.fetch("known") is None
        rows = stage.rows()
        assert rows["Kms_state"] == state and int(rows["Kms_errors"]) > 0
        assert rows["Last_error"] in stage.said("ERROR")[-1]
        when = datetime.strptime(rows["Last_error_time"], "%Y-%m-%d %H:%M:%S UTC")
        assert abs(when.replace(tzinfo=timezone.utc).timestamp() - time.time()) < 60
        if stage.kms.listener is None:
            stage.kms.start()
        stage.kms.clear_faults()
        stage.sql(RELOAD)               # the figures of the new ring begin at 0
        assert stage.rows()["Kms_state"] == "Not asked yet"
        wait_for(lambda: stage.fetch("known") is not None)
        assert stage.rows()["Kms_state"] == "Answers"
        assert stage.rows()["Last_error"] != "<NONE>"
    assert stage.remove("known") == 1


def test_status_and_names_are_told_while_kms_hangs(stage):
    stage.generate("hanging")
    stage.use(timeout=4000)
    stage.kms.fault("Decrypt", "black_hole", where="request")
    asked = stage.kms.count("Decrypt")
    with ThreadPoolExecutor(1) as pool:
        hanging = pool.submit(stage.fetch, "hanging")
        wait_for(lambda: stage.kms.count("Decrypt") > asked)
        with within(2):
            assert stage.rows()["Keys"] == str(len(stage.entries()))
            assert ("hanging", ROOT) in stage.listed()
            assert stage.fetch("hanging") == stage.plain("hanging")     # the fault was for one
        calm(not hanging.done(), "the fetch hangs for 4 s, and was to be slower")
        assert hanging.result() is None
    assert "cannot fetch key 'hanging'" in stage.said("ERROR")[0]
    assert stage.remove("hanging") == 1


@pytest.mark.needs("error_log")
def test_lines_are_in_the_servers_own_table_of_the_log(stage):
    stage.sql(RELOAD)
    stage.kms.fault("*", "error", type="AccessDeniedException")
    assert stage.generate("denied") is None
    told = stage.sql("SELECT prio, subsystem, data FROM performance_schema.error_log"
                     " WHERE data LIKE '[KAWS-%%' ORDER BY logged")
    lines = {re.match(r"\[(KAWS-\d+)\]", data)[1]: (prio, subsystem)
             for prio, subsystem, data in told}
    assert lines["KAWS-308"] == ("Error", "Server") and lines["KAWS-326"] == ("Note", "Server")
    assert any("first call opens" in data for _, _, data in told), "said while the server started"


# ---- who may call functions ---------------------------------------------------------------------

@pytest.mark.parametrize("privilege, may", [("SUPER", True), ("ENCRYPTION_KEY_ADMIN", True),
                                            ("CONNECTION_ADMIN", False)])
def test_who_may_call_functions(stage, privilege, may):
    """And who may reload: for that the server itself wants ENCRYPTION_KEY_ADMIN."""
    stage.sql("CREATE USER admin@localhost")
    stage.sql(f"GRANT {privilege} ON *.* TO admin@localhost")
    try:
        for name in FUNCTIONS:
            if may:
                assert stage.one(f"SELECT {name}()", user="admin") == 1
            else:
                number, text = stage.refused(f"SELECT {name}()", user="admin")
                assert number == 1123 and "SUPER or ENCRYPTION_KEY_ADMIN" in text
        if privilege == "ENCRYPTION_KEY_ADMIN":
            stage.sql(RELOAD, user="admin")
        else:
            assert stage.refused(RELOAD, user="admin")[0] == 1227
    finally:
        stage.sql("DROP USER admin@localhost")


# ---- what is in the settings file ---------------------------------------------------------------

def oracle_form(stage: Stage, **changes: object) -> dict:
    """Settings as Oracle's manual has them, and what is needed to reach the emulator."""
    return {"cmk_id": KEY_ARN, "data_file": str(stage.data), "read_only": False,
            "cache_keys": False,
            "aws_authentication": {"mode": "simple", "region": "us-east-1",
                                   "access_key_id": ACCESS_KEY_ID, "access_key_secret": SECRET},
            "aws_connection": {"connect_timeout_ms": 1000},
            "keyring_aws": {"endpoint": stage.kms.url, "ca_file": str(stage.certs.ca)},
            **changes}


BROKEN = [                              # what is at fault, and where
    ('{"data_file": "x",\n "cmk_id" "y"}', "line 2, column 11: a colon was expected"),
    ('{"data_file": "x"', "line 1, column 18: "),
    ("", "line 1, column 1: an object was expected"),
    ("[]", "line 1, column 1: an object was expected"),
    ('\ufeff{"data_file": "x"}', "line 1, column 1: a byte order mark"),
    ('{"data_file": "x"}\n{}', "line 2, column 1: something follows the object"),
    ('{"data_file": "x", "data_file": "x"}', "line 1, column 20: data_file is there twice"),
    ('{"data_file": 7}', "line 1, column 15: data_file has to be a text in quotes"),
    ('{"data_file": "x", "cache_keys": "true"}', "cache_keys has to be true or false, without"),
    ('{"data_file": "x", "read_only": 1}', "read_only has to be true or false, without quotes"),
    ('{"data_file": "x", "aws_authentication": "native"}', "aws_authentication has to be an obj"),
    ('{"data_file": "x", "aws_connection": {"connect_timeout_ms": "9"}}',
     "aws_connection.connect_timeout_ms has to be a number without quotes"),
    ('{"data_file": "x", "aws_connection": {"connect_timeout_ms": 9}}', "from 100 to 3600000"),
    ('{"data_file": "x", "aws_authentication": {"mode": "simpel"}}', 'has to be "simple"'),
    ('{"data_file": "x", "aws_authentication": {"mode": "simple"}}', "needs access_key_id and"),
    ('{"data_file": "x", "read_only": true, "keyring_aws": {"read_only": true}}',
     "read_only and keyring_aws.read_only are the same setting"),
    ('{"cmk_id": "x"}', "data_file has to be set"),
    ('{"data_file": "\\u0000"}', "zero byte"),
    ('{"read_local_config": true}', "data/component_keyring_aws.cnf: No such file"),
]


def test_a_reload_from_a_broken_file_changes_nothing(stage):
    """A line says why, each time; the keyring goes on as it was."""
    stage.generate("kept")
    before, rows = stage.data.read_bytes(), stage.rows()
    for text, why in (*BROKEN, *BROKEN[:1] * 2):
        stage.write_file(text)
        stage.mark()
        assert stage.refused(RELOAD)[0] == 4035
        (line,) = stage.tagged("KAWS-325")
        assert why in line and f"{COMPONENT}.cnf" in line, (text, line)
        assert why in stage.rows()["Last_error"] and stage.loaded()
        assert stage.fetch("kept") == stage.plain("kept")
    assert stage.data.read_bytes() == before
    later = stage.rows()
    grow = {name for name in ROWS if "err" in name.lower()} | {"Kms_requests", "Kms_time"}
    assert all(later[name] == rows[name] for name in ROWS if name not in grow)
    assert stage.remove("kept") == 1


def test_an_unknown_key_is_a_warning(stage):
    """It names the line, and the key that was meant, if one is near; the rest counts."""
    text = json.dumps({**oracle_form(stage), "chache_keys": True, "comment": {"a": [1, {}, "x"]},
                       "keyring_aws": {**oracle_form(stage)["keyring_aws"], "auht": "native",
                                       "keyring_aws_timeout": 9}}, indent=1)
    stage.write_file(text)
    stage.sql(RELOAD)
    lines = [text[:text.index(f'"{name}"')].count("\n") + 1
             for name in ("keyring_aws_timeout", "auht", "chache_keys", "comment")]
    said = stage.tagged("KAWS-323")
    assert sorted(said) == sorted(
        f"{stage.db.plugin_dir}/{COMPONENT}.cnf, line {line}: the key {key} is not known, and is"
        f" ignored{meant}" for line, key, meant in zip(lines, (
            "keyring_aws.keyring_aws_timeout", "keyring_aws.auht", "chache_keys", "comment"), (
            ": did you mean keyring_aws.timeout?", ": did you mean keyring_aws.auth?",
            ": did you mean cache_keys?", "")))
    assert stage.rows()["Cache"] == "Off"


def test_credentials_in_the_settings_file(stage):
    """aws_authentication.mode simple; and no secret is told anywhere."""
    stage.kms.add_user("AKIDSIMPLE", "simple/" + SECRET, ACCOUNT)
    stage.write_file(json.dumps(oracle_form(stage, aws_authentication={
        "mode": "simple", "access_key_id": "AKIDSIMPLE", "access_key_secret": "simple/" + SECRET})))
    stage.sql(RELOAD)
    assert stage.generate("simple") == 1
    assert stage.kms.log()["requests"][-1]["access_key_id"] == "AKIDSIMPLE"
    assert stage.rows()["Credentials_source"] == "the settings file"
    stage.kms.remove_user("AKIDSIMPLE")
    assert stage.fetch("simple") is None
    told = [*map(str, stage.sql("SELECT * FROM performance_schema.keyring_component_status")),
            *map(str, stage.sql("SELECT * FROM performance_schema.error_log")),
            stage.db.log(whole=True)]
    assert not any(SECRET in text for text in told)


def test_a_relative_data_file_lies_in_the_data_folder(stage):
    place = stage.db.data / "own" / "keys"
    place.parent.mkdir()
    place.touch(mode=0o600)
    place.write_bytes(stage.empty)
    stage.write_file(json.dumps(oracle_form(stage, data_file="own/keys")))
    stage.sql(RELOAD)
    assert stage.rows()["Data_file"] == str(place) and stage.rows()["Keys"] == "0"
    assert stage.generate("there") == 1 and "there" not in [name for name, _ in stage.entries()]
    assert [each.key_id for each in read_data_file(place).entries] == ["there"]


def test_cache_keys_keeps_keys(stage):
    stage.generate("cached")
    stage.write_file(json.dumps(oracle_form(stage, cache_keys=True)))
    stage.sql(RELOAD)
    assert stage.rows()["Cache"] == "3600 s, 0 hits"
    asked = stage.kms.count()
    assert [stage.fetch("cached") for _ in range(4)] == [stage.plain("cached")] * 4
    assert stage.kms.count() == asked + 1 and stage.rows()["Cache"] == "3600 s, 3 hits"
    stage.write_file(json.dumps(oracle_form(stage)))
    stage.sql(RELOAD)                   # a reload empties it
    asked = stage.kms.count()
    assert stage.fetch("cached") == stage.plain("cached") and stage.kms.count() == asked + 1
    assert stage.rows()["Cache"] == "Off" and stage.remove("cached") == 1


def test_read_only_writes_nothing(stage):
    stage.generate("kept")
    stage.write_file(json.dumps(oracle_form(stage, read_only=True)))
    stage.sql(RELOAD)
    assert stage.rows()["Read_only"] == "Yes"
    before = stage.data.read_bytes()
    assert stage.generate("no") is None and stage.store("no", "SECRET", b"x") is None
    assert stage.remove("kept") is None
    assert stage.refused("SELECT keyring_aws_rotate_keys()")[0] == 3198
    assert len(stage.said("ERROR")) == 4
    assert all("the keyring is read only" in line for line in stage.said("ERROR"))
    assert stage.fetch("kept") == stage.plain("kept") and stage.data.read_bytes() == before
    stage.write_file(json.dumps(oracle_form(stage)))
    stage.sql(RELOAD)
    assert stage.remove("kept") == 1


def test_the_time_for_connecting(stage):
    stage.generate("kept")
    stage.write_file(json.dumps(oracle_form(stage, aws_connection={"connect_timeout_ms": 300})))
    stage.sql(RELOAD)
    stage.kms.fault("*", "black_hole", where="accept", times=0)
    assert stage.fetch("kept") is None
    took = int(re.search(r"after (\d+) m", stage.said("ERROR")[0])[1])
    assert took >= 300
    in_time(took, 400)


def test_settings_in_the_data_folder(stage):
    local = stage.db.data / f"{COMPONENT}.cnf"
    local.touch(0o600)
    local.write_text(json.dumps(oracle_form(stage, cmk_id=stage.second)))
    try:
        stage.write_file('{"read_local_config": true}')
        stage.sql(RELOAD)
        assert stage.rows()["Kms_key"] == stage.second
        (line,) = stage.tagged("KAWS-326")
        assert line == f"{local} was read"
    finally:
        local.unlink()


# ---- ALTER INSTANCE RELOAD KEYRING --------------------------------------------------------------

@pytest.fixture(scope="module", name="sealed")
def make_sealed_table(server):
    """Made late: some tests above begin with an empty keyring, which has no key for a table."""
    server.sql("CREATE DATABASE d")
    server.sql("CREATE TABLE d.sealed (n INT) ENCRYPTION = 'Y'")
    server.sql("INSERT INTO d.sealed VALUES (1)")


def loads(stage: Stage, queries: list[list[str]], work) -> list:
    """Does the work while a session each repeats its queries; what failed or was wrong."""
    done, wrong = threading.Event(), []

    def repeat(mine: list[str]) -> None:
        with cursor(stage) as session:
            while not done.is_set():
                for query in mine:
                    try:
                        session.execute(query)
                        if None in {value for row in session.fetchall() for value in row}:
                            wrong.append((query, None))
                    except pymysql.err.MySQLError as error:
                        wrong.append((query, error.args))

    threads = [threading.Thread(target=repeat, args=(mine,)) for mine in queries]
    for thread in threads:
        thread.start()
    try:
        work()
    finally:
        done.set()
        for thread in threads:
            thread.join()
    return wrong


def busy(number: int) -> list[str]:
    """What one of the sessions asks for: keys of its own."""
    return [f"SELECT keyring_key_generate('busy-{number}', 'AES', 32)",
            f"SELECT HEX(keyring_key_fetch('busy-{number}'))",
            "SELECT COUNT(*) FROM performance_schema.keyring_keys",
            f"SELECT keyring_key_remove('busy-{number}')", "SELECT n FROM d.sealed",
            "SELECT * FROM performance_schema.keyring_component_status"]


def test_reloads_under_load(stage, sealed):
    """To another KMS key, other credentials, another source of them, and back: no statement of
    eight sessions fails, and each key is sealed with one of the KMS keys."""
    stage.generate("steady")
    key = stage.fetch("steady")
    stage.kms.add_user("AKIDNEXT", "next/" + SECRET, ACCOUNT)
    forms = [oracle_form(stage), oracle_form(stage, cmk_id=stage.second),
             oracle_form(stage, aws_authentication={
                 "mode": "simple", "access_key_id": "AKIDNEXT",
                 "access_key_secret": "next/" + SECRET}),
             oracle_form(stage, cmk_id=stage.west, cache_keys=True)]

    def work() -> None:
        for number in range(40):
            stage.write_file(json.dumps(forms[number % 4]))
            stage.sql(RELOAD)
            assert stage.fetch("steady") == key

    wrong = loads(stage, [busy(number) for number in range(7)] + [
        ["ALTER INSTANCE ROTATE INNODB MASTER KEY"]], work)
    assert not wrong, wrong[:5]
    assert not stage.said("ERROR")
    users = {each["access_key_id"] for each in stage.kms.log()["requests"]}
    assert {ACCESS_KEY_ID, "AKIDNEXT"} <= users
    assert stage.loaded() and stage.fetch("steady") == key


def test_reloads_during_a_rotation(stage, sealed):
    """The ring that re-encrypts all keys is closed after its successor was opened. Between the two
    a call may find that the file was replaced: it fails with a sentence, and the next one works."""
    stage.generate("steady")
    key = stage.fetch("steady")

    def work() -> None:
        for number in range(20):
            stage.sql(RELOAD)

    wrong = loads(stage, [["SELECT keyring_aws_rotate_keys()"], busy(1), busy(2)], work)
    assert all(error is None or "kaws_refresh" in error[1] for _, error in wrong), wrong
    assert all("kaws_refresh" in line for line in stage.said("ERROR"))
    assert bool(stage.said("ERROR")) == bool(wrong) and len(stage.tagged("KAWS-326")) == 20
    assert stage.fetch("steady") == key
    for number in (1, 2):
        stage.remove(f"busy-{number}")
    assert stage.generate("afterwards") == 1 == stage.one("SELECT keyring_aws_rotate_keys()")


def test_a_reload_to_another_file(stage, sealed):
    """Sessions that read keys see those of the one file or of the other."""
    stage.generate("steady")
    key, copy = stage.fetch("steady"), stage.data.with_name("copy")
    shutil.copy(stage.data, copy)

    def work() -> None:
        for number in range(20):
            stage.use(data_file=copy if number % 2 == 0 else stage.data)
            assert stage.rows()["Data_file"].endswith("copy" if number % 2 == 0 else "data")

    steady = ["SELECT 1 / (HEX(keyring_key_fetch('steady')) = '%s')" % key.hex().upper(),
              "SELECT n FROM d.sealed",
              "SELECT key_id FROM performance_schema.keyring_keys"]
    assert not loads(stage, [steady] * 8, work)
    stage.use(data_file=copy)
    assert stage.generate("copied") == 1
    assert "copied" in [each.key_id for each in read_data_file(copy).entries]
    assert ("copied", ROOT) not in stage.entries()


@pytest.mark.needs("logs")
def test_a_reload_forgets_no_outage(stage, sealed):
    """What the server asked for in vain before it is named when KMS is back."""
    stage.generate("known")
    stage.kms.stop()
    assert stage.refused("CREATE TABLE d.new (n INT) ENCRYPTION = 'Y'")[0] == 3185
    stage.sql(RELOAD)
    stage.kms.start()
    wait_for(lambda: stage.fetch("known") is not None)
    assert len(stage.tagged("KAWS-322")) == 1


def test_a_reload_while_kms_hangs(stage):
    """It asks nothing of KMS; the server lets it wait for a call that runs, which can be killed."""
    stage.generate("hanging")
    stage.use(timeout=60000)
    with cursor(stage) as session, ThreadPoolExecutor(2) as pool:
        stage.kms.fault("Decrypt", "black_hole", where="request")
        asked = stage.kms.count()
        running = pool.submit(session.execute, "SELECT keyring_key_fetch('hanging')")
        wait_for(lambda: stage.kms.count() > asked)
        reload = pool.submit(stage.sql, RELOAD)
        time.sleep(0.3)
        stage.sql(f"KILL QUERY {session.connection.thread_id()}")
        with contextlib.suppress(pymysql.err.MySQLError):
            running.result()
        with within(2):
            reload.result()
    assert stage.fetch("hanging") == stage.plain("hanging")
    stage.kms.fault("*", "black_hole", where="request", times=0)
    asked = stage.kms.count()
    stage.sql(RELOAD)
    assert stage.kms.count() == asked
