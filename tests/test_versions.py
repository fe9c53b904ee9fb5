"""MYSQLD names the server to test: which servers are accepted, what is expected of each, and one
sentence that says why any other is refused."""

import argparse
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pymysql
import pytest
from mysql_fixtures import Client, Stage, said
from servers import MySQL, ServerError, mysqld, tree
from versions import OLDEST, TABLE, Expect

TESTS = Path(__file__).resolve().parent

# What servers say to --version, and the version.
SAY = {
    "mysqld  Ver 5.7.22-22 for Linux on x86_64 (Source distribution)": (5, 7, 22),
    "/usr/sbin/mysqld  Ver 8.0.27-18 for Linux on x86_64 (Percona Server (GPL), Release 18,"
    " Revision 24801e21b45)": (8, 0, 27),
    "/opt/my sql/bin/mysqld  Ver 8.4.3 for Linux on aarch64 (Source distribution)": (8, 4, 3),
    "mysqld-debug: a warning\n/usr/sbin/mysqld-debug  Ver 9.7.4-debug for Linux on x86_64"
    " (Debian)": (9, 7, 4),
}
REFUSED = {
    "mariadbd  Ver 10.11.6-MariaDB-0+deb12u1 for debian-linux-gnu on x86_64": "this is MariaDB",
    "/usr/sbin/mysqld  Ver 10.3.39-MariaDB for Linux on x86_64": "this is MariaDB",
    "mysql  Ver 14.14 Distrib 5.7.22, for Linux (x86_64)": "this is no MySQL server",
    "/usr/bin/mysql  Ver 8.0.27 for Linux on x86_64 (MySQL Community Server - GPL)":
        "this is no MySQL server",
    "5.7.22 too, but of what?": "this is no MySQL server",
    "": "this is no MySQL server",
    "mysqld  Ver 5.6.51 for Linux on x86_64": "too old, because keyrings came with 5.7.12",
    "mysqld  Ver 5.7.11 for Linux on x86_64": "too old",
}


def fake(folder: Path, says: str, more: str = "") -> Path:
    """A program that says this, in an installation of empty folders."""
    for name in ("bin", "lib/plugin", "share/english", "share/charsets"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    program = folder / "bin" / "mysqld"
    program.write_text(f"#!/bin/sh\n{more}\ncat <<'end'\n{says}\nend\n")
    program.chmod(0o755)
    return program


@pytest.mark.parametrize("says", SAY)
def test_a_server_is_known_by_its_version(tmp_path, monkeypatch, says):
    monkeypatch.setenv("MYSQLD", str(fake(tmp_path / "my sql's", says)))
    with MySQL() as db:
        assert db.version == SAY[says]
        assert f"--basedir={tmp_path}/my sql's" in db._options()
        assert f"--lc-messages-dir={tmp_path}/my sql's/share" in db._options()


@pytest.mark.parametrize("says", REFUSED)
def test_what_is_no_server_is_refused_by_one_sentence(tmp_path, monkeypatch, says):
    program = fake(tmp_path, says)
    monkeypatch.setenv("MYSQLD", str(program))
    with pytest.raises(ServerError) as caught:
        mysqld()
    text = str(caught.value)
    assert text.startswith(f"MYSQLD={program}: ") and REFUSED[says] in text and "\n" not in text


def test_a_path_is_taken_as_it_is_meant(tmp_path, monkeypatch):
    """It may be relative, a link, or found by the PATH. A missing or half server is refused."""
    program = fake(tmp_path / "a b", next(iter(SAY)))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "link").symlink_to(program)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    for named in ("a b/bin/mysqld", "./link", str(tmp_path / "link"), "mysqld"):
        monkeypatch.setenv("MYSQLD", named)
        assert mysqld().program == program and mysqld().basedir == tmp_path / "a b"
    (tmp_path / "text").write_text("mysqld  Ver 8.0.27")
    for named, why in (("none/mysqld", "is no program"), ("a b", "is no program"),
                       ("text", "is no program"), ("no-such-mysqld", "is no program")):
        monkeypatch.setenv("MYSQLD", named)
        with pytest.raises(ServerError, match=f"^MYSQLD={named}: .*{why}"):
            mysqld()
    other = fake(tmp_path / "c", next(iter(SAY)))
    monkeypatch.setenv("MYSQLD", str(program))
    mark = mysqld().mark
    monkeypatch.setenv("MYSQLD", str(other))
    assert mysqld().mark != mark            # they must not share a folder of data
    lone = tmp_path / "lone" / "mysqld"
    lone.parent.mkdir()
    lone.write_bytes(program.read_bytes())
    lone.chmod(0o755)
    monkeypatch.setenv("MYSQLD", str(lone))
    with pytest.raises(ServerError, match="no plugins under .*no messages under .*is its inst"):
        mysqld()


def test_a_script_may_run_a_server_elsewhere(tmp_path, monkeypatch):
    """The script is asked where its server is installed."""
    real = fake(tmp_path / "real", "basedir    " + str(tmp_path / "real"))
    script = tmp_path / "scripts" / "run-it"
    script.parent.mkdir()
    script.write_text(f"#!/bin/sh\ncase $* in *--help*) exec '{real}';; esac\n"
                      f"echo '{next(iter(SAY))}'\n")
    script.chmod(0o755)
    monkeypatch.setenv("MYSQLD", str(script))
    assert (mysqld().basedir, mysqld().script) == (tmp_path / "real", True)


@pytest.mark.skipif(bool(os.environ.get("MYSQLD")), reason="it is about the tree's server")
@pytest.mark.parametrize("way, why", [("exec", ""), ("", "let the script end with `exec`")])
def test_a_script_has_to_become_its_server(tmp_path, monkeypatch, way, why):
    """Otherwise kill -9, and the search of its memory, would hit the script."""
    usr = tree(["mysql"]) / "usr"
    loader = next(usr.glob("lib/*-linux-gnu*/ld*.so.[0-9]"))
    for name in ("lib", "share"):
        (tmp_path / name).symlink_to(usr / name)
    script = tmp_path / "bin" / "mysqld"
    script.parent.mkdir()
    words = map(str, (loader, "--inhibit-cache", "--library-path", loader.parent, "--argv0",
                      "mysqld", usr / "sbin" / "mysqld"))
    script.write_text(f'#!/bin/sh\n{way} {shlex.join(words)} "$@"\n')
    script.chmod(0o755)
    monkeypatch.setenv("MYSQLD", str(script))
    with MySQL() as db:
        if way:
            db.start("--performance-schema=OFF")
            assert db.sql("SELECT 42") == [(42,)] and db.stop() == 0
        else:
            with pytest.raises(ServerError, match=why):
                db.start("--performance-schema=OFF")
            assert not db.ready()


def test_without_keyring_udf_one_sentence_says_so(tmp_path, monkeypatch):
    monkeypatch.setenv("MYSQLD", str(fake(tmp_path, next(iter(SAY)))))
    with MySQL() as db, pytest.raises(ServerError, match="lacks keyring_udf.so"):
        db.install_keyring_udf()


@pytest.mark.parametrize("program", ["run.py", "demo.py"])
def test_the_commands_refuse_a_wrong_one_at_once(tmp_path, program):
    if not (TESTS.parent / "build" / "keyring_aws.so").exists():
        pytest.skip("the plugin is not built")
    done = subprocess.run([sys.executable, TESTS / program], text=True, capture_output=True,
                          check=False, env={**os.environ, "MYSQLD": "/none"})
    assert done.returncode != 0 and not done.stdout and done.stderr.count("\n") == 1
    assert "MYSQLD=/none: /none is no program" in done.stderr


# ---- what the fixtures make of it ----------------------------------------------------------------


def stub(version: tuple[int, ...], answer: object) -> Stage:
    """A stage whose server has a version, and one answer to all that is asked."""
    stage = object.__new__(Stage)
    stage.expect = Expect(version)

    def sql(*_: object, **__: object) -> object:
        if isinstance(answer, int) and answer > 1000:
            raise pymysql.err.OperationalError(answer, "so it is")
        return [(answer,)]

    stage.sql = sql
    return stage


@pytest.mark.parametrize("version", [(5, 7, 22), (8, 0, 27), (8, 4, 3), (9, 7, 4)])
def test_a_failing_keyring_is_told_by_each_in_its_way(version):
    """None to the tests: and an error before 9.0 or NULL since, not the other way round."""
    error, null = stub(version, 3188), stub(version, None)
    calls = [lambda stage: stage.generate("a"), lambda stage: stage.store("a", "AES", b"x"),
             lambda stage: stage.remove("a"), lambda stage: stage.fetch("a")]
    for good in (null, error) if version < (9,) else (null,):
        assert calls[3](good) is None                   # NULL where there is no such key
    for call in calls[:3]:
        assert call(error if version < (9,) else null) is None
        with pytest.raises((AssertionError, pymysql.err.MySQLError)):
            call(null if version < (9,) else error)
        with pytest.raises(pymysql.err.MySQLError):
            call(stub(version, 1123))
        assert call(stub(version, 1)) == 1
    assert stub(version, "6869").fetch("a") == b"hi"
    client = Client(stub(version, 1), "", 0)
    client.session = argparse.Namespace(execute=error.sql, fetchone=lambda: (7,))
    if version < (9,):
        assert client.one("x") is None
    else:
        with pytest.raises(pymysql.err.MySQLError):
            client.one("x")


@pytest.mark.parametrize("version, busy", [((5, 7, 22), False), ((8, 0, 27), True),
                                           ((9, 7, 4), False)])
def test_a_busy_plugin_is_asked_again_to_go(version, busy):
    stage = stub(version, 1883)
    if busy:
        assert stage.let_go() is False
    else:
        with pytest.raises(pymysql.err.MySQLError):
            stage.let_go()
    assert stub(version, 1).let_go() is True


def test_the_plugin_s_lines_are_found_in_each_log():
    said_so = "Plugin keyring_aws reported: '[KAWS-310] cannot generate key 'x''"
    log = (f"2026-11-27T10:00:00.123456Z 0 [ERROR] {said_so}\n"
           f"2026-11-27T10:00:00.123456Z 12 [Note] [MY-000000] [Server] {said_so}\n"
           f"2026-11-27T10:00:00.123456Z 12 [Note] a line about: {said_so}\n")
    assert said("ERROR", log) == said("Note", log) == ["cannot generate key 'x'"]


# ---- the table -----------------------------------------------------------------------------------

EXPECTED = {                            # of some rows, by hand
    (5, 7, 22): {"failing": (3188, 3202), "type_letters": 3, "key_bytes": 2048, "hides": False,
                 "persist": False, "busy": (), "set_meets_uninstall": False, "roles": False,
                 "name_meets_install": False, "truncate_asks": False,
                 "may_set": "SUPER", "keyring_keys": False, "logs": False, "components": False,
                 "sensitive": False, "runbook": False, "reset_binlog": "RESET MASTER",
                 "log_numbers": False},
    (8, 0, 27): {"failing": (3188, 3202), "type_letters": 128, "key_bytes": 16384, "hides": True,
                 "persist": True, "persist_meets_install": False, "drops_persisted": False,
                 "busy": (1883,), "set_meets_uninstall": False, "name_meets_install": False,
                 "recovers_without_key": False, "roles": True,
                 "may_set": "SYSTEM_VARIABLES_ADMIN", "keyring_keys": True, "logs": True,
                 "components": True, "from_component": False, "runbook": True, "quotes": False,
                 "sensitive": False, "reset_binlog": "RESET MASTER"},
    (8, 4, 3): {"failing": (3188, 3202), "busy": (), "set_meets_uninstall": True,
                "from_component": True, "quotes": False,
                "reset_binlog": "RESET BINARY LOGS AND GTIDS"},
    (9, 7, 4): {"failing": (), "busy": (), "quotes": True, "hides": True, "error_log": True,
                "persist_meets_install": True, "drops_persisted": True,
                "recovers_without_key": True, "sensitive": True},
}


@pytest.mark.parametrize("version", EXPECTED)
def test_the_table_says_what_is_known(version):
    assert {name: getattr(Expect(version), name) for name in EXPECTED[version]} == EXPECTED[version]


def test_every_row_is_a_difference_that_a_test_asks_for():
    asked = "".join(path.read_text() for path in [*TESTS.glob("*.py"), *TESTS.glob("hosts/*.py")]
                    if path.name not in ("versions.py", Path(__file__).name))
    for name, row in TABLE.items():
        first, *_ = versions = [version for version, _ in row.values]
        assert versions == sorted(versions) and first <= OLDEST and len(versions) > 1, name
        assert re.search(rf'needs\("{name}"\)|[.]{name}\b', asked), name
    for name in re.findall(r'needs\("(\w+)"\)|expect[.](?!lacks|version)(\w+)', asked):
        assert "".join(name) in TABLE
    assert Expect((5, 7, 22)).lacks("roles") == "MySQL 5.7.22 lacks this: roles"
    assert not Expect((8, 0, 27)).lacks("roles")
