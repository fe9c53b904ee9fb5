"""The plugin in a running MySQL server: its variables, functions and keys, and hostile SQL.

All tests share one server.  test_mysql_start.py tests how the server starts and stops,
test_mysql_tables.py how InnoDB uses the plugin, and test_mysql_crash.py what is left after kill -9.
"""

import base64
import contextlib
import re
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pymysql
import pytest

from driver import Driver
from kms_emulator import ACCOUNT, ALIAS, KEY_ARN, OTHER_ACCOUNT, SECRET
from mysql_fixtures import (ASK_KMS, FUNCTIONS, NO_SCHEMA, ROOT, Stage, cursor, wait_for,
                            wait_for_kms)
from patience import calm, in_time, within
from servers import memory_of



@pytest.fixture(scope="module", name="server")
def start_server():
    with Stage() as stage:
        kms = stage.kms
        stage.second = kms.add_key("us-east-1", ACCOUNT)
        stage.west = kms.add_key("us-west-2", ACCOUNT, alias=ALIAS)
        stage.disabled = kms.add_key("us-east-1", ACCOUNT, state="Disabled")
        # an attacker's own key, which our account may use: KMS would accept it
        stage.foreign = kms.add_key("us-east-1", OTHER_ACCOUNT, alias="alias/theirs",
                                    shared_with=(ACCOUNT,))
        stage.foreign_alias = f"arn:aws:kms:us-east-1:{OTHER_ACCOUNT}:alias/theirs"
        stage.start("--thread-stack=262144")            # the least that a MySQL gives by default
        stage.install_functions()
        yield stage


@pytest.fixture(name="stage")
def calm_stage(server):
    """The server, with its settings as they were at the start."""
    server.mark()
    yield server
    server.kms.clear_faults()
    server.kms.set(latency_ms=0)
    for name, value in {"cmk_id": KEY_ARN, "region": "us-east-1", "timeout": 10000}.items():
        if server.variable(name) != value:
            server.sql(f"SET GLOBAL keyring_aws_{name} = %s", (value,))


@contextlib.contextmanager
def nothing_done(stage: Stage):
    """Within it, the data file does not change, and KMS is not asked."""
    before, asked = stage.data.read_bytes(), stage.kms.count()
    yield
    assert stage.data.read_bytes() == before and stage.kms.count() == asked


def sealed_with(stage: Stage) -> str:
    """The ARN of the KMS key that seals now."""
    name = f"probe-{time.monotonic_ns()}"
    assert stage.generate(name) == 1
    arn = stage.entries()[name, ROOT].arn
    assert stage.remove(name) == 1
    return arn


# ---- variables ----------------------------------------------------------------------------------

def test_variables_are_listed_with_their_values(stage):
    hidden = {} if stage.expect.hides else {"keyring_aws_open_mode": "OFF"}
    assert dict(stage.sql("SHOW GLOBAL VARIABLES LIKE 'keyring\\_aws\\_%'")) == {
        "keyring_aws_cmk_id": KEY_ARN, "keyring_aws_region": "us-east-1",
        "keyring_aws_conf_file": str(stage.conf), "keyring_aws_data_file": str(stage.data),
        "keyring_aws_auth": "file", "keyring_aws_profile": "", "keyring_aws_config_file": "",
        "keyring_aws_credentials_file": "", "keyring_aws_role_arn": "",
        "keyring_aws_role_external_id": "", "keyring_aws_role_session_name": "",
        "keyring_aws_create": "ON", "keyring_aws_read_only": "OFF", "keyring_aws_accounts": "",
        "keyring_aws_endpoint": stage.kms.url, "keyring_aws_sts_endpoint": "",
        "keyring_aws_fips": "OFF", "keyring_aws_dualstack": "OFF",
        "keyring_aws_failover_regions": "", "keyring_aws_proxy": "",
        "keyring_aws_ca_file": str(stage.certs.ca),
        "keyring_aws_connect_timeout": "1000", "keyring_aws_timeout": "10000",
        "keyring_aws_cache_seconds": "0", "keyring_aws_start_seconds": "30", **hidden}


@pytest.mark.parametrize("name", ["conf_file", "auth", "profile", "config_file",
                                  "credentials_file", "data_file", "create", "read_only",
                                  "accounts", "endpoint", "sts_endpoint", "proxy", "fips",
                                  "dualstack", "failover_regions",
                                  "ca_file", "start_seconds"])
def test_read_only_variables_cannot_be_set_from_sql(stage, name):
    """Nor for the next start: anyone who could persist them could have any account trusted."""
    before, persist = stage.variable(name), ("PERSIST", "PERSIST_ONLY")
    for way in ("GLOBAL", *(persist if stage.expect.persist else ()), "SESSION"):
        number, text = stage.refused(f"SET {way} keyring_aws_{name} = '{OTHER_ACCOUNT}'")
        assert number == 1238 and "read only" in text
    assert stage.variable(name) == before
    if not stage.expect.persist:
        return
    assert not stage.sql("SELECT * FROM performance_schema.persisted_variables"
                         " WHERE variable_name LIKE 'keyring\\_aws%'")
    for hidden in ("SELECT @@GLOBAL.keyring_aws_open_mode",
                   "SET GLOBAL keyring_aws_open_mode = 1"):
        assert stage.refused(hidden)[0] == 1193


DEFAULT = object()
REFUSED = [
    ("cmk_id", "no-such-key", "NotFoundException"),
    ("cmk_id", "99999999-2222-3333-4444-555555555555", "NotFoundException"),
    ("cmk_id", "alias/no-such-alias", "NotFoundException"),
    ("cmk_id", "@disabled", "DisabledException"),
    ("cmk_id", "@foreign", "among the trusted"),
    ("cmk_id", "@foreign_alias", "among the trusted"),
    ("cmk_id", "arn:aws:s3:::bucket/key", "ARN"),
    ("cmk_id", "arn:aws:kms:us-east-1:" + ACCOUNT + ":key/", ""),
    ("cmk_id", "", "has to have a value"),
    ("cmk_id", None, "has to have a value"),
    ("cmk_id", "x" * 600, "too long"),
    ("cmk_id", "alias/keyring\0x", "zero byte"),
    ("cmk_id", "alias/\"}\n{'%s", ""),
    ("region", "us_east_1", "not a region"),
    ("region", "us-east-1.evil.example/", "not a region"),
    ("region", "", "has to have a value"),
    ("region", None, "has to have a value"),
    ("region", "x" * 600, "too long"),
    ("region", "us-east-1\0", "zero byte"),
    ("cmk_id", DEFAULT, ""), ("region", DEFAULT, ""),
]


@pytest.mark.parametrize("name, value, why", REFUSED, ids=range(len(REFUSED)))
def test_a_setting_that_kms_refuses_changes_nothing(stage, name, value, why):
    query, values = f"SET GLOBAL keyring_aws_{name} = %s", (value,)
    if value is DEFAULT:
        query, values = query.replace("%s", "DEFAULT"), None
    elif value and value.startswith("@"):
        values = (getattr(stage, value[1:]),)
    before = stage.variable(name)
    number, text = stage.refused(query, values)
    assert number == 1231 and why in text and name in text
    assert stage.variable(name) == before and sealed_with(stage) == KEY_ARN
    for line in stage.said("ERROR"):
        assert why in line and f"keyring_aws_{name}" in line
    assert len(stage.said("ERROR")) == (value is not DEFAULT)       # the server refuses that


def test_a_setting_is_refused_while_kms_cannot_be_asked(stage):
    stage.kms.fault("*", "reset", times=0, where="accept")
    number, text = stage.refused("SET GLOBAL keyring_aws_cmk_id = %s", (stage.second,))
    assert number == 1231 and "cannot reach AWS KMS" in text
    stage.kms.clear_faults()
    wait_for_kms(stage, ASK_KMS)
    assert stage.variable("cmk_id") == KEY_ARN and sealed_with(stage) == KEY_ARN


def test_old_keys_are_fetched_after_another_kms_key_was_set(stage):
    """Another key of the region, one of another region by ARN, and one by alias and region."""
    made = {"under-first": KEY_ARN}
    stage.generate("under-first")
    for name, arn in (("under-second", stage.second), ("under-west", stage.west)):
        stage.sql("SET GLOBAL keyring_aws_cmk_id = %s", (arn,))
        assert stage.variable("cmk_id") == arn and stage.generate(name) == 1
        made[name] = arn
    stage.sql("SET GLOBAL keyring_aws_cmk_id = %s", (ALIAS,))
    stage.generate("under-alias")
    stage.sql("SET GLOBAL keyring_aws_region = 'us-west-2'")
    assert stage.variable("region") == "us-west-2"
    stage.generate("under-west-alias")
    made.update({"under-alias": KEY_ARN, "under-west-alias": stage.west})
    assert {name: stage.entries()[name, ROOT].arn for name in made} == made
    for name in made:
        assert stage.fetch(name) == stage.plain(name)
    assert not stage.said("ERROR")


def test_a_new_timeout_counts_at_once(stage):
    stage.generate("slow")
    stage.kms.fault("Decrypt", "latency", ms=5000)
    stage.sql("SET GLOBAL keyring_aws_timeout = 300")
    began = time.monotonic()
    assert stage.fetch("slow") is None
    took = time.monotonic() - began
    assert took > 0.2
    in_time(took, 4)
    (line,) = stage.said("ERROR")
    assert "cannot fetch key 'slow'" in line and "Decrypt" in line
    stage.sql("SET GLOBAL keyring_aws_timeout = 10000")
    assert stage.fetch("slow") == stage.plain("slow")


# ---- KMS key and region are one value -----------------------------------------------------------

@pytest.fixture(scope="module", name="half")
def make_half_known_aliases(server):
    """Aliases that only one region knows; (alias in the east, its ARN, in the west, its ARN)."""
    east = server.kms.add_key("us-east-1", ACCOUNT, alias="alias/east-only")
    west = server.kms.add_key("us-west-2", ACCOUNT, alias="alias/west-only")
    return "alias/east-only", east, "alias/west-only", west


def set_both(stage, *pairs: tuple[str, str], more: str = "", session=None) -> None:
    """SET GLOBAL of several of the plugin's variables in one statement."""
    query = "SET " + ", ".join(f"GLOBAL keyring_aws_{name} = %s" for name, _ in pairs) + more
    values = tuple(value for _, value in pairs)
    if session is not None:
        session.execute(query, values)
    else:
        stage.sql(query, values)


def test_key_and_region_are_judged_together(stage, half):
    """One alias exists only in the new region, and the other only in the old one."""
    east, _, west, west_arn = half
    stage.sql("SET GLOBAL keyring_aws_cmk_id = %s", (ALIAS,))
    for pairs in ((("cmk_id", east), ("region", "us-west-2")),
                  (("region", "us-west-2"), ("cmk_id", east)),
                  (("cmk_id", west), ("region", "us-west-2"))):     # looked up before it moves
        with pytest.raises(Exception, match="NotFoundException"):
            set_both(stage, *pairs)
        assert (stage.variable("cmk_id"), stage.variable("region")) == (ALIAS, "us-east-1")
        assert sealed_with(stage) == KEY_ARN
    set_both(stage, ("region", "us-west-2"), ("cmk_id", west))
    assert (stage.variable("cmk_id"), stage.variable("region")) == (west, "us-west-2")
    asked = stage.kms.count()
    assert stage.generate("moved") == 1 and stage.entries()["moved", ROOT].arn == west_arn
    assert stage.kms.count() == asked + 1               # what was judged is not asked about again
    set_both(stage, ("cmk_id", KEY_ARN), ("region", "us-east-1"))
    assert sealed_with(stage) == KEY_ARN and not stage.said("ERROR")[3:]


def test_a_refused_statement_leaves_nothing_to_undo(stage, half):
    """KMS accepted one half, or fails once; then another variable is refused."""
    east, east_arn, _, west_arn = half
    stage.sql("SET GLOBAL keyring_aws_cmk_id = %s", (east,))
    assert sealed_with(stage) == east_arn
    for after in range(4):
        stage.kms.fault("GenerateDataKeyWithoutPlaintext", "error", type="AccessDeniedException",
                        after=after)
        with pytest.raises(Exception, match="max_connections|AccessDeniedException"):
            set_both(stage, ("cmk_id", west_arn), ("region", "us-west-2"),
                     more=", GLOBAL max_connections = 'many'")
        stage.kms.clear_faults()
        asked = stage.kms.count()
        assert stage.generate(f"after-{after}") == 1
        assert stage.entries()[f"after-{after}", ROOT].arn == east_arn
        assert stage.kms.count() == asked + 1


def test_a_refused_statement_is_forgotten_by_the_next(stage, half):
    """The same session's next region is judged with the KMS key in use, not with a refused one."""
    east = half[0]
    stage.sql("SET GLOBAL keyring_aws_cmk_id = %s", (ALIAS,))
    with cursor(stage) as session:
        for _ in range(2):
            with pytest.raises(Exception, match="max_connections"):
                set_both(stage, ("cmk_id", east), session=session,
                         more=", GLOBAL max_connections = 'many'")
        set_both(stage, ("region", "us-west-2"), session=session)
    assert sealed_with(stage) == stage.west


def test_a_variable_set_twice_is_judged_as_it_is_in_the_end(stage, half):
    """A KMS key and a region that KMS has not judged together must not be used."""
    east, east_arn, west, west_arn = half
    stage.sql("SET GLOBAL keyring_aws_cmk_id = %s", (ALIAS,))
    for pairs in ((("region", "us-west-2"), ("cmk_id", west), ("region", "us-east-1")),
                  (("cmk_id", east), ("region", "us-east-1"), ("region", "us-west-2")),
                  (("region", "us-west-2"), ("cmk_id", west), ("cmk_id", east))):
        with pytest.raises(Exception, match="NotFoundException"):
            set_both(stage, *pairs)
        assert (stage.variable("cmk_id"), stage.variable("region")) == (ALIAS, "us-east-1")
        assert sealed_with(stage) == KEY_ARN
    set_both(stage, ("cmk_id", KEY_ARN), ("region", "us-west-2"), ("cmk_id", west))
    assert sealed_with(stage) == west_arn
    set_both(stage, ("cmk_id", KEY_ARN), ("region", "us-east-1"), ("cmk_id", east))
    assert sealed_with(stage) == east_arn


def test_a_procedure_sets_one_by_one(stage, half):
    """In a routine MySQL makes a statement of each assignment."""
    stage.sql("SET GLOBAL keyring_aws_cmk_id = %s", (ALIAS,))
    stage.sql("CREATE DATABASE sets")
    stage.sql("CREATE PROCEDURE sets.both_of_them() SET GLOBAL keyring_aws_cmk_id = %s,"
              " GLOBAL keyring_aws_region = 'us-west-2'", (half[0],))
    assert stage.refused("CALL sets.both_of_them()")[0] == 1231
    assert (stage.variable("cmk_id"), stage.variable("region")) == (half[0], "us-east-1")
    assert sealed_with(stage) == half[1]


@pytest.mark.needs("persist")
def test_settings_are_persisted_set_twice_and_reset(stage):
    """SET PERSIST is a SET GLOBAL, RESET PERSIST changes nothing now, the same value is judged."""
    stage.sql("SET PERSIST keyring_aws_cmk_id = %s, PERSIST keyring_aws_region = 'us-west-2'",
              (stage.west,))
    try:
        assert sealed_with(stage) == stage.west
    finally:
        stage.sql("RESET PERSIST keyring_aws_cmk_id")
        stage.sql("RESET PERSIST keyring_aws_region")
    assert (stage.variable("cmk_id"), stage.variable("region")) == (stage.west, "us-west-2")
    assert sealed_with(stage) == stage.west
    for _ in range(2):
        set_both(stage, ("cmk_id", stage.second), ("region", "us-east-1"))
    asked = stage.kms.count()
    set_both(stage, ("cmk_id", stage.second), ("region", "us-east-1"), ("cmk_id", stage.second))
    assert stage.kms.count() == asked + 6 and sealed_with(stage) == stage.second


def test_status_variables_count_what_settings_ask(stage):
    """After SET GLOBAL, also a refused one, and after a seal that failed before it began."""
    def asked(statement: str, *values: object) -> None:
        before, counted = stage.status()["kms_requests"], stage.kms.count()
        with contextlib.suppress(Exception):
            stage.sql(statement, values)
        assert stage.status()["kms_requests"] - before == stage.kms.count() - counted > 0

    asked("SET GLOBAL keyring_aws_cmk_id = %s", stage.second)
    asked("SET GLOBAL keyring_aws_cmk_id = %s", stage.disabled)
    asked("SET GLOBAL keyring_aws_cmk_id = %s, GLOBAL max_connections = 'many'", KEY_ARN)
    for statement in ("SELECT keyring_key_generate('uncounted', 'AES', 32)",
                      "SELECT keyring_aws_rotate_keys()"):
        stage.kms.fault("*", "error", type="AccessDeniedException")
        asked(statement)
    assert sealed_with(stage) == stage.second


# ---- keys ---------------------------------------------------------------------------------------

@pytest.mark.parametrize("kind, size", [
    ("AES", 16), ("AES", 24), ("AES", 32), ("aes", 32), ("SECRET", 1), ("Secret", 1000),
    ("SECRET", 1024), ("RSA", 256), ("DSA", 384)])
def test_keys_are_generated_and_fetched(stage, kind, size):
    name = f"made-{kind}-{size}"
    assert stage.generate(name, kind, size) == 1
    key = stage.fetch(name)
    assert len(key) == size and key == stage.plain(name)
    assert stage.one("SELECT keyring_key_length_fetch(%s)", (name,)) == size
    told = stage.one("SELECT CAST(keyring_key_type_fetch(%s) AS CHAR)", (name,))
    assert told == kind.upper()[:stage.expect.type_letters]
    entry = stage.entries()[name, ROOT]
    assert (entry.key_type, entry.size) == (kind.upper(), size)
    assert stage.remove(name) == 1 and stage.fetch(name) is None
    assert not stage.said("ERROR")


@pytest.mark.parametrize("kind, key", [
    ("AES", bytes(range(16))), ("AES", b"\0" * 32), ("SECRET", b"x"), ("SECRET", b"\xff" * 4096),
    ("SECRET", b"\xed\xa7\xbb\x1d"),
    ("RSA", b"-----BEGIN"), ("DSA", b"\"{}\\\n\0'")])
def test_keys_are_stored_and_fetched(stage, kind, key):
    if len(key) > stage.expect.key_bytes:
        pytest.skip("keyring_udf takes no such key here")
    name = f"kept-{kind}-{len(key)}-{key[0]}"
    if key.rstrip(b"\0") != key or b"\0" in key:        # keyring_udf takes text up to a zero byte
        key = key.replace(b"\0", b"\1")
    assert stage.store(name, kind, key) == 1
    assert stage.fetch(name) == stage.plain(name) == key
    assert stage.one("SELECT keyring_key_length_fetch(%s)", (name,)) == len(key)
    assert stage.remove(name) == 1


@pytest.mark.parametrize("verb, kind, what, why", [
    ("generate", "AES", 31, "16, 24 or 32"), ("generate", "AES", 64, "16, 24 or 32"),
    ("generate", "SECRET", 1025, "1 to 1024"), ("generate", "RSA", 2048, "1 to 1024"),
    ("store", "AES", b"x" * 20, "16, 24 or 32"), ("store", "SECRET", b"x" * 4097, "1 to 4096")])
def test_keys_that_kms_cannot_make_or_seal_are_refused(stage, verb, kind, what, why):
    if verb == "store" and len(what) > stage.expect.key_bytes:
        pytest.skip("keyring_udf takes no such key here")
    with nothing_done(stage):
        assert getattr(stage, verb)("odd", kind, what) is None
    (line,) = stage.said("ERROR")
    assert f"cannot {verb} key 'odd'" in line and why in line


def test_an_absent_key_is_null_and_no_error(stage):
    with nothing_done(stage):
        for function in ("fetch", "length_fetch", "type_fetch"):
            assert stage.one(f"SELECT keyring_key_{function}('nowhere')") is None
        assert not stage.said("ERROR") and not stage.said("Warning")
        assert stage.remove("nowhere") is None
    (line,) = stage.said("Warning")
    assert "cannot remove key 'nowhere'" in line


def test_an_existing_name_is_not_taken_again(stage):
    stage.generate("taken")
    key = stage.fetch("taken")
    with nothing_done(stage):
        assert stage.generate("taken", "AES", 16) is None
        assert stage.store("taken", "SECRET", b"another") is None
    assert len(stage.said("Warning")) == 2 and "already there" in stage.said("Warning")[0]
    assert stage.fetch("taken") == key


def test_each_account_has_names_of_its_own(stage):
    stage.sql("CREATE USER owner@localhost")
    stage.sql("GRANT EXECUTE ON *.* TO owner@localhost")
    stage.store("same", "SECRET", b"root's")
    assert stage.fetch("same", user="owner") is None
    assert stage.store("same", "SECRET", b"mine", user="owner") == 1
    assert stage.fetch("same", user="owner") == b"mine" and stage.fetch("same") == b"root's"
    assert stage.remove("same", user="owner") == 1
    assert stage.fetch("same") == b"root's"


@pytest.mark.needs("keyring_keys")
def test_the_performance_schema_lists_the_names(stage):
    def expected():
        return sorted((key_id.encode("latin-1").decode()[:64], user_id)     # MySQL's own limit
                      for key_id, user_id in stage.entries())

    stage.generate("listed")
    assert stage.listed() == expected() and ("listed", ROOT) in stage.listed()
    stage.remove("listed")
    assert stage.listed() == expected() and ("listed", ROOT) not in stage.listed()


def test_a_failing_kms_changes_nothing(stage):
    """Whatever KMS answers, the server gets NULL, the log a sentence, and the file is unchanged."""
    stage.generate("there")
    before = stage.data.read_bytes()
    for what, options, why in (
            ("throttle", {"times": 0}, ("ThrottlingException", "timed out after")),
            ("error", {"type": "AccessDeniedException"}, "AccessDeniedException"),
            ("error", {"type": "KMSInternalException", "status": 500, "times": 0}, "KMSInternal"),
            ("reply", {"body": "html"}, ""), ("reply", {"body": "truncated"}, ""),
            ("edit", {"set": {"KeyId": stage.foreign}}, ""),
            ("edit", {"drop": ["CiphertextBlob"]}, ""),
            ("cut", {"where": "body", "times": 0}, "cannot reach AWS KMS")):
        stage.mark()
        stage.kms.fault("GenerateDataKeyWithoutPlaintext", what, **options)
        assert stage.generate("never") is None
        (line,) = [each for each in stage.said("ERROR") if "this happened" not in each]
        assert "cannot generate key 'never'" in line
        assert any(each in line for each in ([why] if isinstance(why, str) else why)), line
        stage.kms.clear_faults()
        wait_for(lambda: stage.fetch("there") is not None)
    assert stage.data.read_bytes() == before and stage.fetch("never") is None


# ---- hostile names -----------------------------------------------------------------------

NAMES = ["it's \"quoted\"", "a\nERROR b\r\n2026-01-01T00:00:00 0 [ERROR] c", "\t\x01\x1b[31m\x7f",
         "100%", "a%00b", "a%2500b", "a%0Ab", "%", "%%s%n%s", "\\\"},{\"key_id\":\"x",
         "日本語 é", b"\xff\xfe\x80", b"\xc3(", "x" * 254, "x" * 255, "é" * 127, " ",
         "'; DROP TABLE x; --"]


def as_bytes(name: object) -> bytes:
    return name if isinstance(name, bytes) else name.encode()


def test_hostile_names_confuse_neither_log_nor_json_nor_context(stage):
    asked = len(stage.kms.log()["requests"])
    for name in NAMES:
        assert stage.generate(name) == 1
        assert stage.generate(name) is None             # one line in the log, with the name
    assert stage.generate("x" * 256) is None
    for name in NAMES:
        assert stage.fetch(name) == stage.plain(as_bytes(name).decode("latin-1"))
    requests = stage.kms.log()["requests"][asked:]
    assert all(each["signed"] == "OK" and each["verdict"] == "OK" for each in requests)
    contexts = [each["body"]["EncryptionContext"] for each in requests
                if each["action"] == "GenerateDataKeyWithoutPlaintext"]
    assert len({each["key_id"] for each in contexts}) == len(contexts) == len(NAMES)
    assert all(re.fullmatch("[ -~]+", each["key_id"]) for each in contexts)
    errors, warnings = ([line for line in stage.said(level) if "this happened" not in line]
                        for level in ("ERROR", "Warning"))      # not what earlier tests left
    (line,) = errors
    assert "255" in line and len(warnings) == len(NAMES)
    for line in warnings:
        assert re.fullmatch("[ -~]+", line)
    check_log_lines(stage)
    for name in NAMES:
        assert stage.remove(name) == 1


def check_log_lines(stage):
    """Every line of the log begins as the server begins them: none was smuggled in."""
    begins = r"\d{4}-\d\d-\d\dT[\d:.]+Z \d+ \[(ERROR|Warning|Note|System)\] "
    begins += r"\[MY-" if stage.expect.log_numbers else ""
    for line in stage.db.log(whole=True)[stage.marked:].splitlines():
        assert re.match(begins, line)


def test_hostile_owners_confuse_nothing_either(stage):
    asked = len(stage.kms.log()["requests"])
    for account in ("o'q\"\n[ERROR] x", "100%00", "ö%é", "a@b"):
        stage.sql("CREATE USER %s@localhost", (account,))
        stage.sql("GRANT EXECUTE ON *.* TO %s@localhost", (account,))
        owner = f"{account}@localhost".encode().decode("latin-1")
        for _ in range(2):
            stage.generate("own", "AES", 16, user=account)
        assert stage.fetch("own", user=account) == stage.plain("own", owner)
    owners = {each["body"]["EncryptionContext"]["user_id"]
              for each in stage.kms.log()["requests"][asked:]}
    assert len(owners) == 4 and all(re.fullmatch("[ -~]+", each) for each in owners)
    assert len(stage.said("Warning")) == 4
    check_log_lines(stage)


# ---- the SQL functions --------------------------------------------------------------------------

def test_rotate_cmk_renews_the_key_material_once(stage):
    materials = stage.kms.key(KEY_ARN).materials
    stage.generate("older-material")
    before, asked = materials.settle().current_id, stage.kms.count("RotateKeyOnDemand")
    assert stage.one("SELECT keyring_aws_rotate_cmk()") == 1
    assert materials.current_id != before               # it has waited until that was so
    assert stage.kms.count("RotateKeyOnDemand") == asked + 1
    stage.generate("newer-material")
    entries = stage.entries()
    assert entries["older-material", ROOT].material == before
    assert entries["newer-material", ROOT].material == materials.current_id
    assert stage.fetch("older-material") == stage.plain("older-material")


def other_process(stage: Stage, driver_program) -> Driver:
    """Another program with the server's data file open."""
    other = Driver(driver_program)
    answer = other.open(data_file=stage.data, conf_file=stage.conf, ca_file=stage.certs.ca,
                        endpoint=stage.kms.url, kms_key_id=KEY_ARN)
    assert answer.status == "OK", answer
    return other


def test_a_key_that_another_process_added(stage, driver_program):
    """The server reads it in without an SQL call, when it is asked for it or before it writes."""
    stage.generate("ours")
    with other_process(stage, driver_program) as other:
        other.ok("store", "theirs", ROOT, "SECRET", b"text of theirs")
        assert stage.fetch("theirs") == b"text of theirs"
        assert stage.tagged("KAWS-146")
        other.ok("generate", "theirs too", ROOT, "AES", 32)
        assert stage.generate("ours too") == 1 and stage.remove("theirs too") == 1
        assert stage.one("SELECT keyring_aws_refresh()") == 1 and not stage.tagged("KAWS-147")
        other.ok("refresh")
        other.ok("generate", "last", ROOT, "AES", 16)
        assert {"ours", "ours too", "theirs", "last"} <= {name for name, _ in stage.entries()}
        keys = stage.status()["keys"]
        assert stage.one("SELECT keyring_aws_refresh()") == 1           # so it is in the list
        assert stage.status()["keys"] == keys + 1 == len(stage.entries())
        assert ("last", ROOT) in stage.listed()
        assert stage.one("SELECT keyring_aws_refresh()") == 1
    assert not stage.said("ERROR")
    for name in ("ours", "ours too", "theirs", "last"):
        assert stage.remove(name) == 1


def test_a_file_that_another_process_replaced(stage, driver_program):
    """It is refused until keyring_aws_refresh() reads it in, which does not ask KMS."""
    stage.generate("kept")
    stage.generate("gone")
    with other_process(stage, driver_program) as other:
        other.ok("remove", "gone", ROOT)
    key, before = stage.fetch("kept"), stage.status()["keys"]
    assert stage.generate("new") is None and stage.remove("kept") is None
    assert "is not the one that this keyring wrote" in stage.said("ERROR")[0]
    assert "keyring_aws_refresh()" in stage.said("ERROR")[0]
    with nothing_done(stage):
        assert stage.fetch("unknown") is None
    stage.kms.fault("*", "error", type="AccessDeniedException", times=0)
    stage.mark()
    asked = stage.kms.count()
    assert stage.one("SELECT keyring_aws_refresh()") == 1
    assert stage.kms.count() == asked
    stage.kms.clear_faults()
    (line,) = stage.tagged("KAWS-147")
    assert re.search(rf": {before - 1} key.*; before, {before} keys", line)
    assert stage.status()["keys"] == before - 1 and stage.fetch("kept") == key
    assert stage.fetch("gone") is None and stage.generate("gone") == 1
    assert stage.remove("gone") == 1 and stage.remove("kept") == 1


def test_a_file_that_is_not_taken_over(stage, driver_program):
    """If it is damaged, missing or a different keyring's, the error says so, and no key changes."""
    stage.generate("kept")
    key, whole = stage.fetch("kept"), stage.data.read_bytes()
    kept = stage.data.with_name("kept")
    stage.data.rename(kept)
    for content, why in ((None, "No such file"), (b"", "is empty"),
                         (whole[:-1] + bytes([whole[-1] ^ 1]), "damaged at"),
                         (whole[:50], "damaged at"),
                         (whole[:16] + bytes(16) + whole[32:], "damaged at")):
        if content is not None:
            stage.data.write_bytes(content)
        number, text = stage.refused("SELECT keyring_aws_refresh()")
        assert number == 3198 and "Function keyring_aws_refresh failed due to: " in text
        assert why in text, text
        assert stage.fetch("kept") == key and stage.generate("new") is None
        stage.data.unlink(missing_ok=True)
    with Driver(driver_program) as other:
        assert other.open(data_file=stage.data, conf_file=stage.conf, ca_file=stage.certs.ca,
                          endpoint=stage.kms.url, kms_key_id=KEY_ARN).status == "OK"
    assert "a different keyring" in stage.refused("SELECT keyring_aws_refresh()")[1]
    assert stage.fetch("kept") == key
    assert any("keyring_aws_refresh() failed" in line for line in stage.said("ERROR"))
    kept.replace(stage.data)                            # the very file: all goes on by itself
    assert stage.generate("new") == 1 and stage.remove("new") == 1 and stage.remove("kept") == 1


def test_who_may_refresh(stage):
    stage.sql("DROP USER IF EXISTS low")
    stage.sql("CREATE USER low")
    stage.sql("GRANT EXECUTE ON *.* TO low")
    number, text = stage.refused("SELECT keyring_aws_refresh()", user="low")
    assert "SUPER" in text
    assert "no arguments" in stage.refused("SELECT keyring_aws_refresh(1)")[1]
    stage.sql("DROP USER low")


def test_rotate_keys_seals_every_key_anew(stage):
    stage.generate("wrapped")
    key, before = stage.fetch("wrapped"), stage.entries()
    stage.use(cmk_id=stage.second)
    assert stage.one("SELECT keyring_aws_rotate_keys()") == 1
    after = stage.entries()
    assert list(after) == list(before) and {each.arn for each in after.values()} == {stage.second}
    assert not {each.blob for each in after.values()} & {each.blob for each in before.values()}
    assert stage.fetch("wrapped") == key
    stage.mark()
    assert stage.one("SELECT keyring_aws_rotate_keys()") == 1       # now each has its material's id
    assert stage.one("SELECT keyring_aws_rotate_keys()") == 1
    assert "nothing was renewed" in " ".join(stage.said("Warning"))


def test_rotate_keys_shows_its_progress_and_runs_once(stage):
    stage.renew()
    for i in range(40):
        stage.generate(f"progress-{i}")
    total, seen = len(stage.entries()), set()
    stage.kms.set(latency_ms=100)
    with ThreadPoolExecutor(1) as pool, cursor(stage) as watch:
        rotation = pool.submit(stage.one, "SELECT keyring_aws_rotate_keys()")
        while not rotation.done():
            watch.execute("SHOW GLOBAL STATUS LIKE 'Keyring_aws_rewrap%'")
            seen.add(tuple(int(value) for _, value in watch.fetchall()))
            if len(seen) == 2:
                number, text = stage.refused("SELECT keyring_aws_rotate_keys()")
                assert number == 3198 and "already running" in text
        assert rotation.result() == 1
    steps = sorted(done for done, of in seen if of == total)
    assert len(steps) >= 3 and steps[-1] <= total
    assert stage.status()["rewrap_total"] == stage.status()["rewrap_done"] == 0


def test_rotate_keys_is_all_or_nothing(stage):
    stage.generate("one"), stage.generate("two")
    before = stage.data.read_bytes()
    stage.kms.fault("ReEncrypt", "error", type="AccessDeniedException", after=1)
    number, text = stage.refused("SELECT keyring_aws_rotate_keys()")
    assert number == 3198 and "keyring_aws_rotate_keys failed due to" in text
    assert "AccessDeniedException" in text and stage.data.read_bytes() == before
    (line,) = stage.said("ERROR")
    assert "keyring_aws_rotate_keys() failed" in line and "AccessDeniedException" in line


# Each is one statement, though SQL calls the function more often, and at more places.
ONCE = [
    "SELECT {f}() FROM five",
    "SELECT {f}() AS done FROM five HAVING done > 0",
    "SELECT NULLIF({f}(), 0)",
    "EXPLAIN ANALYZE SELECT {f}() FROM five",
    "SELECT {f}(), {f}()",
    "SELECT {f}() UNION ALL SELECT {f}()",
    "SELECT (SELECT {f}()), n FROM five WHERE {f}() = 1 ORDER BY {f}()",
    "SELECT SUM({f}()) FROM five GROUP BY {f}()",
    "SELECT * FROM view_{f}",
    "SELECT inner_{f}(), {f}() FROM five",
    "SET @done = {f}() + {f}()",
    "DO {f}(), {f}()",
    "CREATE TEMPORARY TABLE done SELECT {f}() FROM five",
]


@pytest.fixture(scope="module", name="tables")
def make_tables(server):
    """A table of five rows; for each function a view, a stored function, a trigger, procedures."""
    server.sql("CREATE DATABASE repeat_db")
    with cursor(server, database="repeat_db") as session:
        session.execute("CREATE TABLE five (n INT)")
        session.execute("INSERT INTO five VALUES (1), (2), (3), (4), (5)")
        for name in FUNCTIONS:
            for query in (
                    "CREATE VIEW view_{f} AS SELECT {f}() FROM five",
                    "CREATE FUNCTION inner_{f}() RETURNS INT READS SQL DATA RETURN {f}()",
                    "CREATE TABLE table_{f} (n INT)",
                    "CREATE TRIGGER trigger_{f} BEFORE INSERT ON table_{f} FOR EACH ROW"
                    " SET NEW.n = {f}()",
                    "CREATE PROCEDURE loop_{f}() BEGIN DECLARE i INT DEFAULT 0; WHILE i < 2 DO"
                    " SELECT {f}() INTO @done FROM five LIMIT 1; SET i = i + {f}(); END WHILE; END",
                    "CREATE PROCEDURE cursor_{f}() BEGIN DECLARE x INT; DECLARE c CURSOR FOR"
                    " SELECT {f}() FROM five; OPEN c; FETCH c INTO x; SELECT {f}() INTO x;"
                    " FETCH c INTO x; CLOSE c; END"):
                session.execute(query.format(f=name))


@pytest.fixture(name="rotations")
def count_rotations(stage, tables):
    """A session with a KMS key of its own and one key, and a function that counts the work done."""
    stage.renew()
    stage.use(cmk_id=stage.kms.add_key("us-east-1", ACCOUNT))
    stage.generate("only")

    def count() -> int:
        return stage.kms.count("RotateKeyOnDemand") + stage.kms.count("ReEncrypt")

    with cursor(stage, database="repeat_db") as session:
        yield session, count
    stage.use(cmk_id=KEY_ARN)
    stage.renew()


@pytest.mark.parametrize("name", FUNCTIONS[:2])
def test_a_statement_rotates_once(stage, rotations, name):
    session, count = rotations
    for query in ONCE:
        if "ANALYZE" in query and not stage.expect.explain_analyze:
            continue
        before = count()
        session.execute(query.format(f=name))
        rows = session.fetchall()
        assert count() == before + 1, query
        assert "EXPLAIN" in query or all(value in (1, 2, 3, 4, 5) for row in rows for value in row)
        session.execute("DROP TEMPORARY TABLE IF EXISTS done")
    assert not stage.said("ERROR")


@pytest.mark.parametrize("name", FUNCTIONS[:2])
def test_the_next_statement_rotates_again(rotations, name):
    """Each run of a prepared statement, or of one in a routine or trigger, counts as one."""
    session, count = rotations
    for query, times in (("PREPARE rotate FROM 'SELECT {f}(), {f}() FROM five'", 0),
                         ("EXECUTE rotate", 1), ("SELECT {f}()", 1), ("EXECUTE rotate", 1),
                         ("DEALLOCATE PREPARE rotate", 0), ("CALL loop_{f}()", 4),
                         ("CALL loop_{f}()", 4), ("CALL cursor_{f}()", 2),
                         ("SELECT inner_{f}() FROM five LIMIT 2", 2),
                         ("INSERT INTO table_{f} VALUES (1), (2)", 2), ("SELECT {f}()", 1),
                         ("EXPLAIN SELECT {f}()", 0), ("SELECT {f}() FROM five LIMIT 0", 0)):
        before = count()
        session.execute(query.format(f=name))
        assert count() == before + times, query


def test_a_failed_rotation_is_not_tried_again_by_its_statement(stage, rotations):
    session, count = rotations
    stage.kms.fault("RotateKeyOnDemand", "error", type="LimitExceededException")
    before = count()
    with pytest.raises(pymysql.err.MySQLError, match="3198.*keyring_aws_rotate_cmk failed due to"
                                                     ".*LimitExceededException"):
        session.execute("SELECT keyring_aws_rotate_cmk() FROM five")
    (line,) = stage.said("ERROR")
    assert count() == before + 1 and "LimitExceededException" in line
    session.execute("SELECT keyring_aws_rotate_cmk() FROM five")
    assert session.fetchall() == ((1,),) * 5 and count() == before + 2


def rotates(stage) -> bool:
    """Whether it does, or another re-wrap, which has said so, has yet to end."""
    try:
        return stage.one("SELECT keyring_aws_rotate_keys()") == 1
    except pymysql.err.MySQLError as error:
        assert "already running" in str(error)
        return False


def test_each_session_rotates_for_itself(stage, rotations):
    """What a running statement of one session remembers does not count in another session."""
    session, count = rotations
    before = count()
    with ThreadPoolExecutor(1) as pool:
        slow = pool.submit(session.execute, "SELECT keyring_aws_rotate_keys(), SLEEP(1) FROM five")
        wait_for(lambda: any("re-wrapped" in line for line in stage.said("Note")))
        wait_for(lambda: rotates(stage))
        assert count() == before + 2
        calm(not slow.done(), "the first statement sleeps for 5 s, and was to be slower")
        slow.result()
    assert {value for value, _ in session.fetchall()} == {1} and count() == before + 2


def test_a_killed_statement_is_over(stage, rotations):
    session, count = rotations
    session.execute("SELECT CONNECTION_ID()")
    ((number,),) = session.fetchall()
    before = count()
    stage.kms.set(latency_ms=300)
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(session.execute,
                              "SELECT keyring_aws_rotate_cmk(), SLEEP(9) FROM five")
        wait_for(lambda: count() > before)
        stage.sql(f"KILL QUERY {number}")
        with contextlib.suppress(Exception):            # SLEEP may be what is cut short
            running.result()
    stage.kms.set(latency_ms=0)
    assert count() == before + 1
    materials = stage.kms.key(stage.entries()["only", ROOT].arn).materials
    wait_for(lambda: materials.rotations == 1 and materials.settle().due is None)   # that one
    session.execute("SELECT keyring_aws_rotate_cmk()")
    assert session.fetchall() == ((1,),) and count() == before + 2


@pytest.mark.parametrize("name", FUNCTIONS)
def test_keyring_operations_off_stops_the_functions(stage, name):
    """It stops keyring_udf in the same way. Fetches, settings and EXPLAIN still work."""
    stage.generate("before-off")
    stage.sql("SET GLOBAL keyring_operations = OFF")
    try:
        with nothing_done(stage):
            assert stage.generate("off") is None
            number, text = stage.refused(f"SELECT {name}()")
            assert number == 3198 and name in text and "keyring_operations is OFF" in text
            stage.sql(f"EXPLAIN SELECT {name}()")
        assert stage.fetch("before-off") == stage.plain("before-off")
    finally:
        stage.sql("SET GLOBAL keyring_operations = ON")
    assert stage.one(f"SELECT {name}()") == 1


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_need_super_and_take_no_arguments(stage, name):
    stage.sql("CREATE USER IF NOT EXISTS plain@localhost")
    almost = ("SELECT", "EXECUTE", "RELOAD", "PROCESS", *(
        (stage.expect.may_set, "CONNECTION_ADMIN") if stage.expect.connection_admin else ()))
    stage.sql(f"GRANT {', '.join(almost)} ON *.* TO plain@localhost")
    with nothing_done(stage):
        for call, user, why in ((f"{name}(1)", "root", "no arguments"),
                                (f"{name}()", "plain", "SUPER")):
            number, text = stage.refused(f"SELECT {call}", user=user)
            assert number == 1123 and why in text and name in text
        stage.sql(f"EXPLAIN SELECT {name}()")           # which does not run them


@pytest.mark.needs("roles")
def test_a_role_with_super_must_be_active(stage):
    stage.sql("CREATE ROLE keymaster")
    stage.sql("GRANT SUPER ON *.* TO keymaster")
    stage.sql("CREATE USER member@localhost")
    stage.sql("GRANT keymaster TO member@localhost")
    with contextlib.closing(stage.db.connect(user="member")) as connection:
        with connection.cursor() as session:
            session.execute("SET ROLE keymaster")
            session.execute("SELECT keyring_aws_rotate_keys()")
            assert session.fetchall() == ((1,),)
            session.execute("PREPARE rotate FROM 'SELECT keyring_aws_rotate_keys()'")
            session.execute("SET ROLE NONE")
            before = stage.data.read_bytes()
            with pytest.raises(Exception, match="SUPER"):
                session.execute("EXECUTE rotate")
            assert stage.data.read_bytes() == before


def test_settings_need_a_privilege(stage):
    stage.sql("CREATE USER powerless@localhost")
    for name in ("cmk_id", "region", "timeout"):
        assert stage.refused(f"SET GLOBAL keyring_aws_{name} = 1", user="powerless")[0] == 1227


# ---- many at once -------------------------------------------------------------------------------

def test_status_and_performance_schema_answer_while_kms_hangs(stage):
    stage.generate("hanging"), stage.generate("prompt")
    stage.sql("SET GLOBAL keyring_aws_timeout = 4000")
    stage.kms.fault("Decrypt", "black_hole", where="request")
    asked = stage.kms.count("Decrypt")
    with ThreadPoolExecutor(1) as pool:
        hanging = pool.submit(stage.fetch, "hanging")
        wait_for(lambda: stage.kms.count("Decrypt") > asked)
        with within(2):
            assert stage.status()["keys"] == len(stage.entries())
            assert ("hanging", ROOT) in stage.listed()
            assert stage.fetch("prompt") == stage.plain("prompt")
            assert stage.variable("cmk_id") == KEY_ARN
        calm(not hanging.done(), "the fetch hangs for 4 s, and was to be slower")
        assert hanging.result() is None
    assert "cannot fetch key 'hanging'" in stage.said("ERROR")[0]


@pytest.mark.parametrize("was_set", [False, True])
def test_a_key_is_made_while_a_setting_is_judged(stage, was_set):
    """SET waits until KMS has judged its key.  A key that the present one seals does not wait; nor
    is KMS asked again about a KMS key that an earlier SET has checked, and that no key used yet."""
    sealing = stage.second if was_set else KEY_ARN
    if was_set:
        stage.sql("SET GLOBAL keyring_aws_cmk_id = %s", (stage.second,))
    stage.kms.fault("Decrypt", "black_hole", where="request")
    asked = stage.kms.count("Decrypt")
    with ThreadPoolExecutor(1) as pool:
        judged = pool.submit(stage.refused, "SET GLOBAL keyring_aws_cmk_id = %s", (stage.west,))
        wait_for(lambda: stage.kms.count("Decrypt") > asked)
        with within(2):
            assert stage.generate(f"meanwhile-{was_set}") == 1
            assert stage.entries()[f"meanwhile-{was_set}", ROOT].arn == sealing
        assert not judged.done()
        assert judged.result()[0] == 1231
    assert stage.variable("cmk_id") == sealing


KILLED = {
    "fetch": "SELECT keyring_key_fetch('killed')",
    "generate": "SELECT keyring_key_generate('killed-new', 'AES', 32)",
    "store": "SELECT keyring_key_store('killed-new', 'SECRET', 'x')",
    "SET": "SET GLOBAL keyring_aws_region = 'us-west-2'",
    "rotate": "SELECT keyring_aws_rotate_cmk()",
    "re-wrap": "SELECT keyring_aws_rotate_keys()",
    "CREATE TABLE": "CREATE TABLE mysql.killed (i INT) ENCRYPTION = 'Y'",
}


def runs_now(stage: Stage, number: int) -> bool:
    """Whether the connection of that number has a statement that runs: one can be killed then."""
    return bool(stage.sql("SELECT 1 FROM information_schema.processlist"
                          " WHERE id = %s AND info IS NOT NULL", (number,)))


@pytest.mark.parametrize("kill", ["KILL QUERY", "KILL"])
@pytest.mark.parametrize("what", KILLED)
def test_a_killed_statement_waits_for_kms_no_longer(stage, what, kill):
    if stage.door == "component" and what == "SET":
        pytest.skip("the component has no variables")
    if not stage.listed().count(("killed", ROOT)):
        assert stage.generate("killed") == 1
    before = stage.data.read_bytes()
    with cursor(stage) as session, ThreadPoolExecutor(1) as pool:
        session.execute("SELECT CONNECTION_ID()")
        ((number,),) = session.fetchall()
        stage.kms.fault("*", "black_hole", times=0, where="request")
        asked = stage.kms.count()
        running = pool.submit(session.execute, KILLED[what])
        wait_for(lambda: stage.kms.count() > asked)
        with within(1):
            stage.sql(f"{kill} {number}")
            with contextlib.suppress(pymysql.err.MySQLError):
                running.result()                # NULL, or an error: the server decides
            wait_for(lambda: not runs_now(stage, number))
    stage.kms.clear_faults()
    if what != "CREATE TABLE":                  # InnoDB may have asked for its master key
        assert stage.data.read_bytes() == before
    if kill == "KILL QUERY":                    # a line that repeats is not said again
        assert any("cancelled while it waited for AWS KMS" in line
                   for level in ("ERROR", "Warning") for line in stage.said(level))
    assert len(stage.fetch("killed")) == 32     # the next statement is not killed


def test_a_long_error_still_says_what_to_do(stage):
    """A client gets 511 bytes, and what AWS says of a denial is long."""
    stage.kms.fault("*", "error", times=0, type="AccessDeniedException", message=" ".join(
        f"User {ROOT} is not authorized to perform: kms:X on {arn}" for arn in [stage.second] * 3))
    for statement in (f"SET GLOBAL keyring_aws_cmk_id = '{stage.second}'",
                      "SELECT keyring_aws_rotate_keys()"):
        number, text = stage.refused(statement)
        assert "AccessDeniedException" in text and "..." in text
        assert text.rstrip(".").endswith("; allow it in the IAM policy and the key policy"), text
        assert number == 3198 or len(text) == 511


def test_a_denial_names_the_kms_key(stage):
    """AWS's message does, behind the longest that a server usually is: a role's session."""
    session = f"arn:aws:sts::{ACCOUNT}:assumed-role/mysql-server-role/i-0123456789abcdef0"
    action = "kms:GenerateDataKeyWithoutPlaintext"
    stage.kms.fault("*", "error", times=0, type="AccessDeniedException", message=(
        f"User: {session} is not authorized to perform: {action} on resource: {stage.second}"
        f" because no identity-based policy allows the {action} action"))
    assert stage.generate("denied") is None
    (line,) = stage.said("ERROR")
    assert f"{action} on resource: {stage.second}" in line
    assert line.rstrip().endswith("; allow it in the IAM policy and the key policy")


def test_a_killed_rotation_may_have_happened(stage):
    """AWS counts it among the KMS key's 25 rotations, even though nobody reads the reply."""
    with cursor(stage) as session, ThreadPoolExecutor(1) as pool:
        stage.kms.fault("RotateKeyOnDemand", "black_hole", where="request")
        asked = stage.kms.count("RotateKeyOnDemand")
        running = pool.submit(session.execute, "SELECT keyring_aws_rotate_cmk()")
        wait_for(lambda: stage.kms.count("RotateKeyOnDemand") > asked)
        stage.sql(f"KILL QUERY {session.connection.thread_id()}")
        with pytest.raises(pymysql.err.MySQLError):
            running.result()
    (line,) = stage.tagged("KAWS-315")
    assert "to answer RotateKeyOnDemand, which KMS may have done" in line and "nothing" not in line


def test_a_refusal_after_a_success_is_news(stage):
    statement = f"SET GLOBAL keyring_aws_cmk_id = '{stage.second}'"
    for count in (1, 2):
        stage.kms.fault("*", "error", type="AccessDeniedException")
        stage.refused(statement)
        assert len(stage.tagged("KAWS-307")) == count
        stage.sql(statement)


def test_a_killed_session_answers_for_no_other(stage):
    """Two sessions need the KMS key that was SET; the one that asks KMS for both is killed."""
    stage.sql("SET GLOBAL keyring_aws_cmk_id = %s", (stage.second,))
    stage.refused("SET GLOBAL keyring_aws_cmk_id = %s, GLOBAL max_connections = 'x'", (KEY_ARN,))
    with cursor(stage) as one, cursor(stage) as other, ThreadPoolExecutor(2) as pool:
        stage.kms.fault("*", "black_hole", where="request")
        asked = stage.kms.count()
        killed = pool.submit(one.execute, "SELECT keyring_key_generate('killed-too', 'AES', 32)")
        wait_for(lambda: stage.kms.count() > asked)
        waits = pool.submit(other.execute, "SELECT keyring_aws_rotate_keys()")
        time.sleep(0.3)
        stage.sql(f"KILL QUERY {one.connection.thread_id()}")
        with contextlib.suppress(pymysql.err.MySQLError):
            killed.result()
        waits.result()
        assert other.fetchall() == ((1,),)
    assert sealed_with(stage) == stage.second


def test_a_killed_install_waits_for_no_old_function(stage):
    """It holds a lock of the server while it waits, so it would delay a shutdown."""
    stage.generate("kept")
    with cursor(stage) as old, cursor(stage) as new, ThreadPoolExecutor(2) as pool:
        stage.kms.fault("*", "black_hole", times=0, where="request")
        asked = stage.kms.count()
        runs = pool.submit(old.execute, "SELECT keyring_aws_rotate_keys()")
        wait_for(lambda: stage.kms.count() > asked)
        stage.uninstall()
        waits = pool.submit(new.execute, "INSTALL PLUGIN keyring_aws SONAME 'keyring_aws.so'")
        wait_for(lambda: runs_now(stage, new.connection.thread_id()))
        time.sleep(0.3)
        began = time.monotonic()
        stage.sql(f"KILL QUERY {new.connection.thread_id()}")
        with pytest.raises(pymysql.err.MySQLError):
            waits.result()
        took, over = time.monotonic() - began, runs.done()
        stage.sql(f"KILL QUERY {old.connection.thread_id()}")
        with pytest.raises(pymysql.err.MySQLError):
            runs.result()
    stage.kms.clear_faults()
    stage.install()
    assert stage.generate("after") == 1 and stage.remove("after") == 1
    in_time(took, 1)                    # only now, because the plugin has to be there
    calm(not over, "the function hangs for 10 s, and was to be slower")


def test_50_reinstallations_under_load(stage):
    """Many calls run meanwhile: none crashes, none hangs, and no key is lost."""
    stage.renew()
    stage.generate("steady")
    key, done, errors = stage.fetch("steady"), threading.Event(), []

    def load(queries: list[str]) -> None:
        with cursor(stage) as session:
            while not done.is_set():
                for query in queries:
                    with contextlib.suppress(Exception):        # what is not loaded says so
                        session.execute(query)
                        rows = session.fetchall()
                        if "fetch" in query and rows[0][0] not in (None, key.hex().upper()):
                            errors.append(rows)

    loads = [["SELECT HEX(keyring_key_fetch('steady'))"],
             ["SELECT keyring_key_generate('passing', 'AES', 32)",
              "SELECT keyring_key_remove('passing')"],
             ["SELECT keyring_aws_rotate_keys()", "SHOW GLOBAL STATUS LIKE 'Keyring_aws%'"],
             ["SELECT * FROM performance_schema.keyring_keys", "SHOW VARIABLES LIKE 'keyring%'",
              *(["SELECT @@GLOBAL.keyring_aws_cmk_id"] if stage.expect.name_meets_install else []),
              *([f"SET GLOBAL keyring_aws_cmk_id = '{KEY_ARN}'"]
                if stage.expect.set_meets_uninstall else [])]]
    threads = [threading.Thread(target=load, args=(each,)) for each in loads]
    for thread in threads:
        thread.start()
    try:
        for _ in range(50):
            stage.uninstall()
            stage.install()
    finally:
        done.set()
        for thread in threads:
            thread.join()
    assert not errors and stage.fetch("steady") == key and stage.loaded()


# ---- what lies in the server's memory -----------------------------------------------------------

def search_memory(pid: int, needles: dict[str, bytes]) -> list[tuple[str, bool]]:
    """What was found, as often as it was: (needle, whether in a locked page)."""
    return [(name, locked) for locked, _, data in memory_of(pid)
            for name, needle in needles.items() for _ in range(data.count(needle))]


def forms(name: str, key: bytes) -> dict[str, bytes]:
    """Each form that a key could lie about in, by its second half: malloc reuses the first."""
    text = base64.b64encode(key)
    half = len(key) // 2
    return {f"{name}, raw": key[half:], f"{name}, base64": text[len(text) // 2:-4],
            f"{name}, hex": key.hex().encode()[2 * half:],
            f"{name}, HEX": key.hex().upper().encode()[2 * half:]}


def test_neither_keys_nor_the_secret_are_left_in_the_servers_memory(stage):
    """After generate and the functions, also a re-wrap to another region, for which keys come in
    the clear; after failures in the middle of that; and after replies whose key was refused."""
    names = ["unseen-0", "unseen-1"]
    for name in names:
        assert stage.generate(name) == 1
    assert stage.one("SELECT keyring_aws_rotate_cmk()") == 1
    assert stage.one("SELECT keyring_aws_rotate_keys()") == 1
    stage.use(cmk_id=stage.west)
    stage.kms.fault("Decrypt", "cut", where="body", times=2)
    stage.kms.fault("Encrypt", "error", type="AccessDeniedException", after=1)
    opened = stage.kms.count("Decrypt")
    assert stage.refused("SELECT keyring_aws_rotate_keys()")[0] == 3198
    stage.kms.clear_faults()
    assert stage.one("SELECT keyring_aws_rotate_keys()") == 1
    assert stage.kms.count("Decrypt") - opened > len(names)
    stage.kms.fault("Decrypt", "edit", times=0, set={"KeyId": KEY_ARN})
    for name in names:
        assert stage.fetch(name) is None                # the last that came over its connection
    stage.kms.clear_faults()
    stage.sql("SET GLOBAL init_connect = 'SELECT 1 /* a marker */'")
    needles = {"secret": SECRET.encode(), "marker": b"SELECT 1 /* a marker */"}
    for name in names:
        needles.update(forms(name, stage.plain(name)))
    found = search_memory(stage.db.process.pid, needles)
    stage.sql("SET GLOBAL init_connect = ''")
    assert {name for name, _ in found} == {"secret", "marker"}
    assert [locked for name, locked in found if name == "secret"] == [True]
