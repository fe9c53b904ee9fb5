"""A runbook of the manual, played step by step on a machine of the tests.

    with Machine() as machine, machine.play("The KMS key is disabled") as book:
        book.sees(...)                  # all that it quotes under "You see" was said
        book.run("describe-key")        # its next block, which has these words; returns the output

Each block has to be run, in its order: one that is left over fails the play.  A block of SQL goes
to the server, and any other one to sh.  What differs from an administrator's machine:

  * /var, /usr and /etc are folders in the machine's own, `root`
  * lines with systemctl stop and start its server, and editor is a function of the test's
  * pgrep finds this machine's server only
  * there is no account named mysql: sudo -u runs its command, install and chown name no owner
  * aws is Debian's, with the endpoints of the emulators and their CA: KMS is our emulator, which
    heeds a key's state, and IAM is moto, if there is one.  CloudTrail has no emulator: there the
    aws CLI only checks the arguments (--generate-cli-skeleton output)
"""

import contextlib
import json
import re
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Callable, Iterator, NamedTuple

import pymysql

from kms_emulator import ACCESS_KEY_ID, ACCOUNT, KEY_ARN, SECRET
from manual import section
from mysql_fixtures import COMPONENT, FUNCTIONS, QUICK, Stage, plugin_options, wait_for
from servers import Moto, clean_environment, run_in_tree

CHAPTER = "Runbooks"
DATA, PLUGINS = "var/lib/mysql-keyring/keyring_aws_data", "usr/lib/mysql/plugin"
SQL = re.compile(r"(?:SELECT|ALTER|SET|CREATE|DROP|FLUSH|SHOW|CHECK|RESET|INSERT)\b")
TEXT = re.compile(r'[{"[]')             # of a file: JSON, my.cnf
PATHS = re.compile(r"(?<![\w./-])/(?=(?:var|usr|etc)/)")

PRELUDE = """\
owner() {       # runs a command without the options that name an owner
    command=$1; shift
    for each; do
        shift
        case $each in
            -o|-g) skip=1;;
            mysql:mysql) ;;
            mysql|root) [ "$skip" ] || set -- "$@" "$each"; skip=;;
            *) set -- "$@" "$each";;
        esac
    done
    [ "$command" = chown ] || command "$command" "$@"
}
install() { owner install "$@"; }
chown() { owner chown "$@"; }
sudo() { shift 2; "$@"; }
pgrep() { [ -S "$MYSQL_UNIX_PORT" ]; }      # not the server of another test
scp() { cp "$1" "$OTHER_MACHINE${2#*:"$ROOT"}"; }
"""


class Runbook(NamedTuple):
    title: str
    text: str

    @property
    def sees(self) -> list[str]:
        """What it quotes as said by the server or its log, and the chapter's list of that."""
        seen = re.search(r"\*\*(?:You see|When):\*\*(.*?)\n\n", self.text, re.S)
        assert seen, f"{self.title}: what does one see, or when is it done?"
        anchor = re.sub(r"[^\w -]", "", self.title.lower()).replace(" ", "-")
        rows = [item for item in re.split(r"\n(?=\* |\n)", section(CHAPTER))
                if item.startswith("* ") and f"(#{anchor})" in item]
        return [" ".join(each.split()) for text in (seen[1], *rows)
                for each in re.findall(r"`([^`]+)`|(error \d+)", text) for each in each if each]

    @property
    def blocks(self) -> list[str]:
        """The blocks in its order, those of steps too."""
        found = re.findall(r"(?m)((?:^ {7}.*\n|^\n(?= {7}))+)", self.text)
        return [re.sub("(?m)^ {7}", "", each).strip("\n") for each in found if each.strip()]


def runbooks() -> dict[str, Runbook]:
    parts = re.split(r"(?m)^### (.*)\n", section(CHAPTER))[1:]
    return {title: Runbook(title, text) for title, text in zip(parts[::2], parts[1::2])}


def others() -> list[tuple[list[str], str]]:
    """What the chapter's list quotes, and the title of the other chapter that it leads to."""
    items = re.findall(r"(?ms)^\* ((?:(?!^\* |^$).)*?): \[([^]]+)\]\(#", section(CHAPTER))
    return [([" ".join(each.split()) for each in re.findall("`([^`]+)`", what)],
             " ".join(title.split())) for what, title in items
            if " ".join(title.split()) not in runbooks()]


def setup() -> str:
    """The block with the shell's variables, above all runbooks."""
    head = section(CHAPTER).split("\n### ")[0]
    (block,) = re.findall(r"(?m)((?:^ {4}.*\n)+)", head)
    return re.sub("(?m)^    ", "", block)


def pattern(quote: str) -> re.Pattern:
    """A quote, in which `...` stands for any words."""
    return re.compile(".*".join(map(re.escape, quote.split("..."))))


class Machine(Stage):
    """A stage with the component and its settings file as the manual writes it, in folders that are
    named as an administrator's.  moto has IAM, if that is wanted."""

    def __init__(self, door: str = "component", moto: Moto | None = None) -> None:
        super().__init__(door)
        self.root, self.moto, self.argv = self.db.folder / "root", moto, []
        self.my_cnf = False             # whether the server reads it, instead of options
        self.db.data, self.data = self.root / "var/lib/mysql", self.root / DATA
        self.conf = self.data.with_name("keyring_aws_conf")
        self.safe = self.root / "var/backups/mysql-keyring"
        for folder in (self.data.parent, self.safe.parent, *(self.root / name for name in (
                "root", "usr/lib/mysql", "etc/mysql", "var/log/mysql", "usr/sbin", "bin"))):
            folder.mkdir(parents=True, mode=0o750)
        (self.root / PLUGINS).symlink_to(self.db.plugin_dir)
        (self.root / "var/log/mysql/error.log").symlink_to(self.db._log)
        shutil.rmtree(self.db.folder / "bin")
        (self.db.folder / "bin").symlink_to(self.root / "usr/sbin")
        self.db.components(None)
        self.key, self.access_key = KEY_ARN, (ACCESS_KEY_ID, SECRET)
        self.settings |= {"conf_file": self.conf, "data_file": self.data, "timeout": 5000,
                          "start_seconds": 0}
        self.write_conf()
        self.admin = ("AKIDADMIN", "administrators/" + SECRET)
        if moto:
            self.admin = (moto.access_key_id, moto.secret)
        self.kms.add_user(*self.admin, ACCOUNT)

    @property
    def cnf(self) -> Path:
        return self.root / PLUGINS / f"{COMPONENT}.cnf"

    def settings_file(self, **ours: object) -> dict:
        """The settings file that a reader has written, but for the emulator's address."""
        return {"cmk_id": self.key, "data_file": str(self.data),
                "aws_authentication": {
                    "mode": "simple", "region": "us-east-1",
                    "access_key_id": self.access_key[0], "access_key_secret": self.access_key[1]},
                "keyring_aws": {"endpoint": self.kms.url, "ca_file": str(self.certs.ca),
                                "timeout": 5000, "start_seconds": 0, **ours}}

    def begin(self, *options: str, **settings: object) -> "Machine":
        """The server starts for the first time, with the functions and an encrypted table."""
        if self.door == "component":
            self.db.components({COMPONENT: self.settings_file(**settings)})
            self.cnf.chmod(0o600)
            self.argv = [*QUICK, *options]
        else:
            self.argv = [*QUICK, *options] if self.my_cnf else [
                *QUICK, *plugin_options({**self.settings, **settings}), *options]
        self.mark()
        self.db.start(*self.argv)
        self.sql("CREATE DATABASE d")
        self.sql("CREATE TABLE d.t (n INT PRIMARY KEY, x VARCHAR(50)) ENCRYPTION = 'Y'")
        self.sql("INSERT INTO d.t VALUES (1, 'the castle is in the north')")
        library = f"{COMPONENT}.so" if self.door == "component" else "keyring_aws.so"
        for name in FUNCTIONS:
            self.sql(f"CREATE FUNCTION {name} RETURNS INTEGER SONAME '{library}'")
        if self.door == "component":
            self.edit_settings(lambda text: text.replace('"endpoint"',
                                                         '"create": false, "endpoint"'))
            self.sql("ALTER INSTANCE RELOAD KEYRING")
        self.mark()
        return self

    def settings_text(self, **ours: object) -> str:
        return json.dumps(self.settings_file(**ours), indent=2)

    def edit_settings(self, change: Callable[[str], str]) -> None:
        self.cnf.write_text(change(self.cnf.read_text()))

    def rows_of(self, table: str = "d.t") -> list:
        return [n for n, in self.sql(f"SELECT n FROM {table}")]

    def log(self) -> str:
        return self.db.log(whole=True)[self.marked:]

    def play(self, title: str) -> "contextlib.AbstractContextManager[Play]":
        return play(self, title)

    # -- systemctl

    def systemctl(self, verb: str, fails: bool = False) -> str:
        """stop, start, restart; what the server says that does not start.  (disable and mask are
        for a machine that starts again.)"""
        if verb in ("stop", "restart") and self.db.process.poll() is None:
            assert self.db.stop() == 0, self.db.log()
        if verb not in ("start", "restart"):
            assert verb in ("stop", "disable", "mask", "unmask"), verb
            return ""
        self.mark()
        if not fails:
            self.db.start(*self.argv)
            return ""
        run = self.db.run_once(*self.argv, f"--log-error={self.db._log}")
        assert run.returncode, "the server starts"
        return run.stdout + self.log()


class Play:
    """Where one is in a runbook."""

    def __init__(self, machine: Machine, book: Runbook) -> None:
        self.title, self.wanted = book.title, book.sees
        self.blocks, self.words, self.other = book.blocks, {}, Path("/nowhere")
        self.on(machine)

    def on(self, machine: Machine) -> None:
        """What follows happens on this machine; the shell's variables are set there."""
        self.machine, self.state = machine, machine.root / "state.sh"
        self.state.touch()
        self.tools()
        region, account, key = re.match(r"arn:aws:kms:(.*?):(.*?):key/(.*)", machine.key).groups()
        words = {"REGION": region, "ACCOUNT": account, "ID": key, "USER": "mysql"}
        self.sh(re.sub(r"\b(REGION|ACCOUNT|ID|USER)\b", lambda word: words[word[0]], setup()))

    def tools(self) -> None:
        """What sh finds: aws with our endpoints, the server's mysqldump."""
        folder, machine = self.machine.root / "bin", self.machine
        (folder / "prelude.sh").write_text(PRELUDE)
        (folder / "aws").write_text(
            "#!/bin/sh\n"
            "case $1 in\n"
            "    cloudtrail) exec /usr/bin/aws \"$@\" --generate-cli-skeleton output;;\n"
            f"    kms) url={machine.kms.url};;\n"
            f"    *) url={machine.moto.url if machine.moto else 'http://nobody.invalid'};;\n"
            "esac\n"
            f"exec /usr/bin/aws --endpoint-url $url --ca-bundle {machine.certs.ca} \"$@\"\n")
        argv, _ = run_in_tree("mysqldump", "--no-defaults")
        (folder / "mysqldump").write_text(f"#!/bin/sh\nexec {shlex.join(argv)} \"$@\"\n")
        for each in folder.iterdir():
            each.chmod(0o755)

    def environment(self) -> dict[str, str]:
        machine = self.machine
        return {"PATH": f"{machine.root}/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8",
                "HOME": f"{machine.root}/root", "MYSQL_UNIX_PORT": str(machine.db.socket),
                "OTHER_MACHINE": str(self.other), "ROOT": str(machine.root),
                "CURL_CA_BUNDLE": str(machine.certs.ca), "AWS_ACCESS_KEY_ID": machine.admin[0],
                "AWS_SECRET_ACCESS_KEY": machine.admin[1], "AWS_EC2_METADATA_DISABLED": "true",
                "AWS_PAGER": ""}

    def sh(self, script: str, fails: bool = False) -> str:
        """Runs a script whose variables the next one finds."""
        machine = self.machine
        script = PATHS.sub(f"{machine.root}/", script)
        script = script.replace("https://kms.$AWS_REGION.amazonaws.com", machine.kms.url)
        ours = "".join(f"export {name}={shlex.quote(value)}\n"
                       for name, value in self.environment().items())
        run = subprocess.run(
            ["sh", "-c", f". {self.state}\n{ours}. {machine.root}/bin/prelude.sh; set -ea\n"
             f"trap 'export -p > {self.state}' EXIT\n{script}\n"],
            env=clean_environment(), cwd=machine.root / "root", stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False, timeout=300)
        assert fails == bool(run.returncode), f"{self.title}:\n{script}\n{run.stdout}"
        return run.stdout

    def sql(self, script: str, fails: bool = False) -> str:
        """Runs statements on one connection; their rows, or the error of the last one."""
        said = []
        with contextlib.closing(self.machine.db.connect()) as session, session.cursor() as cursor:
            for query in re.split(r";\s*(?:\n|$)", script.strip()):
                if not query:
                    continue
                try:
                    cursor.execute(query)
                    said += ["\t".join(map(str, row)) for row in cursor.fetchall()]
                except pymysql.err.MySQLError as error:
                    assert fails, f"{self.title}: {query}: {error}\n{self.machine.log()[-3000:]}"
                    return f"error {error.args[0]}: {error.args[1]}"
        assert not fails, f"{self.title}: {script} does not fail"
        return "\n".join(said)

    def next(self, words: str) -> str:
        assert self.blocks, f"{self.title}: no more blocks, but one with '{words}' is to be run"
        block = self.blocks.pop(0)
        assert words in block, f"{self.title}: not '{words}', but:\n{block}"
        return re.sub(rf"\b(?:{'|'.join(self.words)})\b", lambda each: self.words[each[0]],
                      block) if self.words else block

    def text(self, words: str) -> str:
        """The next block, which is text of a file."""
        block = self.next(words)
        assert TEXT.match(block), block
        return block

    def run(self, words: str, fails: bool = False,
            editor: Callable[[str], str] | None = None) -> str:
        """The next block: its output. editor: what the test types."""
        block = self.next(words)
        if SQL.match(block):
            return self.sql(block, fails)
        assert not TEXT.match(block), block
        said, lines = [], []
        for line in [*block.split("\n"), None]:
            own = line is None or re.match("systemctl|editor", line)
            if not own:
                lines.append(line)
                continue
            if lines:
                said.append(self.sh("\n".join(lines), fails and line is None))
                lines = []
            if line is not None:
                said.append(self.by_hand(line, fails, editor))
        return "".join(said)

    def borrow(self, title: str, words: str) -> str:
        """A block of another runbook, to which this one leads."""
        self.blocks[:0] = [each for each in runbooks()[title].blocks if words in each]
        return self.run(words)

    def empty(self, name: str) -> None:
        """Waits until nobody uses an undo tablespace any more."""
        wait_for(lambda: self.sql("SELECT STATE FROM information_schema.INNODB_TABLESPACES"
                                  f" WHERE NAME = '{name}'") == "empty", 30)

    def renew_undo(self) -> None:
        """What Decommission says in words after its block with SET INACTIVE."""
        for name, end in (("innodb_undo_001", "ALTER UNDO TABLESPACE innodb_undo_001 SET ACTIVE"),
                          ("innodb_undo_002", "ALTER UNDO TABLESPACE innodb_undo_002 SET ACTIVE"),
                          ("spare", "DROP UNDO TABLESPACE spare")):
            if name != "innodb_undo_001":
                self.sql(f"ALTER UNDO TABLESPACE {name} SET INACTIVE")
            self.empty(name)
            self.sql(end)

    def by_hand(self, line: str, fails: bool, editor: Callable[[str], str] | None) -> str:
        program, *words = line.split()
        if program == "systemctl":
            assert words[1:] == ["mysql"], line
            return self.machine.systemctl(words[0], fails and words[0] != "stop")
        assert editor, f"{self.title}: what does the test type into {words[0]}?"
        path = Path(self.sh(f'echo "{words[0]}"').strip())
        path.write_text(editor(path.read_text() if path.exists() else ""))
        return ""

    def sees(self, *said: str) -> None:
        """This was said; all that the runbook quotes has to be in there, before its end."""
        text = "\n".join(said)
        self.wanted = [each for each in self.wanted if not pattern(each).search(text)]


@contextlib.contextmanager
def play(machine: Machine, title: str) -> Iterator[Play]:
    book = Play(machine, runbooks()[title])
    yield book
    assert not book.blocks, f"{title}: was not run:\n" + "\n\n".join(book.blocks)
    assert not book.wanted, f"{title}: was not said: {book.wanted}; but:\n{machine.log()[-3000:]}"
