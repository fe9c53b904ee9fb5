"""The README's quick starts, run as they stand: each command in its order, on a clean machine.

A reader sets a few variables to what is true for him (READER); nothing else is changed.  What he
does in his shell and what he does on the server are two shells here, on one machine.  That machine
has MySQL 9.7, or what MYSQLD names: so it is 9.7 that runs the quick start for 5.7, too.

Some programs cannot run here: there are stand-ins for them, which STAND_INS of machine.py names,
with the reasons.  They are all that is not real, but AWS: moto.
"""

import contextlib
import re
import subprocess
import threading
import time
from typing import Iterator, NamedTuple

import pytest

import manual
from machine import HOME, STAND_INS, Machine, why_not

on_a_machine = pytest.mark.skipif(bool(why_not()), reason=why_not())

QUICK = manual.section("Quick start", manual.read(manual.README))
EC2, OLD, EKS = "On EC2: the component", "With MySQL 5.7: the plugin", "In a container on EKS"
PATIENCE = 600                          # seconds for a block
FIRST = ("First, in your shell", "First, on the server")


# ---- reading -------------------------------------------------------------------------------------

class Block(NamedTuple):
    head: str                           # the heading that it stands below
    place: str                          # "shell" or "server"
    text: str


def read(text: str = QUICK) -> list[Block]:
    """The blocks in order.  The text before one says where it is to be run."""
    found, head, place = [], "", ""
    for part in re.split(r"(?m)(^### .*$|(?:^    .*\n|^\n(?=    ))+)", text):
        if part.startswith("### "):
            head = part.removeprefix("### ").strip()
        if part.lstrip("\n").startswith("    "):
            found.append(Block(head, place, re.sub("(?m)^    ", "", part).strip("\n") + "\n"))
            continue
        for word in re.findall(r"(?i)(?:first, |\*\*)(?:in your|on the|your) (shell|server)",
                               " ".join(part.split())):
            place = word
    return found


BLOCKS = read()


def test_each_block_has_a_place_and_a_heading():
    assert {block.head for block in BLOCKS} == {*FIRST, EC2, OLD, EKS}
    assert {block.place for block in BLOCKS} == {"shell", "server"}
    assert len(QUICK.splitlines()) <= 260
    for program in STAND_INS:           # needed, and the reader is told
        assert re.search(rf"(?m)^ .*\b{program} ", QUICK) and f"`{program}`" in QUICK, program
    for head in (EC2, OLD):
        places = [block.place for block in BLOCKS if block.head == head]
        assert places[:3] == ["shell", "shell", "server"] and set(places[3:]) == {"server"}


# ---- running -------------------------------------------------------------------------------------

class Shell:
    """A shell that stays, on a machine.  Each command that fails is remembered."""

    def __init__(self, machine: Machine, folder: str) -> None:
        self.machine = machine
        self.process = subprocess.Popen(
            machine.argv("bash", "--norc"), text=True, errors="replace", stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        self.run(f"mkdir -p {folder}; cd {folder}\n"
                 "trap 'echo \"FAILED: $BASH_COMMAND\"' ERR\n")

    def run(self, text: str) -> str:
        """Runs a block, as if pasted; what it printed."""
        self.machine.file("/tmp/block").write_text(text)
        self.process.stdin.write(". /tmp/block < /dev/null; echo \"END $?\"\n")
        self.process.stdin.flush()
        lines, patience = [], threading.Timer(PATIENCE, self.machine.kill)
        patience.start()
        for line in self.process.stdout:
            if line.startswith("END "):
                patience.cancel()
                return "".join(lines)
            lines.append(line)
        raise AssertionError("".join(lines) + "\nthe shell has ended, or it took too long")

    def close(self) -> None:
        self.process.stdin.close()
        self.process.wait(10)


class Reader:
    """Somebody who follows the quick start on a clean machine."""

    def __init__(self, machine: Machine, folder: str) -> None:
        self.machine = machine
        self.shells = {"shell": Shell(machine, folder),
                       "server": Shell(machine, f"{HOME}/keyring_aws")}
        self.said = self.everything = self.key = ""
        self.values = {"INSTANCE": machine.file(f"{HOME}/instance").read_text().strip(),
                       "SERVER": "me@db1"}

    def close(self) -> None:
        for shell in self.shells.values():
            shell.close()

    def do(self, block: Block, *failing: str) -> str:
        """Runs a block, with this reader's values of the variables.  No command may fail, but those
        that begin so."""
        text = block.text
        for name, value in self.values.items():
            text = re.sub(rf"(?m)^{name}=.*$", f"{name}={value}", text)
        start = time.monotonic()
        self.said = self.shells[block.place].run(text)
        print(f"---- {block.head}, {block.place}, {time.monotonic() - start:.1f} s\n{self.said}")
        self.everything += self.said
        failed = re.findall(r"(?m)^FAILED: (.*)$", self.said)
        assert len(failed) == len(failing) and all(map(str.startswith, failed, failing)), self.said
        if told := re.search(r"(?m)^KEY=(arn:\S+)$", self.said):   # the reader pastes that line
            self.key = told[1]
            self.shells["server"].run(told[0] + "\n")
        return self.said

    def type(self, place: str, *lines: str) -> str:
        """Types lines that are in no block."""
        return self.do(Block("typed", place, "\n".join(lines) + "\n"))

    def sql(self, query: str) -> str:
        done = self.machine.run(f'mysql -NB -e "{query}"')
        assert done.returncode == 0, done.stdout
        return done.stdout.strip()


@contextlib.contextmanager
def reader(folder: str = f"{HOME}/shell") -> Iterator[Reader]:
    with Machine() as machine:
        someone = Reader(machine, folder)
        try:
            yield someone
        finally:
            someone.close()


def way(head: str) -> list[Block]:
    """The blocks of one of the ways."""
    heads = (*FIRST, head) if head != EKS else (FIRST[0], EKS)
    return [block for block in BLOCKS if block.head in heads]


# ---- what the text says one sees ----------------------------------------------------------------

def check_rows(one: Reader, source: str) -> None:
    for row in (r"Component_status\tActive", r"Kms_state\tAnswers", r"Keys\t1",
                f"Credentials_source\t{source}", "Kms_key\t" + one.key):
        assert re.search(rf"(?m)^{row}$", one.said), one.said


def check_server(one: Reader, library: str) -> None:
    """What is true of a server at the end, by either door."""
    kept = one.machine.run("stat -c '%U %G %a' /var/lib/mysql-keyring"
                           " /var/lib/mysql-keyring/keyring_aws_data").stdout
    assert kept == "mysql mysql 750\nmysql mysql 600\n"
    who = one.machine.run("ps -o user= -p $(cat /run/mysqld/mysqld.pid)").stdout
    assert who.strip() == "mysql"
    assert one.sql("SELECT name, dl FROM mysql.func ORDER BY 1").split() == [
        word for name in ("refresh", "rotate_cmk", "rotate_keys")
        for word in (f"keyring_aws_{name}", library)]
    for name in ("rotate_cmk", "rotate_keys", "refresh"):       # and the policy allows it
        assert one.sql(f"SELECT keyring_aws_{name}()") == "1"
    one.sql("INSERT INTO secret.t VALUES (42); ALTER INSTANCE ROTATE INNODB MASTER KEY")


def log_lines(one: Reader) -> str:
    """What the text says to look at if something is wrong."""
    assert (command := "grep KAWS- $LOG") in QUICK
    return one.type("server", command)


@on_a_machine
def test_on_ec2():
    """At first without the policy: the text says where to look then, and what to repeat."""
    with reader() as one:
        *before, role, write, check, last = way(EC2)
        for block in before:
            one.do(block)
        assert "Invalid IAM Instance Profile" in one.do(role), "so the loop was needed"
        one.type("shell", "aws iam delete-role-policy --role-name mysql --policy-name keyring")
        one.do(write)
        one.do(check, "mysql -e \"CREATE TABLE")
        assert "[ERROR]" in log_lines(one) and "AccessDeniedException" in one.said
        put, = re.findall(r"(?m)^aws iam put-role-policy.*\n.*\n", role.text)
        one.type("shell", put)
        again, = re.findall(r'`(mysql -e "ALTER[^`]*)`, and check again', " ".join(
            manual.section(EC2, QUICK).split()))
        one.type("server", again)
        one.do(check)
        check_rows(one, "the instance")
        assert log_lines(one).count("[KAWS-123]") == 1
        assert one.do(last).endswith("COUNT(*)\n0\n")
        check_server(one, "component_keyring_aws.so")
        settings = one.machine.run(
            "stat -c '%U %G %a' /usr/lib/mysql/plugin/component_keyring_aws.cnf").stdout
        assert settings == "root mysql 640\n"
        one.machine.run("systemctl stop mysql; mv /var/lib/mysql-keyring/* ~/;"
                        " systemctl start mysql")
        assert one.sql("SELECT STATUS_VALUE FROM performance_schema.keyring_component_status"
                       " WHERE STATUS_KEY = 'Component_status'") == "Disabled"


@on_a_machine
def test_with_the_plugin():
    """The text is for 5.7; this is 9.7."""
    with reader() as one:
        *before, check, last = way(OLD)
        for block in before:
            one.do(block)
        assert re.search(r"(?m)^keyring_aws\tACTIVE\tKEYRING\t", one.do(check)), one.said
        assert one.do(last).endswith("COUNT(*)\n0\n")
        check_server(one, "keyring_aws.so")
        assert log_lines(one).count("[KAWS-123]") == 1 and "[ERROR]" not in one.said
        kept = "/var/lib/mysql-keyring/keyring_aws_conf"
        secret = one.machine.run(f"sed -n 2p {kept}").stdout.strip()
        assert len(secret) > 20 and secret not in one.everything
        places = one.machine.run(f"grep -rlF -e '{secret}' /root /home /tmp {kept}").stdout
        assert places.split() == [kept], "the secret is in one place only"
        done = one.machine.run("systemctl stop mysql; mv /var/lib/mysql-keyring/*data ~/;"
                               " systemctl start mysql")
        assert done.returncode == 1


@on_a_machine
def test_on_eks():
    """With what examples/Dockerfile and examples/kubernetes.yaml say."""
    with reader(f"{HOME}/keyring_aws") as one:
        *before, check, last = way(EKS)
        for block in before:
            one.do(block)
        one.do(check)
        check_rows(one, "the container")
        assert one.do(last).endswith("COUNT(*)\n0\n")
        assert '"create": false' in one.type("shell", "kubectl exec -n db mysql-0 -- cat"
                                             " /etc/mysql-keyring/component_keyring_aws.cnf")
        log = one.type("shell", "kubectl logs -n db mysql-0")
        assert "KAWS-123" in log and "KAWS-103" not in log and "KAWS-104" not in log
        for command in ("kubectl describe pod -n db mysql-0", "kubectl delete pod -n db mysql-0"):
            assert f"`{command}`" in QUICK
            one.type("shell", command)
        assert one.type("shell", 'sql "SELECT COUNT(*) FROM secret.t"') == "COUNT(*)\n0\n"


@on_a_machine
def test_a_quick_start_that_lacks_a_block_fails():
    """So these tests can fail: without the package, and without the key."""
    with reader() as one:
        region, create, server, user, check, _ = [
            block for block in way(OLD) if block.head != FIRST[1]]
        with pytest.raises(AssertionError, match="FAILED: .*aws"):
            one.do(server)
            one.do(user)
        for block in (region, create):
            one.do(block)
        with pytest.raises(AssertionError, match="cannot create regular file '/var/lib/mysql-"):
            one.do(check)               # the places are missing, too, but nothing needs them now


@on_a_machine
def test_a_block_without_its_values_writes_nothing():
    """As in a new session: of a script, which ends then, and of a person, which goes on.  There,
    only KEY is missing."""
    (places,) = [block.text for block in BLOCKS if block.text.startswith("PLUGINS=")]
    for block in BLOCKS:
        if block.place == "server" and "install -" in block.text:
            with reader() as one:
                one.machine.run("install -d /var/lib/mysql-keyring; echo ID > ~/keyring_aws_conf")
                pasted = [("bash", block.text)]
                if "{KEY" in block.text:
                    pasted.append(("bash --norc -i", places + block.text))
                for shell, text in pasted:
                    done = one.machine.run(f"{shell} 2>&1", text)
                    assert "parameter null or not set" in done.stdout
                    written = one.machine.run(
                        "find / -maxdepth 1 -name '*.cnf' -o -maxdepth 1 -name '*.my';"
                        " find /etc/mysql /usr/sbin /usr/lib/mysql/plugin"
                        " -name '*aws*.cnf' -o -name mysqld.my").stdout
                    assert not written, done.stdout


@on_a_machine
def test_without_an_access_key_no_server_is_stopped():
    """FORCE would keep it down."""
    with reader() as one:
        (places,) = [block.text for block in BLOCKS if block.text.startswith("PLUGINS=")]
        (check,) = [block.text for block in way(OLD) if "<<END" in block.text and
                    block.place == "server"]
        one.machine.run("install -d /var/lib/mysql-keyring; systemctl start mysql")
        done = one.machine.run("bash --norc -i 2>&1", f"{places}KEY=arn\n{check}")
        assert f"cannot stat '{HOME}/keyring_aws_conf'" in done.stdout
        assert "keyring" not in one.machine.run("ls /etc/mysql/conf.d").stdout
        assert one.sql("SHOW DATABASES LIKE 'secret'") == "secret"
        assert one.sql("SELECT COUNT(*) FROM information_schema.plugins"
                       " WHERE plugin_name LIKE 'keyring_aws%'") == "0"


@on_a_machine
def test_the_first_sections_may_be_run_twice():
    """The same KMS key serves again, and AppArmor's lines are there once."""
    with reader() as one:
        said = [one.do(block) for _ in range(2) for block in way(OLD) if block.head in FIRST]
        assert len(set(re.findall(r"(?m)^KEY=(arn:\S+)$", "".join(said)))) == 1
        assert one.type("shell", "aws kms list-keys --query 'length(Keys)'") == "1\n"
        lines = one.machine.run("cat /etc/apparmor.d/local/usr.sbin.mysqld").stdout
        assert lines.count("/var/lib/mysql-keyring/**") == 1
