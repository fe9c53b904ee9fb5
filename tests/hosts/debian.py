#!/usr/bin/python3
"""Fetches Debian's packages for the tests, from the archives of this machine's own apt.

    fetch(folder, ["mysql-server-core"], "sid")             the .debs, with all that they need
    fetch(folder, ["libcurl4-openssl-dev"], "bookworm", arch="arm64")
    fetch(folder, ["bearssl"], "bookworm", source=True)     the source
    unpack(root, packages)                                  lays them there; runs no script

Nothing is installed.  No archive is named here: this module reads this machine's sources, one-line
and deb822, and asks them for the suite that is wanted, with their own options (Signed-By, Trusted
...).  Proxies and passwords are apt's own, too.

    debian.py FOLDER SUITE PACKAGE      fetches a source
"""

import itertools
import os
import re
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Iterator


class ServerError(Exception):
    """Something could not be fetched, made or started; the text says what to do."""


# Packages that are depended upon and not needed: apt is told that they are there.
NOT_NEEDED = ("perl", "debconf", "ca-certificates", "adduser", "postgresql-common")

# Files that are not needed: of MySQL's programs only mysqld, mysql, mysqldump and
# mysql_migrate_keyring are.
EXCLUDE = ("./usr/share/doc", "./usr/share/man", "./usr/share/locale", "./usr/bin/mysql[!_d]*",
           "./usr/bin/mysqld[!u]*", "./usr/bin/mysql_[!m]*", "./usr/bin/my_*", "./usr/bin/myisam*",
           "./usr/bin/perror", "./usr/bin/i*", "./usr/lib/*/gconv")

APT_CONF = """\
#clear APT::Update::Pre-Invoke;
#clear APT::Update::Post-Invoke;
#clear APT::Update::Post-Invoke-Success;
#clear APT::Architectures;
APT::Architecture "{arch}";
APT::Architectures "{arch}";
APT::Install-Recommends "false";
APT::Sandbox::User "root";
APT::Update::Error-Mode "any";
Acquire::Check-Valid-Until "false";
Acquire::Languages "none";
Acquire::Retries "2";
Acquire::http::Timeout "20";
Acquire::https::Timeout "20";
Debug::NoLocking "true";
Dir::Cache "./cache";
Dir::Etc::preferences "/dev/null";
Dir::Etc::preferencesparts "/dev/null";
Dir::Etc::sourcelist "/dev/null";
Dir::Etc::sourceparts "./sources";
Dir::State::lists "./lists";
Dir::State::status "./status";
"""


# ---- this machine's sources ----------------------------------------------------------------------

Source = dict[str, str]                 # a stanza's fields, by their names in small letters

OURS = {"types", "uris", "suites", "components", "enabled", "architectures", "languages",
        "targets", "arch", "lang", "target", "x-repolib-name"}


def one_line(text: str) -> Iterator[Source]:
    """The entries of a sources.list."""
    for line in text.splitlines():
        found = re.match(r"\s*(deb|deb-src)\s+(?:\[(.*?)\]\s*)?(\S+)\s+(\S+)([^#]*)", line)
        if found:
            kind, options, uri, suite, components = found.groups()
            named = dict(each.split("=", 1) for each in (options or "").split() if "=" in each)
            yield {**{name.lower().rstrip("+-"): value.replace(",", " ")
                      for name, value in named.items()},
                   "types": kind, "uris": uri, "suites": suite, "components": components.strip()}


def deb822(text: str) -> Iterator[Source]:
    """The stanzas of a .sources file."""
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    for stanza in re.split(r"\n(?:[ \t]*\n)+", "\n".join(lines)):
        fields = re.findall(r"^([^\s:]+):[ \t]*(.*(?:\n[ \t].*)*)", stanza, re.M)
        if fields:
            yield {name.lower(): value for name, value in fields}


def files() -> list[Path]:
    """Where apt reads its sources, as it is configured."""
    said = _output(["apt-config", "shell", "LIST", "Dir::Etc::sourcelist/f",
                    "PARTS", "Dir::Etc::sourceparts/d"])
    places = {name: Path(value.replace("'\\''", "'"))
              for name, value in re.findall(r"^(\w+)='(.*)'$", said, re.M)}
    parts = sorted(path for path in places["PARTS"].glob("*")
                   if re.fullmatch(r"[\w.-]+\.(list|sources)", path.name))
    return [path for path in [places["LIST"], *parts] if path.is_file()]


def sources() -> list[Source]:
    """The entries that may be Debian's own archive, the likeliest first: a suite's name has no
    dash and no slash there, and the same archive has that suite's updates."""
    try:
        texts = [(path, path.read_text("utf-8", "replace")) for path in files()]
    except OSError as error:
        raise ServerError(f"this machine's apt sources cannot be read: {error}.") from error
    entries = [entry for path, text in texts
               for entry in (deb822 if path.suffix == ".sources" else one_line)(text)]
    found, updated = {}, set()
    for entry in entries:
        wanted = entry.get("enabled", "yes").strip().lower() not in ("no", "false", "0", "off")
        for uri in entry.get("uris", "").split() if wanted else []:
            suites = entry.get("suites", "").split()
            updated |= {uri.rstrip("/") for suite in suites if suite.endswith("-updates")}
            if "main" in entry.get("components", "").split() and not uri.startswith("cdrom:") and \
                    any(not re.search("[-/]", suite) for suite in suites):
                kept = {name: value for name, value in entry.items() if name not in OURS}
                found.setdefault((uri.rstrip("/"), *kept.items()), {**kept, "uris": uri})
    return sorted(found.values(), key=lambda one: one["uris"].rstrip("/") not in updated)


def stanza(source: Source, suite: str, kind: str) -> str:
    """The same archive's other suite, and nothing but its main component.  What lies on a disk is
    copied, which apt leaves out for file:."""
    source = {**source, "uris": re.sub("^file:", "copy:", source["uris"])}
    target = "Sources" if kind == "deb-src" else "Packages"
    fields = {"types": kind, **source, "suites": suite, "components": "main", "targets": target}
    return "".join(f"{name}: {value}\n" for name, value in fields.items())


# ---- fetching ------------------------------------------------------------------------------------


def fetch(apt: Path, packages: list[str], suite: str, arch: str = "", source: bool = False,
          pauses: tuple = (3, 15, None)) -> list[Path]:
    """Let apt-get resolve and download, with lists and a state of its own in a folder."""
    for tool in ("apt-config", "apt-get", "dpkg", "dpkg-deb"):
        if not shutil.which(tool):
            raise ServerError(f"{tool} is needed to fetch Debian's packages, and is not here: run"
                              " the tests on Debian 12 or newer.")
    archives = sources()
    if not archives:
        looked = " and ".join(map(str, files())) or "no file, because there is none"
        raise ServerError(f"this machine's apt sources ({looked}) have no entry for Debian's own"
                          " archive, with a suite and the component main: add one.")
    arch = arch or _output(["dpkg", "--print-architecture"]).strip()
    for pause in pauses:            # archives and networks hiccup, and sid moves while we look
        reasons = {}
        for archive in archives:
            _begin(apt, arch, stanza(archive, suite, "deb-src" if source else "deb"))
            command = ["source", "--download-only"] if source else [
                "install", "--download-only", "--yes"]
            reason = _apt_get(apt, "update") or _apt_get(apt, *command, *packages)
            found = sorted(apt.glob("*.orig.tar.*" if source else "cache/archives/*.deb"))
            if found and not reason:
                return found
            reasons[archive["uris"]] = reason or "nothing was downloaded"
        text = "; ".join(f"{uri}: {reason}" for uri, reason in reasons.items())
        if pause:
            print(f"{text}; trying again in {pause} s", file=sys.stderr, flush=True)
            time.sleep(pause)
    raise ServerError(f"apt-get cannot fetch {' and '.join(packages)} of Debian {suite} by this"
                      f" machine's apt sources ({text}): check the network, and that its"
                      " debian-archive-keyring is the newest.")


def _begin(apt: Path, arch: str, sources_file: str) -> None:
    shutil.rmtree(apt, ignore_errors=True)
    for name in ("lists/partial", "cache/archives/partial", "sources"):
        (apt / name).mkdir(parents=True)
    (apt / "sources" / "debian.sources").write_text(sources_file, "utf-8")
    (apt / "status").write_text("".join(
        f"Package: {name}\nStatus: install ok installed\nVersion: 9999\nArchitecture: {arch}\n"
        "Multi-Arch: allowed\nMaintainer: none\nDescription: not needed\n\n"
        for name in NOT_NEEDED))
    (apt / "apt.conf").write_text(APT_CONF.format(arch=arch))


def _apt_get(apt: Path, *args: str) -> str:
    """Run apt-get; the reason if it fails, else nothing."""
    run = subprocess.run(["apt-get", "-c", "apt.conf", "-q", *args], cwd=apt, text=True,
                         check=False, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                         stderr=subprocess.STDOUT, env={**os.environ, "LC_ALL": "C"})
    errors = re.findall(r"^E: *(.*)", run.stdout, re.M) or [f"it ended with {run.returncode}"]
    return errors[0].strip() if run.returncode else ""


def _output(argv: list[str]) -> str:
    done = subprocess.run(argv, check=False, capture_output=True, text=True,
                          stdin=subprocess.DEVNULL)
    if done.returncode:
        raise ServerError(f"{' '.join(argv)} fails: {' '.join(done.stderr.split())}")
    return done.stdout


def unpack(root: Path, packages: list[Path]) -> None:
    """Unpack packages, largest first, on all cores.  No maintainer script runs."""
    for name in ("bin", "sbin", "lib", "lib64"):
        (root / "usr" / name).mkdir(parents=True)
        (root / name).symlink_to(f"usr/{name}")
    into = ["tar", "-x", "-C", str(root), "--keep-directory-symlink", "--no-same-owner",
            *(f"--exclude={pattern}" for pattern in EXCLUDE)]

    def one(package: Path) -> None:
        with subprocess.Popen(["dpkg-deb", "--fsys-tarfile", package],
                              stdout=subprocess.PIPE) as deb:
            tar = subprocess.run(into, stdin=deb.stdout, check=False)
        if deb.returncode or tar.returncode:
            raise ServerError(f"{package.name} cannot be unpacked: is the disk full?")

    by_size = sorted(packages, key=lambda package: -package.stat().st_size)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(one, by_size))


if __name__ == "__main__":
    try:
        fetch(Path(sys.argv[1]), [sys.argv[3]], sys.argv[2], source=True)
    except ServerError as error:
        sys.exit(f"debian.py: {error}")
