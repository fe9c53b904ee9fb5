"""What a MySQL server with the plugin does, beside one with MySQL's component_keyring_file."""

import contextlib
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

import harness
from harness import ARN, Canned, Row, fold, part, times

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
                                "ahead", mine < peer))
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
