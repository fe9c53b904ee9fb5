"""Roles that are assumed: config.role_arn after every source, and chains of roles in profiles.

The emulated STS judges every signature, knows who may assume which role, and remembers how each
session was come by; the emulated KMS takes no session that it did not give.
"""

import json
import re
import time

import pytest

from conftest import write_conf
from kms_emulator import ACCESS_KEY_ID, ACCOUNT, KEY_ARN, OTHER_ACCOUNT, SECRET, Emulator
from mysql_fixtures import NO_SCHEMA
from patience import in_time

from test_native import KEYS, NO_EC2, cloud, fetch_for, role, write_profiles     # noqa: F401
from test_secrets import Searched

USED, LAST = (f"arn:aws:iam::{ACCOUNT}:role/{name}" for name in ("keys/user", "last"))
MARKS = ("role+", "tok/", "ey.", SECRET)        # in every secret of these tests


def write_config(path, **profiles: dict):
    """A config file, for profiles' properties."""
    return write_conf(path, *(line for name, properties in profiles.items() for line in (
        f"[profile {name}]", *(f"{key} = {value}" for key, value in properties.items()))))


def keys_of(key_id: str = ACCESS_KEY_ID, secret: str = SECRET) -> dict:
    return {"aws_access_key_id": key_id, "aws_secret_access_key": secret}


@pytest.fixture(name="cloud")
def make_roles(cloud):                                                  # noqa: F811
    """With a role that all in the account may assume, and one that only that may."""
    cloud.add_role(USED)
    cloud.add_role(LAST, trusts=[USED])
    return cloud


@pytest.fixture
def chain(cloud, tmp_path):
    """Settings for a profile with two roles, the second from the first, that from keys."""
    config = write_config(tmp_path / "config", base=keys_of(),
                          mid={"role_arn": USED, "source_profile": "base"},
                          app={"role_arn": LAST, "source_profile": "mid"})
    return {"config_file": config, "profile": "app", "sts_endpoint": cloud.url}


def asked_of_sts(cloud) -> list[dict]:
    return [each for each in cloud.log()["requests"] if each["form"]]


def used(cloud):
    """Whose credentials the newest request to KMS was signed with."""
    (*_, last) = [each for each in cloud.log()["requests"] if each["body"]]
    assert last["signed"] == "OK", last
    return cloud.users[last["access_key_id"]]


def no_secret_was_said(lib) -> None:
    for mark in MARKS:
        assert not lib.said(re.escape(mark)), mark


# ---- config.role_arn -----------------------------------------------------------------

@pytest.mark.parametrize("of", ["the conf file", "the environment", "the profile", "the instance",
                                "the web identity", "the container"])
def test_a_role_after_every_source(role, cloud, tmp_path, of):
    """The source is used for AWS STS alone; AWS KMS sees the role. The log names it."""
    (tmp_path / "token").write_text("ey.token")
    cloud.identities = {"ey.token": f"arn:aws:iam::{ACCOUNT}:role/pod"}
    env, more, source = {
        "the conf file": ({}, {"auth": "file", "conf_file": write_conf(
            tmp_path / "conf", ACCESS_KEY_ID, SECRET)}, ACCESS_KEY_ID),
        "the environment": (KEYS, {}, ACCESS_KEY_ID),
        "the profile": ({}, {"profile": "p", "credentials_file": write_profiles(
            tmp_path / "credentials", p=(ACCESS_KEY_ID, SECRET))}, ACCESS_KEY_ID),
        "the instance": (cloud.of_instance, {}, "instance"),
        "the web identity": ({"AWS_WEB_IDENTITY_TOKEN_FILE": str(tmp_path / "token"),
                              "AWS_ROLE_ARN": f"arn:aws:iam::{ACCOUNT}:role/pod"}, {},
                             "web identity"),
        "the container": (cloud.of_container, {}, "container"),
    }[of]
    lib = role(env, must_have_creds=1, role_arn=USED, sts_endpoint=cloud.url, **more)
    lib.ok("generate", "a", None, "AES", 32)
    lib.fetch("a")
    who = used(cloud)
    assert who.path[0] == source and who.path[-1] == USED
    assert who.arn == f"arn:aws:sts::{ACCOUNT}:assumed-role/user/keyring_aws"
    assert {each["access_key_id"] for each in cloud.log()["requests"] if each["body"]} == {
        who.access_key_id}
    assert cloud.count("AssumeRole") == 1
    (asked,) = [each for each in asked_of_sts(cloud) if each["action"] == "AssumeRole"]
    assert asked["form"] == {"Action": "AssumeRole", "Version": "2011-06-15", "RoleArn": USED,
                             "RoleSessionName": "keyring_aws"}
    (line,) = lib.said(r"\[KAWS-165\]", 2)
    assert re.search(rf"come from {of}\b.*; they belong to {re.escape(who.arn)}, their access key"
                     rf" id ends in {who.access_key_id[-4:]}, and they expire: 20\d+T\d+Z$", line)
    _, end, account, expires, *_ = lib.ok("whoami")
    assert (end.decode(), account.decode()) == (who.access_key_id[-4:], ACCOUNT)
    assert 3590 < int(expires) - time.time() <= 3600
    no_secret_was_said(lib)


def test_an_external_id_and_a_sessions_name(role, cloud):
    guarded = f"arn:aws:iam::{OTHER_ACCOUNT}:role/guarded"
    cloud.add_role(guarded, trusts=[ACCOUNT], external_id="our/id:1,a=b@c")
    cloud.set_key(KEY_ARN, shared_with=(OTHER_ACCOUNT,))
    lib = role(KEYS, role_arn=guarded, sts_endpoint=cloud.url, must_have_creds=1,
               role_external_id="our/id:1,a=b@c", role_session_name="db-1@host")
    lib.ok("generate", "a", None, "AES", 32)
    assert used(cloud).arn == f"arn:aws:sts::{OTHER_ACCOUNT}:assumed-role/guarded/db-1@host"
    assert f"they belong to {used(cloud).arn}, their" in lib.said(r"\[KAWS-165\]", 2)[0]


@pytest.mark.parametrize("change, code", [
    ({"role_external_id": "other"}, "AccessDenied"), ({"role_external_id": None}, "AccessDenied"),
    ({"role_arn": LAST}, "AccessDenied"), ({"role_arn": LAST + "x"}, "AccessDenied")])
def test_a_role_that_is_refused(role, cloud, change, code):
    """One line says which role, who asked for it, and what AWS STS said; nothing is asked twice."""
    guarded = f"arn:aws:iam::{ACCOUNT}:role/guarded"
    cloud.add_role(guarded, external_id="our-id")
    how = {"role_arn": guarded, "role_external_id": "our-id", **change}
    lib = role(KEYS, sts_endpoint=cloud.url, **how)
    answer = lib.call("check")
    assert answer.status == "CREDENTIALS" and (answer.aws, answer.http) == (code, 403)
    for words in (how["role_arn"], f"({code}, HTTP 403, request id {answer.request_id})",
                  f"ends in {ACCESS_KEY_ID[-4:]}", "trust policy", "external id",
                  f"AWS STS at {cloud.url}"):
        assert words in answer.text, words
    assert "\n" not in answer.text and "our-id" not in answer.text
    assert cloud.count("sts") == 2 == len(cloud.log()["requests"]), "once to open, once to check"
    no_secret_was_said(lib)


@pytest.mark.parametrize("change, words", [
    *(({"role_arn": arn}, "the ARN of the role is not of the form")
      for arn in ("app", USED.replace("iam", "sts"), USED + "\n")),
    *(({"role_external_id": value}, "the role's external id must have 2 to 1224")
      for value in ("x", "a b", "x" * 1225)),
    *(({"role_session_name": value}, "the role's session name must have 2 to 64")
      for value in ("x", "a b", "x" * 65)),
    ({"role_arn": None, "role_session_name": None}, "is set, but not role_arn"),
    ({"role_arn": None, "role_external_id": None}, "is set, but not role_arn")])
def test_settings_that_cannot_be_right(role, cloud, change, words):
    """AWS STS is not asked: the ring does not open, and the error says which one it is."""
    with_all = {"role_arn": USED, "role_external_id": "abc", "role_session_name": "abc", **change}
    lib = role(KEYS, status="CONFIG", sts_endpoint=cloud.url, **with_all)
    assert words in lib.opened.text, lib.opened
    assert cloud.count() == 0 and not lib.said("AKID")


@pytest.mark.parametrize("size, well", [(4095, True), (4096, True), (4097, False)])
def test_the_longest_session_token(role, cloud, size, well):
    cloud.token_size = size
    lib = role(KEYS, role_arn=USED, sts_endpoint=cloud.url)
    answer = lib.call("check")
    assert answer.status == ("OK" if well else "CREDENTIALS")
    assert well or "SessionToken: it is longer than the longest that AWS has" in answer.text


@pytest.mark.parametrize("region", ["eu-west-1", "us-gov-west-1"])
def test_sts_is_asked_for_the_region_of_the_kms_key(role, cloud, region):
    """Its endpoint takes no request that was signed for another."""
    cloud.sts_region, key = region, cloud.add_key(region, ACCOUNT)
    role(KEYS, role_arn=USED, sts_endpoint=cloud.url, kms_key_id=key).ok("check")
    assert asked_of_sts(cloud)[0]["region"] == region


@pytest.mark.parametrize("change", ["use_kms_key", "use_region"])
def test_sts_follows_the_kms_key(role, cloud, change):
    """Its region is asked from then on: the old one may be unreachable."""
    there, here = (cloud.add_key(region, ACCOUNT, alias="alias/app")
                   for region in ("eu-west-1", "us-east-1"))
    cloud.add_role(USED, life=4)
    lib = role(KEYS, role_arn=USED, sts_endpoint=cloud.url,
               kms_key_id=here if change == "use_kms_key" else "alias/app")
    lib.ok("check")
    lib.ok(change, there if change == "use_kms_key" else "eu-west-1")
    cloud.sts_region = "eu-west-1"
    time.sleep(4.1)
    lib.ok("check")
    assert [each["region"] for each in asked_of_sts(cloud)][-1] == "eu-west-1"


def test_a_role_behind_tls(driver, settings, emulator, conf, certs):
    """With the conf file, and a certificate that is verified."""
    emulator.add_role(USED)
    lib = driver(role_arn=USED, sts_endpoint=emulator.url)
    lib.ok("generate", "a", None, "AES", 32)
    assert used(emulator).role == USED and emulator.count("AssumeRole") == 1
    emulator.stop()
    emulator.tls.load_cert_chain(*certs.unknown_ca)
    emulator.start()
    answer = lib.call("reload_creds")
    assert answer.status == "NETWORK" and "certificate" in answer.text
    assert emulator.count("AssumeRole") == 1
    no_secret_was_said(lib)


# ---- chains --------------------------------------------------------------------------

def test_two_roles(role, cloud, chain):
    lib = role({}, **chain, must_have_creds=1)
    lib.ok("generate", "a", None, "AES", 32)
    assert used(cloud).path == (ACCESS_KEY_ID, USED, LAST)
    first, second = asked_of_sts(cloud)
    assert first["access_key_id"] == ACCESS_KEY_ID
    assert second["access_key_id"] == cloud.given[0] and second["form"]["RoleArn"] == LAST
    (line,) = lib.said(r"\[KAWS-165\]", 2)
    assert f"they belong to arn:aws:sts::{ACCOUNT}:assumed-role/last/keyring_aws" in line
    assert "the profile app" in line and cloud.given[1][-4:] in line
    no_secret_was_said(lib)


def test_a_setting_goes_on_after_a_chain(role, cloud, chain):
    third = f"arn:aws:iam::{ACCOUNT}:role/third"
    cloud.add_role(third, trusts=[LAST])
    role({}, **chain, role_arn=third).ok("check")
    assert used(cloud).path == (ACCESS_KEY_ID, USED, LAST, third)


@pytest.mark.parametrize("deep, well", [(5, True), (6, False)])
def test_a_long_chain(role, cloud, tmp_path, deep, well):
    """Five roles are enough for all."""
    arns = [f"arn:aws:iam::{ACCOUNT}:role/r{number}" for number in range(deep)]
    profiles = {f"p{number}": {"role_arn": arn, "source_profile": f"p{number - 1}"}
                for number, arn in enumerate(arns)}
    for arn in arns:
        cloud.add_role(arn)
    config = write_config(tmp_path / "config", **{"p-1": keys_of(), **profiles})
    lib = role({}, config_file=config, profile=f"p{deep - 1}", sts_endpoint=cloud.url)
    answer = lib.call("check")
    assert answer.status == ("OK" if well else "CONFIG"), answer
    assert (used(cloud).path == (ACCESS_KEY_ID, *arns)) if well else (
        cloud.count() == 0 and "five" in answer.text and "has a role" in answer.text)


def test_a_chain_that_begins_with_a_web_identity(role, cloud, tmp_path):
    """It may be five profiles long, too, and the setting's role goes after it; no more."""
    (tmp_path / "token").write_text("ey.token")
    arns = [f"arn:aws:iam::{ACCOUNT}:role/r{number}" for number in range(7)]
    cloud.identities = {"ey.token": arns[0]}
    for arn in (*arns, LAST):
        cloud.add_role(arn)
    profiles = {f"p{number}": {"role_arn": arn, "source_profile": f"p{number - 1}"}
                for number, arn in enumerate(arns)}
    profiles["p0"] = {"role_arn": arns[0], "web_identity_token_file": tmp_path / "token"}
    config = write_config(tmp_path / "config", **profiles)
    for last in range(7):
        for then in (None, LAST):
            lib = role({}, config_file=config, profile=f"p{last}", sts_endpoint=cloud.url,
                       role_arn=then)
            answer = lib.call("check")
            if answer.status == "OK":
                path = ("web identity", *arns[:last + 1], *([then] if then else []))
                assert used(cloud).path == path and last < 5
            else:
                assert answer.status == "CONFIG" and last > 4 and "five" in answer.text, answer


@pytest.mark.parametrize("app, words", [
    ({"role_arn": USED}, "source_profile"),
    ({"role_arn": USED, "source_profile": "base", "credential_source": "Environment"},
     "credential_source"),
    ({"role_arn": USED, "source_profile": "nobody"}, "no profile nobody"),
    ({"role_arn": USED, "source_profile": "app"}, "source_profile"),
    ({"role_arn": LAST, "source_profile": "mid"}, "source_profile"),
    ({"role_arn": USED, "credential_source": "environment"}, "credential_source"),
    ({"role_arn": USED, "source_profile": "base", "mfa_serial": "GAHT12345678"}, "mfa_serial"),
    ({"role_arn": USED, "source_profile": "base", "duration_seconds": "899"}, "duration_seconds"),
    ({"role_arn": USED, "source_profile": "base", "duration_seconds": "1h"}, "duration_seconds"),
    ({"role_arn": USED, "source_profile": "base", "external_id": "x"}, "external id"),
    ({"role_arn": USED, "source_profile": "base", "role_session_name": "a b"},
     "session name"),
    ({"role_arn": "nonsense", "source_profile": "base"}, "ARN"),
    ({"web_identity_token_file": "/nowhere"}, "role_arn"),
    ({"sso_session": "s"}, "sso_session"), ({"sso_start_url": "https://s"}, "sso_start_url"),
    ({"login_session": "arn:aws:sts::1:x"}, "login_session"),
    ({"role_arn": USED, "source_profile": "sso"}, "sso_session")])
def test_a_profile_that_cannot_be_right(role, cloud, tmp_path, app, words):
    """The error names the profile and the property, and not its value; nobody is asked."""
    config = write_config(tmp_path / "config", base=keys_of(), app=app, sso={"sso_session": "s"},
                          mid={"role_arn": USED, "source_profile": "app"})
    lib = role(KEYS, config_file=config, profile="app", sts_endpoint=cloud.url)
    answer = lib.call("check")
    assert answer.status == "CONFIG", answer
    assert words in answer.text and "profile" in answer.text and cloud.count() == 0
    for secret in ("GAHT12345678", SECRET):
        assert secret not in answer.text


@pytest.mark.parametrize("name", ["Environment", "Ec2InstanceMetadata", "EcsContainer"])
def test_a_credential_source(role, cloud, tmp_path, name):
    config = write_config(tmp_path / "config", app={"role_arn": USED, "credential_source": name})
    env = {"AWS_PROFILE": "app", "AWS_CONFIG_FILE": str(config), **cloud.of_instance,
           **cloud.of_container}
    lib = role(env, config_file=config, profile="app", sts_endpoint=cloud.url)
    if name == "Environment":
        answer = lib.call("check")
        assert answer.status in ("CONFIG", "CREDENTIALS") and "AWS_ACCESS_KEY_ID" in answer.text
        lib = role({**env, **KEYS}, profile="app", sts_endpoint=cloud.url)
    lib.ok("check")
    assert used(cloud).path[0] == {"Environment": ACCESS_KEY_ID, "EcsContainer": "container",
                                   "Ec2InstanceMetadata": "instance"}[name]
    assert used(cloud).role == USED
    no_secret_was_said(lib)


def test_a_web_identity_of_a_profile(role, cloud, tmp_path):
    """Its token file is read again for each exchange; the environment's does not count."""
    (tmp_path / "token").write_text("ey.first\n")
    cloud.identities = {"ey.first": USED}
    config = write_config(
        tmp_path / "config", app={"role_arn": LAST, "source_profile": "pod"},
        pod={"role_arn": USED, "web_identity_token_file": tmp_path / "token",
             "role_session_name": "pod-1"})
    env = {"AWS_WEB_IDENTITY_TOKEN_FILE": "/nowhere", "AWS_ROLE_ARN": LAST}
    lib = role(env, config_file=config, profile="app", sts_endpoint=cloud.url)
    lib.ok("generate", "a", None, "AES", 32)
    assert used(cloud).path == ("web identity", USED, LAST)
    assert asked_of_sts(cloud)[0]["form"]["RoleSessionName"] == "pod-1"
    (tmp_path / "token").write_text("ey.second")
    cloud.identities = {"ey.second": USED}
    cloud.remove_user(cloud.given[-1])                  # AWS refuses: there are newer ones
    lib.fetch("a")
    assert used(cloud).path == ("web identity", USED, LAST) and len(cloud.given) == 4
    no_secret_was_said(lib)


# ---- when AWS STS does not give them at once -----------------------------------------

@pytest.mark.parametrize("code, status", [
    ("Throttling", 400), ("ServiceUnavailable", 503), ("InternalFailure", 500),
    ("SlowDown", 503)])
@pytest.mark.parametrize("times", [1, 2])
def test_sts_fails_and_then_well(role, cloud, chain, code, status, times):
    """Within the same call, after some time."""
    cloud.fault("AssumeRole", "error", times=times, type=code, status=status)
    lib = role({}, **chain)
    answer = lib.call("check")
    assert answer.status == "OK" and cloud.count("AssumeRole") == 2 + times
    times_ = [each["time"] for each in asked_of_sts(cloud)][:1 + times]
    assert all(0.02 < after - before < 4 for before, after in zip(times_, times_[1:])), times_


@pytest.mark.parametrize("code, status", [("Throttling", 400), ("ServiceUnavailable", 503)])
def test_sts_fails_again_and_again(role, cloud, chain, code, status):
    """It is asked three times; the error is one of the service; then it is left alone."""
    cloud.fault("AssumeRole", "error", times=0, type=code, status=status)
    lib = role({}, **chain)
    answer = lib.call("check")
    assert answer.status == "SERVICE" and answer.aws == code and USED in answer.text
    assert cloud.count("AssumeRole") == 3
    assert lib.call("check").status == "SERVICE" and cloud.count("AssumeRole") == 3
    cloud.clear_faults()
    lib.ok("reload_creds")
    lib.ok("check")


@pytest.mark.parametrize("code", ["AccessDenied", "RegionDisabledException", "ValidationError",
                                  "MalformedPolicyDocument", "Nonsense"])
def test_what_is_final_is_asked_once(role, cloud, chain, code):
    cloud.fault("AssumeRole", "error", times=0, type=code, status=403)
    lib = role({}, **chain)
    assert cloud.count() == 1
    answer = lib.call("check")
    assert answer.status == "CREDENTIALS" and answer.aws == code and cloud.count() == 2


@pytest.mark.parametrize("code", ["IDPCommunicationError", "InvalidIdentityToken"])
def test_a_web_identity_that_aws_does_not_know_yet(role, cloud, tmp_path, code):
    """Its provider is new, or could not be asked: STS is asked again, with the token file as it is
    then: there is a new one before STS has answered for the first time."""
    (tmp_path / "token").write_text("ey.first")
    cloud.identities = {"ey.second": USED}
    cloud.fault("AssumeRoleWithWebIdentity", "error", type=code, status=400)
    begin = cloud.begin

    def rotate(*request) -> tuple:
        (tmp_path / "token.new").write_text("ey.second")
        (tmp_path / "token.new").rename(tmp_path / "token")
        return begin(*request)

    cloud.begin = rotate
    lib = role({"AWS_WEB_IDENTITY_TOKEN_FILE": str(tmp_path / "token"), "AWS_ROLE_ARN": USED},
               sts_endpoint=cloud.url)
    lib.ok("check")
    assert [each["form"]["WebIdentityToken"] for each in asked_of_sts(cloud)] == [
        "ey.first", "ey.second"]


def test_sts_that_hangs_takes_no_longer_than_the_call_has(role, cloud, chain):
    cloud.fault("AssumeRole", "black_hole", times=0)
    lib = role({}, **chain, timeout_ms=2000)
    assert 1000 < lib.opened.ms
    in_time(lib.opened.ms, 3000)
    (line,) = lib.said(r"\[KAWS-142\]", 1)
    assert f"AWS STS at {cloud.url}/" in line
    asked = cloud.count()
    for _ in range(10):
        assert lib.call("check").status == "NETWORK"
    assert cloud.count() == asked > 0, "it is remembered"


def xml(**members: str) -> str:
    inner = "".join(f"<{name}>{value}</{name}>" for name, value in members.items())
    return f"<AssumeRoleResponse><AssumeRoleResult><Credentials>{inner}</Credentials>" \
           "</AssumeRoleResult></AssumeRoleResponse>"


FULL = {"AccessKeyId": "ASIA0123456789ABCDEF", "SecretAccessKey": "role+S3CR", "SessionToken":
        "tok/S3CR", "Expiration": "2099-01-01T00:00:00Z"}


@pytest.mark.parametrize("reply, words", [
    ({"status": 302, "headers": {"Location": "@/elsewhere"}}, "HTTP 302"),
    ({"status": 307, "headers": {"Location": "@/elsewhere"}}, "HTTP 307"),
    *(({"body": xml(**{**FULL, name: ""})}, words) for name, words in (
        ("AccessKeyId", "AccessKeyId is missing"), ("SecretAccessKey", "Key is missing"),
        ("SessionToken", "SessionToken is missing"), ("Expiration", "Expiration is not a date"))),
    ({"body": xml(**{**FULL, "Expiration": "tomorrow"})}, "Expiration is not a date"),
    ({"body": xml(**{**FULL, "SessionToken": "tok/S3CR S3CR"})}, "SessionToken: a blank"),
    ({"body": xml(**{**FULL, "AccessKeyId": "&x;"})}, "no credentials"),
    ({"body": xml(**FULL).replace("Credentials>", "Other>")}, "no credentials"),
    ({"body": xml(**FULL)[:-10]}, "no credentials"), ({"body": "empty"}, "no credentials"),
    ({"body": '{"AccessKeyId": "role+S3CR"}'}, "no credentials"),
    ({"body": "html"}, "no credentials"), ({"size": 1 << 36}, "longer than 65536 bytes"),
    ({"status": 403, "body": "<ErrorResponse><Errors><Error><Code>AccessDenied</Code></Error>"
                             "</Errors></ErrorResponse>"}, "(AccessDenied, HTTP 403"),
    ({"status": 403, "body": "html"}, "(no error type, HTTP 403")])
def test_odd_replies_of_sts(role, cloud, chain, reply, words):
    """The error says what is wrong, shows nothing of it, and nobody else is asked."""
    cloud.fault("AssumeRole", "reply", times=0, **json.loads(
        json.dumps(reply).replace("@", cloud.url)))
    lib = role({}, **chain)
    answer = lib.call("check")
    assert answer.status == "CREDENTIALS" and words in answer.text, answer
    assert "S3CR" not in answer.text and not lib.said("S3CR")
    in_time(answer.ms, 2000, "64 GB would take longer")
    assert {each["action"] for each in cloud.log()["requests"]} == {"AssumeRole"}
    assert cloud.count() == 2, "once to open, once to check"


def test_a_reply_in_chunks(role, cloud, chain):
    cloud.fault("AssumeRole", "chunked", times=0)
    role({}, **chain).ok("check")


@pytest.mark.parametrize("offset", [3000, -3000])
def test_a_clock_that_is_wrong(role, cloud, chain, offset):
    """AWS STS tells the time, and is asked again, once; each role's request has the right one."""
    cloud.clock_offset = offset
    lib = role({}, **chain)
    lib.ok("check")
    assert [each["verdict"] for each in asked_of_sts(cloud)] == [
        "SignatureDoesNotMatch", "OK", "OK"]
    assert used(cloud).role == LAST


def test_the_source_is_revoked_meanwhile(role, cloud, chain, tmp_path):
    """What the role has lives on. Then the error names the profile whose keys AWS refuses; and
    when there are new ones, all is well, without a restart."""
    cloud.add_role(LAST, trusts=[USED], life=4)
    lib = role({}, **chain)
    lib.ok("generate", "a", None, "AES", 32)
    key = lib.fetch("a")
    cloud.remove_user(ACCESS_KEY_ID)
    assert lib.fetch("a") == key
    time.sleep(4.1)
    answer = lib.call("fetch", "a", None)
    assert answer.status == "CREDENTIALS" and answer.aws == "InvalidClientTokenId", answer
    assert USED in answer.text and ACCESS_KEY_ID[-4:] in answer.text
    cloud.add_user("AKIDNEW2", "new/" + SECRET, ACCOUNT)
    text = chain["config_file"].read_text()
    write_conf(chain["config_file"], text.replace(ACCESS_KEY_ID, "AKIDNEW2").replace(
        f" {SECRET}", f" new/{SECRET}"))
    lib.ok("reload_creds")
    assert lib.fetch("a") == key and used(cloud).path == ("AKIDNEW2", USED, LAST)
    no_secret_was_said(lib)


def test_a_session_is_revoked_meanwhile(role, cloud, chain):
    """The role is assumed again, once, and the call goes on."""
    lib = role({}, **chain)
    lib.ok("generate", "a", None, "AES", 32)
    for number in range(3):
        cloud.remove_user(cloud.given[-1])
        lib.fetch("a")
        assert used(cloud).access_key_id == cloud.given[-1]
        assert cloud.count("AssumeRole") == 4 + 2 * number
    cloud.remove_role(LAST)
    assert lib.call("fetch", "a", None).status == "CREDENTIALS"
    (line,) = lib.said("and reading them again failed", 1)
    assert f"for the role {LAST} to " in line and "AccessDenied" in line


def test_roles_that_expire_during_a_load(role, cloud, chain):
    """Both live for seconds. Each time one of 8 threads assumes them again; no call fails, and
    none waits long."""
    cloud.add_role(USED, life=3)
    cloud.add_role(LAST, trusts=[USED], life=3)
    lib = role({}, **chain)
    lib.ok("generate", "a", None, "AES", 32)
    in_time(max(call.ms for call in fetch_for(lib, 10)), 3000)
    assert 8 <= cloud.count("AssumeRole") <= 24
    requests = cloud.log()["requests"]
    assert {each["signed"] for each in requests} == {"OK"}
    assert {cloud.users[each["access_key_id"]].role for each in requests if each["body"]} == {LAST}
    no_secret_was_said(lib)


# ---- secrets -------------------------------------------------------------------------

def test_no_secret_of_a_chain_is_left_in_memory(driver_program, cloud, chain):
    """The last role's is in its one locked page alone; those of the roles before it, and the keys
    that it began with, are nowhere."""
    with Searched(driver_program, NO_EC2, endpoint=cloud.url, kms_key_id=KEY_ARN, auth="native",
                  **chain) as lib:
        for _ in range(3):
            lib.do("reload_creds")
            first, last = (cloud.users[each] for each in cloud.given[-2:])
            assert (first.role, last.role) == (USED, LAST)
            lib.look_for("secret", last.secret.encode())
            lib.look_for("base", SECRET.encode())
            lib.look_for("first", first.secret.encode())
            lib.nothing_is_found()
            lib.do("check")
            lib.nothing_is_found()
            lib.pieces.clear()
        lib.look_for("secret", last.secret.encode())
        lib.look_for("first", first.secret.encode())
        lib.look_for("base", SECRET.encode())
        cloud.fault("AssumeRole", "error", times=0, after=1, type="AccessDenied", status=403)
        lib.fail("reload_creds")
        lib.nothing_is_found()          # and the living ones are kept


# ---- in a MySQL server ---------------------------------------------------------------

def test_a_server_with_a_chain_of_roles(stage):
    """Without a conf file; the credentials expire while tables are used. Then with a web identity
    of a profile. SQL sees the role's settings and cannot change them."""
    with Emulator() as cloud:
        cloud.users, cloud.life = stage.kms.users, 4
        for arn, trusts in ((USED, None), (LAST, [USED])):
            cloud.add_role(arn, trusts)
        stage.conf.unlink()
        folder = stage.db.folder
        config = write_config(
            folder / "config", base=keys_of(), mid={"role_arn": USED, "source_profile": "base"},
            app={"role_arn": LAST, "source_profile": "mid"},
            pod={"role_arn": USED, "web_identity_token_file": folder / "token"})
        native = {"auth": "native", "config_file": config, "profile": "app",
                  "sts_endpoint": cloud.url}
        stage.start(NO_SCHEMA, "--keyring-aws=FORCE", **native)
        (line, *_) = stage.tagged("KAWS-165")
        assert f"they belong to arn:aws:sts::{ACCOUNT}:assumed-role/last/keyring_aws" in line
        stage.db.install_keyring_udf()
        assert stage.generate("a") == 1
        stage.sql("CREATE DATABASE d")
        stage.sql("CREATE TABLE d.t (a INT) ENCRYPTION = 'Y'")
        for number in range(12):        # 8 s; each of them is renewed within 3.7 s
            assert stage.fetch("a") == stage.plain("a")
            stage.sql("INSERT INTO d.t VALUES (%s)", number)
            time.sleep(0.7)
        assert cloud.count("AssumeRole") >= 6 and not stage.said("ERROR")
        assert len(stage.tagged("KAWS-165")) == len(cloud.given) // 2
        assert [stage.variable(name) for name in (
            "role_arn", "role_external_id", "role_session_name")] == [None] * 3
        for name in ("role_arn", "role_external_id", "role_session_name"):
            assert "read only" in stage.refused(f"SET GLOBAL keyring_aws_{name} = 'x'")[1]
        assert stage.db.stop() == 0

        (folder / "token").write_text("ey.token")
        cloud.identities = {"ey.token": USED}
        stage.start(NO_SCHEMA, "--keyring-aws=FORCE", **{
            **native, "profile": "pod", "role_arn": LAST, "role_session_name": "db@1"})
        assert stage.fetch("a") == stage.plain("a")
        assert stage.one("SELECT COUNT(*) FROM d.t") == 12
        assert "assumed-role/last/db@1" in stage.tagged("KAWS-165")[-1]
        assert [stage.variable(name) for name in ("role_arn", "role_session_name")] == [
            LAST, "db@1"]
        assert not stage.said("ERROR") and stage.db.stop() == 0
        asked = stage.kms.count()
        run = stage.db.run_once(*stage.options(NO_SCHEMA, "--keyring-aws=FORCE", **{
            **native, "profile": "base", "role_arn": LAST}), timeout=300, env=NO_EC2)
        assert run.returncode == 1 and stage.kms.count() == asked
        assert LAST in run.stdout and "trust policy" in run.stdout and SECRET not in run.stdout
    assert not cloud.crashes


def test_a_server_with_a_conf_file_and_a_role(stage):
    """The default, and one line more in my.cnf."""
    stage.kms.add_role(USED)
    stage.start(NO_SCHEMA, "--keyring-aws=FORCE", role_arn=USED, sts_endpoint=stage.kms.url)
    (line,) = stage.tagged("KAWS-165")
    assert f"they belong to arn:aws:sts::{ACCOUNT}:assumed-role/user/keyring_aws" in line
    stage.db.install_keyring_udf()
    assert stage.generate("a") == 1 and stage.fetch("a") == stage.plain("a")
    assert used(stage.kms).role == USED and not stage.said("ERROR")
