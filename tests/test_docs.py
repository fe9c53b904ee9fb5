"""The examples of the manual and of the README do what they say, and the policies suffice."""

import json
import os
import re
import stat
import subprocess
from pathlib import Path

import pytest
from conftest import write_conf
from kms_emulator import ACCESS_KEY_ID, ACCOUNT, SECRET, Emulator
from servers import certificates

TOP = Path(__file__).resolve().parent.parent
HEADER = (TOP / "keyring_aws.h").read_text()
README = (TOP / "README.md").read_text()
WARNINGS = ["-Wall", "-Wextra", "-Wpedantic", "-Werror"]
REGION = "eu-west-1"


@pytest.fixture
def kms():
    certs = certificates()
    with Emulator(*certs.good) as emulator:
        emulator.ca = str(certs.ca)
        emulator.arn = emulator.add_key(REGION, ACCOUNT, alias="alias/app")
        yield emulator
        assert emulator.crashes == []


def header_example() -> str:
    """The first C program in the manual, as a user would copy it."""
    comment = HEADER[:HEADER.index("*/")]
    body = re.search(r"^ \*     int main\(void\)\n.*?^ \*     }$", comment, re.M | re.S).group()
    return re.sub(r"^ \* ?( {4})?", "", body, flags=re.M) + "\n"


def build_example(folder: Path, kms: Emulator, compiler: str, source: str) -> Path:
    conf = f'"keys.conf", .endpoint = "{kms.url}", .ca_file = {json.dumps(kms.ca)} }}'
    assert source.count('"keys.conf" }') == 1
    (folder / "example.c").write_text(
        '#define KEYRING_AWS_IMPLEMENTATION\n#include "keyring_aws.h"\n'
        + source.replace('"keys.conf" }', conf))
    subprocess.run([compiler, "-std=c99", *WARNINGS, f"-I{TOP}", "-o", "example", "example.c",
                    "-lbearssl", "-lcurl"], cwd=folder, check=True)
    return folder / "example"


@pytest.mark.parametrize("compiler", ["gcc", "clang"])
def test_the_first_example_of_the_header(tmp_path, kms, compiler):
    write_conf(tmp_path / "keys.conf", ACCESS_KEY_ID, SECRET)
    program = build_example(tmp_path, kms, compiler, header_example())
    done = subprocess.run([program], cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, f"b: {kms.arn}\n"), done.stderr
    assert len(header_example().splitlines()) <= 32
    for action in ("GenerateDataKeyWithoutPlaintext", "Encrypt", "Decrypt", "ReEncrypt",
                   "RotateKeyOnDemand"):
        assert kms.count(action) >= 1, action
    assert b"correct horse" not in (tmp_path / "keys.kaws").read_bytes()
    assert stat.S_IMODE(os.stat(tmp_path / "keys.kaws").st_mode) == 0o600


def test_the_least_policy_suffices_and_is_needed(tmp_path, kms):
    """With the README's IAM policy everything works; less of any action, and something fails."""
    text = re.search(r'^    \{ "Version".*?\] \}$', README, re.M | re.S).group()
    policy = json.loads(text.replace("KEY", kms.arn))
    program = build_example(tmp_path, kms, "gcc",
                            header_example().replace("alias/app", kms.arn))

    def works(document) -> subprocess.CompletedProcess:
        kms.add_user("AKIDLEAST", "least-secret", ACCOUNT, policy=document)
        write_conf(tmp_path / "keys.conf", "AKIDLEAST", "least-secret")
        (tmp_path / "keys.kaws").unlink(missing_ok=True)
        return subprocess.run([program], cwd=tmp_path, capture_output=True, text=True)

    done = works(policy)
    assert done.returncode == 0, done.stderr
    actions = [(0, action) for action in policy["Statement"][0]["Action"]]
    for place, action in actions + [(1, "kms:RotateKeyOnDemand")]:
        less = json.loads(json.dumps(policy))
        allowed = less["Statement"][place]["Action"]
        if isinstance(allowed, list):
            allowed.remove(action)
        else:
            del less["Statement"][place]
        done = works(less)
        assert done.returncode == 1 and "AccessDeniedException" in done.stderr, action


# ---- the README's tables are the plugin's -------------------------------------------------------

ROW = re.compile(r'{ "(\w+)", PLUG__(\w+), PLUG__(\w+),.*?(?:(?:text = ("[^"]*")|number = {(.*?)}),'
                 r'.*?)?[.]help', re.S)
AT_RUN_TIME = {"MY_CNF": "read only", "SET": "`SET GLOBAL`",
               "SET_CHECKED": "`SET GLOBAL`, KMS is asked"}


def plugin_rows(start: str, row: str) -> list[str]:
    """The rows of a table of the plugin's source: each begins with a name in a line of its own."""
    source = (TOP / "keyring_aws_plugin.c").read_text()
    table = re.search(rf"{start}.*?^(?:}};|\n)", source, re.M | re.S)[0]
    rows = re.findall(row, table)
    assert len(rows) == len(re.findall(r'^    (?:{ "|ROW[(]"|X[(]keyring)', table, re.M)) > 0
    return rows


def readme_rows(name: str) -> list[list[str]]:
    """The cells of the README's table whose rows begin with such a name."""
    return [[cell.strip() for cell in row.split("|")[1:-1]]
            for row in re.findall(rf"^\| `{name}`.*", README, re.M)]


def test_the_readme_lists_every_setting():
    settings = plugin_rows("^static const plug__settings_row", ROW)

    def row(name, kind, where, text, numbers):
        of = [str(eval(each)) for each in numbers.split(",")[:3]] if numbers else []
        return [f"`keyring_aws_{name}`", f"{of[1]} to {of[2]}" if of else kind.lower(),
                f"`{of[0]}`" if of else text.replace('"', "`"), AT_RUN_TIME[where]]

    assert readme_rows(r"keyring_aws_\w+") == [
        row(*each) for each in settings if each[2] != "HIDDEN"]
    for name, *_ in settings:
        assert (f"\n* `keyring_aws_{name}`: " in README) == (name != "open_mode")


def test_the_readme_lists_every_status_variable_and_function():
    status = plugin_rows("^static plug__abi_show plug__status_table", r'ROW[(]"(\w+)"')
    assert [name for name, _ in readme_rows(r"Keyring_aws_\w+")] == [
        f"`Keyring_aws_{name}`" for name in status]
    functions = plugin_rows("^#define PLUG__FUNCTIONS", r"X[(](keyring_\w+),")
    assert sorted(name for name, _ in readme_rows(r"keyring_aws_\w+[(][)]")) == sorted(
        f"`{name}()`" for name in functions)


def test_the_readme_names_nothing_that_is_not_there():
    source = (TOP / "keyring_aws_plugin.c").read_text()
    for name in re.findall(r"`(keyring_aws_\w+|Keyring_aws_\w+)", README):
        assert re.sub(r"(?i)^keyring_aws_", "", name) in source, name
