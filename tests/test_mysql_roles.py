"""The manual's chapter on roles, followed to the letter in a real server.

Its lines of my.cnf, its policies, its profiles and its scripts are taken from the page.  The
emulators stand for AWS: KMS lets a role do what the manual's policy allows, and no more.
"""

import json
import re

import pytest

from conftest import write_conf
from kms_emulator import ACCOUNT, KEY_ARN, OTHER_ACCOUNT, Emulator
from manual import MANUAL, blocks
from mysql_fixtures import NO_SCHEMA
from test_docs import WORDS, filled_in, readme_my_cnf, readme_policies

ROLE = f"arn:aws:iam::{ACCOUNT}:role/mysql"
SCRIPTS = "SSO, aws login, IAM Roles Anywhere"


class Server:
    """A server without a conf file, and the AWS around it."""

    def __init__(self, stage, cloud: Emulator):
        self.stage, self.cloud, self.folder = stage, cloud, stage.db.folder
        self.key = KEY_ARN
        stage.conf.unlink()
        cloud.users, cloud.roles = stage.kms.users, ["mysql"]
        cloud.add_role(ROLE, policy=self.least())
        self.on_ec2 = {"AWS_EC2_METADATA_SERVICE_ENDPOINT": cloud.url}
        session = cloud.session             # EC2 and the container give one of that role, too

        def least_session(role_arn, name="i-0f", life=None, path=(), policy=None):
            return session(role_arn, name, life, path, policy or self.least())

        cloud.session = least_session

    def page(self) -> dict:
        """The manual's least policy, for the key."""
        policy = readme_policies()["The least that AWS must allow", False]
        return json.loads(filled_in(policy, KEY=self.key))

    def least(self) -> dict:
        """What the role may do."""
        return self.page()

    def write(self, name: str, text: str, mode: int = 0o600) -> str:
        path = write_conf(self.folder / name, text)
        path.chmod(mode)
        return str(path)

    def settings(self, section: str) -> dict[str, str]:
        """The lines of my.cnf in a section; files stand in our folder."""
        text = filled_in(readme_my_cnf(section), KEY=self.key)
        text = text.replace("/var/lib/mysql-keyring", str(self.folder))
        return dict(re.findall(r"(?m)^keyring_aws_(\w+) *= (.*)$", text))

    def works(self, section: str, env: dict, source: str, whose: str = "") -> None:
        """All that a server does with its keyring, with the credentials of the role alone."""
        stage = self.stage
        stage.start(NO_SCHEMA, "--keyring-aws=FORCE", sts_endpoint=self.cloud.url, env=env,
                    **self.settings(section))
        (line,) = stage.tagged("KAWS-165")
        assert f"come from {source}" in line and f"they belong to {whose}" in line, line
        stage.install_functions()
        stage.sql("CREATE DATABASE d")
        stage.sql("CREATE TABLE d.t (a INT) ENCRYPTION = 'Y'")
        stage.sql("ALTER INSTANCE ROTATE INNODB MASTER KEY")
        assert stage.generate("a") == stage.store("b", "SECRET", b"x") == 1
        assert stage.one("SELECT keyring_aws_rotate_cmk()") == 1
        assert stage.one("SELECT keyring_aws_rotate_keys()") == 1
        assert stage.fetch("a") == stage.plain("a") and stage.fetch("b") == b"x"
        assert not stage.said("ERROR")
        requests = stage.kms.log()["requests"]
        assert {each["access_key_id"] for each in requests} == {self.cloud.given[-1]}
        allowed = re.findall(r'"kms:(\w+)"', json.dumps([each["Action"] for each in
                                                         self.page()["Statement"]]))
        assert {each["action"] for each in requests} == {
            re.sub("^ReEncrypt(From|To)$", "ReEncrypt", name) for name in allowed}
        assert stage.db.stop() == 0


@pytest.fixture
def server(stage):
    with Emulator() as cloud:
        yield Server(stage, cloud)
    assert not cloud.crashes


def assumed(role: str, name: str) -> str:
    account, short = re.match(r"arn:aws:iam::(\d+):role/(.*)", role).groups()
    return f"arn:aws:sts::{account}:assumed-role/{short}/{name},"


def test_on_ec2(server):
    server.works("On EC2", server.on_ec2, "the instance (EC2)", "the instance's role mysql,")


@pytest.mark.parametrize("section, more", [("On ECS", {}), ("On EKS with Pod Identity", {
    "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE": "token"})])
def test_in_a_container(server, section, more):
    """The variables are those that the section names. On ECS, FULL_URI stands for RELATIVE_URI,
    whose address only ECS has."""
    env = {name: server.write(text, "jwt") for name, text in more.items()}
    server.cloud.wanted = "jwt" if more else None
    env["AWS_CONTAINER_CREDENTIALS_FULL_URI"] = server.cloud.url + server.cloud.secret_path
    assert not more or all(f"`{name}`" in MANUAL for name in env)
    server.works(section, env, "the container")


def test_on_eks_with_irsa(server):
    env = {"AWS_WEB_IDENTITY_TOKEN_FILE": server.write("token", "ey.token"), "AWS_ROLE_ARN": ROLE}
    server.cloud.identities = {"ey.token": ROLE}
    server.works("On EKS with IRSA", env, "the web identity", assumed(ROLE, "keyring_aws"))
    assert server.cloud.count("AssumeRoleWithWebIdentity") == 1


OTHER = "A role in another account"


def other_account(server) -> str:
    """The role there, as its trust policy has it, and what the server's own role may do."""
    server.key = server.stage.kms.add_key("us-east-1", OTHER_ACCOUNT)
    trust, rights = (json.loads(filled_in(readme_policies()[OTHER, each]))["Statement"][0]
                     for each in (True, False))
    server.cloud.add_role(rights["Resource"], trusts=[trust["Principal"]["AWS"]],
                          external_id=trust["Condition"]["StringEquals"]["sts:ExternalId"],
                          policy=server.least())
    own = {"Version": "2012-10-17", "Statement": [rights]}
    server.least = lambda: own
    return rights["Resource"]


@pytest.mark.parametrize("section", [OTHER, "Profiles"])
def test_a_role_in_another_account(server, section):
    """By my.cnf, and by a profile."""
    there = other_account(server)
    source = "the instance"
    if section == "Profiles":
        (text,) = [text for head, text in blocks()
                   if head == section and "role_arn" in text]
        server.write("config", filled_in(text))
        source = "the profile mysql"
        server.stage.settings["cmk_id"] = server.key
    server.works(section, server.on_ec2, source, assumed(there, "keyring_aws"))
    assert server.cloud.count("AssumeRole") == 1


PROGRAM = """#!/bin/sh
{says}
[ "$*" = '{args}' ] || exit 7
echo '{reply}'
"""


ANYWHERE = {"CERTIFICATE": "/etc/ssl/db1.pem", "PRIVATE_KEY": "/var/lib/mysql-keyring/db1.key",
            "PROFILE_ARN": f"arn:aws:rolesanywhere:us-east-1:{ACCOUNT}:profile/0A1B",
            "ROLE_ARN": ROLE}


@pytest.mark.parametrize("number, home", [(0, True), (1, False)], ids=["sso", "anywhere"])
def test_a_program(server, number, home):
    """It gets the words that the manual's script passes on, and SSO's finds its own folder."""
    lines = re.findall(r"`exec ([^`]*)`", MANUAL)
    assert len(lines) == 2
    program, *words = filled_in(" ".join(lines[number].split()), NAME="dev", **ANYWHERE).split()
    assert home or dict(zip(words[1::2], words[2::2])) == {
        "--certificate": ANYWHERE["CERTIFICATE"], "--private-key": ANYWHERE["PRIVATE_KEY"],
        "--trust-anchor-arn": WORDS["TRUST_ANCHOR_ARN"], "--profile-arn": ANYWHERE["PROFILE_ARN"],
        "--role-arn": ROLE}
    keys = server.cloud.session(ROLE)
    reply = {"Version": 1, "SessionToken": keys.pop("Token"), **keys}
    (says,) = re.findall(r"`export\s(HOME=[^`]*)`", MANUAL)
    tool = server.write("tool", PROGRAM.format(
        says=f'[ "$HOME" = {says.partition("=")[2]} ] || exit 8' if home else "",
        args=" ".join(words), reply=json.dumps(reply)), 0o755)
    script = server.write("mysql-credentials", "\n".join(
        ["#!/bin/sh", *([f"export {says}"] if home else []), f"exec {tool} {' '.join(words)}"]),
        0o755)
    (config,) = [text for head, text in blocks()
                 if head == SCRIPTS and "credential_process" in text]
    server.write("config", config.replace("/usr/local/bin/mysql-credentials", script))
    assert program.startswith("/usr/local/bin/aws") and script in (
        server.folder / "config").read_text()
    server.works(SCRIPTS, {}, "the profile mysql")
