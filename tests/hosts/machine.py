#!/usr/bin/python3
"""A clean machine, on which commands of the manual run as they stand; for root.

    machine.py start NAME               makes a machine that stays until it is stopped
    machine.py run NAME ['COMMAND']     runs a command on it, or a shell; a command has the
                                        variables, functions and folder that the last one left
    machine.py stop NAME                ends it, with all that is on it
    machine.py try ['COMMAND']          a machine for one command, or for one shell

    with Machine() as machine:
        done = machine.run("systemctl restart mysql && mysql -e 'SELECT 1'")

It is this machine's own system under an overlay, so it has the same programs, but real paths of its
own: what is written there is kept in memory, and gone at the end.  Its processes, network, mounts
and users are its own, too.  On it is:

  * a copy of this checkout in ~/keyring_aws, without what was built
  * MySQL as a distribution's package installs it: /usr/sbin/mysqld, /usr/bin/mysql, the user mysql,
    /usr/lib/mysql/plugin, /etc/mysql, /var/lib/mysql, /var/log/mysql.  It is the server that the
    tests use (servers.py), and is started by `systemctl start mysql`: there is no systemd, but a
    small program of that name.
  * AWS at its own names, with a certificate that the machine trusts (aws_account.py): an account
    with nothing in it but an administrator, whose credentials are in ~/.aws, an EKS cluster named
    blue, and the EC2 instance that this machine is: `cat ~/instance` says its id.

There is no other network: only packages that are installed here can be "installed" there.  What
else is not as it seems is in STAND_INS.
"""

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Iterator

import servers
from servers import BUILD, ServerError, clean_environment

HERE = Path(__file__).resolve().parent
TOP = HERE.parents[1]
NAMED = Path("/run/kaws-machines")              # for machines with a name, a link to their folder
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
HOME, REGION = "/root", "eu-west-1"
REGIONS = ("us-east-1", "us-east-2", "us-west-2", "eu-west-1", "eu-central-1", "ap-southeast-2")
SERVICES = ("kms", "sts", "ec2", "eks", "iam", "cloudformation", "api.ecr")
PLUGINS, SOCKET = "/usr/lib/mysql/plugin", "/run/mysqld/mysqld.sock"

MY_CNF = f"""\
[mysqld]
pid-file  = /run/mysqld/mysqld.pid
socket    = {SOCKET}
datadir   = /var/lib/mysql
log-error = /var/log/mysql/error.log
plugin-dir = {PLUGINS}
bind-address = 127.0.0.1
[client]
socket    = {SOCKET}
"""
# A server for tests: less memory, and less to write.
SMALL = """\
[mysqld]
innodb-buffer-pool-size = 32M
innodb-doublewrite = OFF
innodb-flush-method = fsync
innodb-use-native-aio = OFF
loose-innodb-numa-interleave = OFF
loose-innodb-redo-log-capacity = 16M
loose-mysqlx = OFF
"""

# Ubuntu's package has such a profile, with more rules.
APPARMOR = """\
include <tunables/global>
/usr/sbin/mysqld {
  include <abstractions/base>
  include <abstractions/mysql>
  /usr/sbin/mysqld mr,
  include <local/usr.sbin.mysqld>
}
"""

POD = f'exec python3 {HOME}/keyring_aws/tests/hosts/pod.py'
STAND_INS = {   # programs that cannot run here: why not, and a script that is there instead
    "scp": ("there is no other machine: it copies", 'to=${2#*:}; exec cp "$1" "${to:-$HOME/}"'),
    "apparmor_parser": ("not every kernel has AppArmor: it parses, and loads nothing",
                        'exec /usr/sbin/apparmor_parser -Q -K "$@"'),
    "docker": ("there is no container engine: it makes this machine the image",
               f'{POD} docker "$@"'),
    "kubectl": ("there is no cluster: it runs the pod on this machine, as the manifest says",
                f'{POD} kubectl "$@"'),
    "aws": ("Debian's does not know Pod Identity's one call, which is made here",
            '[ "$2" != create-pod-identity-association ] || { shift 2; '
            f'{POD} associate "$@"; }}\nexec /usr/bin/aws "$@"'),
    "systemctl": ("there is no systemd: it starts and stops mysqld", ""),
}

SYSTEMCTL = '''\
#!/usr/bin/python3
"""systemctl start|stop|restart|status mysql, where there is no systemd (machine.py)."""
import os, pathlib, signal, socket, subprocess, sys, time

PID, SOCKET = pathlib.Path("/run/mysqld.main"), "/run/mysqld/mysqld.sock"
ENVIRONMENT = {"PATH": os.environ["PATH"], "LANG": "C.UTF-8"}


def running():
    """The server's process id, or 0."""
    try:
        pid = int(PID.read_text())
        state = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        return pid if state != "Z" else 0
    except (OSError, ValueError):
        return 0


def answers():
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(5)
        try:
            client.connect(SOCKET)
            return bool(client.recv(1))
        except OSError:
            return False


def start():
    if running():
        return 0
    subprocess.run(["install", "-d", "-o", "mysql", "-g", "mysql", "/run/mysqld"], check=True)
    with open("/var/log/mysql/stdout", "ab") as out:
        server = subprocess.Popen(
            ["setpriv", "--reuid", "mysql", "--regid", "mysql", "--init-groups",
             "/usr/sbin/mysqld"], env=ENVIRONMENT, cwd="/", stdin=subprocess.DEVNULL,
            stdout=out, stderr=out, start_new_session=True)
    PID.write_text(str(server.pid))
    end = time.monotonic() + 120
    while server.poll() is None and time.monotonic() < end:
        if answers():
            return 0
        time.sleep(0.05)
    print("Job for mysql.service failed. See /var/log/mysql/error.log for details.",
          file=sys.stderr)
    return 1


def stop():
    end, pid = time.monotonic() + 120, running()
    if pid:
        os.kill(pid, signal.SIGTERM)
    while running():
        if time.monotonic() > end:
            os.kill(pid, signal.SIGKILL)
        time.sleep(0.05)
    return 0


def status():
    print("Active:", "active (running)" if running() else "inactive (dead)")
    return 0 if running() else 3


DO = {"start": start, "stop": stop, "restart": lambda: stop() or start(), "status": status}
if len(sys.argv) != 3 or sys.argv[1] not in DO or sys.argv[2] not in ("mysql", "mysqld"):
    sys.exit("usage: systemctl start|stop|restart|status mysql")
sys.exit(DO[sys.argv[1]]())
'''


def why_not() -> str:
    """Why no machine can be made here; "": one can."""
    if os.geteuid():
        return "only root can make a clean machine"
    missing = [name for name in ("unshare", "nsenter", "ip", "setpriv") if not shutil.which(name)]
    if missing:
        return f"a clean machine needs {' and '.join(missing)}"
    if not Path("/usr/bin/aws").exists():
        return "a clean machine needs Debian's package awscli"
    with tempfile.TemporaryDirectory() as folder:
        trial = (f"mount -t tmpfs none {folder} && cd {folder} && mkdir u w r && mount -t overlay"
                 " -o lowerdir=/,upperdir=u,workdir=w none r && ip link set lo up")
        done = subprocess.run(["unshare", "-m", "-n", "-p", "-i", "-u", "-f", "sh", "-c", trial],
                              check=False, capture_output=True, text=True)
    return f"no clean machine can be made here: {done.stderr.strip()}" if done.returncode else ""


# ---- making one: as process 1 of its namespaces, which still sees this system's files ------------

class Maker:
    """Lays out a machine's files in `root`, an overlay on this system."""

    def __init__(self, folder: Path, region: str) -> None:
        self.folder, self.region = folder, region
        self.root = folder / "root"

    def make(self) -> None:
        self.mount()
        self.network()
        self.install_mysql()
        self.copy_checkout()
        aws = self.start_aws()
        self.administrator(aws)

    def at(self, path: str) -> Path:
        return self.root / path.lstrip("/")

    def write(self, path: str, text: str, mode: int = 0o644) -> None:
        place = self.at(path)
        place.parent.mkdir(parents=True, exist_ok=True)
        place.unlink(missing_ok=True)
        place.write_text(text)
        place.chmod(mode)

    def inside(self, *argv: str) -> None:
        run("chroot", self.root, *argv)

    def mount(self) -> None:
        run("mount", "--make-rprivate", "/")
        run("mount", "-t", "tmpfs", "-o", "mode=755", "none", self.folder)
        for name in ("upper", "work", "root"):
            (self.folder / name).mkdir()
        run("mount", "-t", "overlay", "-o", f"lowerdir=/,upperdir={self.folder}/upper,"
            f"workdir={self.folder}/work", "none", self.root)
        for place in ("/tmp", "/root", "/home", "/run", "/usr/local", "/opt", "/mnt", "/srv"):
            self.at(place).mkdir(exist_ok=True)
            mode = {"/tmp": "1777", "/root": "700"}.get(place, "755")
            run("mount", "-t", "tmpfs", "-o", f"mode={mode}", "none", self.at(place))
        run("mount", "-t", "proc", "proc", self.at("/proc"))
        run("mount", "--rbind", "/dev", self.at("/dev"))
        run("mount", "--rbind", "/sys", self.at("/sys"))
        for place in ("bin", "sbin", "lib", "share/ca-certificates"):
            self.at(f"/usr/local/{place}").mkdir(parents=True)

    def network(self) -> None:
        run("ip", "link", "set", "lo", "up")
        for address in ("169.254.169.254", "169.254.170.23"):
            run("ip", "address", "add", f"{address}/32", "dev", "lo")
        names = [f"{service}.{region}.amazonaws.com" for service in SERVICES
                 for region in REGIONS] + ["iam.amazonaws.com", "sts.amazonaws.com"]
        self.write("/etc/hosts", "127.0.0.1 localhost db1\n::1 localhost\n" + "".join(
            f"127.0.0.1 {name}\n" for name in names))
        self.write("/etc/hostname", "db1\n")
        self.write("/etc/apt/apt.conf.d/no-network", 'Acquire::Retries "0"; Dpkg::Use-Pty "0";\n')
        socket.sethostname("db1")
        names = [*(name for name in names if name.startswith("api.")), "*.amazonaws.com",
                 *(f"*.{region}.amazonaws.com" for region in REGIONS)]
        (self.folder / "ca.conf").write_text(servers.CA_CONF)
        servers._request(self.folder, "aws", "-x509", "-days", "30",
                         "-addext", "basicConstraints=critical,CA:TRUE",
                         "-addext", "subjectAltName=" + ",".join(f"DNS:{name}" for name in names))
        shutil.copy(self.folder / "aws.crt", self.at("/usr/local/share/ca-certificates"))
        self.inside("update-ca-certificates")

    # -- MySQL

    def install_mysql(self) -> None:
        server = servers.mysqld()
        run("chroot", self.root, "sh", "-c", "getent passwd mysql || useradd --system"
            " --user-group --home-dir /nonexistent --shell /bin/false mysql")
        shutil.rmtree(self.at("/etc/mysql"), ignore_errors=True)
        self.write("/etc/mysql/my.cnf", "!includedir /etc/mysql/conf.d/\n")
        self.write("/etc/mysql/conf.d/mysqld.cnf", MY_CNF)
        self.write("/etc/mysql/conf.d/small.cnf", SMALL)
        self.at(PLUGINS).mkdir(parents=True, exist_ok=True)
        self.programs(server)
        for library in server.plugins.glob("*.so"):
            shutil.copy(library, self.at(PLUGINS))
        for name, mode in (("mysql", 0o700), ("mysql-files", 0o700)):
            shutil.rmtree(self.at(f"/var/lib/{name}"), ignore_errors=True)
            self.at(f"/var/lib/{name}").mkdir(mode=mode)
        self.at("/var/log/mysql").mkdir(exist_ok=True)
        kind = "-".join((".".join(map(str, server.version)), server.mark)).rstrip("-")
        run("cp", "-a", f"{BUILD / 'tests' / f'mysql-{kind}'}/.", self.at("/var/lib/mysql"))
        self.inside("chown", "-R", "mysql:mysql", "/var/lib/mysql", "/var/lib/mysql-files",
                    "/var/log/mysql")
        for name, (_, script) in STAND_INS.items():
            self.write(f"/usr/local/bin/{name}",
                       f"#!/bin/sh\n{script}\n" if script else SYSTEMCTL, 0o755)
        self.write("/etc/apparmor.d/usr.sbin.mysqld", APPARMOR)
        self.write("/etc/apparmor.d/local/usr.sbin.mysqld", "")

    def programs(self, server: servers.Mysqld) -> None:
        """mysqld and mysql: scripts, because those of the tree need its loader and libraries."""
        share = self.at("/usr/share/mysql")
        if share.exists() or share.is_symlink():
            run("mv", share, f"{share}.old")
        share.symlink_to("/opt/mysql/usr/share/mysql")
        tree = servers.tree(["mysql"])
        self.at("/opt/mysql").mkdir()
        run("mount", "--bind", tree.resolve(), self.at("/opt/mysql"))
        run("mount", "-o", "remount,bind,ro", self.at("/opt/mysql"))
        for name, place in (("mysqld", "/usr/sbin/mysqld"), ("mysql", "/usr/bin/mysql")):
            (loader, *argv), _ = servers.run_in_tree(name, argv0=place)
            own = self.at(f"/usr/lib/mysql/loader/{name}")      # so `pidof mysqld` finds it
            own.parent.mkdir(exist_ok=True)
            shutil.copy(loader, own)
            command = (f"-a {place} /usr/lib/mysql/loader/{name} "
                       + " ".join(argv).replace(f"{tree}/", "/opt/mysql/"))
            if name == "mysqld" and server.program:     # MYSQLD's own, where it was installed
                command = f"-a {place} '{server.program}' --basedir='{server.basedir}'"
            self.write(place, f'#!/bin/bash\nexec {command} "$@"\n', 0o755)

    def copy_checkout(self) -> None:
        """What git knows, as it is now."""
        listed = subprocess.run(["git", "-c", f"safe.directory={TOP}", "-C", TOP, "ls-files", "-z",
                                 "-co", "--exclude-standard"], check=False, capture_output=True)
        names = [name for name in listed.stdout.decode().split("\0")
                 if name and (TOP / name).is_file()]
        target = self.at(f"{HOME}/keyring_aws")
        for name in names:
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(TOP / name, target / name)
        if not names:                                   # no git here
            shutil.copytree(TOP, target, symlinks=True, ignore=shutil.ignore_patterns("build"))

    # -- AWS

    def start_aws(self) -> dict[str, str]:
        """Starts the account, which sees this system's files; what it says of itself."""
        argv, env = servers.run_in_tree(
            "python3", str(HERE / "aws_account.py"), str(self.folder / "aws.crt"),
            str(self.folder / "aws.key"), self.region,
            env={"PYTHONDONTWRITEBYTECODE": "1", "PYTHONPATH": str(HERE)})
        with open(self.folder / "aws.log", "ab") as log:
            account = subprocess.Popen(argv, env=env, stdin=subprocess.DEVNULL, stderr=log,
                                       stdout=subprocess.PIPE, start_new_session=True)
        line = account.stdout.readline()
        if not line:
            raise ServerError((self.folder / "aws.log").read_text()[-3000:])
        end = time.monotonic() + 30
        while time.monotonic() < end:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", 443), 1):
                break
            time.sleep(0.05)
        return json.loads(line)

    def administrator(self, aws: dict[str, str]) -> None:
        self.write(f"{HOME}/.aws/credentials", "[default]\n"
                   f"aws_access_key_id = {aws['access_key_id']}\n"
                   f"aws_secret_access_key = {aws['secret']}\n", 0o600)
        self.write(f"{HOME}/instance", f"{aws['instance']}\n")


def run(*argv: object) -> None:
    done = subprocess.run(list(map(str, argv)), check=False, text=True, stdin=subprocess.DEVNULL,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    if done.returncode:
        raise ServerError(f"{' '.join(map(str, argv))} fails: {done.stdout.strip()}")


def be_process_1(folder: str, region: str) -> None:
    """Makes the machine, says so, and then lives for its processes."""
    maker = Maker(Path(folder), region)
    try:
        maker.make()
        told = "ready"
    except (ServerError, OSError) as error:
        told = f"no machine: {error}"
    print(json.dumps({"told": told}), flush=True)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    while told == "ready":
        try:
            os.wait()
        except ChildProcessError:
            time.sleep(0.2)


def die_with_parent() -> None:
    servers._prctl(servers.PR_SET_PDEATHSIG, signal.SIGKILL)


# ---- having one ----------------------------------------------------------------------------------

class Machine:
    """A clean machine.  lasting: it outlives this process; close() ends it."""

    def __init__(self, region: str = REGION, lasting: bool = False) -> None:
        if reason := why_not():
            raise ServerError(reason)
        servers.tree()
        with servers.MySQL() as template:               # makes the data folder that is copied
            template._initialize()
        self.folder = Path(tempfile.mkdtemp(prefix="kaws-machine-", dir="/tmp"))
        argv = ["unshare", "-m", "-n", "-p", "-i", "-u", "--fork", "--kill-child",
                sys.executable, str(Path(__file__).resolve()), "process-1", str(self.folder),
                region]
        with open(self.folder / "log", "wb") as log:
            self.process = subprocess.Popen(
                argv, env=clean_environment(), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                stderr=log, text=True, start_new_session=True,
                preexec_fn=None if lasting else die_with_parent)
        line = self.process.stdout.readline()
        told = json.loads(line)["told"] if line else (self.folder / "log").read_text()
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        self.pid = int((children.read_text().split() or ["0"])[0])
        (self.folder / "pids").write_text(f"{self.process.pid} {self.pid}\n")
        if told != "ready":
            self.close()
            raise ServerError(told)

    @classmethod
    def named(cls, name: str) -> "Machine":
        self = cls.__new__(cls)
        self.folder = (NAMED / name).resolve()
        if not (self.folder / "pids").exists():
            raise ServerError(f"there is no machine named {name}")
        self.process = None
        self.outer, self.pid = map(int, (self.folder / "pids").read_text("ascii").split())
        return self

    def __enter__(self) -> "Machine":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def kill(self) -> None:
        """Ends all its processes."""
        with contextlib.suppress(ProcessLookupError):
            if self.pid:
                os.kill(self.pid, signal.SIGKILL)

    def close(self) -> None:
        """Ends it, and forgets what was on it."""
        self.kill()
        if self.process:
            self.process.kill()
            self.process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)

    def argv(self, *command: str) -> list[str]:
        """A command line that runs a command on it, as a login would."""
        return ["nsenter", "-t", str(self.pid), "-m", "-n", "-p", "-i", "-u",
                "chroot", str(self.folder / "root"),
                "env", "-i", f"--chdir={HOME}/keyring_aws", f"PATH={PATH}", f"HOME={HOME}",
                "USER=root", "LANG=C.UTF-8", "TERM=xterm", *command]

    def run(self, command: str, text: str | None = None, timeout: float = 300
            ) -> subprocess.CompletedProcess:
        """A command for bash: its status, and what it printed, in order."""
        return subprocess.run(self.argv("bash", "-c", command), check=False, text=True,
                              errors="replace", input=text or "", timeout=timeout,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT)

    def file(self, path: str) -> Path:
        """A file of the machine's, as this process can reach it."""
        return Path(f"/proc/{self.pid}/root{self.folder}/root{path}")


def command_line(what: str, *words: str) -> int:
    if what == "process-1":
        be_process_1(*words)
    elif what == "start":
        NAMED.mkdir(exist_ok=True)
        machine = Machine(lasting=True)
        (NAMED / words[0]).unlink(missing_ok=True)
        (NAMED / words[0]).symlink_to(machine.folder)
        print(f"machine.py run {words[0]} 'COMMAND' runs a command in ~/keyring_aws")
    elif what == "run":
        return subprocess.call(Machine.named(words[0]).argv("bash", *shell(words[1:], KEEP)))
    elif what == "stop":
        Machine.named(words[0]).close()
        (NAMED / words[0]).unlink()
    elif what == "try":
        with Machine() as machine:
            return subprocess.call(machine.argv("bash", *shell(words)))
    else:
        sys.exit(__doc__)
    return 0


KEEP = """\
keep() {
    declare -p | grep -vE '^declare -[^ ]*r|^declare -[^ ]+ (BASH|FUNCNAME|_=|SHLVL)'
    declare -f
    printf 'cd %q\\n' "$PWD"
}
if [ -e /run/kept ]; then . /run/kept; fi
trap 'keep > /run/kept' EXIT
"""


def shell(words: tuple[str, ...], first: str = "") -> Iterator[str]:
    yield from ("-c", first + " ".join(words)) if words else ("-i",)


if __name__ == "__main__":
    try:
        sys.exit(command_line(*sys.argv[1:] or [""]))
    except ServerError as reason:
        sys.exit(str(reason))
