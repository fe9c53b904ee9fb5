"""MySQL's own test suite, with a keyring component of choice in the place of its own.

    with Suite(Keyring("component_keyring_aws", library, config)) as suite:
        results = suite.run(suite.tests())              # of each test, by its name

The suite is Debian sid's, with the server of the same day and the programs that they call.  They
are unpacked into build/mtr, which stays as it is: a run sees it through an overlay.  It is a chroot
in mount and process namespaces of its own, so that all its servers end with it.  They listen on the
loopback only, and run as nobody.

MySQL's tests name no component: they take its name from include/plugin.defs, and write its config
by two helpers.  So this is all that is changed, in the overlay:

    * the line of include/plugin.defs, which says what component they test
    * that name in the expected results
    * the helpers: what they write is made the other component's config
    * the few words of component_keyring_file's own errors that tests look for in a server's log, or
      expect there: they are made the other component's
    * the list of lines that a log may have in any test: those that the component is known to write
      are added
    * the component, and the two files that say where its config and the manifest are, lie where
      MySQL's build puts them
"""

import ctypes
import fcntl
import functools
import json
import os
import re
import shutil
import socket
import struct
import subprocess
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Callable, Iterable, NamedTuple
from unittest import mock

import debian
from debian import ServerError
from servers import BUILD, _once, clean_environment

OWN = "component_keyring_file"
SUITE = Path("usr/lib/mysql-test")
PLUGINS = Path("usr/lib/mysql/plugin")
MANIFEST = Path("usr/sbin/mysqld.my")
PACKAGES = ("mysql-testsuite bash coreutils dash diffutils findutils grep hostname mawk openssl"
            " perl procps sed unzip zip").split()
WITHOUT = (*(f"./usr/share/{name}" for name in ("doc", "man", "locale")),
           *(f"./{SUITE}/suite/{name}" for name in ("*ndb*", "router", "group_replication")))

# A test needs a keyring if it, or what it includes, includes one of these.
SIGNS = {f"have_{OWN}.inc", "setup_component.inc", "setup_component_customized.inc",
         "rpl_setup_component.inc"}
WRITERS = [SUITE / f"include/keyring_tests/helper/{name}.inc"
           for name in ("local_keyring_create_config", "global_keyring_create_customized_config")]
GIVEN = "  my $config_content = $ENV{'KEYRING_CONFIG_CONTENT'};\n"
OPENED = '  open(my $mh, "> $config_file_path") or die;\n'
WHAT_IT_SETS = (r'{\s*"path":\s*("[^"]*"),\s*"read_only":\s*(\w+)\s*}',
                r'{ "data_file": $1, "read_only": $2, REST }')

CLONE_NEWNET, SIOCSIFFLAGS, IFF_UP = 0x40000000, 0x8914, 1

LISTED = "INSERT INTO global_suppressions VALUES\n"

# $1 is an empty folder and $2 the unpacked packages; $3 is the run's folder, which the chroot has
# as /run/mtr.  The rest is a command.  What the servers write is in memory.
ENTER = """
set -e
mount --make-rprivate /
mount -t tmpfs -o mode=0755 none "$1"
mkdir "$1/upper" "$1/work" "$1/root" "$1/var"
mount -t overlay -o "lowerdir=$3/changes:$2,upperdir=$1/upper,workdir=$1/work" none "$1/root"
cd "$1/root"
mkdir -p proc dev sys tmp var/mtr run/mtr
mount -t proc none proc
mount --rbind /dev dev
mount --bind "$1/var" var/mtr
mount --bind "$3" run/mtr
for name in passwd group hosts protocols services; do
    if [ -e /etc/$name ]; then cp /etc/$name etc; fi
done
ln -sf mawk usr/bin/awk
mv usr/bin/diff usr/bin/diff.real
printf '#!/bin/sh\\nexec diff.real --text "$@"\\n' >usr/bin/diff
chmod 755 usr/bin/diff
chmod 1777 tmp
chown -R nobody usr/sbin/mysqld.my usr/lib/mysql/plugin
chown nobody usr/sbin usr/lib/mysql-test var/mtr run/mtr
shift 3
chroot --userspec=nobody:nogroup . "$@" || exit     # no exec: it would outlive who started it
"""


class Keyring(NamedTuple):
    """A component: its name, its file (none: the server has it), its config apart from what the
    tests set, its words for those of component_keyring_file, and tags of warnings that no test
    minds."""
    name: str = OWN
    library: Path | None = None
    config: dict | None = None
    words: dict[str, str] = {}
    warns: tuple[str, ...] = ()


class Result(NamedTuple):
    word: str               # pass, fail, skipped, disabled
    why: str                # it was skipped
    said: str               # by mtr, of a failure

    @property
    def changes(self) -> list[str]:
        """If the test did not say what was expected: the lines that were missing, with a "-", and
        those that were there instead, with a "+"."""
        found = re.search(r"^--- /.*\n\+\+\+ /.*\n((?s:.*?))^mysqltest: ", self.said, re.M)
        return re.findall(r"^[-+].*", found[1], re.M) if found else []


def packages() -> Path:
    """The suite and all that it runs, unpacked; fetched if it is not there (about a minute)."""
    folder = BUILD / "mtr"

    def make(new: Path) -> None:
        print("fetching MySQL's test suite from Debian sid ...", flush=True)
        with mock.patch.multiple(debian, EXCLUDE=WITHOUT, NOT_NEEDED=("debconf",)):
            debian.unpack(new, debian.fetch(new / "apt", PACKAGES, "sid"))
        shutil.rmtree(new / "apt")

    return _once(folder, folder.exists, make)


@functools.cache
def sources(path: Path, top: Path) -> set[Path]:
    """The files that a test, or a file that it includes, includes."""
    names = re.findall(r"(?m)^\s*(?:--\s*)?source\s+([^\s;]+)", path.read_text("latin-1"))
    found = set()
    for name in names:
        places = (top / name.removeprefix("../mysql-test/"), path.parent / name)
        found |= {place for place in places if place.is_file()}
    return found


class Suite:
    """MySQL's test suite with a keyring; its runs' files are in a folder until the end."""

    def __init__(self, keyring: Keyring = Keyring()) -> None:
        self.keyring, self.root = keyring, packages()
        self._place = tempfile.TemporaryDirectory(prefix="mtr-", dir=BUILD)
        self.folder = Path(self._place.name)
        self.folder.chmod(0o755)
        self._change()

    def __enter__(self) -> "Suite":
        return self

    def __exit__(self, *_: object) -> None:
        self._place.cleanup()

    # -- what is changed

    def _change(self) -> None:
        name = self.keyring.name
        self._add(MANIFEST, '{ "read_local_manifest": true }')
        self._add(PLUGINS / f"{name}.cnf", '{ "read_local_config": true }')
        if self.keyring.library:
            self._add(PLUGINS / f"{name}.so", self.keyring.library.read_bytes())
        if name == OWN:
            return
        assert self._edit(SUITE / "include/plugin.defs", lambda text: re.sub(
            rf"(?m)^{OWN}(?= )|(?<= ){OWN}$", name, text)), "plugin.defs does not say what it tests"
        found = self._replace("**/r/*.result", {OWN: name, **self.keyring.words})
        for place in ("include/keyring_tests/**/*.inc", f"suite/{OWN}/t/*.test"):
            found |= self._replace(place, self.keyring.words)
        assert found == {OWN, *self.keyring.words}, f"the tests do not say all of {found}"
        for helper in WRITERS:
            assert self._edit(helper, self._writes_ours), f"{helper} does not write a config"
        rows = "".join(rf' ("\\[{tag}\\]"),' + "\n" for tag in self.keyring.warns)
        assert not rows or self._edit(SUITE / "include/mtr_warnings.sql", lambda text: text.replace(
            LISTED, LISTED + rows, 1)), "mtr_warnings.sql has no list"

    def _replace(self, files: str, words: dict[str, str]) -> set[str]:
        """Replace words in files; those that were found."""
        found = set()

        def change(text: str) -> str:
            for old, new in words.items():
                if old in text:
                    found.add(old)
                    text = text.replace(old, new)
            return text

        for path in self.root.glob(f"{SUITE}/{files}"):
            self._edit(path.relative_to(self.root), change)
        return found

    def _add(self, path: Path, content: str | bytes) -> None:
        new = self.folder / "changes" / path
        new.parent.mkdir(parents=True, exist_ok=True)
        new.write_bytes(content.encode("latin-1") if isinstance(content, str) else content)

    def _edit(self, path: Path, change: Callable[[str], str]) -> bool:
        old = (self.root / path).read_text("latin-1")
        new = change(old)
        if new != old:
            self._add(path, new)
        return new != old

    def _writes_ours(self, helper: str) -> str:
        """The config holds a secret, so nobody else may read it."""
        pattern, ours = WHAT_IT_SETS
        ours = ours.replace("REST", json.dumps(self.keyring.config)[1:-1])
        assert not re.search("[|@]", ours), "perl would take that for something else"
        return helper.replace(GIVEN, f"{GIVEN}  $config_content =~ s|{pattern}|{ours}|;\n").replace(
            OPENED, f"  umask 0077; unlink $config_file_path;\n{OPENED}")

    # -- the tests

    def tests(self) -> list[str]:
        """The names of all that need a keyring, as mtr calls them."""
        top = self.root / SUITE
        return sorted(f"{'main' if path.parent.parent == top else path.parts[-3]}.{path.stem}"
                      for path in [*top.glob("t/*.test"), *top.glob("suite/*/t/*.test")]
                      if SIGNS & {each.name for each in self._included(path)})

    def _included(self, test: Path) -> set[Path]:
        seen, new = set(), {test}
        while new:
            path = new.pop()
            seen.add(path)
            new |= sources(path, self.root / SUITE) - seen
        return seen

    # -- a run

    def run(self, tests: Iterable[str]) -> dict[str, Result]:
        """Run tests; what became of each.  A test that runs in several modes is there as often,
        as `name 'mode'`."""
        shutil.rmtree(self.folder / "logs", ignore_errors=True)
        (self.folder / "tests").write_text("".join(f"{name}\n" for name in tests))
        with tempfile.TemporaryDirectory() as empty, open(self.log, "wb") as log:
            subprocess.run(
                ["setpriv", "--pdeathsig", "KILL", "unshare", "--mount", "--pid", "--ipc", "--uts",
                 "--fork", "--kill-child", "sh", "-c", ENTER, "sh", empty, self.root, self.folder,
                 *self._command()],
                stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, check=False,
                env=clean_environment({"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C",
                                       "HOME": "/tmp", "USER": "nobody", "TMPDIR": "/tmp"}))
        text = self.log.read_text("utf-8", "replace")
        if "Completed: " not in text:
            raise ServerError(f"MySQL's test suite did not come to its end:\n{text[-3000:]}")
        return results(text)

    @property
    def log(self) -> Path:
        return self.folder / "log"

    def _command(self) -> list[str]:
        options = (f"client-bindir=/{SUITE}/bin vardir=/var/mtr/var do-test-list=/run/mtr/tests"
                   f" bind-local big-test force retry=0 max-test-fail=0 testcase-timeout=15"
                   f" suite-timeout=180 parallel={(os.cpu_count() or 1) + 1}").split()
        script = (f'cd /{SUITE}; perl mysql-test-run.pl "$@"; cd /var/mtr/var; mkdir /run/mtr/logs;'
                  " find . -name '*.err' -exec cp --parents {} /run/mtr/logs ';'")
        return ["sh", "-c", script, "mtr", *(f"--{option}" for option in options)]


def alone(work: Callable) -> object:
    """Call a function in a thread that has a network of its own, a loopback and no more, so that
    no port is in use there."""
    def on_an_island() -> object:
        if ctypes.CDLL(None, use_errno=True).unshare(CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), "this thread can have no network of its own")
        with socket.socket() as any_socket:
            fcntl.ioctl(any_socket, SIOCSIFFLAGS, struct.pack("16sH22x", b"lo", IFF_UP))
        return work()

    with ThreadPoolExecutor(1) as pool:
        return pool.submit(on_an_island).result()


LINE = re.compile(r"^\[ *\d+%\] (\S+\.\S+(?: '\S+')?) +(?:w\d+ +)?\[ ([\w-]+) \] *(.*)\n", re.M)


def results(log: str) -> dict[str, Result]:
    """What mtr's log says of each test."""
    _, *parts = LINE.split(log)
    rows = zip(parts[::4], parts[1::4], parts[2::4], parts[3::4])
    return {name: Result(word, "" if word in ("pass", "fail") else why.strip(),
                         said if word == "fail" else "")
            for name, word, why, said in rows}
