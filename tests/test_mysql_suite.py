"""MySQL's own test suite passes with our keyring component in the place of component_keyring_file.

`make test-long` runs all of its tests that need a keyring (about twenty minutes).  Most need a
server that was built for debugging, and are skipped; the rest pass, but for those of EXPLAINED,
which look at what only component_keyring_file says or does.  What they see instead is in the table,
line by line, so that every other difference is a failure.
"""

import os
import re
import shutil
from collections import Counter
from typing import NamedTuple

import pytest

from kms_emulator import ACCESS_KEY_ID, KEY_ARN, REGION, SECRET, Emulator
from mtr import OWN, Keyring, Result, Suite, alone, packages, results
from mysql_fixtures import PLUGIN
from servers import BUILD, Certificates

NAME = "component_keyring_aws"

# What tests look for in a server's log, or let it say, and our words for that.
WORDS = {"Could not find the data corresponding to Data ID:": "KAWS-31[12]",
         "has not valid format": "(a value was expected|the key xxx is not known)",
         "cannot read config file": "cannot read the settings file"}

# Warnings of ours that tests of other things bring about: a keyring's first use (123), a data file
# that a test removes before the server stops (124), and a key that InnoDB makes although it is
# there (309), which it does on purpose.
WARNS = ("KAWS-123", "KAWS-124", "KAWS-309")

SKIPPED = ("Test needs debug binaries.", "Test requires 'have_debug_sync'", "Need windows",
           "Doesn't support --binlog-format = '(mixed|statement|row)'")

LEAST = 48                  # tests of MySQL 9.7.4 that pass

MESSY = f"{OWN}.keyring_encryption_test"        # leaves files over which others would stumble


class Why(NamedTuple):
    reason: str
    changes: str            # patterns of the lines that are missing (-) and of those instead (+)
    said: str = ""          # a pattern of what mtr says


ROWS = (r"-Author\tOracle Corporation\n-License\tGPL\n"
        r"\+Author\tThe keyring_aws authors\n\+License\tBSD-2-Clause\n"
        r"-Version\t1\.0\n\+Version\t[0-9.]+(\n\+(?!Data|Read)[A-Z][a-z_]+\t.*)+")
STATUS = Why("it lists the rows of the status, where we have words and rows of our own",
             rf"{ROWS}(\n{ROWS})*")

EXPLAINED = {
    f"{OWN}.keyring_component_status": STATUS,
    "innodb.log_encrypt_3": STATUS,
    "innodb.log_encrypt_kill": STATUS,
    f"{OWN}.udf_test": Why(
        "an AES key has 16, 24 or 32 bytes with us, and it has others",
        r"((-1|-AES|-64|-40|-29|-Quick brown fox .*|-Quis custodiet .*)\n\+NULL\n?){20}"),
    f"{OWN}.keyring_udf_invalid_args": Why(
        "we refuse to store an empty key, as it says itself that a keyring should",
        r"-1\n\+NULL"),
    **{f"{OWN}.{name}": Why(
        "a reload is refused while the data file is away and the keyring has keys",
        "", "Query: 'ALTER INSTANCE RELOAD KEYRING'\nReturned error: ER_RELOAD_KEYRING_FAILURE")
       for name in ("table_encrypt_5", "tablespace_encrypt_6")},
    MESSY: Why(
        "it tests the service keyring_aes, which no server calls and we have not",
        "", r"mysql_keyring_encryption_test --component-dir=\S+ --keyring=\S+ failed, error: 256"),
    "innodb.import_compress_encrypt": Why(
        "its expected result lacks two lines of its set-up: it fails with any component",
        rf"\+# Do global_backup of .*: {NAME}\n\+# Restore global manifest .*: {NAME}"),
}


def judge(result: Result, known: Why | None) -> str:
    """What is wrong with a test's result and not explained; nothing if it is as it should be."""
    if result.word == "fail" and not known:
        return f"fails:\n{result.said}"
    if result.word == "fail" and (not re.fullmatch(known.changes, "\n".join(result.changes))
                                  or not re.search(known.said, result.said)):
        return f"fails, and not only because {known.reason}:\n{result.said}"
    if result.word == "pass" and known:
        return f"passes, although {known.reason}: remove it from EXPLAINED"
    if result.word == "skipped" and not any(re.fullmatch(each, result.why) for each in SKIPPED):
        return f"is skipped: {result.why}"
    if result.word not in ("pass", "fail", "skipped", "disabled"):
        return f"has a result that is not known: {result.word} {result.why}"
    return ""


# ---- how it is judged ----------------------------------------------------------------------------

SAID = """\
Using suite(s): component_keyring_file
[  1%] main.debugged                            [ skipped ]  Test needs debug binaries.
[ 50%] main.good                           w1  [ pass ]    123
[ 75%] main.good 'row'                     w2  [ pass ]   4381
[ 80%] main.elsewhere                      w2  [ skipped ]  Test needs a zoo.
[ 90%] main.differs                        w1  [ fail ]
        Test ended at 2026-11-29 12:37:58

--- /usr/lib/mysql-test/r/differs.result\t2026-11-29
+++ /var/mtr/var/3/log/differs.reject\t2026-11-29
@@ -8,3 +8,3 @@
 the same
-expected
+found
 the same
mysqltest: Result content mismatch

 - the logfile can be found in '/var/mtr/var/log/main.differs/differs.log'
[ 95%] main.warns                          w1  [ fail ]
Found warnings in /var/mtr/var/2/log/mysqld.1.err
[100%] main.off                            [ disabled ]   BUG#1
Completed: Failed 2/4 tests, 50.00% were successful.
"""


def test_a_result_that_nobody_explained_is_told():
    found = results(SAID)
    assert [each.word for each in found.values()] == [
        "skipped", "pass", "pass", "skipped", "fail", "fail", "disabled"]
    assert found["main.differs"].changes == ["-expected", "+found"]
    assert found["main.warns"].changes == [] and "mysqld.1.err" in found["main.warns"].said
    told = {name: text for name, each in found.items() if (text := judge(each, None))}
    assert {name: text.partition(":")[0] for name, text in told.items()} == {
        "main.elsewhere": "is skipped", "main.differs": "fails", "main.warns": "fails"}
    assert "has a result" in judge(Result("retry-fail", "", ""), None)


@pytest.mark.parametrize("name, why, told", [
    ("differs", Why("it is so", r"-expected\n\+found", "mismatch"), ""),
    ("differs", Why("it is so", r"-expected\n\+found", "cannot"), "not only because it is so"),
    ("differs", Why("it is so", r"-expected\n\+other"), "not only because it is so"),
    ("differs", Why("it is so", r"-expected"), "not only because it is so"),
    ("warns", Why("it is so", r"-expected\n\+found"), "not only because it is so"),
    ("good", Why("it is so", r"-expected\n\+found"), "passes, although it is so")])
def test_a_difference_is_explained_line_by_line(name, why, told):
    text = judge(results(SAID)[f"main.{name}"], why)
    assert told in text and bool(told) == bool(text)


# ---- all of it -----------------------------------------------------------------------------------

def ours(kms: Emulator) -> Keyring:
    config = {"cmk_id": KEY_ARN,
              "aws_authentication": {"mode": "simple", "region": REGION,
                                     "access_key_id": ACCESS_KEY_ID, "access_key_secret": SECRET},
              "keyring_aws": {"endpoint": kms.url, "ca_file": "/run/mtr/ca.crt"}}
    return Keyring(NAME, PLUGIN, config, WORDS, WARNS)


@pytest.mark.long
@pytest.mark.skipif(os.geteuid() != 0, reason="it needs a chroot, so root")
@pytest.mark.skipif("MYSQLD" in os.environ, reason="it has a server of its own")
@pytest.mark.skipif("KEYRING_AWS_PLUGIN" in os.environ, reason="once is enough")
def test_with_our_component(certs, capsys):
    packages()                  # while there is a network
    alone(lambda: run_all(certs, capsys))


def run_all(certs: Certificates, capsys: pytest.CaptureFixture) -> None:
    with Emulator(certs.good.cert, certs.good.key) as kms, Suite(ours(kms)) as suite:
        shutil.copy(certs.ca, suite.folder / "ca.crt")
        others = [name for name in suite.tests() if name not in EXPLAINED]
        found = {name: each for tests in (others, {*EXPLAINED} - {MESSY}, {MESSY})
                 for name, each in suite.run(tests).items()}
        wrong = {name: text for name, each in found.items()
                 if (text := judge(each, EXPLAINED.get(name)))}
        count = Counter(each.word for each in found.values())
        with capsys.disabled():
            print(f"\n{count['pass']} pass, {count['fail']} differ, {count['skipped']} skipped,"
                  f" {count['disabled']} disabled; KMS was asked {kms.count()} times")
        assert not wrong, tell(suite, wrong)
    assert count["pass"] >= LEAST and count["fail"] == len(EXPLAINED)
    assert kms.count("GenerateDataKeyWithoutPlaintext") >= LEAST and not kms.crashes


def tell(suite: Suite, wrong: dict[str, str]) -> str:
    """What is wrong, and whether it is so with MySQL's own component, too."""
    kept = BUILD / "tests" / "mtr"
    shutil.rmtree(kept, ignore_errors=True)
    shutil.copytree(suite.folder, kept, ignore=shutil.ignore_patterns("changes"))
    with Suite() as own:
        again = own.run({name.partition(" ")[0] for name in wrong})
    return "\n".join([*(f"{name} {text}\nWith {OWN}: {again[name].word}"
                       for name, text in wrong.items()), f"The servers' logs are in {kept}."])
