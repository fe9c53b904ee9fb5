"""Measures a MySQL server with the plugin, and one with MySQL's component_keyring_file."""

import contextlib
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

import harness
from harness import ARN, Canned, Row, fold, long_part, part, times

SIZES = (0, 100, 1000, 2000, 10000, 100000)


class Ours:
    """A server with the plugin, and its data file to be exchanged."""

    def __init__(self, url: str) -> None:
        from servers import MySQL
        self.db = MySQL(plugin=harness.TOP / "build" / "keyring_aws.so")
        self.data, self.made = self.db.folder / "keyring" / "data", 0
        conf = self.db.folder / "conf"
        conf.write_text("AKIDEXAMPLE\nnot-a-real-secret\n")
        conf.chmod(0o600)
        self.data.parent.mkdir()
        self.db.start(f"--loose-keyring-aws-cmk-id={ARN}", f"--loose-keyring-aws-endpoint={url}",
                      f"--loose-keyring-aws-conf-file={conf}",
                      f"--loose-keyring-aws-data-file={self.data}")
        self.db.install_keyring_udf()
        self.connection = self.db.connect()
        self.installed = False

    def run(self, statement: str) -> float:
        """Milliseconds that a statement takes; its one value, if it has one, must be 1."""
        with self.connection.cursor() as cursor:
            start = time.perf_counter()
            cursor.execute(statement)
            rows = cursor.fetchall()
            took = time.perf_counter() - start
        if rows and rows != ((1,),):
            sys.exit(f"bench: {statement} answered {rows}:\n{self.db.log()[-2000:]}")
        return took * 1000

    def load(self, count: int) -> float:
        """A keyring of so many keys; the milliseconds that it takes to install the plugin."""
        if self.installed:
            self.run("UNINSTALL PLUGIN keyring_aws")
        subprocess.run([harness.OUT / "micro", "make", self.data, str(count)], check=True)
        self.data.chmod(0o600)
        self.installed = True
        return self.run("INSTALL PLUGIN keyring_aws SONAME 'keyring_aws.so'")

    def generate(self) -> float:
        self.made += 1
        return self.run(f"SELECT keyring_key_generate('new-{self.made}', 'AES', 32)")

    def threads(self) -> int:
        return len(list(Path(f"/proc/{self.db.process.pid}/task").iterdir()))

    def stop(self) -> None:
        self.connection.close()
        self.db.kill()
        self.db.__exit__()


class Theirs(Ours):
    """A server with MySQL's component_keyring_file."""

    def __init__(self) -> None:
        from servers import MySQL, _short_folder
        self.data, self.made = _short_folder() / "keys", 0
        self.db = MySQL(components={"component_keyring_file":
                                    {"path": str(self.data), "read_only": False}})
        self.db.start()
        self.db.install_keyring_udf()
        self.connection = self.db.connect()

    def load(self, count: int) -> float:
        keys = [{"user": "root@localhost", "data_id": f"bench-{n:07}", "data_type": "AES",
                 "data": f"{n:064X}", "extension": []} for n in range(count)]
        self.data.write_text(json.dumps({"version": "1.0", "elements": keys},
                                        separators=(",", ":")))
        return self.run("ALTER INSTANCE RELOAD KEYRING")


@part
def in_mysql(kms: Canned, shared: dict) -> list[Row]:
    rows, figures = [], {}
    with contextlib.ExitStack() as stack:
        ours, theirs = Ours(kms.at_once), Theirs()
        stack.callback(ours.stop)
        stack.callback(theirs.stop)
        version = ".".join(map(str, ours.db.version))
        before = ours.threads()
        for count in SIZES if not harness.QUICK else SIZES[:3]:
            ours.load(count)
            theirs.load(count)
            samples = [], []
            for _ in range(times(8 if count <= 10000 else 3, 2)):
                for server, took in zip((ours, theirs), samples):
                    os.sync()       # or our sync would write what the peer left unwritten
                    took += [server.generate() for _ in range(6)][1:]
            figures[count] = tuple(map(statistics.median, samples))
        more = ours.threads() - before
        rows += start(ours, kms, shared)
    for count in (0, 2000, 10000):
        if count in figures:
            mine, peer = figures[count]
            flat = mine / figures[0][0]
            rows.insert(-1, Row(f"key_generate in MySQL {version}, {count:,} keys",
                                f"{mine:.2f} ms", f"{peer:.2f} ms component_keyring_file, unsynced",
                                f"{fold(peer / mine)} faster; {fold(flat)} of 0 keys",
                                "ahead", mine < peer, "the component does not sync its file, and"
                                " with few keys that is the difference: see commit"))
    shared.update(threads=more, figures=figures, version=version)
    return rows


def start(ours: Ours, kms: Canned, shared: dict) -> list[Row]:
    """How long the plugin's start takes, all that the server does for any plugin included."""
    kms.ask(kms.at_once, "/latency/5")
    samples = []
    for _ in range(times(15, 2)):
        another = ours.run("INSTALL PLUGIN mysql_no_login SONAME 'mysql_no_login.so'")
        ours.run("UNINSTALL PLUGIN mysql_no_login")
        samples.append((ours.load(10000), another))
    kms.ask(kms.at_once, "/latency/0")
    took, another = map(statistics.median, zip(*samples))
    return [Row("start, 10,000 keys, KMS takes 5 ms", f"{took:.1f} ms INSTALL PLUGIN",
                f"10 ms of KMS, asked twice; {another:.1f} ms to install mysql_no_login", "",
                "60 ms", took < 60)]


# ---- many encrypted tables -------------------------------------------------------------------

TABLES, CREATED = 1000, 20
PEER, COMPONENT = "component_keyring_file", "component_keyring_aws"
HANGS_MS = 86400000


class Many:
    """A server whose data folder, with many encrypted tables, is a copy of one made once; with
    the plugin or our component and a KMS, or with MySQL's component_keyring_file."""

    def __init__(self, url: str | None, door: str = "plugin") -> None:
        from servers import MySQL, _once
        self.url, self.door, self.tables = url, door, times(TABLES, 20)
        self.db = MySQL(plugin=harness.TOP / "build" / "keyring_aws.so")
        self.keys = self.db.folder / "keyring" / "data"
        self.keys.parent.mkdir()
        self.conf = self.db.folder / "conf"
        self.conf.write_text("AKIDEXAMPLE\nnot-a-real-secret\n")
        self.conf.chmod(0o600)
        if url is None:
            self.db.components({PEER: {"path": str(self.keys), "read_only": False}})
        kind = "-".join([*map(str, self.db.version), "ours" if url else "theirs"])
        made = harness.OUT / f"tables-{kind}-{self.tables}"
        _once(made, (made / "keys").exists, self.make)
        if not self.db.data.exists():
            copy(made / "data", self.db.data)
            copy(made / "keys", self.keys)

    def make(self, folder: Path) -> None:
        """The folder that is copied; its server is this one, stopped in good order."""
        self.start()
        self.run("CREATE DATABASE d")
        for number in range(self.tables):
            self.create(f"t{number}")
        self.stop()
        copy(self.db.data, folder / "data")
        copy(self.keys, folder / "keys")

    def options(self, cache: int) -> list[str]:
        if self.url is None:
            return []
        settings = {"cmk-id": ARN, "endpoint": self.url, "conf-file": self.conf,
                    "data-file": self.keys, **({"cache-seconds": cache} if cache else {})}
        if self.door == "component":
            self.db.components({COMPONENT: {
                "cmk_id": ARN, "data_file": str(self.keys), "keyring_aws": {
                    "endpoint": self.url, "conf_file": str(self.conf), "cache_seconds": cache}}})
            return []
        return ["--early-plugin-load=keyring_aws=keyring_aws.so",
                *(f"--keyring-aws-{name}={value}" for name, value in settings.items())]

    def start(self, cache: int = 0) -> float:
        """Milliseconds until it answers; looked at often, because a goal is 5% of them."""
        began = time.perf_counter()
        self.db.start(*self.options(cache), wait=False)
        while not self.db.ready():
            if self.db.process.poll() is not None or time.perf_counter() > began + 600:
                sys.exit(f"bench: a server did not start:\n{self.db.log()[-2000:]}")
            time.sleep(0.002)
        took = time.perf_counter() - began
        self.connection = self.db.connect()
        return took * 1000

    def run(self, statement: str) -> float:
        with self.connection.cursor() as cursor:
            began = time.perf_counter()
            cursor.execute(statement)
            return (time.perf_counter() - began) * 1000

    def create(self, name: str) -> float:
        return self.run(f"CREATE TABLE d.{name} (n INT PRIMARY KEY) ENCRYPTION = 'Y'")

    def create_some(self) -> float:
        """Milliseconds that one CREATE TABLE takes."""
        took = [self.create(f"new{number}") for number in range(times(CREATED, 3))]
        for number in range(len(took)):
            self.run(f"DROP TABLE d.new{number}")
        return statistics.median(took)

    def stop(self) -> None:
        self.connection.close()
        if self.db.stop() != 0:
            sys.exit(f"bench: a server did not stop:\n{self.db.log()[-2000:]}")

    def close(self) -> None:
        self.db.kill()
        self.db.__exit__()


def copy(source: Path, target: Path) -> None:
    subprocess.run(["cp", "-a", "--reflink=auto", source, target], check=True)


STEPS = (       # what is done in a round, its name, the goals with the cache: times, requests, and
                # why they may be missed
    (Many.start, "start of mysqld", 1.05, 20, "30 ms of it are KMS's; most of it is the disk's,"
     " which is not the same in two starts of one server either"),
    (lambda server, cache: server.run("ALTER INSTANCE ROTATE INNODB MASTER KEY"),
     "ALTER INSTANCE ROTATE INNODB MASTER KEY", 1.1, 10, "20 ms of it are KMS's, 4 ms sync the new"
     " key, 3 ms are 1,000 fetches; the rest reads 1,000 pages from the disk, as the peer does"),
    (lambda server, cache: server.create_some(), "CREATE TABLE ... ENCRYPTION = 'Y'", 1.1, None,
     ""))


def one_round(server: Many, cache: int) -> list[tuple[float, int]]:
    """Each step's milliseconds, and its requests to KMS."""
    os.sync()
    done = []
    for step, *_ in STEPS:
        before = Canned.ask(server.url)[1] if server.url else 0
        took = step(server, cache)
        done.append((took, Canned.ask(server.url)[1] - before if server.url else 0))
    server.stop()
    return done


def step_rows(ours: Many, theirs: Many, cache: int) -> list[Row]:
    """The least of the rounds counts: InnoDB waits for the disk most of the time, and what else
    the machine does only adds to that."""
    door = f", {COMPONENT}" if ours.door == "component" else ""
    rounds = [[one_round(server, cache) for server in (ours, theirs)]
              for _ in range(times(7 if cache else 3, 1))]
    rows = []
    for number, (_, what, most, requests, why) in enumerate(STEPS):
        mine, peer = (min(each[who][number][0] for each in rounds) for who in (0, 1))
        asked = max(each[0][number][1] for each in rounds)
        per = 1 if requests else times(CREATED, 3)
        name = f"{what}, {ours.tables:,} encrypted tables, KMS takes 10 ms{door}"
        goal = f"{most}x" + (f", {requests} requests" if requests else "")
        met = mine <= most * peer and (not requests or asked <= requests)
        rows.append(Row(name + (f", cache {cache} s" if cache else ""), ms(mine),
                        f"{ms(peer)} {PEER}", f"{fold(mine / peer)}; {asked / per:,.0f} requests",
                        goal if cache else "", met if cache else None, why))
    return rows


def ms(value: float) -> str:
    return f"{value / 1000:.2f} s" if value >= 1000 else f"{value:.3g} ms"


@long_part
def many_tables(kms: Canned, shared: dict) -> list[Row]:
    with contextlib.ExitStack() as stack:
        servers = []
        for url, door in ((kms.after_10, "plugin"), (kms.after_10, "component"), (None, "")):
            servers.append(Many(url, door))
            stack.callback(servers[-1].close)
        plugin, component, theirs = servers
        return [*step_rows(plugin, theirs, 0), *step_rows(plugin, theirs, 60),
                *step_rows(component, theirs, 60)]


@long_part
def start_while_kms_hangs(kms: Canned, shared: dict) -> list[Row]:
    """KMS accepts and never answers; all settings have their defaults."""
    most, goal = times(120, 20), 45
    with Canned() as hanging, contextlib.closing(Many(hanging.at_once)) as server:
        hanging.ask(hanging.at_once, f"/latency/{HANGS_MS}")
        asked, began = [], time.monotonic()
        server.db.start(*server.options(0), wait=False)
        while not (up := server.db.ready()) and time.monotonic() < began + most:
            asked.append((time.monotonic() - began, hanging.ask(hanging.at_once)[1]))
            time.sleep(0.2)
        took = time.monotonic() - began
    name = f"start of mysqld, {server.tables:,} encrypted tables, KMS hangs, defaults"
    goal_text = f"{goal} s"
    if up:
        return [Row(name, f"{took:.1f} s", "", "", goal_text, took <= goal)]
    pace = (asked[-1][1] - asked[len(asked) // 2][1]) / (asked[-1][0] - asked[len(asked) // 2][0])
    whole = f"{server.tables / pace / 3600:.1f} h at this pace" if pace else "no end in sight"
    return [Row(name, f"not up after {most} s", "", f"{asked[-1][1]} requests, {whole}", goal_text,
                False, "each table's fetch waits for keyring_aws_timeout")]
