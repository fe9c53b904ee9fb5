"""`make install`, `make uninstall` and `make deb` put files in their places, where they work."""

import getpass
import gzip
import json
import re
import shutil
import stat
import subprocess
from pathlib import Path

import pytest
from conftest import write_conf
from kms_emulator import ACCESS_KEY_ID, KEY_ARN, SECRET, Emulator
from manual import MANUAL, PAGES, README, section
from servers import MySQL
from versions import Expect

TOP = Path(__file__).resolve().parent.parent
VERSION = re.search(r'#define KAWS_VERSION "(.*)"', (TOP / "keyring_aws.h").read_text())[1]
PLUGIN = "usr/lib/mysql/plugin/keyring_aws.so"
COMPONENT = "usr/lib/mysql/plugin/component_keyring_aws.so"
DOC = "usr/share/doc"
MAN7 = {f"share/man/man7/{page.stem}.7" for page in PAGES}
EXAMPLES = {f"examples/{path.name}" for path in (TOP / "tests/package/examples").iterdir()}


def run(*command: object, **options: object) -> subprocess.CompletedProcess:
    return subprocess.run(list(map(str, command)), text=True, capture_output=True, check=False,
                          **options)


def output(*command: object, **options: object) -> str:
    done = run(*command, **options)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def make(*words: object, top: Path = TOP) -> str:
    return output("make", "-s", *words, cwd=top)


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if not path.is_dir()}


def pkg_config(folder: Path, prefix: str, *words: str) -> list[str]:
    """What pkg-config says of an installation in a folder."""
    return output("pkg-config", *words, "keyring_aws", env={
        "PATH": "/usr/bin:/bin", "PKG_CONFIG_LIBDIR": f"{folder}/{prefix}/share/pkgconfig",
        "PKG_CONFIG_SYSROOT_DIR": str(folder)}).split()


def compile_with(folder: Path, prefix: str, source: Path, out: Path) -> Path:
    output("gcc", "-std=c99", "-Wall", "-Wextra", "-Werror",
           *pkg_config(folder, prefix, "--cflags"),
           "-o", out, source, *pkg_config(folder, prefix, "--libs"))
    return out


# ---- make install ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("installed")
    make("install", f"DESTDIR={folder}", "PREFIX=/opt/x", "PLUGIN_DIR=/srv/plugins")
    return folder


def test_install_and_uninstall(installed, tmp_path):
    assert files(installed) == {
        "opt/x/include/keyring_aws.h", "opt/x/share/pkgconfig/keyring_aws.pc",
        *(f"opt/x/{page}" for page in MAN7),
        *(f"opt/x/share/doc/keyring_aws/{example}" for example in EXAMPLES),
        "srv/plugins/keyring_aws.so", "srv/plugins/component_keyring_aws.so"}
    for name in files(installed):
        assert stat.S_IMODE((installed / name).stat().st_mode) == 0o644, name
    assert (installed / "opt/x/include/keyring_aws.h").read_bytes() == \
        (TOP / "keyring_aws.h").read_bytes()
    linked = installed / "srv/plugins/component_keyring_aws.so"
    assert linked.is_symlink() and str(linked.readlink()) == "keyring_aws.so"
    words = ("DESTDIR=" + str(tmp_path), "PREFIX=/opt/x", "PLUGIN_DIR=/srv/plugins")
    make("install", *words)
    make("install", *words)                 # over the files and the link that are there
    (tmp_path / "opt/x/include/other.h").touch()
    make("uninstall", *words)
    assert files(tmp_path) == {"opt/x/include/other.h"}
    assert not (tmp_path / "opt/x/share/doc/keyring_aws").exists()
    make("install", *words)
    mine = {f"opt/x/share/doc/keyring_aws/{name}" for name in ("mine", "examples/mine")}
    for name in mine:
        (tmp_path / name).touch()
    make("uninstall", *words)
    assert files(tmp_path) == {"opt/x/include/other.h"} | mine


def test_readme_example_by_pkg_config(installed, tmp_path, certs):
    assert pkg_config(installed, "opt/x", "--modversion") == [VERSION]
    (example,) = re.findall(r"^```c\n(.*?)^```", README.read_text(), re.M | re.S)
    (tmp_path / "example.c").write_text(example)
    program = compile_with(installed, "opt/x", tmp_path / "example.c", tmp_path / "example")
    conf = write_conf(tmp_path / "conf", ACCESS_KEY_ID, SECRET)
    with Emulator(*certs.good) as kms:
        said = output(program, tmp_path / "data", conf, KEY_ARN, kms.url, certs.ca)
    assert said == "a key of 32 bytes\n"
    assert run(program).returncode == 2, "it says how it is used"


@pytest.mark.parametrize("source", PAGES, ids=lambda page: page.stem)
def test_man_page_has_all_of_its_source(installed, source):
    page = installed / f"opt/x/share/man/man7/{source.stem}.7"
    shown = run("man", "--warnings", "-E", "UTF-8", "-l", page, env={
        "PATH": "/usr/bin:/bin", "MANWIDTH": "200", "LC_ALL": "C.UTF-8"})
    assert shown.returncode == 0 and "warning" not in shown.stderr, shown.stderr
    name, what = re.match(r"# (\S+): (.*)", source.read_text()).groups()
    assert f"{name} - {what}" in output("lexgrog", page)
    manual = source.read_text().partition("\n")[2]
    for heading in re.findall(r"^##+ (.*)", manual, re.M):
        assert heading in shown.stdout
    plain = re.sub(r"\s+", "", shown.stdout).replace("\u2010", "")
    rows = re.sub(r"(?m)^\|.*\n(?=\|--)", "", manual)
    for cell in re.findall(r"\| ([^|`\n]{12,}?) (?=\|)", rows):
        assert re.sub(r"\s+", "", cell) in plain or "](" in cell, cell
    piped = [line.strip() for line in re.findall(r"(?m)^ {4,}.*\|.*", manual)]      # of commands
    rest = re.sub("|".join(map(re.escape, piped)), "", shown.stdout) if piped else shown.stdout
    assert "|" not in re.sub(r".*(\|\||#).*", "", rest)
    unquoted = re.sub(r"^```.*?^```|^ {4,}.*|`[^`]*`", "", manual, flags=re.M | re.S)
    for form in ("`", "]("):
        assert form not in shown.stdout, form
    for word in re.findall(r"\w{4,}(?:[.]\w+)*", re.sub(r"\]\(.*?\)", "", unquoted)):
        assert word in plain, word
    others = [page.stem for page in PAGES if page != source]
    for name in others + re.findall(r"\]\(([\w-]+)\.md", manual):
        assert f"{name}(7)" in plain, name


def test_man_page_formats_what_its_source_may_say(tmp_path):
    """Each form, in the formatter's own words; what would mean something to it means nothing."""
    (tmp_path / "x-y.md").write_text(
        "# x-y: title\n\n.begins 'with a `dot\\` and\n.so *on* **and `-x` so** [on *it*](#x)\n\n"
        "## A \"chapter\"\n\n* one\n  goes on\n\n      .code 'x' \\n -y\n\n  more\n* two\n\n"
        "1. first\n\n```c\nint `x`;\n```\n\n| a | b | c |\n|---|---|---|\n| `t` | u | |\n"
        "| v | `w\\|z` | x* |\n\n### Part\n\n[there](z-z.md#x) and [z-z](z-z.md)\n\n"
        "## Last\n\nd\u00e9j\u00e0 ~^`\n")
    page = output("python3", TOP / "tests/package/man.py", tmp_path / "x-y.md",
                  TOP / "keyring_aws.h", TOP / "tests/package/debian/changelog")
    assert page.partition(".SH \"DESCRIPTION\"\n")[2] == r"""\&.begins \(aqwith a \fBdot\e\fR and
\&.so \fIon\fR \fBand \-x so\fR on \fIit\fR
.SH "A \(dqchapter\(dq"
.IP \(bu 3
one
goes on
.RS 4
.IP "" 4
.EX
\&.code \(aqx\(aq \en \-y
.EE
.RE
.IP
more
.IP \(bu 3
two
.IP "1." 4
first
.IP "" 7
.EX
int \(gax\(ga;
.EE
.TP
\fBt\fR
b: u
.TP
v
b: \fBw|z\fR; c: x*
.SS "Part"
there in \fBz\-z\fR(7) and z-z
.SH "Last"
d\[u00E9]j\[u00E0] \(ti\(ha\(ga
.SH "SEE ALSO"

"""


# ---- folders whose names mean something to make or to a shell --------------------------------

ODD = "it's \"a\" #1 b"                 # and for a checkout, which make never reads, a $


def test_a_checkout_may_be_in_any_folder(tmp_path):
    """All of it is made there, and nothing beside it is touched."""
    top = tmp_path / f"{ODD} $HOME $(x) `y` 100%"
    for name in output("git", "ls-files", "-z", cwd=TOP).split("\0"):
        if name and (TOP / name).is_file():
            (top / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(TOP / name, top / name)
    (tmp_path / "it's").write_text("mine")
    made = make("deb", top=top).splitlines()
    assert [Path(deb).parent for deb in made] == [top / "build/deb"] * 2
    for deb in made:
        output("dpkg-deb", "-x", deb, tmp_path / "unpacked")
    assert (tmp_path / "unpacked" / PLUGIN).stat().st_size > 50000
    make("install", "DESTDIR=build/here", "PREFIX=/usr", top=top)
    assert (top / "build/here/usr/include/keyring_aws.h").exists()
    assert {path.name for path in tmp_path.iterdir()} == {top.name, "it's", "unpacked"}
    assert (tmp_path / "it's").read_text() == "mine"


def test_an_installation_may_be_in_any_folder(tmp_path):
    """Its parts are whole words to nobody: what lies where they would point is not touched."""
    for name in ("it's/include/keyring_aws.h", "y/share/man/man7/keyring_aws.7", "b/x/lib",
                 "it's/opt/x", "b/opt/x/include/keyring_aws.h"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    beside = files(tmp_path)
    words = (f"DESTDIR={tmp_path / ODD}", "PREFIX=/opt/x y", "PLUGIN_DIR=/srv/'\"#\\*?&|;(")
    make("install", *words)
    folder = tmp_path / ODD
    assert files(folder) == {
        "opt/x y/include/keyring_aws.h", "opt/x y/share/pkgconfig/keyring_aws.pc",
        *(f"opt/x y/{page}" for page in MAN7),
        *(f"opt/x y/share/doc/keyring_aws/{example}" for example in EXAMPLES),
        "srv/'\"#\\*?&|;(/keyring_aws.so", "srv/'\"#\\*?&|;(/component_keyring_aws.so"}
    blank = tmp_path / "c d"                # pkg-config's own folders may have blanks
    blank.symlink_to(folder)
    flags = output("pkg-config", "--cflags", "keyring_aws", env={
        "PATH": "/usr/bin:/bin", "PKG_CONFIG_LIBDIR": f"{blank}/opt/x y/share/pkgconfig"}).strip()
    assert flags == r"-I/opt/x\ y/include"
    make("uninstall", *words)
    blank.unlink()
    assert files(folder) == set() and files(tmp_path) == beside
    assert all((tmp_path / name).read_text() == name for name in beside)


@pytest.mark.parametrize("word, why", [
    ("DESTDIR={}/a$b", "has a '$'"), ("PREFIX=$HOME", "has a '$'"), ("PLUGIN_DIR=/a$$b", "a '$'"),
    ("PREFIX=usr", "has to begin with '/'"), ("PREFIX=", "has to begin with '/'"),
    ("PLUGIN_DIR=", "has to begin with '/'"),
    ("PREFIX=/a\"b", "pkg-config cannot read"), ("PREFIX=/a'b", "pkg-config cannot read"),
    ("PREFIX=/a#b", "pkg-config cannot read"), ("PREFIX=/a\\b", "pkg-config cannot read"),
    ("PREFIX=/folder", "is a folder")])
@pytest.mark.parametrize("target", ["install", "uninstall"])
def test_a_doubtful_place_is_refused(tmp_path, word, why, target):
    """By a sentence, before anything is written or removed."""
    own = tmp_path / "usr/lib/mysql/plugin/keyring_aws.so"
    for place in (own, tmp_path / "folder/include/keyring_aws.h/x"):
        place.parent.mkdir(parents=True)
        place.write_text("mine")
    before = files(tmp_path)
    for words, more in (([word], {}), ([], dict([word.split("=")]))):
        if words or word.startswith("DESTDIR"):         # the others, make has from its file
            given = {"DESTDIR": str(tmp_path), **more}
            env = {name: value.replace("{}", str(tmp_path)) for name, value in given.items()}
            done = run("make", "-s", target, *(each.replace("{}", str(tmp_path)) for each in words),
                       cwd=TOP, env={"PATH": "/usr/bin:/bin", **env})
            assert done.returncode == 2 and why in done.stderr and done.stderr.count("***") == 1
            assert files(tmp_path) == before and own.read_text() == "mine"


def test_make_says_what_to_do_where_bearssl_is_no_package(tmp_path):
    """On a machine without dpkg, whose compiler finds no bearssl.h."""
    for tool in ("sh", "cc"):
        (tmp_path / tool).symlink_to(shutil.which(tool))
    need = (TOP / "tests/need.sh", "gcc", "libbearssl-dev")
    where = {"PATH": str(tmp_path)}
    done = run(*need, env=where | {"CFLAGS": "-nostdinc"})
    assert done.returncode == 1 and done.stderr.count("\n") == 1
    assert "dnf install gcc libcurl-devel make" in done.stderr
    done = run(*need, env=where | {"CFLAGS": "-Os"})
    assert done.returncode == 0 and done.stdout + done.stderr == "", "it is there"
    assert run(need[0], "gcc", "python3", env=where | {"CFLAGS": "-nostdinc"}).returncode == 0


def test_a_package_that_dpkg_only_knows_of_is_missing(tmp_path):
    """A package that something suggests has a state, too: not-installed."""
    for tool in ("sh", "dpkg-query", "flock", "id"):
        (tmp_path / tool).symlink_to(shutil.which(tool))
    states = {"there": "install ok installed", "known": "unknown ok not-installed"}
    (tmp_path / "status").write_text("".join(
        f"Package: {name}\nStatus: {state}\nVersion: 1\nArchitecture: all\n"
        "Maintainer: none <a@b.c>\nDescription: none\n\n" for name, state in states.items()))
    done = run(TOP / "tests/need.sh", "there", "known", "unheard-of", env={
        "PATH": str(tmp_path), "DPKG_ADMINDIR": str(tmp_path)})
    assert done.returncode == 1 and "missing: known unheard-of\n" in done.stderr, done.stderr


# ---- make deb --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def debs(tmp_path_factory):
    """The packages, and a folder with both unpacked."""
    made = make("deb").splitlines()
    folder = tmp_path_factory.mktemp("debian")
    for deb in made:
        output("dpkg-deb", "-x", deb, folder)
    return {Path(deb).name.partition("_")[0]: Path(deb) for deb in made}, folder


def test_packages_lay_down(debs):
    packages, folder = debs
    own, dev = f"{DOC}/keyring-aws-mysql", f"{DOC}/libkeyring-aws-dev"
    assert files(folder) == {
        PLUGIN, COMPONENT, *(f"usr/{page}.gz" for page in MAN7), f"{own}/copyright",
        f"{own}/changelog.gz", *(f"{own}/{example}" for example in EXAMPLES),
        "usr/include/keyring_aws.h", "usr/share/pkgconfig/keyring_aws.pc", f"{dev}/copyright",
        f"{dev}/changelog.gz"}
    assert str((folder / COMPONENT).readlink()) == "keyring_aws.so"
    for deb in packages.values():
        assert all(line.split()[1] == "root/root"
                   for line in output("dpkg-deb", "-c", deb).splitlines())
        assert output("dpkg-deb", "-f", deb, "Version").strip() == VERSION
    depends = output("dpkg-deb", "-f", packages["keyring-aws-mysql"], "Depends")
    assert set(re.findall(r"[a-z][\w-]+\d*(?= \()", depends)) == {"libc6", "libcurl4"}
    for page in MAN7:
        assert gzip.decompress((folder / f"usr/{page}.gz").read_bytes()) == (
            TOP / "build/man" / Path(page).name).read_bytes()


def test_lintian_finds_no_error(debs):
    done = run("lintian", "--allow-root", "--fail-on", "error", *debs[0].values())
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("user", [True, False], ids=["mysql-is-there", "no-mysql"])
def test_scripts_keep_the_folder(debs, tmp_path, user):
    """Made for the server's account, never changed when it is there, removed only if empty."""
    output("dpkg-deb", "-e", debs[0]["keyring-aws-mysql"], tmp_path / "control")
    folder, bin_ = tmp_path / "mysql-keyring", tmp_path / "bin"
    bin_.mkdir()
    (bin_ / "getent").write_text(f"#!/bin/sh\n[ \"$*\" = 'passwd mysql' ] && {str(user).lower()}\n")
    (bin_ / "getent").chmod(0o755)

    def script(name: str, *words: str) -> None:
        text = (tmp_path / "control" / name).read_text()
        assert "/var/lib/mysql-keyring" in text
        text = text.replace("/var/lib/mysql-keyring", str(folder)).replace(
            "-o mysql -g mysql", f"-o {getpass.getuser()} -g {output('id', '-gn').strip()}")
        output("sh", "-eu", "-c", text, name, *words, env={"PATH": f"{bin_}:/usr/bin:/bin"})

    script("postinst", "configure", "")
    assert folder.exists() == user
    script("postinst", "triggered", "/usr/sbin/mysqld")
    assert folder.exists() == user
    if not user:
        return script("postrm", "purge")
    assert stat.S_IMODE(folder.stat().st_mode) == 0o750
    folder.chmod(0o700)
    script("postinst", "configure", "1.0.0")
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    (folder / "keyring_aws_data").touch()
    script("postrm", "purge")
    assert (folder / "keyring_aws_data").exists()
    (folder / "keyring_aws_data").unlink()
    script("postrm", "remove")
    assert folder.exists()
    script("postrm", "purge")
    assert not folder.exists()


def test_packaged_library_works(debs, tmp_path):
    shutil.copy(TOP / "tests/build/story.c", tmp_path)
    (tmp_path / "program.c").write_text('#define KEYRING_AWS_IMPLEMENTATION\n'
                                        '#include "keyring_aws.h"\n'
                                        '#include "story.c"\n')
    program = compile_with(debs[1], "usr", tmp_path / "program.c", tmp_path / "program")
    conf = write_conf(tmp_path / "conf", ACCESS_KEY_ID, SECRET)
    assert output(program, tmp_path / "data", conf) == "ok\n"


def test_packaged_plugin_works_in_mysql(debs, certs):
    """As its example says, but for the KMS key and the files' places."""
    example = (debs[1] / DOC / "keyring-aws-mysql/examples/keyring_aws.cnf").read_text()
    options = dict(re.split(r" *= *", line) for line in example.splitlines()[1:])
    options["keyring_aws_cmk_id"], options["keyring_aws_region"] = KEY_ARN, KEY_ARN.split(":")[3]
    with Emulator(*certs.good) as kms, MySQL(plugin=debs[1] / PLUGIN) as db:
        conf = write_conf(db.folder / "conf", ACCESS_KEY_ID, SECRET)
        options |= {"keyring_aws_conf_file": conf, "keyring_aws_endpoint": kms.url,
                    "keyring_aws_data_file": db.folder / "keyring" / "data",
                    "keyring_aws_ca_file": certs.ca}
        db.start(*(f"--{name}={value}" for name, value in options.items()))
        db.install_keyring_udf()
        db.sql("SELECT keyring_key_generate('MyKey', 'AES', 32)")
        assert db.sql("SELECT keyring_key_length_fetch('MyKey')") == [(32,)]
        db.sql("CREATE DATABASE d")
        db.sql("CREATE TABLE d.t (a INT) ENCRYPTION = 'Y'")
        assert kms.count("Decrypt") > 0 and kms.crashes == []


def manual_sql(title: str) -> list[str]:
    """The statements in a section's steps."""
    return re.findall(r"^ +((?:SELECT|CREATE|ALTER)\b[^;]*);$", section(title), re.M)


def test_packaged_component_works_in_mysql(debs, certs):
    """As the manual's steps say, with the examples, but for the KMS key, the access key and the
    files' places. Then the plugin serves the same tables, and then the component again."""
    examples = debs[1] / DOC / "keyring-aws-mysql/examples"
    settings = json.loads((examples / "component_keyring_aws.cnf").read_text())
    with Emulator(*certs.good) as kms, MySQL(plugin=debs[1] / PLUGIN) as db:
        if not Expect(db.version).components:
            pytest.skip("this server has no keyring components")
        conf = write_conf(db.folder / "conf", ACCESS_KEY_ID, SECRET)
        both = {"endpoint": kms.url, "ca_file": str(certs.ca)}
        data = db.folder / "keyring" / "data"
        settings |= {"cmk_id": KEY_ARN, "data_file": str(data), "keyring_aws": both}
        settings["aws_authentication"] |= {"access_key_id": ACCESS_KEY_ID,
                                           "access_key_secret": SECRET}
        db.components({"component_keyring_aws": settings})
        manifest, cnf = db.folder / "bin/mysqld.my", db.plugin_dir / "component_keyring_aws.cnf"
        assert json.loads(manifest.read_text()) == json.loads((examples / "mysqld.my").read_text())
        cnf.chmod(0o600)
        db.start()
        status, *made, rotate_cmk, rotate_keys, refresh = manual_sql(
            "The component, for MySQL 8.0.24 and later")
        assert dict(db.sql(status))["Component_status"] == "Active"
        assert not data.exists(), "a look at the status makes nothing"
        assert kms.count("GenerateDataKeyWithoutPlaintext") == 0, "KMS is asked for a key only"
        for statement in [*made, rotate_cmk, rotate_keys, refresh]:
            db.sql(statement)
        assert len(made) == 2 and kms.count("GenerateDataKeyWithoutPlaintext") == 1
        assert data.exists()
        db.sql("INSERT INTO secret.t VALUES (7)")
        db.sql("ALTER INSTANCE RELOAD KEYRING")
        functions = "SELECT keyring_aws_rotate_cmk(), keyring_aws_rotate_keys()"
        assert db.sql(functions) == [(1, 1)]

        db.stop()
        db.components(None)
        options = {f"keyring_aws_{name}": value for name, value in both.items()} | {
            "keyring_aws_cmk_id": KEY_ARN, "keyring_aws_data_file": data,
            "keyring_aws_conf_file": cnf}
        db.start("--early-plugin-load=keyring_aws.so",
                 *(f"--{name}={value}" for name, value in options.items()))
        assert db.sql("SELECT * FROM secret.t") == [(7,)] and db.sql(functions) == [(1, 1)]

        db.stop()
        moved = {name.removeprefix("keyring_aws_"): str(value) for name, value in options.items()}
        db.components({"component_keyring_aws": {"keyring_aws": moved | {
            "conf_file": str(conf), "create": False}}})
        db.start()
        assert db.sql("SELECT * FROM secret.t") == [(7,)] and db.sql(functions) == [(1, 1)]
        assert dict(db.sql(status))["Keys"] == "1" and kms.crashes == []
