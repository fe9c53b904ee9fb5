"""What the examples for the server's machine do, in earnest.

The Dockerfile's commands are run, each stage in a folder that has only what is copied there.  The
server with the result starts as the official image's entry script starts it, with the settings of
kubernetes.yaml.  And systemd itself, in namespaces of its own, starts a server with the drop-in.
"""

import contextlib
import getpass
import grp
import json
import os
import re
import shutil
import signal
import subprocess
from pathlib import Path

import pymysql
import pytest

from kms_emulator import ACCESS_KEY_ID, KEY_ARN, SECRET, Emulator
from mysql_fixtures import wait_for
from servers import BUILD, MySQL, clean_environment, mysqld, run_in_tree, tree
from test_examples import EXAMPLES, KEYRING, TOP, copied, manifest, stages
from versions import Expect

NOT_RUN = {                             # commands of the Dockerfile, and why they are not run here
    "apt-get update && apt-get install -y make": "it is here",
    "dnf install -y gcc libcurl-devel": "there is no dnf here, and gcc and libcurl are here",
}


class Image:
    """The stages of the Dockerfile: run(...) has done all that can be done here."""

    def __init__(self, folder: Path):
        self.folder, self.env = folder, dict(os.environ)
        without = folder / "without"        # only an empty bearssl.h, before the system's
        without.mkdir()
        (without / "bearssl.h").touch()
        self.env["CPATH"] = str(without)
        self.seen: set[str] = set()
        for number, (_, name, instructions) in enumerate(stages(
                (EXAMPLES / "Dockerfile").read_text())):
            self.root = folder / (name or f"stage{number}")
            self.root.mkdir()
            self.work = self.root
            for word, rest in instructions:
                getattr(self, word.lower())(rest)

    def place(self, path: str) -> Path:
        return self.root / path[1:] if path.startswith("/") else self.work / path

    def workdir(self, path: str) -> None:
        self.work = self.place(path)
        self.work.mkdir(parents=True)

    def copy(self, rest: str) -> None:
        options, what, where = copied(rest)
        source = self.folder / options["from"] if "from" in options else TOP
        into = self.place(where)
        for each in what:
            path = source / each.lstrip("/")
            if path.is_dir():
                shutil.copytree(path, into, dirs_exist_ok=True)
                continue
            into.mkdir(parents=True, exist_ok=True)     # ours all end in / or .
            shutil.copy(path, into)
            if "chmod" in options:
                (into / path.name).chmod(int(options["chmod"], 8))

    def run(self, command: str) -> None:
        self.seen.add(command)
        if command in NOT_RUN:
            return
        if command == "make standalone" and (BUILD / "bearssl-0.6").exists():
            shutil.copytree(BUILD / "bearssl-0.6", self.work / "build/bearssl-0.6")
        if self.work == self.root:          # the last stage: its / is a folder here
            command = command.replace(" /", f" {self.root}/").replace(
                "-o mysql -g mysql", f"-o {getpass.getuser()} -g {grp.getgrgid(os.getgid())[0]}")
            (self.root / "var/lib").mkdir(parents=True, exist_ok=True)
        done = subprocess.run(command, shell=True, cwd=self.work, env=self.env, text=True,
                              capture_output=True, check=False)
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"


@pytest.fixture(scope="module")
def image(tmp_path_factory):
    return Image(tmp_path_factory.mktemp("image"))


def test_the_dockerfile_makes_the_image(image):
    assert set(NOT_RUN) <= image.seen and len(image.seen) == 7
    plugins = image.root / "usr/lib64/mysql/plugin"
    assert (plugins / "component_keyring_aws.so").resolve() == plugins / "keyring_aws.so"
    needs = subprocess.run(["objdump", "-p", plugins / "keyring_aws.so"], text=True,
                           capture_output=True, check=True).stdout
    assert set(re.findall(r"NEEDED +(\S+)", needs)) == {"libcurl.so.4", "libc.so.6"}
    assert (image.root / KEYRING[1:]).stat().st_mode & 0o777 == 0o750


def test_the_manual_s_gcc_command_is_the_dockerfile_s(image):
    manual = " ".join((TOP / "tests/package/man/keyring_aws-server.md").read_text().split())
    (command,) = [each for each in image.seen if each.startswith("gcc ")]
    assert command in manual.replace(" \\ ", " ")


class Pod:
    """A server in the image, with the settings of kubernetes.yaml; paths are below a folder."""

    def __init__(self, image: Image, kms: Emulator):
        self.db = MySQL()
        root = self.db.folder / "root"
        shutil.copytree(image.root, root, symlinks=True)
        objects = manifest(EXAMPLES)
        ((file, text),) = objects["ConfigMap"]["data"].items()
        (container,) = objects["StatefulSet"]["spec"]["template"]["spec"]["containers"]
        self.args = container["args"][1:]
        settings = json.loads(text.replace("KMS_KEY_ARN", KEY_ARN).replace(KEYRING,
                                                                           f"{root}{KEYRING}"))
        settings["keyring_aws"] |= {"endpoint": kms.url, "start_seconds": 0}
        self.settings = root / "etc/mysql-keyring" / file
        now = self.settings.parent / "..2026/"          # as Kubernetes lays a ConfigMap
        now.mkdir(parents=True)
        (now / file).write_text(json.dumps(settings))
        (self.settings.parent / "..data").symlink_to("..2026")
        self.settings.symlink_to(f"..data/{file}")
        for link in (root / "usr/lib64/mysql/plugin").iterdir():
            if link.is_symlink() and str(link.readlink()).startswith(str(image.root)):
                target = root / link.readlink().relative_to(image.root)
                link.unlink()
                link.symlink_to(target)
        self.db.plugin_dir = root / "usr/lib64/mysql/plugin"
        self.db.argv0 = root / "usr/sbin/mysqld"
        self.db.argv0.touch(0o755)
        self.data = root / KEYRING[1:] / "keyring_aws_data"
        self.env = {"AWS_CONTAINER_CREDENTIALS_FULL_URI": kms.url + kms.secret_path}

    def once(self, *options: str) -> str:
        done = self.db.run_once(*self.args, *options, env=self.env)
        assert done.returncode == 0, done.stdout
        return done.stdout


@pytest.fixture
def kms():
    with Emulator() as emulator:
        yield emulator
    assert emulator.crashes == []


@pytest.fixture
def pod(image, kms):
    if not Expect(mysqld().version).components:
        pytest.skip("this server has no keyring components")
    made = Pod(image, kms)
    with made.db:
        yield made


def test_a_first_start_of_the_image_asks_nothing_of_kms(pod, kms):
    """Initialization and the temporary server, then the server: only the last one needs KMS."""
    kms.stop()
    said = pod.once("--initialize-insecure", "--default-time-zone=SYSTEM")
    assert "[KAWS-326]" in said and "[ERROR]" not in said and not pod.data.exists()
    pod.db.start(*pod.args, "--default-time-zone=SYSTEM", env=pod.env)     # without --daemonize
    pod.db.sql("ALTER USER root@localhost IDENTIFIED BY ''")
    assert pod.db.stop() == 0 and not pod.data.exists()
    kms.start()
    pod.db.start(*pod.args, env=pod.env)
    pod.db.sql("CREATE DATABASE secret")
    pod.db.sql("CREATE TABLE secret.t (n INT) ENCRYPTION = 'Y'")
    status = dict(pod.db.sql("SELECT * FROM performance_schema.keyring_component_status"))
    assert status["Component_status"] == "Active" and pod.data.exists()
    settings = json.loads(pod.settings.read_text())
    settings["keyring_aws"]["create"] = False           # as the manual says, and a new ConfigMap
    new = pod.settings.parent / "..2027"
    new.mkdir()
    (new / pod.settings.name).write_text(json.dumps(settings))
    (pod.settings.parent / "..tmp").symlink_to("..2027")
    (pod.settings.parent / "..tmp").rename(pod.settings.parent / "..data")
    pod.db.sql("ALTER INSTANCE RELOAD KEYRING")
    assert pod.db.stop() == 0
    pod.db.start(*pod.args, env=pod.env)
    assert pod.db.sql("SELECT COUNT(*) FROM secret.t") == [(0,)]


@pytest.mark.parametrize("kind", ["redo", "undo"])
def test_a_first_start_that_encrypts_its_logs_needs_kms(pod, kms, kind):
    options = ("--initialize-insecure", f"--innodb-{kind}-log-encrypt=ON")
    kms.stop()
    done = pod.db.run_once(*options, env=pod.env)
    assert done.returncode == 1 and "[KAWS-308]" in done.stdout
    shutil.rmtree(pod.db.data)
    kms.start()
    pod.once(*options)


def test_a_first_start_with_create_false_makes_the_database(pod):
    text = pod.settings.read_text().replace('"create": true', '"create": false')
    pod.settings.write_text(text)
    said = pod.once("--initialize-insecure")
    assert "[KAWS-324]" in said and (pod.db.data / "ibdata1").exists() and not pod.data.exists()


# ---- systemd -----------------------------------------------------------------------------------

# systemd as the first process of namespaces that end with it, in a control group of its own.
MACHINE = """
set -e
echo $$ > "$GROUP/cgroup.procs"
exec unshare --mount --pid --fork --kill-child --ipc --uts --cgroup sh -ec "$INSIDE"
"""
INSIDE = """
mount --make-rprivate /
mount -t tmpfs none /run
mount -t proc proc /proc
umount -l /sys/fs/cgroup
mount -t cgroup2 none /sys/fs/cgroup
mount -t tmpfs none /srv
mkdir /srv/tree
mount --bind "$TREE" /srv/tree
cp -r "$STAGED"/srv/* /srv
mount -t tmpfs none /var/lib
mkdir /var/lib/mysql /var/lib/mysql-files /var/lib/mysql-keyring
chown "$OWNER" /var/lib/mysql /var/lib/mysql-files /var/lib/mysql-keyring
chmod "$MODE" /var/lib/mysql /var/lib/mysql-files /var/lib/mysql-keyring
cp -r "$STAGED"/units /run
export container=lxc SYSTEMD_UNIT_PATH=/run/units
exec /lib/systemd/systemd --system --unit=mysql.target --log-target=console --show-status=no
"""
TARGET = "[Unit]\nDefaultDependencies=no\nWants=mysql.service\n"
NETWORK = "[Unit]\nDefaultDependencies=no\n"
PROGRAM = f"""#!/bin/sh
cat <<END
{json.dumps({"Version": 1, "AccessKeyId": ACCESS_KEY_ID, "SecretAccessKey": SECRET})}
END
"""
SERVICE = """[Unit]
DefaultDependencies=no
[Service]
Type=notify
User=nobody
ExecStartPre={mysqld} --initialize-insecure
ExecStart={mysqld} --log-error-verbosity=3
RuntimeDirectory=mysqld
LimitNOFILE=10000
StandardOutput=file:/srv/log
StandardError=append:/srv/log
"""


def cgroups() -> str:
    """Where this process's own control group is, in the hierarchy of version 2."""
    mounted = re.findall(r"(?m)^\S+ (\S+) cgroup2 ", Path("/proc/self/mounts").read_text())
    (own,) = re.findall(r"(?m)^0::(/.*)$", Path("/proc/self/cgroup").read_text())
    if not mounted:
        pytest.skip("no control groups of version 2 are mounted, and systemd needs them")
    return mounted[0] + own


class Machine:
    """A machine on which systemd has started mysql.service with the drop-in."""

    def __init__(self, staged: Path, kms: Emulator, drop_in: str, owner: str, mode: str):
        self.log = staged / "log"
        (staged / "srv/plugin").mkdir(parents=True)
        (staged / "srv/bin").mkdir()
        shutil.copy(BUILD / "keyring_aws.so", staged / "srv/plugin/component_keyring_aws.so")
        (staged / "srv/plugin/component_keyring_aws.cnf").write_text(json.dumps({
            "cmk_id": KEY_ARN, "data_file": f"{KEYRING}/keyring_aws_data",
            "aws_authentication": {"mode": "native"},
            "keyring_aws": {"endpoint": kms.url, "cache_seconds": 60, "profile": "mysql",
                            "config_file": "/srv/bin/config"}}))
        (staged / "srv/bin/config").write_text(
            "[profile mysql]\ncredential_process = /srv/bin/credentials\n")
        (staged / "srv/bin/credentials").write_text(PROGRAM)
        (staged / "srv/bin/credentials").chmod(0o755)
        shutil.copy(EXAMPLES / "mysqld.my", staged / "srv/bin")
        units = staged / "units"
        (units / "mysql.service.d").mkdir(parents=True)
        (units / "mysql.service.d/keyring_aws.conf").write_text(drop_in)
        (units / "mysql.target").write_text(TARGET)
        (units / "network-online.target").write_text(NETWORK)
        (units / "mysql.service").write_text(SERVICE.format(
            mysqld=self.command()))
        self.group = Path(cgroups(), f"kaws-{staged.parent.name}-{staged.name}")
        self.group.mkdir()
        env = clean_environment({"TREE": str(tree(["mysql"])), "STAGED": str(staged),
                                 "GROUP": str(self.group), "INSIDE": INSIDE, "OWNER": owner,
                                 "MODE": mode})
        with open(self.log, "wb") as log:
            self.process = subprocess.Popen(["sh", "-c", MACHINE], env=env, stdout=log, stderr=log,
                                            stdin=subprocess.DEVNULL, start_new_session=True)

    @staticmethod
    def command() -> str:
        argv, _ = run_in_tree(
            "mysqld", "--no-defaults", "--basedir=/srv/tree/usr", "--datadir=/var/lib/mysql",
            "--lc-messages-dir=/srv/tree/usr/share/mysql", "--plugin-dir=/srv/plugin",
            "--socket=/run/mysqld/s", "--pid-file=/run/mysqld/pid", "--skip-networking",
            "--skip-log-bin", "--loose-mysqlx=OFF", "--innodb-buffer-pool-size=32M",
            "--loose-innodb-redo-log-capacity=16M", argv0="/srv/bin/mysqld")
        return " ".join(argv).replace(str(tree(["mysql"])), "/srv/tree")

    @property
    def first(self) -> int | None:
        """systemd's process, as it is called here."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text()
        return int(children.split()[0]) if children else None

    def inside(self, path: str) -> Path:
        return Path(f"/proc/{self.first}/root{path}")

    def said(self) -> str:
        with contextlib.suppress(OSError):
            return self.log.read_text() + self.inside("/srv/log").read_text(errors="replace")
        return self.log.read_text()

    def sql(self, query: str) -> list[tuple]:
        with pymysql.connect(unix_socket=str(self.inside("/run/mysqld/s")), user="root",
                             autocommit=True) as connection:
            with connection.cursor() as cursor:
                cursor.execute(query)
                return list(cursor.fetchall())

    def answers(self) -> bool:
        with contextlib.suppress(pymysql.err.OperationalError, OSError):
            return bool(self.sql("SELECT 1"))
        return False

    def end(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(30)
        wait_for(self.group_is_gone, 10)

    def group_is_gone(self) -> bool:
        with contextlib.suppress(OSError):              # the last process is ending still
            for folder in sorted(self.group.rglob("*/"), reverse=True):
                if folder.is_dir():
                    folder.rmdir()
            self.group.rmdir()
        return not self.group.exists()


@pytest.fixture
def machine(tmp_path, kms):
    """machine(drop_in, owner and mode of the folders): a Machine, when its server answers."""
    if os.geteuid() or mysqld().program or not Expect(mysqld().version).components:
        pytest.skip("this needs root, and Debian's server")
    made = []

    def make(drop_in: str, owner: str = "nobody", mode: str = "750") -> Machine:
        made.append(Machine(tmp_path / str(len(made)), kms, drop_in, owner, mode))
        wait_for(lambda: made[-1].answers() or made[-1].process.poll() is not None, 60)
        assert made[-1].answers(), made[-1].said()
        return made[-1]

    yield make
    for each in made:
        each.end()


@pytest.mark.parametrize("owner, mode", [("nobody", "750"), ("root:nogroup", "2770")],
                         ids=["as-packages-do", "as-fsGroup-does"])
def test_a_server_under_systemd_lives_with_all_lines_of_the_drop_in(machine, owner, mode):
    """It gets its credentials from a program, encrypts, and caches keys in locked memory. The lines
    are in force, as the kernel says."""
    text = (EXAMPLES / "keyring_aws.service.conf").read_text()
    server = machine(text, owner, mode)
    server.sql("CREATE DATABASE secret")
    server.sql("CREATE TABLE secret.t (n INT) ENCRYPTION = 'Y'")
    server.sql("INSERT INTO secret.t VALUES (7)")
    server.sql("ALTER INSTANCE ROTATE INNODB MASTER KEY")
    said = server.said()
    bad = r"\[ERROR\]|KAWS-153|KAWS-10[34]\] the data file"      # its folder, too
    assert not [line for line in said.splitlines() if re.search(bad, line)]
    pid = server.inside("/run/mysqld/pid").read_text().strip()
    status = server.inside(f"/proc/{pid}/status").read_text()
    for line in ("NoNewPrivs:\t1", "Seccomp:\t2", "CapBnd:\t0000000000000000"):
        assert line in status, line
    assert re.search(r"Max locked memory +1048576 +1048576", server.inside(
        f"/proc/{pid}/limits").read_text())
    assert re.search(r"(?m)^\S+ / \S+ (?:ro|\S+,ro)\b", server.inside(
        f"/proc/{pid}/mounts").read_text()), "the root is read-only"


def test_a_drop_in_that_forgets_the_keyring_s_folder_shows(machine):
    text = (EXAMPLES / "keyring_aws.service.conf").read_text()
    server = machine(text.replace(f"ReadWritePaths={KEYRING} ", "ReadWritePaths="))
    server.sql("CREATE DATABASE secret")
    with pytest.raises(pymysql.err.MySQLError):
        server.sql("CREATE TABLE secret.t (n INT) ENCRYPTION = 'Y'")
    assert "Read-only file system" in server.said()
