"""The settings file of the component: a table of files and what comes of them, and the file itself.

tests/hosts/config_host.c reads a file as the component does.  The table is unit/vectors/config.txt.
"""

import os
import re
import subprocess
from pathlib import Path

import pytest

from driver import build_c

HERE = Path(__file__).resolve().parent
PLUGIN_C = HERE.parent / "keyring_aws_plugin.c"
VECTORS = HERE / "unit" / "vectors" / "config.txt"
NAME = "component_keyring_aws.cnf"
SIMPLE = ('{"data_file": "/d", "aws_authentication": {"mode": "simple", "access_key_id": "AKID",'
          ' "access_key_secret": "s3cr3t"}}')


def records() -> list[dict[str, list[str]]]:
    """The table's records, each with the lines of its fields."""
    found = []
    for block in re.split(r"\n\n+", VECTORS.read_text()):
        fields = [line.partition(":") for line in block.splitlines() if not line.startswith("#")]
        if fields:
            found.append({})
        for name, colon, value in fields:
            assert colon and name in ("case", "json", "instance", "set", "warn", "error"), name
            found[-1].setdefault(name, []).append(value.removeprefix(" "))
    return found


@pytest.fixture(name="program", scope="module")
def make_program():
    """Built anew if the plugin has changed, which build_c does not know to be a part of it."""
    source = HERE / "hosts" / "config_host.c"
    newest = max(source.stat().st_mtime, PLUGIN_C.stat().st_mtime)
    os.utime(source, (newest, newest))
    return build_c(source.name)


def said(program: Path, *folders: Path | str, **options: object) -> list[str]:
    done = subprocess.run([program, *map(str, folders)], capture_output=True, text=True,
                          check=False, timeout=300, **options)
    assert done.returncode == 0 and not done.stderr, done.stderr
    return done.stdout.splitlines()


@pytest.mark.parametrize("record", records(), ids=lambda record: record["case"][0])
def test_what_comes_of_a_file(program, tmp_path, record):
    plugins, instance = tmp_path / "plugins", tmp_path / "data"
    plugins.mkdir()
    instance.mkdir()
    text = "\n".join(record.get("json", [])).encode()
    text = re.sub(rb"<([0-9a-f]{2})>", lambda match: bytes([int(match[1], 16)]), text)
    (plugins / NAME).write_bytes(text)
    folders = [plugins, instance] if record.get("instance") != ["-"] else [plugins]
    names = {"%f": str(plugins / NAME), "%i": str(instance)}
    expected = [f"{kind} " + re.sub("%[fi]", lambda match: names[match[0]], line)
                for kind in ("warn", "error", "set") for line in record.get(kind, [])]
    assert said(program, *folders) == expected


def test_the_table_is_whole():
    """Each key of the file is set, refused or both by some record."""
    rooms = PLUGIN_C.read_text()
    keys = re.findall(r'^    \{ "([\w.]+)", +PLUG__\w+, +(?:NULL|"\w+") \}', rooms, re.M)
    settings = re.findall(r'^    \{ "(\w+)", PLUG__\w+, PLUG__(?!HIDDEN)\w+,', rooms, re.M)
    assert len(keys) >= 20 and len(settings) >= 24
    text = VECTORS.read_text()
    assert [name for name in settings if f"set: {name} = " not in text] == []
    assert [key for key in keys if f'"{key.rpartition(".")[2]}":' not in text] == []


# ---- which file, and whose ----------------------------------------------------------------------

@pytest.fixture(name="folders")
def make_folders(tmp_path):
    """The folder of plugins, whose file defers to the data folder's, and that folder."""
    plugins, instance = tmp_path / "plugins", tmp_path / "data"
    for folder, text in (plugins, '{"read_local_config": true}'), (instance, SIMPLE):
        folder.mkdir()
        (folder / NAME).write_text(text)
    return plugins, instance


def test_the_file_of_the_data_folder_counts_if_the_other_says_so(program, folders):
    plugins, instance = folders
    expected = [f"set conf_file = {instance / NAME}", "set data_file = /d"]
    assert said(program, *folders) == expected
    assert said(program, f"{plugins}/", f"{instance}/") == expected
    (plugins / NAME).write_text('{"read_local_config": true, "data_file": "/else", "fips": 1}')
    assert said(program, *folders)[1:] == expected                      # and a warning
    (plugins / NAME).write_text('{"read_local_config": false, "data_file": "/else"}')
    assert said(program, *folders) == ["set data_file = /else"]
    (plugins / NAME).write_text('{"read_local_config": true}')
    (instance / NAME).unlink()
    assert said(program, *folders) == [f"error cannot read the settings file {instance / NAME}: No"
                                       " such file or directory"]


def test_without_a_data_folder_it_is_that_of_the_current_one(program, folders):
    """A file that mode simple makes the conf file is the one that was read, by the same path."""
    plugins, instance = folders
    assert said(program, plugins, cwd=instance) == [f"set conf_file = ./{NAME}",
                                                    "set data_file = /d"]
    assert said(program, plugins, "data", cwd=instance.parent) == [
        f"set conf_file = data/{NAME}", "set data_file = /d"]
    (plugins / NAME).write_text(SIMPLE)
    assert said(program, "plugins", cwd=plugins.parent) == [f"set conf_file = plugins/{NAME}",
                                                            "set data_file = /d"]


def test_what_is_no_file_is_refused(program, folders):
    """Without waiting for a writer of a pipe, and without reading a file that has no end."""
    plugins, _ = folders
    path = plugins / NAME
    path.unlink()
    path.mkdir()
    assert said(program, plugins) == [f"error cannot read the settings file {path}: it is not a"
                                      " file"]
    path.rmdir()
    os.mkfifo(path)
    assert said(program, plugins) == [f"error cannot read the settings file {path}: it is not a"
                                      " file"]
    path.unlink()
    path.symlink_to("/dev/zero")
    assert said(program, plugins) == [f"error cannot read the settings file {path}: it is not a"
                                      " file"]


def test_the_longest_file(program, folders):
    plugins, _ = folders
    path, text = plugins / NAME, '{"data_file": "/d"}'
    path.write_text(text.ljust(65535))
    assert said(program, plugins) == ["set data_file = /d"]
    path.write_text(text.ljust(65536))
    assert said(program, plugins) == [f"error cannot read the settings file {path}: it is longer"
                                      " than 65535 bytes"]


def test_a_path_that_is_too_long(program, folders):
    """The limit is that of the whole path."""
    plugins, instance = folders
    path, most = plugins / NAME, 2 * 4096 - 1 - len(str(instance)) - 1
    path.write_text('{"data_file": "%s"}' % ("d" * most))
    assert said(program, *folders) == [f"set data_file = {instance}/{'d' * most}"]
    path.write_text('{"data_file": "%s"}' % ("d" * (most + 1)))
    assert said(program, *folders) == [f"error {path}: data_file is too long"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_a_secret_in_a_file_of_another_account_is_refused(program, folders):
    """Root may own it, and so may the owner of the data folder, whose account the server takes."""
    plugins, instance = folders
    path = plugins / NAME
    path.write_text(SIMPLE)
    os.chown(path, 12345, 12345)
    refused = [f"error {path} has access_key_secret, and belongs to another account (uid 12345):"
               " give it to the server's account, with mode 600"]
    assert said(program, plugins) == said(program, *folders) == refused
    os.chown(instance, 12345, 12345)
    assert said(program, *folders) == [f"set conf_file = {path}", "set data_file = /d"]
    os.chown(instance, 0, 0)
    path.write_text('{"data_file": "/d"}')              # nothing that is secret
    assert said(program, *folders) == ["set data_file = /d"]


def test_no_value_is_shown(program, folders):
    """Wherever the file is cut or spoilt, what is said has nothing of the secret in it."""
    plugins, _ = folders
    secret = "wJalrXUtnFEMIK7MDENGbPxRfiCYEXAMPLEKEY"
    whole = SIMPLE.replace("s3cr3t", secret)
    start = whole.index(secret)
    for at in range(start, start + len(secret) + 3, 3):
        for text in (whole[:at], whole[:at] + "\\" + whole[at:], whole[:at] + "\n" + whole[at:],
                     whole[:at] + '"' + whole[at:]):
            (plugins / NAME).write_text(text)
            lines = said(program, plugins)
            assert lines and not [n for n in range(len(secret) - 3)
                                  if any(secret[n:n + 4] in line for line in lines)]
