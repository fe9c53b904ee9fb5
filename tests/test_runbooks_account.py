"""The runbooks that change the AWS account, run from the manual step by step.

IAM is moto, which says of users what they may do and which access keys are active.  The KMS
emulator is told that, and judges by it.
"""

import json
import re
from datetime import datetime, timezone

import pytest

from kms_emulator import ACCOUNT, Statement
from mysql_fixtures import RELOAD
from runbook import Machine
from servers import Moto, certificates
from test_docs import readme_policies

import botocore.session         # after kms_emulator, which says where it is

pytestmark = pytest.mark.needs("quotes")        # the messages are those of 9.7
ROTATE = "ALTER INSTANCE ROTATE INNODB MASTER KEY"
USER, POLICY = "mysql", "keyring"


def least(first: object, second: str) -> dict:
    """The manual's policy, for these KMS keys."""
    policy = readme_policies()["The least that AWS must allow", False]
    policy["Statement"][0]["Resource"], policy["Statement"][1]["Resource"] = first, second
    return policy


@pytest.fixture(name="moto", scope="module")
def make_moto():
    with Moto(tls=certificates().good) as moto:
        yield moto


class Account:
    """The user mysql in IAM, and a machine that has an access key of its."""

    def __init__(self, moto: Moto, machine: Machine) -> None:
        self.machine, self.secrets = machine, {}
        session = botocore.session.Session()
        session.set_credentials(moto.access_key_id, moto.secret)
        self.iam = session.create_client("iam", "us-east-1", endpoint_url=moto.url,
                                         verify=str(machine.certs.ca))
        self.iam.create_user(UserName=USER)
        self.iam.put_user_policy(UserName=USER, PolicyName=POLICY,
                                 PolicyDocument=json.dumps(least(machine.key, machine.key)))
        machine.access_key = self.made(self.iam.create_access_key(UserName=USER))
        self.tell()

    def made(self, reply: dict) -> tuple[str, str]:
        key = reply["AccessKey"]
        self.secrets[key["AccessKeyId"]] = key["SecretAccessKey"]
        return key["AccessKeyId"], key["SecretAccessKey"]

    def active(self) -> set[str]:
        keys = self.iam.list_access_keys(UserName=USER)["AccessKeyMetadata"]
        return {key["AccessKeyId"] for key in keys if key["Status"] == "Active"}

    def tell(self) -> None:
        """The emulator hears of what IAM says now."""
        policy = self.iam.get_user_policy(UserName=USER, PolicyName=POLICY)["PolicyDocument"]
        active, kms = self.active(), self.machine.kms
        for name, secret in self.secrets.items():
            if name in active:
                kms.add_user(name, secret, ACCOUNT, policy=policy)
            elif name in kms.users:
                kms.remove_user(name)

    def remove(self) -> None:
        self.iam.delete_user_policy(UserName=USER, PolicyName=POLICY)
        for key in self.iam.list_access_keys(UserName=USER)["AccessKeyMetadata"]:
            self.iam.delete_access_key(UserName=USER, AccessKeyId=key["AccessKeyId"])
        self.iam.delete_user(UserName=USER)


@pytest.fixture(name="account")
def make_account(moto):
    with Machine(moto=moto) as machine:
        account = Account(moto, machine)
        yield account
        account.remove()


def test_the_credentials_leaked(account):
    """No call fails at any time; the old key is refused when it is no longer active."""
    machine, old = account.machine, account.machine.access_key[0]
    machine.begin()
    with machine.play("Leaked credentials") as book:
        made = book.run("create-access-key")
        assert old in made
        made = json.loads(made[made.index('{\n    "AccessKey"'):])
        new = account.made(made)
        account.tell()
        book.run("editor", editor=lambda text: text.replace(
            old, new[0]).replace(machine.access_key[1], new[1]))
        book.run("RELOAD KEYRING")
        assert machine.kms.log()["requests"][-1]["access_key_id"] == new[0]
        book.words["OLD_ID"] = old
        book.run("Inactive")
        assert account.active() == {new[0]}
        account.tell()
        book.run("ROTATE INNODB MASTER KEY")
        assert machine.kms.log()["requests"][-1]["access_key_id"] == new[0]
        book.run("delete-access-key")
        book.run("AttributeKey=AccessKeyId")
        master, before = sealed_key(machine)
        assert sealed_key(machine) == (master, before)
        book.run("FORCE")
        assert sealed_key(machine)[0] == master and sealed_key(machine)[1] != before
        machine.systemctl("restart")
        assert machine.rows_of() == [1] and not machine.status()["kms_errors"]
        assert f"access key id ends in {new[0][-4:]}" in machine.log()
        check_the_role(account, book)


def sealed_key(machine: Machine) -> tuple[bytes, bytes]:
    """The id of InnoDB's master key, and a table's key that it has encrypted (without an IV)."""
    machine.sql("FLUSH TABLES d.t FOR EXPORT")
    page = (machine.db.data / "d/t.ibd").read_bytes()[:16384]
    (found,) = re.finditer(b"lCC(.{4}[0-9a-f-]{36})(.{32})", page, re.S)
    return found.groups()


def check_the_role(account: Account, book) -> None:
    """IAM takes the policy that refuses older sessions."""
    account.iam.create_role(RoleName="mysql", AssumeRolePolicyDocument="{}")
    book.run("put-role-policy")
    (name,) = account.iam.list_role_policies(RoleName="mysql")["PolicyNames"]
    policy = account.iam.get_role_policy(RoleName="mysql", PolicyName=name)["PolicyDocument"]
    (statement,) = policy["Statement"]
    before = datetime.fromisoformat(statement["Condition"]["DateLessThan"]["aws:TokenIssueTime"])
    assert statement["Effect"] == "Deny"
    assert abs((datetime.now(timezone.utc) - before).total_seconds()) < 60
    book.run("ROTATE INNODB MASTER KEY")


@pytest.mark.parametrize("door", ["component", "plugin"])
def test_the_sessions_of_a_role_are_refused(door):
    """As that policy does it. The component gets a new session when it is told to, and the plugin
    by a restart."""
    role = f"arn:aws:iam::{ACCOUNT}:role/mysql"
    with Machine(door) as machine:
        machine.kms.add_role(role)
        machine.begin(role_arn=role, sts_endpoint=machine.kms.url).sql(ROTATE)
        older = [*machine.kms.given]
        for name in older:
            machine.kms.users[name].statements = [Statement({"Effect": "Deny", "Action": "*"})]
        with pytest.raises(Exception, match="3185"):
            machine.sql(ROTATE)
        if door == "component":
            machine.sql(RELOAD)
        else:
            machine.systemctl("restart")
        machine.sql(ROTATE)
        assert machine.rows_of() == [1] and machine.kms.given[:len(older)] == older


def test_leaked_credentials_that_are_deactivated_first(account):
    """That is why they are not."""
    machine = account.machine.begin()
    account.iam.update_access_key(UserName=USER, AccessKeyId=machine.access_key[0],
                                  Status="Inactive")
    account.tell()
    with pytest.raises(Exception, match="3185"):
        machine.sql(ROTATE)


def test_the_plugin_reads_the_new_key_when_the_old_one_is_refused():
    with Machine("plugin") as machine:
        machine.begin()
        machine.kms.add_user("AKIDNEW", "new/" + machine.access_key[1], ACCOUNT)
        machine.write_conf("AKIDNEW", "new/" + machine.access_key[1])
        machine.sql(ROTATE)
        assert machine.kms.log()["requests"][-1]["access_key_id"] == machine.access_key[0]
        machine.kms.remove_user(machine.access_key[0])
        machine.sql(ROTATE)
        assert machine.kms.log()["requests"][-1]["access_key_id"] == "AKIDNEW"


def test_a_new_kms_key(account):
    """The server has what the policy allows, not more, and the old key may then be disabled."""
    machine = account.machine.begin()
    with machine.play("A new KMS key") as book:
        old, new = machine.key, book.run("create-key").strip()
        assert new.startswith("arn:aws:kms:us-east-1:") and new != old
        book.run("put-user-policy",
                 editor=lambda _: json.dumps(least([old, new], new), indent=2))
        account.tell()
        book.run("editor", editor=lambda text: text.replace(old, new))
        assert book.run("rotate_keys").endswith("1")
        assert {each.arn for each in machine.entries().values()} == {new}
        assert [line.split()[1] for line in book.run("grep -aoE").splitlines()] == [new]
        book.run("disable-key")
        assert machine.kms.key(old).state == "Disabled"
        book.run("ROTATE INNODB MASTER KEY")
    machine.systemctl("restart")
    assert machine.rows_of() == [1] and not machine.status()["kms_errors"]


LOGS = ("innodb_redo_log_encrypt", "innodb_undo_log_encrypt", "binlog_encryption")


def test_decommission(account):
    """All that can be encrypted is, and the server then starts and reads it without a keyring."""
    machine = account.machine.begin("--log-bin=bin", "--server-id=1")
    for name in LOGS:
        machine.sql(f"SET GLOBAL {name} = ON")
    machine.sql("ALTER TABLESPACE mysql ENCRYPTION = 'Y'")
    machine.systemctl("restart")
    for name in LOGS:
        machine.sql(f"SET GLOBAL {name} = ON")
    with machine.play("Decommission") as book:
        assert book.run("CREATE_OPTIONS") == "d\tt"
        book.run("ALTER TABLE d.t")
        assert "mysql" in book.run("INNODB_TABLESPACES")
        assert "INNODBKey-" in book.run("keyring_keys")
        book.run("ALTER TABLESPACE mysql")
        book.run("SET INACTIVE")
        book.empty("innodb_undo_001")
        assert "innodb_undo_001\tempty" in book.run("STATE")
        book.renew_undo()
        number = 1 + len(machine.sql("SHOW BINARY LOGS"))
        book.words["LAST"] = f"bin.{number:06}"
        book.run("PURGE")
        assert len(machine.sql("SHOW BINARY LOGS")) == 1
        book.run("DROP FUNCTION")
        book.run("rm /usr/sbin/mysqld.my")
        assert not machine.sql("SELECT * FROM performance_schema.keyring_component_status")
        assert book.run("CHECK TABLE").endswith("OK") and machine.rows_of() == [1]
        book.run("rm $DATA")
        assert not machine.cnf.exists() and not machine.data.exists()
        assert machine.access_key[0] in book.run("schedule-key-deletion")
        assert machine.kms.key(machine.key).state == "PendingDeletion"
        assert machine.kms.key(machine.key).pending_days == 30
    machine.systemctl("restart")
    assert machine.rows_of() == [1] and "KAWS" not in machine.log()
