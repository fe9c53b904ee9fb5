"""What the tests in a real MySQL server share: a server, its KMS, and the files between them.

    with Stage() as stage:
        stage.start()                   # the plugin loaded early, as my.cnf would
        assert stage.generate("MyKey") == 1
        assert len(stage.fetch("MyKey")) == 32

KEYRING_AWS_PLUGIN=/path/keyring_aws.so in the environment names another build of the plugin.
"""

import contextlib
import json
import os
import re
import threading
import time
from pathlib import Path

import pymysql
import pytest

from conftest import LONG, write_conf
from demo import Entry, read_data_file
from kms_emulator import ACCESS_KEY_ID, KEY_ARN, SECRET, Emulator, unseal
from patience import wait_for
from servers import BUILD, MySQL, certificates
from versions import Expect

PLUGIN = Path(os.environ.get("KEYRING_AWS_PLUGIN", BUILD / "keyring_aws.so"))
ROOT = "root@localhost"
COMPONENT = "component_keyring_aws"
EARLY = "--early-plugin-load=keyring_aws=keyring_aws.so"
FUNCTIONS = ("keyring_aws_rotate_cmk", "keyring_aws_rotate_keys", "keyring_aws_refresh")

# Halves the two seconds of processor that a start takes: smaller tables of the performance
# schema, and no second write of each page, which only a kill in the middle of one would need.
QUICK = ("--innodb-doublewrite=OFF", "--innodb-flush-method=fsync",
         "--loose-innodb-numa-interleave=OFF", "--innodb-buffer-pool-load-at-startup=OFF",
         "--innodb-buffer-pool-dump-at-shutdown=OFF", "--log-error-verbosity=3",
         *(f"--loose-performance-schema-{name}=0" for name in (
             "digests-size", "error-size", "max-statement-classes", "max-memory-classes",
             "events-statements-history-long-size", "events-waits-history-long-size",
             "events-stages-history-long-size", "events-transactions-history-long-size")))
NO_SCHEMA = "--performance-schema=OFF"

LOG_LINE = re.compile(r"\[(ERROR|Warning|Note)\] (?:\[MY-\d+\] \[\w+\] )?"      # none in 5.7
                      r"(?:Plugin keyring_aws reported: ')?(?:\[(KAWS-\d+)\] )(.*?)'?$", re.M)


@pytest.fixture(name="stage")
def stage_by_door(request):
    """A server that has not started; with BOTH_DOORS, a test meets it by each door."""
    with Stage(door=getattr(request, "param", "plugin")) as stage:
        yield stage


BOTH_DOORS = pytest.mark.parametrize("stage", [
    "plugin", pytest.param("component", marks=pytest.mark.needs("components"))], indirect=True)


class Stage:
    """An emulated KMS, a MySQL server with the plugin, its conf file and its data file.

    door        "plugin", or "component": the same file, which the server then loads as that
    settings    of the plugin, without their prefix; None takes one away
    """

    def __init__(self, door: str = "plugin", **settings: object) -> None:
        self.door = door
        if not PLUGIN.exists():
            pytest.fail(f"{PLUGIN} is not there: build it first, with make")
        self.certs = certificates()
        self.kms = Emulator(self.certs.good.cert, self.certs.good.key).start()
        try:
            self.db = MySQL(plugin=PLUGIN)
        except BaseException:
            self.kms.stop()
            raise
        self.expect = Expect(self.db.version)
        self.conf, self.data = self.db.folder / "conf", self.db.folder / "keyring" / "data"
        self.settings = {"cmk_id": KEY_ARN, "endpoint": self.kms.url, "ca_file": self.certs.ca,
                         "conf_file": self.conf, "data_file": self.data, **settings}
        self.marked = 0
        self.write_conf()

    def __enter__(self) -> "Stage":
        return self

    def __exit__(self, *_: object) -> None:
        self.db.kill()
        self.db.__exit__()
        self.kms.stop()
        assert not self.kms.crashes, self.kms.crashes

    # -- life

    def write_conf(self, access_key_id: str = ACCESS_KEY_ID, secret: str = SECRET) -> None:
        write_conf(self.conf, access_key_id, secret)

    def options(self, *extra: str, **settings: object) -> list[str]:
        """The command line that a my.cnf with these settings would be; for the component, its
        settings file and the manifest are written."""
        both = {name: value for name, value in {**self.settings, **settings}.items()
                if value is not None}
        if self.door == "component":
            self.db.components({COMPONENT: component_settings(both)})
            return [*QUICK, *extra]
        self.db.components(None)
        return [*QUICK, *plugin_options(both), *extra]

    def start(self, *extra: str, env: dict | None = None, **settings: object) -> "Stage":
        self.mark()
        self.db.start(*self.options(*extra, **settings), env=env)
        return self

    def restart(self, *extra: str, **settings: object) -> "Stage":
        assert self.db.stop() == 0, self.db.log()
        return self.start(*extra, **settings)

    def install_functions(self) -> None:
        self.db.install_keyring_udf()
        library = "keyring_aws.so" if self.door == "plugin" else f"{COMPONENT}.so"
        for name in FUNCTIONS:
            self.sql(f"CREATE FUNCTION {name} RETURNS INTEGER SONAME '{library}'")

    def loaded(self) -> bool:
        if self.door == "component":
            return self.rows()["Component_status"] == "Active"
        return bool(self.sql("SELECT 1 FROM information_schema.plugins WHERE plugin_name ="
                             " 'keyring_aws' AND plugin_status = 'ACTIVE'"))

    def renew(self) -> None:
        """An empty keyring instead of the one that is there."""
        if self.door == "component":    # which makes no new file in place of keys
            new = self.data.with_name("empty")
            new.touch(mode=0o600)
            new.write_bytes(self.empty)
            new.replace(self.data)
            self.sql(RELOAD)
            return
        self.uninstall()
        self.data.unlink()
        self.install()

    def use(self, **settings: object) -> None:
        """Changes settings while the server runs: by SET GLOBAL, or the settings file."""
        if self.door == "component":
            self.write_settings(**settings)
            self.sql(RELOAD)
            return
        self.sql("SET " + ", ".join(f"GLOBAL keyring_aws_{name} = %s" for name in settings),
                 tuple(settings.values()))

    def write_settings(self, **settings: object) -> None:
        """The component's settings file, with changes to what the server was started with."""
        both = {name: value for name, value in {**self.settings, **settings}.items()
                if value is not None}
        self.write_file(json.dumps(component_settings(both)))

    def write_file(self, text: str | bytes) -> None:
        """The component's settings file, whole or not at all, whatever is in it."""
        path = self.db.plugin_dir / f"{COMPONENT}.cnf"
        new = path.with_suffix(".new")
        new.touch(mode=0o600)
        new.write_bytes(text if isinstance(text, bytes) else text.encode())
        new.replace(path)

    def uninstall(self) -> None:
        """Until it is gone: while a call runs, the server only marks it for later, or refuses."""
        wait_for(self.let_go, 60)
        wait_for(lambda: not self.sql("SELECT 1 FROM information_schema.plugins"
                                      " WHERE plugin_name = 'keyring_aws'"))

    def let_go(self) -> bool:
        try:
            self.sql("UNINSTALL PLUGIN keyring_aws")
        except pymysql.err.MySQLError as error:
            if error.args[0] not in self.expect.busy:
                raise
            return False
        return True

    def install(self) -> None:
        self.sql("INSTALL PLUGIN keyring_aws SONAME 'keyring_aws.so'")

    # -- SQL

    def sql(self, query: str, values: object = None, **options: object) -> list[tuple]:
        return self.db.sql(query, values, **options)

    def one(self, query: str, values: object = None, **options: object) -> object:
        """The one value that a query answers with."""
        ((value,),) = self.sql(query, values, **options)
        return value

    def refused(self, query: str, values: object = None, **options: object) -> tuple[int, str]:
        """The number and text of the SQL error that a statement ends with."""
        with pytest.raises(pymysql.err.MySQLError) as caught:
            self.sql(query, values, **options)
        return caught.value.args

    def variable(self, name: str) -> object:
        return self.one(f"SELECT @@GLOBAL.keyring_aws_{name}")

    def rows(self) -> dict[str, str]:
        """What the component says of itself."""
        return dict(self.sql("SELECT * FROM performance_schema.keyring_component_status"))

    def status(self) -> dict[str, int | str]:
        """All are numbers, but for region_in_use."""
        if self.door == "component":
            rows = self.rows()
            hits = re.search(r"(\d+) hits", rows["Cache"])
            return {name: int(rows[name.capitalize()]) for name in (
                "keys", "kms_requests", "kms_errors")} | {
                    "cache_hits": int(hits[1]) if hits else 0,
                    "region_in_use": rows["Region_in_use"]}
        rows = self.sql("SHOW GLOBAL STATUS LIKE 'Keyring_aws_%'")
        return {name.removeprefix("Keyring_aws_"): value if "region" in name else int(value)
                for name, value in rows}

    def ask(self, query: str, *values: object, user: str = "root") -> object:
        """What a function of keyring_udf returns; None if the keyring fails, which servers before
        9.0 say by an error and later ones by NULL."""
        try:
            # named: else its name is its text, and in 5.7 that has the bytes of a key as they are
            value = self.one(f"SELECT {query} AS value", values, user=user)
        except pymysql.err.MySQLError as error:
            if error.args[0] not in self.expect.failing:
                raise
            return None
        assert value is not None or "fetch" in query or not self.expect.failing, query
        return value

    def generate(self, name: object, kind: str = "AES", size: int = 32, **who: str) -> int | None:
        return self.ask("keyring_key_generate(%s, %s, %s)", name, kind, size, **who)

    def store(self, name: object, kind: str, key: bytes, **who: str) -> int | None:
        return self.ask("keyring_key_store(%s, %s, %s)", name, kind, key, **who)

    def fetch(self, name: object, **who: str) -> bytes | None:
        value = self.ask("HEX(keyring_key_fetch(%s))", name, **who)
        return None if value is None else bytes.fromhex(value)

    def remove(self, name: object, **who: str) -> int | None:
        return self.ask("keyring_key_remove(%s)", name, **who)

    def listed(self) -> list[tuple[str, str]]:
        """The names that the performance schema has, in order; where it has none, the file's."""
        if not self.expect.keyring_keys:
            return sorted(self.entries())
        return sorted(self.sql("SELECT key_id, key_owner FROM performance_schema.keyring_keys"))

    # -- what was left behind

    def mark(self) -> None:
        """What the plugin says from now on is what said() tells."""
        self.marked = len(self.db.log(whole=True))

    def said(self, level: str) -> list[str]:
        """The plugin's lines of a level (ERROR, Warning, Note) since the mark."""
        return said(level, self.db.log(whole=True)[self.marked:])

    def tagged(self, tag: str) -> list[str]:
        """The plugin's lines with a tag such as KAWS-311 since the mark."""
        return [line for _, each, line in LOG_LINE.findall(self.db.log(whole=True)[self.marked:])
                if each == tag]

    def entries(self) -> dict[tuple[str, str], Entry]:
        """The data file's entries by (key id, user id), its checksums verified."""
        return {(each.key_id, each.user_id): each for each in read_data_file(self.data).entries}

    def plain(self, name: str, user: str = ROOT) -> bytes:
        """The key in the clear: the emulator can tell, and nothing is asked of the server."""
        file = read_data_file(self.data)
        (entry,) = [each for each in file.entries if (each.key_id, each.user_id) == (name, user)]
        return unseal(self.kms.key(entry.arn), entry.context(file.file_id), entry.blob)[0]


def plugin_options(settings: dict[str, object]) -> list[str]:
    return [EARLY, *(f"--keyring-aws-{name.replace('_', '-')}={value}"
                     for name, value in settings.items())]


def component_settings(settings: dict[str, object]) -> dict[str, object]:
    """The settings file of the component that says what these settings of the plugin say."""
    first = {name: settings[name] for name in ("cmk_id", "data_file", "read_only")
             if name in settings}
    ours = {name: value for name, value in settings.items() if name not in first}
    return {name: str(value) if isinstance(value, Path) else value
            for name, value in first.items()} | {
        "keyring_aws": {name: str(value) if isinstance(value, Path) else value
                        for name, value in ours.items()}}


def said(level: str, log: str) -> list[str]:
    """The plugin's lines of a level in an error log, without the tag that each has."""
    lines = LOG_LINE.findall(log)
    assert all(tag for _, tag, _ in lines), lines
    return [line for kind, _, line in lines if kind == level]


def heed_persisted_settings(stage: Stage) -> None:
    """With --no-defaults the server would ignore persisted settings, too."""
    empty = stage.db.folder / "my.cnf"
    empty.touch()
    options = stage.db._options()
    stage.db._options = lambda: [f"--defaults-file={empty}", *options[1:]]


RELOAD = "ALTER INSTANCE RELOAD KEYRING"
ASK_KMS = "SET GLOBAL keyring_aws_cmk_id = @@GLOBAL.keyring_aws_cmk_id"     # and changes nothing


def works(stage: Stage, query: str) -> bool:
    try:
        stage.sql(query)
    except pymysql.err.MySQLError:
        return False
    return True


def wait_for_kms(stage: Stage, query: str = "") -> None:
    """KMS is back. Until a probe finds that out, calls fail: within 5 s. Then the statement has
    worked; or, if there is none, generate() has made a key."""
    name = f"probe-{time.monotonic_ns()}"
    wait_for((lambda: works(stage, query)) if query else (lambda: stage.generate(name) == 1), 6)


@contextlib.contextmanager
def cursor(stage: Stage, **options: object):
    """A cursor on a connection of its own, for many statements."""
    with contextlib.closing(stage.db.connect(**options)) as connection:
        with connection.cursor() as each:
            yield each


class Client(threading.Thread):
    """Takes steps on a connection of its own; all that ends it before the last is a surprise."""
    over: tuple = ()                    # errors that are none

    def __init__(self, stage: Stage, name: str, steps: int) -> None:
        super().__init__()
        self.stage, self.stem, self.steps, self.surprises = stage, name, steps, []

    def run(self) -> None:
        try:
            with cursor(self.stage) as self.session:
                for number in range(self.steps):
                    self.step(f"{self.stem}_{number}")
        except self.over:
            pass
        except BaseException as error:
            self.surprises.append(error)

    def one(self, query: str, *values: object) -> object:
        """A value; None, too, where the keyring fails (see Stage.ask)."""
        try:
            self.session.execute(query, values)
        except pymysql.err.MySQLError as error:
            if error.args[0] not in self.stage.expect.failing:
                raise
            return None
        return self.session.fetchone()[0]
