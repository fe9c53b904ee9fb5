"""Which credentials are found: botocore's chain and ours, side by side.

A situation is what the environment, the files and the endpoints hold. Both chains run in it: they
find the same credentials, or none; or a row of DIFFERENT names the difference and its reason. The
emulated KMS knows every key, so ours is right in all three parts if KMS answers; and it knows how
a role's session was come by. KAWS_SEED=n tries other situations, KAWS_LONG=1 five times as many.

The first test is about where credentials are looked for; the second about what a profile says of
roles and processes.
"""

import itertools
import json
import os
import random
import re
from unittest import mock

import pytest

from driver import Driver
from kms_emulator import ACCOUNT, KEY_ARN, Emulator

import botocore.session                                     # after the emulator's finder
from botocore.loaders import create_loader
from botocore.exceptions import BotoCoreError, ClientError

ROLE, LAST, GUARDED, STRANGE = (f"arn:aws:iam::{ACCOUNT}:role/{name}"
                                for name in ("app", "last", "guarded", "strange"))

LOADER = create_loader()                                    # it remembers what it has read

SEED, LONG = os.environ.get("KAWS_SEED", "1"), os.environ.get("KAWS_LONG", "") not in ("", "0")

KEYS = {name: (f"AKIDCHAIN{name.upper():0>4}", f"sec+{name}/x", token)
        for name, token in (("env", ""), ("envt", "tok/env=="), ("cred", ""),
                            ("conf", "tok/conf=="), ("appc", "tok/appc="), ("appf", ""),
                            ("twin", ""), ("base", "tok/base=="), ("more", ""), ("proc", ""))}


def lines(name: str, mark: str = "{} = {}") -> str:
    names = ("aws_access_key_id", "aws_secret_access_key", "aws_session_token")
    return "".join(mark.format(*each) + "\n" for each in zip(names, KEYS[name]) if each[1])


def env_pair(name: str) -> dict:
    names = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")
    return {each: value for each, value in zip(names, KEYS[name]) if value}


ENVIRONMENTS = {
    "nothing": {}, "a pair": env_pair("env"), "a pair and a token": env_pair("envt"),
    "an id": {"AWS_ACCESS_KEY_ID": "AKIDALONE"}, "a secret": {"AWS_SECRET_ACCESS_KEY": "alone"},
    "empty": {"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": ""},
    "a token": {"AWS_SESSION_TOKEN": "alone"},
    "an empty secret": {"AWS_ACCESS_KEY_ID": "AKIDALONE", "AWS_SECRET_ACCESS_KEY": ""},
}
# (AWS_PROFILE, or what the settings name)
PROFILES = {"no name": (None, None), "by variable": ("app", None), "unknown": ("nobody", None),
            "by setting": (None, "app"), "unknown by setting": (None, "nobody"),
            "the setting and the variable": ("nobody", "app"), "empty": ("", None)}
# config, credentials
FILES = {
    "none": (None, None), "not there": (False, False), "empty": ("", ""),
    "credentials": (None, f"[default]\n{lines('cred')}[app]\n{lines('appc')}"),
    "config": (f"[default]\n{lines('conf')}[profile app]\n{lines('appf')}", None),
    "both": (f"[default]\n{lines('conf')}[profile app]\n{lines('appf')}",
             f"[default]\n{lines('cred')}[app]\n{lines('appc')}"),
    "one each": (f"[profile app]\n{lines('appf')}", f"[default]\n{lines('cred')}"),
    "wrong prefixes": (f"[app]\n{lines('appf')}", f"[profile app]\n{lines('appc')}"),
    "half in credentials": (f"[default]\n{lines('conf')}[profile app]\n{lines('appf')}",
                            "[default]\naws_access_key_id = AKIDHALF\n"
                            "[app]\naws_access_key_id = AKIDHALF\n"),
    "no keys": ("[default]\nregion = x\n[profile app]\nregion = x\n", None),
    "loosely written": (
        None, f"# x\r\n[default]\r\n{lines('cred', '{}={}')}\r\n; y\r\n[app] # z\r\n"
              f"{lines('appc', '{}   =   {}  ')}"),
    "nested": (f"[default]\ns3 =\n  x = y\n{lines('conf')}[profile app]\n{lines('appf')}", None),
    "twice": (None, f"[default]\naws_access_key_id = no\n{lines('twin')}[app]\n{lines('appc')}"),
    "a line of words": (None, f"[default]\n{lines('cred')}what is this\n[app]\n{lines('appc')}"),
    "an indented head": (f"[ default ]\n{lines('conf')}[ profile app ]\n{lines('appf')}", None),
    "comments behind": (None, f"[default]\n{lines('cred', '{} = {} # x')}"
                              f"[app]\n{lines('appc', '{} = {} ; x')}"),
    "capitals": (None, f"[default]\n{lines('cred').upper().replace('SEC+CRED/X', KEYS['cred'][1])}"
                       f"[app]\n{lines('appc')}"),
}
REMOTES = ("off", "instance", "container", "both", "instance without a role", "container refuses",
           "web identity", "web identity without a role", "web identity of another")

# What only ours does, or only botocore does, and why: (environment, profile, files, remote); an
# empty set is all.
DIFFERENT = [
    ("half a pair in the environment is meant: no other source is asked",
     {"a secret"}, {"no name", "by variable", "unknown", "empty"}, set(), set()),
    ("a profile that is named is meant, also if it has no keys",
     set(), {"by variable", "by setting", "the setting and the variable"}, {"no keys"}, set()),
    ("a file that has the profile `default` is meant, also if it has no keys",
     {"nothing", "empty", "a token"}, {"no name", "empty"}, {"no keys"}, set()),
    ("what comes twice: the last counts, as in AWS's newer tools",
     set(), set(), {"twice"}, set()),
    ("blanks in a head do not count, as in AWS's newer tools",
     set(), set(), {"an indented head"}, set()),
    ("a comment behind a value is none of it, as in AWS's newer tools",
     set(), set(), {"comments behind"}, set()),
    ("keys in the environment go before AWS_PROFILE, even if there is no such profile",
     {"a pair", "a pair and a token"}, {"unknown"}, set(), set()),
    ("the same, for a profile that is not in the files",
     {"a pair", "a pair and a token"}, {"by variable"},
     {"none", "not there", "empty", "wrong prefixes"}, set()),
    ("a variable that is empty counts as not set", set(), {"empty"}, set(), set()),
    ("a profile goes before a web identity of the environment",
     set(), set(), {"credentials", "config", "both", "one each", "half in credentials", "no keys",
                    "loosely written", "nested", "capitals"},
     {"web identity", "web identity without a role", "web identity of another"}),
    ("a file that is not needed is not read", {"a pair", "a pair and a token"}, set(),
     {"a line of words", "twice"}, set()),
]


@pytest.fixture(autouse=True)
def no_tracebacks(caplog) -> None:
    """botocore's log has one for each refusal."""
    caplog.set_level("CRITICAL", "botocore")


@pytest.fixture(scope="module", name="cloud")
def make_cloud():
    with Emulator() as emulator:
        for key_id, secret, token in KEYS.values():
            emulator.add_user(key_id, secret, ACCOUNT, token=token or None)
        emulator.add_role(ROLE)
        emulator.add_role(LAST, trusts=[ROLE, GUARDED, f"arn:aws:iam::{ACCOUNT}:role/role"],
                          max_duration=43200)
        emulator.add_role(GUARDED, external_id="our/id:1")
        emulator.add_role(STRANGE, trusts=[])
        yield emulator


def situation(folder, cloud, environment: str, profile: str, files: str, remote: str):
    """The environment of the situation, and the profile that the settings name."""
    variable, setting = PROFILES[profile]
    env = {"HOME": str(folder), "AWS_REGION": "us-east-1", **ENVIRONMENTS[environment],
           "AWS_METADATA_SERVICE_NUM_ATTEMPTS": "1", "AWS_EC2_METADATA_V1_DISABLED": "true"}
    if variable is not None:
        env["AWS_PROFILE"] = variable
    for name, text in zip(("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"), FILES[files]):
        path = folder / name
        path.unlink(missing_ok=True)
        if text is not None:
            env[name] = str(path)
        if text:
            path.write_bytes(text.encode())
            path.chmod(0o600)
    cloud.roles = [] if remote == "instance without a role" else ["role"]
    cloud.wanted = "jwt" if remote == "container refuses" else None
    if remote in ("container", "both", "container refuses"):
        env["AWS_CONTAINER_CREDENTIALS_FULL_URI"] = cloud.url + cloud.secret_path
    if remote.startswith("web identity"):
        (folder / "token").write_text("ey.token")
        cloud.identities = {"ey.token": ROLE if remote == "web identity" else ROLE + "x"}
        env |= {"AWS_WEB_IDENTITY_TOKEN_FILE": str(folder / "token"), "AWS_ROLE_ARN": ROLE,
                "AWS_ENDPOINT_URL_STS": cloud.url, "AWS_DEFAULT_REGION": "us-east-1"}
        if remote == "web identity without a role":
            del env["AWS_ROLE_ARN"]
    if remote.startswith("instance") or remote == "both":
        env["AWS_EC2_METADATA_SERVICE_ENDPOINT"] = cloud.url
    else:
        env["AWS_EC2_METADATA_DISABLED"] = "true"
    return env, setting


def theirs(env: dict, setting) -> tuple:
    """What botocore finds: a source and an id, or why not."""
    with mock.patch.dict(os.environ, env, clear=True), mock.patch("time.sleep"):
        session = botocore.session.Session(profile=setting)
        session.register_component("data_loader", LOADER)
        try:
            found = session.get_credentials()
            if found is None:
                return "none", ""
            keys = found.get_frozen_credentials()
        except (BotoCoreError, ClientError, RuntimeError, ValueError, OSError,
                IndexError) as error:
            return type(error).__name__, ""
    return "", (keys.access_key, keys.secret_key, keys.token or "")


def ours(program, cloud, env: dict, setting) -> tuple:
    """What we find: nothing, and the id's end; or the error's words."""
    with Driver(program, env) as lib:
        more = {"profile": setting} if setting else {}
        assert lib.open(auth="native", kms_key_id=KEY_ARN, endpoint=cloud.url,
                        sts_endpoint=cloud.url, **more).status == "OK"
        answer = lib.call("check")
        end = lib.call("whoami").results[1].decode()
        assert answer.status in ("OK", "CONFIG", "CREDENTIALS", "SERVICE"), answer
        assert not any(secret in line for _, line in lib.logs for _, secret, _ in KEYS.values())
    return ("", end) if answer.status == "OK" else (answer.text, "")


def same(keys: tuple, end: str) -> bool:
    """Whether botocore's keys have the id that ends so. A role gives each of us new ones."""
    role = keys[0].startswith("ASIAROLE")
    return role or keys in KEYS.values() and keys[0].endswith(end)


def test_the_chains_agree_or_a_row_says_why(driver_program, cloud, tmp_path):
    r = random.Random(f"chain {SEED}")
    every = list(itertools.product(ENVIRONMENTS, PROFILES, FILES, REMOTES))
    chosen = r.sample(every, 1000 if LONG else 150)
    # each kind with each other's plainest, so that no row depends on luck
    plain = ("nothing", "no name", "none", "off")
    chosen += [(*plain[:place], kind, *plain[place + 1:]) for place, kinds in
               enumerate((ENVIRONMENTS, PROFILES, FILES, REMOTES)) for kind in kinds]
    chosen += [(*row, "instance") for row in itertools.product(
        ("nothing", "a pair", "a secret"), ("no name", "by variable", "unknown"), (
            "both", "no keys", "twice", "an indented head", "comments behind", "a line of words"))]
    chosen += [("a pair", "by variable", "none", "off")]
    wrong, used, agreed = [], set(), 0
    for each in dict.fromkeys(chosen):
        env, setting = situation(tmp_path, cloud, *each)
        why, keys = theirs(env, setting)
        said, end = ours(driver_program, cloud, env, setting)
        if why and said or (why, said) == ("", "") and same(keys, end):
            agreed += 1
            continue
        rows = [row for row in DIFFERENT if all(
            not kinds or kind in kinds for kind, kinds in zip(each, row[1:]))]
        used.update(row[0] for row in rows[:1])
        if not rows:
            wrong.append((*each, why or keys, said or end))
    assert not wrong, "\n".join(map(str, wrong))
    assert agreed > 100 and used == {row[0] for row in DIFFERENT}, (
        agreed, {row[0] for row in DIFFERENT} - used)


# ---- roles and processes of a profile ------------------------------------------------

# An argument of the helper is the name of a file with what it prints.
HELPER = """#!/bin/sh
[ "$#" = 1 ] && cd "${0%/*}/said" || exit 7
echo "S3CR on stderr" >&2
[ "$1" != dies ] || kill -9 $$
cat -- "./$1"
[ "$1" != fails ]
"""
LATER = "2099-01-01T00:00:00Z"


def reply(name: str = "proc", drop: str = "", **change) -> dict:
    members = {"Version": 1, "AccessKeyId": KEYS[name][0], "SecretAccessKey": KEYS[name][1],
               **({"SessionToken": KEYS[name][2]} if KEYS[name][2] else {}), **change}
    return {key: value for key, value in members.items() if key != drop}


REPLIES = {
    "plain": reply(), "a token": reply("base"), "later": reply(Expiration=LATER),
    "an offset": reply(Expiration="2099-01-01T00:00:00+02:00"),
    "a fraction": reply(Expiration="2099-01-01T00:00:00.123Z"),
    "expired": reply(Expiration="2020-01-01T00:00:00Z"),
    "no date": reply(Expiration="tomorrow"), "an account": reply(AccountId=ACCOUNT),
    "version 2": reply(Version=2), "version in quotes": reply(Version="1"),
    "version 1.0": json.dumps(reply()).replace('"Version": 1', '"Version": 1.0'),
    "no version": reply(drop="Version"), "no id": reply(drop="AccessKeyId"),
    "no secret": reply(drop="SecretAccessKey"), "an empty token": reply(SessionToken=""),
    "a null token": reply(SessionToken=None), "members of its own": reply(Extra={"a": [1]}),
    "no json": "well", "nothing": "", "two": json.dumps(reply()) * 2, "fails": reply(),
    "dies": reply(), "lines": json.dumps(reply(), indent=2) + "\n\n",
}
# What is printed if the argument is just this; every other argument is an error.
WORDS = ("a b", "ab", "$HOME", "~", "a|b", "a#b", 'a"b', "a\\b", "*", ";", "a'b", "$(ls)", "&")


def role(arn: str = ROLE, **more) -> dict:
    return {"role_arn": arn, **more}


FROM_BASE = {"source_profile": "base"}
WEB = {"web_identity_token_file": "TOKEN"}
MID = {"mid": role(**FROM_BASE)}
# What the profile says, and other profiles; "keys" are those of its name. The profile `base` has
# keys unless the row says otherwise.
ROWS = {
    "a role": role(**FROM_BASE), "the role's source is the process": role(source_profile="proc"),
    "the role's source is not there": role(source_profile="nobody"),
    "the role's source is empty": role(source_profile=""),
    "the role's source has nothing": (role(**FROM_BASE), {"base": {"region": "x"}}),
    "the role's source has half": (role(**FROM_BASE), {"base": {"aws_access_key_id": "AKIDHALF"}}),
    "the role's source is itself": role(source_profile="app", keys="more"),
    "the role's source is itself, but no keys": role(source_profile="app"),
    "keys beside a role": role(**FROM_BASE, keys="more"),
    "two roles": (role(LAST, source_profile="mid"), MID),
    "two roles, half an hour": (role(LAST, source_profile="mid", duration_seconds="1800"), MID),
    "two roles, two hours": (role(LAST, source_profile="mid", duration_seconds="7200"), MID),
    "two roles, each half an hour": (role(LAST, source_profile="mid", duration_seconds="1800"), {
        "mid": role(**FROM_BASE, duration_seconds="1800")}),
    "three roles, and the last is not trusted": (role(LAST, source_profile="mid"), {
        "mid": role(LAST, source_profile="low"), "low": role(**FROM_BASE)}),
    "two roles and one that wants an id": (role(LAST, source_profile="mid"), {
        "mid": role(GUARDED, external_id="our/id:1", **FROM_BASE)}),
    "a role from one with keys": (role(source_profile="mid"), {
        "mid": role(LAST, **FROM_BASE, keys="more")}),
    "a circle": (role(LAST, source_profile="mid"), {"mid": role(source_profile="app")}),
    "a circle with keys": (role(LAST, source_profile="mid", keys="more"), {
        "mid": role(source_profile="app")}),
    "a longer circle": (role(LAST, source_profile="mid"), {
        "mid": role(source_profile="low"), "low": role(source_profile="mid")}),
    "two sources": role(**FROM_BASE, credential_source="Environment"),
    "no source": role(), "no source but keys": role(keys="more"),
    **{f"a role from {name}": role(credential_source=name) for name in (
        "Environment", "Ec2InstanceMetadata", "EcsContainer", "environment", "Nonsense", "")},
    "two roles from Ec2InstanceMetadata": (role(LAST, source_profile="mid"), {
        "mid": role(credential_source="Ec2InstanceMetadata")}),
    "the last role, which trusts the instance's": role(LAST,
                                                       credential_source="Ec2InstanceMetadata"),
    "no such role": role(ROLE + "x", **FROM_BASE), "an odd role": role("app", **FROM_BASE),
    "an empty role": role("", **FROM_BASE), "a role that trusts nobody": role(STRANGE, **FROM_BASE),
    **{f"external id {name}": role(GUARDED, **FROM_BASE, external_id=name) for name in (
        "our/id:1", "our/id:2", "x", "a b", "")},
    "no external id": role(GUARDED, **FROM_BASE),
    "an external id that is not wanted": role(external_id="other", **FROM_BASE),
    **{f"{name} seconds": role(**FROM_BASE, duration_seconds=name) for name in (
        "900", "3600", "899", "3601", "43201", "0", "-1", "1h", "")},
    **{f"the session {name}": role(**FROM_BASE, role_session_name=name) for name in (
        "app@db-1", "x", "a b", "")},
    "a web identity": role(**WEB), "a web identity without a role": WEB,
    "a web identity with a name": role(**WEB, role_session_name="pod@1"),
    "a web identity, and a source": role(**WEB, **FROM_BASE),
    "a web identity, and keys": role(**WEB, keys="more"),
    "a web identity without a file": role(web_identity_token_file="/nowhere/token"),
    "a web identity of another": role(LAST, **WEB),
    "a role from a web identity": (role(LAST, source_profile="mid"), {"mid": role(**WEB)}),
    **{f"a process: {name}": {"credential_process": f'HELPER "{name}"'} for name in REPLIES},
    **{f"a process: {name}, and keys": {"credential_process": f"HELPER {name}", "keys": "more"}
       for name in ("plain", "fails")},
    "a process that is not there": {"credential_process": "/nowhere/helper plain"},
    "a process of the path": {"credential_process": "cat PLAIN"},
    "an empty process": {"credential_process": ""},
    "a role and a process": role(**FROM_BASE, credential_process="HELPER plain"),
    **{f"words: {words}": {"credential_process": f"HELPER {words}"} for words in (
        '"a b"', "'a b'", r"a\ b", 'a" "b', """'a'" "'b'""", r'"a\"b"', r"a\"b", r"'a\b'",
        r'"a\b"', r'"a\\b"', r"a\\b", r"a\b", "a b", '"a b', "'a b", "a\\", '""', "''", '"" ab',
        "$HOME", "'$HOME'", '"$HOME"', "~", "a|b", "a#b", "a # b", "*", ";", "ab;", "&", "$(ls)",
        "ab > /dev/null", "ab # x", "   ab   ", "\tab\t", "\"a'b\"", "'a\"b'", '"ab"')},
    '"HELPER" in quotes': {"credential_process": '"HELPER" ab'},
    "HELPER in quotes in part": {"credential_process": "HELP'ER' ab"},
}
NAMED = {"by variable": ("app", None), "by setting": (None, "app"), "default": (None, None)}
PLACES = ("config", "credentials", "keys in credentials")
AROUND = {"nothing": {}, "a pair": env_pair("env"), "an id": {"AWS_ACCESS_KEY_ID": "AKIDALONE"},
          "a web identity": {"AWS_ROLE_ARN": LAST, "AWS_WEB_IDENTITY_TOKEN_FILE": "TOKEN.env",
                             "AWS_ROLE_SESSION_NAME": "env"}}


def says(row: str) -> dict:
    """What the profile itself has."""
    return ROWS[row][0] if isinstance(ROWS[row], tuple) else ROWS[row]



# (row, how it is named, place, environment); an empty set is all.
DIFFERENT_ROLES = [
    ("a duration that is no number is refused, as AWS refuses one that it does not like",
     {"1h seconds"}, set(), set(), set()),
    ("AWS says whether they have expired; the clock here may be wrong",
     {"a process: expired"}, set(), set(), set()),
    ("the number 1 is written as 1", {"a process: version 1.0"}, set(), set(), set()),
    ("keys go before a process in either file, as in AWS's newer tools",
     {"a process: plain, and keys", "a process: fails, and keys"}, set(), {"config"}, set()),
    ("a program is named by its full path, so that PATH does not choose it",
     {"a process of the path"}, set(), set(), set()),
    ("a comment behind a value is none of it, as in AWS's newer tools",
     {"words: ;", "words: ab # x"}, set(), set(), set()),
    ("a profile goes before a web identity of the environment",
     {row for row in ROWS if "role_arn" not in says(row) or
      "web_identity_token_file" in says(row)}, {"by variable", "default"}, set(),
     {"a web identity"}),
]


def render(sections: dict, config: bool) -> str:
    text = ""
    for name, properties in sections.items():
        head = name if name == "default" or not config else f"profile {name}"
        text += f"[{head}]\n"
        for key, value in properties.items():
            text += lines(value) if key == "keys" else f"{key} = {value}\n"
    return text


def role_situation(folder, cloud, row: str, how: str, place: str, around: str):
    """The environment of the situation, and the profile that the settings name."""
    others = ROWS[row][1] if isinstance(ROWS[row], tuple) else {}
    all_ = {"app": says(row), "base": {"keys": "base"}, "proc": {
        "credential_process": "HELPER plain"}, **others}
    if how == "default":
        all_ = {("default" if name == "app" else name): {
            key: "default" if (key, value) == ("source_profile", "app") else value
            for key, value in each.items()} for name, each in all_.items()}
    keys = {name: {"keys": each["keys"]} for name, each in all_.items() if "keys" in each}
    rest = {name: {key: value for key, value in each.items() if key != "keys"}
            for name, each in all_.items()}
    texts = {"config": (render(all_, True), ""), "credentials": ("", render(all_, False)),
             "keys in credentials": (render(rest, True), render(keys, False))}[place]
    env = {"HOME": str(folder), "PATH": os.environ["PATH"], "AWS_REGION": "us-east-1",
           "AWS_DEFAULT_REGION": "us-east-1",
           **{name: value.replace("TOKEN", str(folder / "token"))
              for name, value in AROUND[around].items()},
           "AWS_METADATA_SERVICE_NUM_ATTEMPTS": "1", "AWS_EC2_METADATA_V1_DISABLED": "true",
           "AWS_EC2_METADATA_SERVICE_ENDPOINT": cloud.url, "AWS_ENDPOINT_URL_STS": cloud.url,
           "AWS_CONTAINER_CREDENTIALS_FULL_URI": cloud.url + cloud.secret_path}
    variable, setting = NAMED[how]
    if variable:
        env["AWS_PROFILE"] = variable
    for name, text in zip(("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"), texts):
        env[name] = str(folder / name)
        text = text.replace("HELPER", str(folder / "helper")).replace(
            "HELP'ER'", f"{str(folder / 'help')}'er'").replace(
            "PLAIN", str(folder / "said" / "plain")).replace("TOKEN", str(folder / "token"))
        (folder / name).write_text(text)
        (folder / name).chmod(0o600)
    return env, setting


def make_helper(folder) -> None:
    (folder / "said").mkdir()
    for name, text in {**REPLIES, **dict.fromkeys(WORDS, reply())}.items():
        (folder / "said" / name).write_text(text if isinstance(text, str) else json.dumps(text))
    (folder / "helper").write_text(HELPER)
    (folder / "helper").chmod(0o700)
    (folder / "token").write_text("ey.token")
    (folder / "token.env").write_text("ey.env")


def came_by(cloud, key_id: str) -> tuple:
    """How a session was come by, and its name, unless each of us made one up."""
    user = cloud.users[key_id]
    name = user.arn.rpartition("/")[2] if user.role else ""
    return *user.path, re.sub(r"botocore-session-\d+|keyring_aws", "", name)


def test_what_a_profile_says_of_roles_and_processes(driver_program, cloud, tmp_path):
    """Also how the role was come by: by which sources, with which external id and duration; and
    the session's name."""
    make_helper(tmp_path)
    cloud.roles, cloud.wanted, cloud.identities = ["role"], None, {"ey.token": ROLE, "ey.env": LAST}
    r = random.Random(f"roles {SEED}")
    chosen = [(row, "by variable", "config", "nothing") for row in ROWS]
    every = list(itertools.product(ROWS, NAMED, PLACES, AROUND))
    chosen += [("a role from Environment", how, "config", around) for how in NAMED
               for around in AROUND]
    chosen += r.sample(every, 1500 if LONG else 60)
    wrong, used, agreed = [], set(), 0
    for each in dict.fromkeys(chosen):
        env, setting = role_situation(tmp_path, cloud, *each)
        why, keys = theirs(env, setting)
        cloud.reset_log()
        said, _ = ours(driver_program, cloud, env, setting)
        signed = [record["access_key_id"] for record in cloud.log()["requests"] if record["body"]]
        assert bool(signed) == (not said)
        expected = why or came_by(cloud, keys[0])
        found = "" if said else came_by(cloud, signed[-1])
        if expected == found or why and said:
            agreed += 1
            continue
        rows = [row for row in DIFFERENT_ROLES if all(
            not kinds or kind in kinds for kind, kinds in zip(each, row[1:]))]
        used.update(row[0] for row in rows[:1])
        if not rows:
            wrong.append((*each, expected, said or found))
    assert not wrong, "\n".join(map(str, wrong))
    assert agreed > 120 and used == {row[0] for row in DIFFERENT_ROLES}, (
        agreed, {row[0] for row in DIFFERENT_ROLES} - used)
