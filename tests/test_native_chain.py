"""Which credentials are found: botocore's chain and ours, side by side.

A situation is what the environment, the files and the endpoints hold. Both chains run in it: they
find the same credentials, or none; or a row of DIFFERENT names the difference and its reason. The
emulated KMS knows every key, so ours is right in all three parts if KMS answers. KAWS_SEED=n tries
other situations, KAWS_LONG=1 five times as many.
"""

import itertools
import os
import random
from unittest import mock

import pytest

from driver import Driver
from kms_emulator import ACCOUNT, KEY_ARN, Emulator

import botocore.session                                     # after the emulator's finder
from botocore.exceptions import BotoCoreError, ClientError

ROLE = f"arn:aws:iam::{ACCOUNT}:role/app"

SEED, LONG = os.environ.get("KAWS_SEED", "1"), os.environ.get("KAWS_LONG", "") not in ("", "0")

KEYS = {name: (f"AKIDCHAIN{name.upper():0>4}", f"sec+{name}/x", token)
        for name, token in (("env", ""), ("envt", "tok/env=="), ("cred", ""),
                            ("conf", "tok/conf=="), ("appc", "tok/appc="), ("appf", ""),
                            ("twin", ""))}


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


@pytest.fixture(scope="module", name="cloud")
def make_cloud():
    with Emulator() as emulator:
        for key_id, secret, token in KEYS.values():
            emulator.add_user(key_id, secret, ACCOUNT, token=token or None)
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
        try:
            found = botocore.session.Session(profile=setting).get_credentials()
            if found is None:
                return "none", ""
            keys = found.get_frozen_credentials()
        except (BotoCoreError, ClientError) as error:
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
        assert answer.status in ("OK", "CONFIG", "CREDENTIALS"), answer
        assert not any(secret in line for _, line in lib.logs for _, secret, _ in KEYS.values())
    return ("", end) if answer.status == "OK" else (answer.text, "")


def same(keys: tuple, end: str) -> bool:
    """Whether botocore's keys have the id that ends so. A role gives each of us new ones."""
    role = keys[0].startswith("ASIAROLE")
    return role and end.isdigit() or keys in KEYS.values() and keys[0].endswith(end)


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
