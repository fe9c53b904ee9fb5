"""Real servers for the tests: MySQL, moto (an AWS emulator), and a test CA.

Debian stable has neither MySQL nor a current moto. So both come from Debian sid.  They are unpacked
into a private folder, build/tree, and run there with its own loader and libraries: nothing is
installed on the machine.  MYSQLD=/path/mysqld in the environment names another server to test.

    certs = certificates()
    with Moto(tls=certs.good) as kms, MySQL() as db:
        db.start("--early-plugin-load=keyring_aws=keyring_aws.so",
                 f"--keyring-aws-cmk-id={kms.key_arn}", ...)
        db.install_keyring_udf()
        db.sql("SELECT keyring_key_generate('MyKey', 'AES', 32)")
        db.kill()                       # as kill -9 does
        print(db.log())

`servers.py` makes the tree and prints its path, or says what server MYSQLD is.
"""

import atexit
import contextlib
import ctypes
import fcntl
import functools
import hashlib
import itertools
import json
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Callable, Iterable, Iterator, NamedTuple

import pymysql
from debian import ServerError, fetch, unpack
from versions import OLDEST

BUILD = Path(__file__).resolve().parents[2] / "build"


def _once(folder: Path, ready: Callable[[], bool], make: Callable[[Path], None]) -> Path:
    """Make a folder unless it is ready, even if others want it at the same time.  It is made beside
    its place and renamed when complete, so an interrupted run leaves nothing that looks finished.
    """
    if ready():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    new, old = (folder.with_name(f"{folder.name}.{end}-{os.getpid()}") for end in ("new", "old"))

    def sweep() -> None:
        for stale in folder.parent.glob(f"{folder.name}.[no][el][wd]-*"):
            shutil.rmtree(stale, ignore_errors=True)

    with open(folder.with_name(folder.name + ".lock"), "a", encoding="ascii") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not ready():
            sweep()
            new.mkdir()
            try:
                make(new)
                if folder.exists():
                    folder.rename(old)
                new.rename(folder)
            finally:
                sweep()
    return folder


def clean_environment(extra: dict[str, str] | None = None) -> dict[str, str]:
    """This process's environment without what would lead a test server astray."""
    unwanted = re.compile(r"(?i:.*_proxy)|AWS_.*|PYTHON.*|LD_.*|MYSQL.*|SSLKEYLOGFILE")
    kept = {k: v for k, v in os.environ.items() if not unwanted.fullmatch(k)}
    return {**kept, **(extra or {})}


# ---- the tree of Debian sid packages ------------------------------------------------

PARTS = {
    "mysql": ("mysql-server-core", "mysql-client-core"),
    "migration": ("mysql-server-core",),        # mysql_migrate_keyring: older trees are without it
    "dump": ("mysql-client-core",),             # mysqldump, likewise
    "alerts": ("promtool", "prometheus-mysqld-exporter", "prometheus-sql-exporter"),
    # moto's CloudFormation does not depend on that validator, but does not start without it
    "examples": ("python3-openapi-spec-validator", "terraform-config-inspect",
                 "selinux-policy-default", "checkpolicy", "semodule-utils", "selinux-utils"),
    # moto does not depend on flask-cors and yaml, but does not start without them
    "python": ("python3-moto", "python3-flask-cors", "python3-yaml"),
}

# The part that has a program, by how its name begins; "mysql" has the others.
PART_OF = {"python": "python", "mysqldump": "dump", "prom": "alerts", "terraform": "examples",
           "checkmodule": "examples", "se": "examples"}


def tree(want: Iterable[str] | None = None) -> Path:
    """The private tree, made if it is not there (about half a minute): the parts that are wanted,
    by default all, but no MySQL if MYSQLD names another.  The tree keeps the versions of the day
    it was made; remove build/tree to get newer ones.
    """
    default = ("python",) if os.environ.get("MYSQLD") else PARTS
    wanted = set(default if want is None else want)
    folder = BUILD / "tree"

    def there() -> set[str]:
        with contextlib.suppress(FileNotFoundError):
            return set((folder / "parts").read_text("ascii").split())
        return set()

    def make(new: Path) -> None:
        parts = sorted(wanted | there())
        print(f"fetching {' and '.join(parts)} from Debian sid ...", file=sys.stderr, flush=True)
        unpack(new, fetch(new / "apt", [name for part in parts for name in PARTS[part]], "sid"))
        shutil.rmtree(new / "apt")
        (new / "parts").write_text("\n".join(parts) + "\n", "ascii")

    return _once(folder, lambda: wanted <= there(), make)


def _output(*argv: str | Path, cwd: Path | None = None) -> str:
    """What a command prints."""
    try:
        return subprocess.run(argv, check=True, capture_output=True, text=True, cwd=cwd,
                              stdin=subprocess.DEVNULL).stdout
    except FileNotFoundError as missing:
        raise ServerError(f"{argv[0]} is not installed.") from missing
    except subprocess.CalledProcessError as failed:
        raise ServerError(f"{' '.join(map(str, argv))} fails: {failed.stderr.strip()}") from failed


def run_in_tree(program: str, *args: str, argv0: str | Path | None = None,
                env: dict[str, str] | None = None) -> tuple[list[str], dict[str, str]]:
    """The command line and environment that run a program of the tree.  Its loader is called by
    name, so that it takes the tree's libraries while files and sockets stay the machine's own.
    """
    python = program.startswith("python")
    part = next((part for start, part in PART_OF.items() if program.startswith(start)), "mysql")
    root = tree([part])
    loader = next(root.glob("usr/lib/*-linux-gnu*/ld*.so.[0-9]"))
    path = next((place / program for place in (root / "usr/bin", root / "usr/sbin")
                 if (place / program).exists()), None)
    if not path:
        raise ServerError(f"{program} is not in {root}.")
    argv = [loader, "--inhibit-cache", "--library-path", loader.parent, "--argv0", argv0 or path,
            path, *args]
    home = {"PYTHONHOME": str(root / "usr"), "PYTHONNOUSERSITE": "1"} if python else {}
    return [str(arg) for arg in argv], clean_environment({**home, **(env or {})})


def free_port() -> int:
    """A port for a program that cannot be told to take any.  It is below those that the kernel
    gives to whoever asks for any, and ours as long as this process lives: so no other test gets it
    before the program does, not even one of those that run at the same time."""
    given = Path("/proc/sys/net/ipv4/ip_local_port_range").read_text("ascii")
    lowest, tries = int(given.split()[0]), 100
    for port in random.sample(range(FIRST_PORT, max(lowest, FIRST_PORT + tries)), tries):
        with contextlib.closing(socket.socket()) as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            ours = socket.socket(socket.AF_UNIX)
            _ports.append(ours)
            ours.bind(f"\0kaws-port-{port}")
            return port
    raise ServerError(f"no port is free between {FIRST_PORT} and {lowest}.")


FIRST_PORT = 20000
_ports: list[socket.socket] = []        # whose names are those of ports that have been given


# ---- processes that never outlive us --------------------------------------------------

_running: set[subprocess.Popen] = set()
_folders: set[Path] = set()
_owner = os.getpid()
_prctl = ctypes.CDLL(None).prctl
PR_SET_PDEATHSIG = 1


def _short_folder() -> Path:
    """A folder for sockets and logs, removed at the end; its path is short."""
    folder = Path(tempfile.mkdtemp(prefix="kaws-", dir="/tmp"))
    _folders.add(folder)
    return folder


def _remove_folder(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    _folders.discard(folder)


def _spawn(argv: list[str], env: dict[str, str], log: Path,
           executable: str | None = None) -> subprocess.Popen:
    """Start a server in a session of its own, its output appended to a file.  The kernel kills it
    if this process is killed.  (It does so when the thread that started it ends: so only for
    servers of the main thread.)
    """
    main = threading.current_thread() is threading.main_thread()

    def die_with_parent() -> None:
        _prctl(PR_SET_PDEATHSIG, signal.SIGKILL)

    with open(log, "ab") as out:
        process = subprocess.Popen(argv, executable=executable, env=env, stdin=subprocess.DEVNULL,
                                   stdout=out, stderr=out, start_new_session=True,
                                   preexec_fn=die_with_parent if main else None)
    _running.add(process)
    return process


def _end(process: subprocess.Popen | None, patience: float) -> int | None:
    """End a server, by force when patience runs out; its exit code."""
    if process is None:
        return None
    if process.poll() is None and patience:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(patience)
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
    _running.discard(process)
    return process.wait()


@atexit.register
def _end_all() -> None:
    if os.getpid() == _owner:
        for process in list(_running):
            _end(process, 0)
        for folder in list(_folders):
            _remove_folder(folder)


def _wait_until(ready: Callable[[], object], process: subprocess.Popen, timeout: float,
                what: str, log: Callable[[], str]) -> None:
    """Wait until a server is ready; else an error with the end of its log."""
    end = time.monotonic() + timeout
    while not ready():
        if process.poll() is not None or time.monotonic() > end:
            code = process.poll()
            why = f"is not ready after {timeout} s" if code is None else f"ended with {code}"
            _end(process, 0)
            text = log()
            errors = "".join(re.findall(r".*\bERROR\b.*\n", text[:-3000]))
            raise ServerError(f"{what} {why}; the end of its log:\n{errors}{text[-3000:]}")
        time.sleep(0.03)


def memory_of(pid: int) -> Iterator[tuple[bool, str, bytes]]:
    """What a process has in memory that is its own: whether it is in a locked page that no core
    dump has, the mapping's name, and the bytes."""
    text = Path(f"/proc/{pid}/smaps").read_text("ascii", "replace")
    found = re.findall(r"^([0-9a-f]+)-([0-9a-f]+) r(.)\S+ \S+ \S+ \d+ *(.*)\n"
                       r"(?:(?![0-9a-f]+-|VmFlags).*\n)*VmFlags: (.*)$", text, re.M)
    with open(f"/proc/{pid}/mem", "rb", buffering=0) as memory:
        for start, end, write, name, flags in found:
            with contextlib.suppress(OSError):          # a guard page
                if write == "w" or not name:
                    memory.seek(int(start, 16))
                    data = memory.read(int(end, 16) - int(start, 16))
                    yield {"lo", "dd"} <= set(flags.split()), name, data


def open_files(pid: int) -> dict[Path, str]:
    """The files that a process has open: where they are in /proc, and their names.  Meanwhile it
    may close some: a client that leaves is not waited for."""
    found = {}
    for place in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            found[place] = os.readlink(place)
    return found


# ---- MySQL --------------------------------------------------------------------------

class Mysqld(NamedTuple):
    """A server's program, and where it was installed."""
    program: Path | None    # MYSQLD's; none: the tree's
    version: tuple[int, ...]
    basedir: Path
    plugins: Path           # its folder of plugins
    share: Path             # its folder of messages and character sets
    mark: str = ""          # of MYSQLD's, which may be one of several with that version

    @property
    def script(self) -> bool:
        return bool(self.program) and self.program.read_bytes()[:2] == b"#!"


def mysqld() -> Mysqld:
    """The server to test with: MYSQLD's, or the tree's."""
    return _look_at(os.environ.get("MYSQLD", ""))


@functools.lru_cache
def _look_at(named: str) -> Mysqld:
    if not named:
        argv, env = run_in_tree("mysqld", "--no-defaults", "--version")
        return Mysqld(None, _version(_said(argv, env)), *_installation([tree(["mysql"]) / "usr"]))
    try:
        program = Path(shutil.which(named) or named if "/" not in named else named).resolve()
        if not program.is_file() or not os.access(program, os.X_OK):
            raise ServerError(f"{program} is no program: set MYSQLD to a mysqld, or unset it.")
        version = _version(_said([str(program), "--no-defaults", "--version"],
                                 clean_environment()))
        mark = hashlib.sha256(f"{program} {program.stat().st_mtime_ns}".encode()).hexdigest()[:8]
        places = itertools.chain([program.parent.parent], _own_basedir(program))
        return Mysqld(program, version, *_installation(places), mark)
    except ServerError as error:
        raise ServerError(f"MYSQLD={named}: {error}") from None


def _said(argv: list[str], env: dict[str, str]) -> str:
    """What a program that soon ends prints."""
    try:
        return subprocess.run(argv, env=env, text=True, errors="replace", check=False, timeout=300,
                              stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT).stdout
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)


def _version(answer: str) -> tuple[int, ...]:
    """By what `mysqld --version` says; an error unless it is a MySQL server that we know."""
    last = answer.strip().rpartition("\n")[2]
    found = re.search(r"(\S*)\s+Ver (\d+)\.(\d+)\.(\d+)", last)
    said = f"it says '{last[:200]}'"
    if "mariadb" in last.lower():
        raise ServerError(f"this is MariaDB, which has no keyring plugins; {said}.")
    if not found or "mysqld" not in found[1].rpartition("/")[2]:
        raise ServerError(f"this is no MySQL server; {said}. Set MYSQLD to a mysqld, or unset it.")
    version = tuple(map(int, found.groups()[1:]))
    if version < OLDEST:
        raise ServerError("this server is too old, because keyrings came with"
                          f" {'.'.join(map(str, OLDEST))}; {said}.")
    return version


def _own_basedir(program: Path) -> Iterator[Path]:
    """Where a program itself believes that it was installed: asked only if it is not so, as with a
    script that runs a server elsewhere."""
    user = ["--user=root"] if os.geteuid() == 0 else []
    said = _said([str(program), "--no-defaults", *user, "--verbose", "--help"], clean_environment())
    yield from map(Path, re.findall(r"(?m)^basedir +(/.*)$", said))


LAYOUTS = ((("lib*/mysql/plugin", "lib*/*/mysql/plugin", "lib*/plugin"), "plugins"),
           (("share/mysql*/english", "share/english", "share/*/english"), "messages"))


def _installation(basedirs: Iterable[Path]) -> tuple[Path, Path, Path]:
    """The first place that has a server's folders, its folder of plugins, and that of messages:
    layouts differ."""
    tried = []
    for basedir in basedirs:
        found = [next((match for pattern in patterns for match in sorted(basedir.glob(pattern))),
                      None) for patterns, _ in LAYOUTS]
        if all(found):
            return basedir, found[0], found[1].parent
        tried += [f"no {what} under {basedir}" for each, (_, what) in zip(found, LAYOUTS)
                  if not each]
    raise ServerError(f"there are {', '.join(tried)}: is its installation whole?")


class MySQL:
    """A throwaway MySQL server that listens on a Unix socket only.

    plugin      the keyring_aws.so under test, copied into `plugin_dir`; by
                default build/keyring_aws.so, if it is there
    components  keyring components of the manifest: {"component_keyring_file":
                {"path": "...", "read_only": False}}
    """

    def __init__(self, *, plugin: str | Path | None = None,
                 components: dict[str, dict] | None = None) -> None:
        self.process: subprocess.Popen | None = None
        self.argv0: Path | None = None
        self.mysqld = mysqld()
        self.version = self.mysqld.version
        self.scratch = _short_folder()
        self.socket = self.scratch / "s"        # short: the kernel's limit is 107 bytes
        self.folder = self.scratch / "server"
        self.folder.mkdir()
        self.data = self.folder / "data"
        self._log, self._log_start = self.folder / "error.log", 0
        self._log.touch()
        self.plugin_dir = self._make_plugin_dir(Path(plugin or BUILD / "keyring_aws.so"))
        self.components(components)

    def __enter__(self) -> "MySQL":
        return self

    def __exit__(self, *_: object) -> None:
        _end(self.process, 10)
        _remove_folder(self.scratch)

    def _make_plugin_dir(self, plugin: Path) -> Path:
        private = self.folder / "plugin"
        private.mkdir(exist_ok=True)
        for library in self.mysqld.plugins.glob("*.so"):
            with contextlib.suppress(FileExistsError):
                (private / library.name).symlink_to(library)
        if plugin.exists():
            (private / "keyring_aws.so").unlink(missing_ok=True)
            shutil.copy(plugin, private / "keyring_aws.so")
            component = private / "component_keyring_aws.so"
            component.unlink(missing_ok=True)
            component.symlink_to("keyring_aws.so")
        return private

    def components(self, components: dict[str, dict] | None) -> None:
        """Name the keyring components that the next start loads from the manifest.

        The server looks for it beside argv[0], which we say is in our folder.
        """
        own = self.folder / "bin"
        own.mkdir(exist_ok=True)
        self.argv0 = own / "mysqld"
        self.argv0.touch(0o755)
        (own / "mysqld.my").unlink(missing_ok=True)
        if components:
            names = ",".join(f"file://{name}" for name in components)
            (own / "mysqld.my").write_text(json.dumps({"components": names}))
            (own / "mysqld.my").chmod(0o444)    # else the server warns
        for name, settings in (components or {}).items():
            (self.plugin_dir / f"{name}.cnf").write_text(json.dumps(settings))

    def _command(self, args: Iterable[str], env: dict[str, str] | None,
                 bare: bool = False) -> tuple[list[str], dict[str, str], str | None]:
        if not self.process or self.process.poll() is not None:
            # A killed server's, with its pid: by now another process may have that number.
            self.socket.with_name(f"{self.socket.name}.lock").unlink(missing_ok=True)
        options = list(map(str, args)) if bare else [*self._options(), *map(str, args)]
        if self.mysqld.program:
            argv = [str(self.argv0), *options]
            return argv, clean_environment(env), str(self.mysqld.program)
        return *run_in_tree("mysqld", *options, argv0=self.argv0, env=env), None

    def _options(self) -> list[str]:
        share = self.mysqld.share
        return ["--no-defaults", f"--basedir={self.mysqld.basedir}", f"--datadir={self.data}",
                f"--lc-messages-dir={share}", f"--character-sets-dir={share / 'charsets'}",
                f"--pid-file={self.scratch / 'pid'}",
                f"--plugin-dir={self.plugin_dir}", f"--socket={self.socket}", "--skip-networking",
                f"--tmpdir={self.scratch}",
                "--secure-file-priv=NULL", "--loose-mysqlx=OFF", "--skip-log-bin",
                "--innodb-use-native-aio=OFF",  # half a second less to stop
                "--innodb-buffer-pool-size=32M", "--loose-innodb-redo-log-capacity=16M",
                *(["--user=root"] if os.geteuid() == 0 else [])]

    def run_once(self, *args: str, env: dict[str, str] | None = None, timeout: float = 120,
                 bare: bool = False) -> subprocess.CompletedProcess:
        """Run the server's program to its end: `.returncode`, and `.stdout` with its error log."""
        argv, env, executable = self._command(args, env, bare)
        return subprocess.run(argv, executable=executable, env=env, timeout=timeout, text=True,
                              errors="replace", check=False, stdin=subprocess.DEVNULL,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT)

    def _initialize(self) -> None:
        """Make the data folder, as a copy of one that was made once."""
        def template(folder: Path) -> None:
            run = self.run_once("--initialize-insecure", f"--datadir={folder}")
            if run.returncode:
                raise ServerError(f"mysqld --initialize fails:\n{run.stdout[-3000:]}")
            (folder / "auto.cnf").unlink(missing_ok=True)  # each copy is a server of its own

        kind = "-".join((".".join(map(str, self.version)), self.mysqld.mark))
        source = BUILD / "tests" / f"mysql-{kind.rstrip('-')}"
        _once(source, (source / "ibdata1").exists, template)
        _output("cp", "-a", "--reflink=auto", source, self.data)

    def start(self, *args: str, wait: bool = True, env: dict[str, str] | None = None,
              timeout: float = 60) -> "MySQL":
        """Start the server, with a data folder that is made now if it is not there."""
        if self.process and self.process.poll() is None:
            raise ServerError("this server runs already: stop() or kill() it first.")
        if not self.data.exists():
            self._initialize()
        self._log_start = self._log.stat().st_size
        argv, env, executable = self._command([f"--log-error={self._log}", *args], env)
        self.process = _spawn(argv, env, self._log, executable)
        if wait:
            _wait_until(self.ready, self.process, timeout, "mysqld", self.log)
            if (self.scratch / "pid").read_text("ascii").strip() != str(self.process.pid):
                self.kill()
                raise ServerError(f"MYSQLD={self.mysqld.program} starts its server as another"
                                  " process: let the script end with `exec`.")
        return self

    def ready(self) -> bool:
        """Whether the server answers, if only to refuse us."""
        try:
            self.connect(connect_timeout=5).close()
        except pymysql.err.OperationalError as error:
            return error.args[0] not in (2002, 2003, 2006, 2013)
        return True

    def stop(self, patience: float = 60) -> int | None:
        """Shut the server down in good order; its exit code."""
        return _end(self.process, patience)

    def kill(self) -> None:
        """End the server at once, as kill -9 and power cuts do."""
        _end(self.process, 0)

    def wait(self, timeout: float = 60) -> int:
        """Wait until the server has ended by itself; its exit code."""
        return self.process.wait(timeout)

    def log(self, whole: bool = False) -> str:
        """The error log since the last start, or the whole of it."""
        return self._log.read_bytes()[0 if whole else self._log_start:].decode("utf-8", "replace")

    def connect(self, user: str = "root", password: str = "", **options: object):
        """A PyMySQL connection, autocommitting."""
        return pymysql.connect(unix_socket=str(self.socket), user=user, password=password,
                                  **{"autocommit": True, "charset": "utf8mb4", **options})

    def sql(self, query: str, values: object = None, **options: object) -> list[tuple]:
        """The rows of one statement, run on a connection of its own."""
        with contextlib.closing(self.connect(**options)) as connection:
            with connection.cursor() as cursor:
                cursor.execute(query, values)
                return list(cursor.fetchall())

    def install_keyring_udf(self) -> None:
        """MySQL's SQL functions that call the keyring for their user."""
        if not (self.plugin_dir / "keyring_udf.so").exists():
            raise ServerError(f"MYSQLD's plugin folder {self.mysqld.plugins} lacks keyring_udf.so,"
                              " which the tests need: install the server as a whole.")
        self.sql("INSTALL PLUGIN keyring_udf SONAME 'keyring_udf.so'")
        for name, result in (("generate", "INTEGER"), ("store", "INTEGER"), ("fetch", "STRING"),
                             ("type_fetch", "STRING"), ("length_fetch", "INTEGER"),
                             ("remove", "INTEGER")):
            self.sql(f"CREATE FUNCTION keyring_key_{name} RETURNS {result}"
                     " SONAME 'keyring_udf.so'")


# ---- moto ---------------------------------------------------------------------------

# moto gives a multi-region key an id of a form that AWS's have not, and which its blobs cut short,
# so that no region opens them; and it finds no key to replicate by its ARN.
MENDED_MOTO = """\
import uuid
from moto.kms import models, utils
from moto.server import main

def replicate_key(self, key_id, region, moto=models.KmsBackend.replicate_key):
    return moto(self, self.get_key_id(key_id), region)

models.KmsBackend.replicate_key = replicate_key
if len(utils.generate_key_id(True)) > utils.KEY_ID_LEN:
    models.generate_key_id = lambda multi_region=False: (
        "mrk-" + uuid.uuid4().hex if multi_region else str(uuid.uuid4()))
main()
"""


class Moto:
    """moto's AWS emulator, which checks signatures once it is set up: with one user who may do
    everything, an access key, and a KMS key for each region named.  tls is a `Pair`, for https.
    The first of these keys is a multi-region one if replicas names regions that are to have it,
    too: replica_arns. But then moto is mended.
    """

    def __init__(self, *regions: str, tls: "Pair | None" = None,
                 replicas: Iterable[str] = ()) -> None:
        regions, self._replicas = regions or ("us-east-1",), tuple(replicas)
        self._log = _short_folder() / "moto.log"
        # -p 0: the kernel chooses the port, moto prints it
        args = ["-c", MENDED_MOTO] if self._replicas else ["-m", "moto.server"]
        args += ["-H", "127.0.0.1", "-p", "0"]
        args += ["-s", "-c", str(tls.cert), "-k", str(tls.key)] if tls else []
        calls = 3 + len(regions) + len(self._replicas)      # those of set-up, below
        argv, env = run_in_tree("python3", *args, env={"PYTHONUNBUFFERED": "1",
                                "INITIAL_NO_AUTH_ACTION_COUNT": str(calls)})
        self.process = _spawn(argv, env, self._log)
        try:
            _wait_until(self._address, self.process, 60, "moto", self.log)
            self.url = self._address().group(1)
            self._set_up(regions)
        except BaseException:
            self.stop()
            raise

    def __enter__(self) -> "Moto":
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """End it, and forget all that it held."""
        _end(self.process, 2)
        _remove_folder(self._log.parent)

    def log(self) -> str:
        """What it printed: one line a request."""
        return self._log.read_text("utf-8", "replace")

    def _address(self) -> re.Match | None:
        return re.search(r"Running on (https?://127\.0\.0\.1:\d+)", self.log())

    def _set_up(self, regions: tuple[str, ...]) -> None:
        self._iam("CreateUser", UserName="keyring")
        policy = {"Version": "2012-10-17",
                  "Statement": [{"Effect": "Allow", "Action": "*", "Resource": "*"}]}
        self._iam("PutUserPolicy", UserName="keyring", PolicyName="all",
                  PolicyDocument=json.dumps(policy))
        made = self._iam("CreateAccessKey", UserName="keyring")
        self.access_key_id = re.search("<AccessKeyId>(.*?)</", made).group(1)
        self.secret = re.search("<SecretAccessKey>(.*?)</", made).group(1)
        self.key_arns = [self._kms(region, "CreateKey", MultiRegion=number == 0 and bool(
            self._replicas))["KeyMetadata"]["Arn"] for number, region in enumerate(regions)]
        self.key_arn = self.key_arns[0]
        self.replica_arns = [self._kms(
            regions[0], "ReplicateKey", KeyId=self.key_arn, ReplicaRegion=region)[
                "ReplicaKeyMetadata"]["Arn"] for region in self._replicas]

    def _kms(self, region: str, action: str, **values: object) -> dict:
        return json.loads(self._call("kms", region, json.dumps(values), {
            "Content-Type": "application/x-amz-json-1.1",
            "X-Amz-Target": f"TrentService.{action}"}))

    def _iam(self, action: str, **values: str) -> str:
        form = urllib.parse.urlencode({"Action": action, "Version": "2010-05-08", **values})
        return self._call("iam", "us-east-1", form,
                          {"Content-Type": "application/x-www-form-urlencoded"})

    def _call(self, service: str, region: str, body: str, headers: dict[str, str]) -> str:
        """One call of set-up: unsigned, but moto looks for the service where a scope is."""
        headers["Authorization"] = ("AWS4-HMAC-SHA256 "
                                    f"Credential=setup/20260101/{region}/{service}/aws4_request, "
                                    "SignedHeaders=host, Signature=0")
        return _open(urllib.request.Request(self.url, body.encode(), headers))


def _open(request: urllib.request.Request) -> str:
    """Send a request to a server of ours, whose certificate need not be checked."""
    import ssl
    handlers = (urllib.request.ProxyHandler({}),
                urllib.request.HTTPSHandler(context=ssl._create_unverified_context()))
    with urllib.request.build_opener(*handlers).open(request, timeout=30) as reply:
        return reply.read().decode()


# ---- certificates -------------------------------------------------------------------

class Pair(NamedTuple):
    """A certificate and its key, as files."""
    cert: Path
    key: Path


class Certificates(NamedTuple):
    """A test CA's certificate, and servers' pairs: one good, three to be refused."""
    ca: Path
    good: Pair              # for 127.0.0.1, ::1 and localhost
    wrong_name: Pair        # for another name
    expired: Pair
    unknown_ca: Pair        # for the right names, of another CA


CA_CONF = """\
[ca]
default_ca = it
[it]
database = index
serial = serial
new_certs_dir = .
default_md = sha256
policy = any
copy_extensions = copy
unique_subject = no
[any]
commonName = supplied
[req]
distinguished_name = name
[name]
"""


def certificates() -> Certificates:
    """The certificates, made by the openssl command, and made again a day before they expire."""
    folder = BUILD / "tests" / "certificates"

    def pair(name: str) -> Pair:
        return Pair(folder / f"{name}.crt", folder / f"{name}.key")

    def ready() -> bool:
        return pair("good").cert.exists() and subprocess.run(
            ["openssl", "x509", "-checkend", "86400", "-noout", "-in", pair("good").cert],
            check=False, capture_output=True).returncode == 0

    _once(folder, ready, _make_certificates)
    return Certificates(folder / "ca.crt", *map(pair, Certificates._fields[1:]))


def _make_certificates(folder: Path) -> None:
    local = "IP:127.0.0.1,IP:::1,DNS:localhost"
    now = int(time.time())
    day = 86400
    (folder / "index").touch()
    (folder / "ca.conf").write_text(CA_CONF)
    for ca in ("ca", "other_ca"):
        _request(folder, ca, "-x509", "-days", "3650",
                 "-addext", "basicConstraints=critical,CA:TRUE",
                 "-addext", "keyUsage=critical,keyCertSign")
    for name, ca, names, start, end in (
            ("good", "ca", local, now - day, now + 3000 * day),
            ("wrong_name", "ca", "DNS:elsewhere.example", now - day, now + 3000 * day),
            ("expired", "ca", local, now - 9 * day, now - 2 * day),
            ("unknown_ca", "other_ca", local, now - day, now + 3000 * day)):
        _request(folder, name, "-addext", f"subjectAltName={names}")
        times = [time.strftime("%y%m%d%H%M%SZ", time.gmtime(when)) for when in (start, end)]
        _output("openssl", "ca", "-batch", "-notext", "-rand_serial",
                "-config", "ca.conf", "-cert", f"{ca}.crt", "-keyfile", f"{ca}.key",
                "-in", f"{name}.csr", "-out", f"{name}.crt", "-startdate", times[0],
                "-enddate", times[1], cwd=folder)


def _request(folder: Path, name: str, *options: str) -> None:
    """A key, and a request to certify it or, with -x509, its own certificate."""
    out = f"{name}.{'crt' if '-x509' in options else 'csr'}"
    _output("openssl", "req", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256",
            "-nodes", "-config", "ca.conf", "-subj", f"/CN=keyring_aws test {name}",
            "-keyout", f"{name}.key", "-out", out, *options, cwd=folder)


if __name__ == "__main__":
    try:
        if os.environ.get("MYSQLD"):
            print(f"MySQL {'.'.join(map(str, mysqld().version))}: {mysqld().program}")
        else:
            print(tree())
    except ServerError as reason:
        sys.exit(str(reason))
