"""Every command in the README and the man pages is run: here, or by a test that is named here, or
else the reason is here why it cannot be.  (The tests that are named read the text, too.)

Blocks of shell commands are read, and code within the text that is a command with options.  What is
run here is run on a clean machine (machine.py), by root with an administrator's credentials: the
page about the server first, and each page in its own order.  Words in capitals are replaced as
WORDS says.
"""

import json
import re
from pathlib import Path
from typing import Iterator, NamedTuple

import manual
from machine import HOME, Machine
from test_quick_start import Shell, on_a_machine

HERE = Path(__file__).resolve().parent

PROGRAMS = """apparmor_parser apt-get aws cat cc checkmodule chmod chown cp curl dmesg dnf
    docker echo editor eksctl export find findmnt for gcc grep head if install kubectl ln ls
    make mv mysql mysqldump openssl pgrep python3 restorecon rm scp sed semanage semodule
    semodule_package setsebool shred ssh sudo systemctl tail tar terraform until""".split()

ELSEWHERE = (   # page, heading, and the tests that run the commands below it
    ("README", "Quick start", "test_quick_start.py"),
    ("README", "Use it as a C library", "test_docs.py"),
    ("keyring_aws-server", "Examples", "test_examples.py"),
    ("keyring_aws", "Runbooks", "test_runbooks_*.py"),
    ("keyring_aws", "Backup", "test_backup.py"),
    ("keyring_aws", "What to alert on", "test_alerts.py"),
    ("keyring_aws", "From one keyring to another", "test_migration.py"),
)
CANNOT = (      # a command, and why it cannot run here
    (r"make (demo|test|bench)", "it is what runs this test, or takes as long"),
    (r"sudo -u mysql PROGRAM|cp -al$|make install PLUGIN_DIR=", "it is a form, no whole command"),
    (r"make standalone", "it fetches BearSSL's source, and the machine has no network;"
                         " `make test` itself does it"),
    (r"dnf |restorecon |semanage |setsebool |semodule ", "Debian has no SELinux"),
    (r"checkmodule |semodule_package ", "test_examples.py runs it where it is installed"),
    (r"kubectl |eksctl |docker ", "there is no cluster and no container engine"),
    (r"terraform ", "Debian has no Terraform; test_examples.py parses main.tf"),
    (r"editor ", "a person types what stands below it"),
    (r"systemctl (edit|daemon-reload)", "there is no systemd; test_examples_run.py runs one"),
    (r"sudo -u mysql env \S+ aws (configure sso|login)", "a person logs in, by a browser"),
    (r"aws rolesanywhere ", "moto has no IAM Roles Anywhere"),
    (r"aws kms list-key-rotations ", "Debian's aws is too old for it"),
    (r"gcc .*keyring_aws_plugin_standalone.c|install .*/usr/lib64|ln .*/usr/lib64|cp .*/usr/lib64",
     "those are paths of RHEL; test_examples_run.py compiles the file"),
)
WORDS = {"ACCOUNT": "123456789012", "REGION": "eu-west-1", "HOME": "eu-west-1",
         "SECOND": "eu-central-1", "CLUSTER": "blue", "NAMESPACE": "db",
         "SERVICE_ACCOUNT": "mysql", "EXTERNAL_ID": "x7Qm2", "COPY": "/etc/hostname",
         "FILE": "/etc/issue"}

NOT_SHELL = re.compile(         # how a block begins that has no commands: SQL, a file, what is seen
    r"[A-Z]{3,} |[{\[\"/]|[a-z_]+ += |kaws_|kms[.]")
POLICY = "policy: "                     # begins what is no command, but a file that one wants


class Command(NamedTuple):
    page: str
    heads: tuple[str, str]              # the headings of the second and third order
    text: str


def statements(block: str) -> Iterator[str]:
    """The commands of a block: lines that belong together, with the here document that follows."""
    lines = iter(re.sub(r"\\\n *", "", block).splitlines())
    for line in lines:
        ends = re.search(r"<<(\w+)", line)
        while ends and not line.endswith(f"\n{ends[1]}"):
            line += "\n" + next(lines)
        while line.startswith(("if ", "for ")) and not re.search(r"\n(fi|done)\b.*$", line):
            line += "\n" + next(lines)
        yield line


def is_command(text: str) -> bool:
    programs = "|".join(map(re.escape, PROGRAMS))
    return bool(re.match(rf"({programs})(?= )|[A-Z_]+=\S|\w+[(][)] ", text))


def parts(page: Path) -> Iterator[tuple[tuple[str, str], str, bool]]:
    """Each piece of a page, with the headings above it, and whether it is a block."""
    heads = ["", ""]
    for piece in re.split(r"(?m)(^##+ .*$|(?:^ {4,}.*\n|^\n(?= {4}))+)", manual.read(page)):
        if found := re.match(r"(##+) (.*)", piece):
            heads[min(len(found[1]), 3) - 2:] = [found[2]] + [""] * (3 - min(len(found[1]), 3))
        else:
            yield tuple(heads), piece, piece.lstrip("\n").startswith("    ")


def unindented(block: str) -> str:
    indent = min(len(line) - len(line.lstrip()) for line in block.splitlines() if line.strip())
    return re.sub(rf"(?m)^ {{{indent}}}", "", block).strip("\n")


def commands() -> list[Command]:
    found = []
    for page in sorted((manual.README, *manual.PAGES), key=lambda each: "server" not in each.stem):
        for heads, piece, is_block in parts(page):
            if is_block:
                block = unindented(piece)
                texts = list(statements(block)) if is_command(block) else [
                    POLICY + block] if block.startswith('{ "Version"') else []
            else:
                spans = re.findall(r"`([^`]+)`", " ".join(piece.split()))
                texts = [each for each in spans if each.split()[:1] == ["make"]
                         or is_command(each) and " -" in each]
            found += [Command(page.stem, heads, each) for each in texts]
    return found


COMMANDS = commands()


def place_of(command: Command) -> str:
    """The file of tests that runs a command; "": this one."""
    return next((file for page, head, file in ELSEWHERE if page == command.page
                 and re.fullmatch(head, command.heads[0])), "")


def reason(command: Command) -> str:
    return next((why for what, why in CANNOT if re.match(what, command.text)), "")


def test_commands_are_found_and_their_tests_are_there():
    assert len([each for each in COMMANDS if each.text.startswith("aws ")]) > 20
    for command in COMMANDS:
        file = place_of(command)
        assert not file or list(HERE.glob(file)), f"{command} is to be run by {file}"


def test_each_reason_is_that_of_a_command():
    for what, why in CANNOT:
        assert any(re.match(what, each.text) for each in COMMANDS), (what, why)


def test_each_block_is_commands_or_is_known_not_to_be():
    """So that no command goes unseen because its program is new here."""
    for page in (manual.README, *manual.PAGES):
        for heads, piece, is_block in parts(page):
            if is_block and not is_command(block := unindented(piece)):
                assert NOT_SHELL.match(block), f"{page.name}, {heads}: what is this?\n{block}"


def filled(text: str, words: dict[str, str]) -> str:
    return re.sub(rf"\b({'|'.join(words)})\b(?![=/])", lambda found: words[found[1]], text)


class Administrator:
    """Root, with an administrator's credentials, who does what the pages say."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.shell = Shell(machine, f"{HOME}/keyring_aws")
        self.words = WORDS | {"ID": machine.file(f"{HOME}/instance").read_text().strip()}
        self.shell.run("export AWS_PAGER= AWS_REGION=eu-west-1 EXAMPLES=tests/package/examples\n")
        self.run("systemctl start mysql; aws kms create-key")

    def run(self, text: str) -> str:
        said = self.shell.run(filled(text, self.words) + "\n")
        if made := re.search(r'"Arn": "(arn:aws:kms:\S+)"', said):
            self.words["KEY"] = made[1]
        return said

    def write(self, policy: str) -> None:
        """The file that the next command wants."""
        text = filled(policy, self.words)
        kind = "trust" if "Principal" in json.loads(text)["Statement"][0] else "policy"
        self.machine.file(f"{HOME}/keyring_aws/{kind}.json").write_text(text)


@on_a_machine
def test_every_other_command_runs():
    ours = [each for each in COMMANDS if not place_of(each) and not reason(each)]
    policies = [each for each in ours if each.text.startswith(POLICY)]
    with Machine() as machine:
        root = Administrator(machine)
        for each in reversed(policies):                 # a page may show one after its use
            root.write(each.text.removeprefix(POLICY))
        for each in ours:
            if each in policies:
                root.write(each.text.removeprefix(POLICY))
                continue
            said = root.run(each.text)
            if "Invalid IAM Instance Profile" in said:  # as the page says
                said = root.run(each.text)
            print(f"---- {each.page}, {each.heads}\n$ {each.text}\n{said}")
            assert "FAILED: " not in said, f"{each.page}, {each.heads}: {each.text}\n{said}"
        root.shell.close()
