"""The tests' packages come from the archives of this machine's apt, however it is configured."""

import base64
import gzip
import hashlib
import http.server
import shutil
import subprocess
import threading
from pathlib import Path

import debian
import pytest

KEY = """-----BEGIN PGP PUBLIC KEY BLOCK-----
 .
 mDMEZ
 -----END PGP PUBLIC KEY BLOCK-----"""


@pytest.fixture(name="apt")
def made_up_apt(tmp_path, monkeypatch):
    """A function that gives apt these files of sources, and these lines of configuration."""
    etc = tmp_path / "it's etc"
    (etc / "parts").mkdir(parents=True)

    def make(files: dict[str, str], *conf: str) -> Path:
        for name, text in files.items():
            (etc / name).write_text(text)
        (etc / "apt.conf").write_text("\n".join((
            f'Dir::Etc::sourcelist "{etc}/sources.list";',
            f'Dir::Etc::sourceparts "{etc}/parts";', *conf)))
        return etc

    monkeypatch.setenv("APT_CONFIG", str(etc / "apt.conf"))
    make({})
    return make


# Files of sources, and what is found in them, the likeliest first.
CONFIGURATIONS = {
    "one line": ({"sources.list": "deb http://a.example/debian/ bookworm main contrib\n"},
                 [{"uris": "http://a.example/debian/"}]),
    "options": ({"parts/a.list": "# deb http://no.example/debian bookworm main\n"
                 "deb [ arch=amd64,arm64 signed-by=/k/a.gpg,/k/b.gpg trusted=yes lang=en ]"
                 " https://a.example:8443/x bookworm main # ours\n"},
                [{"signed-by": "/k/a.gpg /k/b.gpg", "trusted": "yes",
                  "uris": "https://a.example:8443/x"}]),
    "only a source": ({"sources.list": "deb-src http://a.example/d trixie main\n"},
                      [{"uris": "http://a.example/d"}]),
    "sid": ({"sources.list": "deb http://a.example/d unstable non-free main"},
            [{"uris": "http://a.example/d"}]),
    "stanza": ({"parts/debian.sources": "Types: deb deb-src\n# one\n"
                "URIs: http://a.example/debian\nSUITES: bookworm bookworm-updates\n"
                "Components: main\n contrib\n"
                f"Architectures: amd64\nSigned-By:\n {KEY}\nCheck-Valid-Until: no\n"},
               [{"signed-by": f"\n {KEY}", "check-valid-until": "no",
                 "uris": "http://a.example/debian"}]),
    "mirror list": ({"parts/x.sources": "Types: deb\nURIs: mirror+file:/etc/apt/mirrors/d.list\n"
                     "Suites: bookworm bookworm-updates bookworm-backports\nComponents: main\n"},
                    [{"uris": "mirror+file:/etc/apt/mirrors/d.list"}]),
    "others too": ({"sources.list": "deb cdrom:[Debian 12]/ bookworm main\n"
                    "deb cdrom:[Debian_12]/ bookworm main\n"
                    "deb http://a.example/php bookworm main\n"
                    "deb http://a.example/flat ./\ndeb http://a.example/pg bookworm-pgdg main\n"
                    "deb http://a.example/docker bookworm stable\n",
                    "parts/y.sources": "\n\nTypes: deb\nURIs: http://security.example/d\n"
                    "Suites: bookworm-security\nComponents: main\n\n \nTypes: deb\nEnabled: no\n"
                    "URIs: http://off.example/d\nSuites: bookworm\nComponents: main\n\n"
                    "Types: deb\nURIs: http://b.example/d http://c.example/d\nSuites: bookworm\n"
                    "Components: main\n\nTypes: deb\nURIs: http://c.example/d/\n"
                    "Suites: bookworm-updates\nComponents: main\n"},
                   [{"uris": f"http://{name}.example/{path}"} for name, path in (
                       ("c", "d"), ("a", "php"), ("b", "d"))]),
    "ignored names": ({"parts/a.list.save": "deb http://a.example/d bookworm main\n",
                       "parts/b c.list": "deb http://a.example/d bookworm main\n",
                       "parts/d.sources.disabled": "Types: deb\n"}, []),
    "nothing": ({}, []),
}


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_sources_of_the_machine_are_read(apt, name):
    files, wanted = CONFIGURATIONS[name]
    apt(files)
    assert debian.sources() == wanted


def test_the_real_configuration_has_an_archive(monkeypatch):
    monkeypatch.delenv("APT_CONFIG", raising=False)
    assert debian.sources() and all(one["uris"] for one in debian.sources())


@pytest.mark.parametrize("name", ["ignored names", "others too"])
def test_without_debian_one_sentence_says_so(apt, tmp_path, name):
    """The same if an archive cannot be reached. No archive is named but the machine's own."""
    apt(CONFIGURATIONS[name][0], 'Acquire::Retries "0";', 'Acquire::http::Proxy "http://[::1]:1";')
    with pytest.raises(debian.ServerError) as caught:
        debian.fetch(tmp_path / "apt", ["hello"], "sid", pauses=(None,))
    text = str(caught.value)
    assert text.count("\n") == 0 and (
        "have no entry for Debian's own archive" in text if name == "ignored names" else
        all(f"http://{each}: " in text for each in ("a.example/php", "b.example/d", "c.example/d")))


def test_without_apt_one_sentence_says_so(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(debian.ServerError, match="^apt-config is needed to fetch"):
        debian.fetch(tmp_path / "apt", ["hello"], "sid")


def test_an_odd_configuration_is_named(apt, tmp_path):
    apt({}, 'Dir::Etc "nothing')                # a syntax error
    with pytest.raises(debian.ServerError, match="^apt-config .* fails: .*apt.conf"):
        debian.fetch(tmp_path / "apt", ["hello"], "sid")
    apt({"parts/a.list": ""})
    (tmp_path / "it's etc/parts/a.list").unlink()
    (tmp_path / "it's etc/parts/a.list").symlink_to("a.list")
    with pytest.raises(debian.ServerError, match="have no entry|cannot be read"):
        debian.fetch(tmp_path / "apt", ["hello"], "sid")


# ---- fetching, from an archive of our own --------------------------------------------------------


@pytest.fixture(scope="module", name="archive")
def make_archive(tmp_path_factory):
    """An archive with a suite sid, in which is a package, and its source."""
    top = tmp_path_factory.mktemp("archive")
    control = top / "tree/DEBIAN/control"
    control.parent.mkdir(parents=True)
    control.write_text("Package: hello\nVersion: 2\nArchitecture: all\nMaintainer: none <a@b.c>\n"
                       "Depends: perl\nDescription: says it\n")
    (top / "tree/hello").write_text("hello")
    deb = top / "pool/hello_2_all.deb"
    deb.parent.mkdir()
    subprocess.run(["dpkg-deb", "--root-owner-group", "-b", top / "tree", deb], check=True,
                   stdout=subprocess.DEVNULL)
    (top / "pool/hello_2.orig.tar.gz").write_bytes(gzip.compress(b"not looked into"))

    def listed(path: Path, name: str) -> str:
        content = path.read_bytes()
        return f" {hashlib.sha256(content).hexdigest()} {len(content)} {name}\n"

    arch = subprocess.run(["dpkg", "--print-architecture"], check=True, text=True,
                          stdout=subprocess.PIPE).stdout.strip()
    sums = listed(deb, "x").split()
    index = {f"main/binary-{arch}/Packages": f"{control.read_text()}Filename: pool/{deb.name}\n"
             f"Size: {sums[1]}\nSHA256: {sums[0]}\n",
             "main/source/Sources": "Package: hello\nBinary: hello\nVersion: 2\nDirectory: pool\n"
             "Format: 1.0\nChecksums-Sha256:\n"
             + listed(top / "pool/hello_2.orig.tar.gz", "hello_2.orig.tar.gz")}
    release = "Origin: Debian\nSuite: unstable\nCodename: sid\nComponents: main\nSHA256:\n"
    for name, text in index.items():
        path = top / "dists/sid" / name
        path.parent.mkdir(parents=True)
        path.write_text(text)
        release += listed(path, name)
    (top / "dists/sid/Release").write_text(release)
    return top


def test_packages_come_from_the_archive_that_has_the_suite(apt, archive, tmp_path):
    """The first two archives have no sid. A list of mirrors names the third."""
    mirrors = tmp_path / "mirrors"
    mirrors.write_text(f"copy:{archive}\n")
    apt({"sources.list": f"deb [trusted=yes] file:{tmp_path}/none bookworm main\n"
         f"deb [trusted=yes] file:{tmp_path}/nor-this bookworm-updates main\n"
         f"deb [trusted=yes] file:{tmp_path}/nor-this bookworm main\n"
         f"deb [trusted=yes] mirror+file:{mirrors} bookworm main\n"})
    folder = tmp_path / "a 'folder' $x #1"
    (deb,) = debian.fetch(folder, ["hello"], "sid", pauses=(None,))
    assert deb.name == "hello_2_all.deb"
    debian.unpack(tmp_path / "root of it", [deb])
    assert (tmp_path / "root of it/hello").read_text() == "hello"
    (source,) = debian.fetch(folder, ["hello"], "sid", source=True, pauses=(None,))
    assert source.name == "hello_2.orig.tar.gz"


def test_an_archive_on_a_disk_is_copied(apt, archive, tmp_path):
    apt({"sources.list": f"deb [trusted=yes] file:{archive} bookworm main\n"})
    (deb,) = debian.fetch(tmp_path / "apt", ["hello"], "sid", pauses=(None,))
    assert deb.is_file() and deb.is_relative_to(tmp_path)


def test_an_unsigned_archive_is_refused(apt, archive, tmp_path):
    apt({"sources.list": f"deb file:{archive} bookworm main\n"})
    with pytest.raises(debian.ServerError, match="(?i)not signed"):
        debian.fetch(tmp_path / "apt", ["hello"], "sid", pauses=(None,))


def test_proxy_and_password_are_the_machine_s(apt, archive, tmp_path):
    asked = []

    class Proxy(http.server.SimpleHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append((self.path, self.headers.get("Authorization", "")))
            place = archive / self.path.removeprefix("http://a.example/debian/")
            found = place.is_file() and asked[-1][1]
            self.send_response(200 if found else 404 if asked[-1][1] else 401)
            self.send_header("Content-Length", str(place.stat().st_size if found else 0))
            self.end_headers()
            if found:
                with place.open("rb") as file:
                    shutil.copyfileobj(file, self.wfile)

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Proxy) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        etc = apt({"parts/a.sources": "Types: deb\nURIs: http://a.example/debian\n"
                   "Suites: bookworm\nComponents: main\nTrusted: yes\n",
                   "auth.conf": "machine http://a.example/debian login me password x\n"},
                  f'Acquire::http::Proxy "http://127.0.0.1:{server.server_port}";')
        apt({}, f'Acquire::http::Proxy "http://127.0.0.1:{server.server_port}";',
            f'Dir::Etc::netrc "{etc}/auth.conf";')
        (deb,) = debian.fetch(tmp_path / "apt", ["hello"], "sid", pauses=(None,))
        server.shutdown()
    assert deb.name == "hello_2_all.deb"
    assert {word for _, word in asked} == {"Basic " + base64.b64encode(b"me:x").decode()}
