"""Credentials from elsewhere than the conf file: auth = native, in programs and in a MySQL server.

The emulated KMS checks every signature, so a request that is answered was signed with them.
"""

import json
import os
import re
import shutil
import subprocess
import threading
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from conftest import write_conf
from driver import HEADER, HERE, Driver
from kms_emulator import ACCESS_KEY_ID, ACCOUNT, KEY_ARN, SECRET, Emulator
from mysql_fixtures import NO_SCHEMA, ROOT, said
from patience import in_time

import botocore.session
from botocore.credentials import ContainerProvider, InstanceMetadataProvider    # after its finder
from botocore.utils import InstanceMetadataFetcher

from test_secrets import Searched

NO_EC2 = {"AWS_EC2_METADATA_DISABLED": "true"}
KEYS = {"AWS_ACCESS_KEY_ID": ACCESS_KEY_ID, "AWS_SECRET_ACCESS_KEY": SECRET}


def write_profiles(path: Path, **profiles: tuple[str, ...]) -> Path:
    """A credentials file: for each profile its id, its secret and perhaps its token."""
    names = ("aws_access_key_id", "aws_secret_access_key", "aws_session_token")
    return write_conf(path, *(line for profile, values in profiles.items()
                              for line in (f"[{profile}]", *(f"{name} = {value}" for name, value in
                                                             zip(names, values)), "")))


@pytest.fixture
def native(settings, tmp_path):
    """What a ring without a conf file is opened with."""
    settings["conf_file"] = tmp_path / "nothing is here"
    return settings | {"auth": "native"}


def trapped(folder: Path, native_too: bool) -> Path:
    """The driver, in which every function of the rooms that only native and roles need, and the one
    that reads an environment of credentials, aborts the process."""
    text, traps = HEADER.read_text(), 0
    for room in "child xml ini reading remote sts helper profile native".split():
        head, door, rest = re.split(rf"(?m)(^ \* ROOM  {room} .*$)", text)
        body, end, tail = rest.partition("\n/* =====" + "=" * 60)
        body, count = re.subn(r"(?m)^\{$", "{ abort();" if native_too else "{", body)
        text, traps = head + door + body + end + tail, traps + count
    text, count = re.subn(r"(?m)^(kaws__sys_own_env\(.*\)\n\{)$",
                          r"\1 abort();" if native_too else r"\1", text)
    assert traps > 80 and count == 1
    (folder / "keyring_aws.h").write_text(text)
    source = (HERE / "driver.c").read_text()
    place = '#include "../../keyring_aws.h"'
    assert source.count(place) == 1
    (folder / "driver.c").write_text(source.replace(place, '#include "keyring_aws.h"'))
    subprocess.run(["gcc", "-w", "-O1", "-o", folder / "driver", folder / "driver.c",
                    "-l:libbearssl.a", "-lcurl"], check=True)
    return folder / "driver"


@pytest.mark.parametrize("auth", [{}, {"auth": "file"}])
def test_with_the_conf_file_no_native_code_runs(tmp_path, settings, emulator, conf, auth):
    """Not when a ring opens, works, reads new credentials or is refused; whatever the environment
    and the other settings say. And the trap works: with native the process aborts."""
    program = trapped(tmp_path, native_too=True)
    env = {**KEYS, "AWS_PROFILE": "p", "AWS_CONFIG_FILE": str(conf), "AWS_SESSION_TOKEN": "no"}
    with Driver(program, env) as lib:
        assert lib.open(**settings, **auth, profile="p", config_file=conf,
                        must_have_creds=1).status == "OK"
        lib.ok("generate", "a", None, "AES", 32)
        key = lib.fetch("a")
        for name in ("check", "whoami", "reload_creds", "rewrap", "rotate", "refresh"):
            lib.ok(name)
        emulator.add_user("AKIDNEW", "new/" + SECRET, ACCOUNT)
        emulator.remove_user(ACCESS_KEY_ID)
        assert lib.call("check").status == "CREDENTIALS"
        write_conf(conf, "AKIDNEW", "new/" + SECRET)
        assert lib.fetch("a") == key
        conf.unlink()
        assert lib.call("reload_creds").status == "CONFIG"
    with Driver(program, env) as lib, pytest.raises(Exception):
        lib.open(**{**settings, "auth": "native"})


# ---- the environment -----------------------------------------------------------------

def test_keys_in_the_environment(driver, native, emulator):
    lib = driver(KEYS, **native)
    lib.ok("generate", "a", None, "AES", 32)
    assert len(lib.fetch("a")) == 32
    assert lib.ok("whoami")[:2] == [b"the environment", ACCESS_KEY_ID[-4:].encode()]
    (line,) = lib.said(r"\[KAWS-165\]", 2)
    assert ("from the environment (AWS_ACCESS_KEY_ID); they belong to an account that it does not"
            " name, their access key id" in line)


def test_a_session_token_in_the_environment(driver, native, emulator):
    emulator.add_user("ASIAENV", "s1", ACCOUNT, token="tok/en==", token_expires=time.time() + 100)
    lib = driver({"AWS_ACCESS_KEY_ID": "ASIAENV", "AWS_SECRET_ACCESS_KEY": "s1",
                  "AWS_SESSION_TOKEN": "tok/en=="}, **native)
    lib.ok("check")
    emulator.remove_user("ASIAENV")
    answer = lib.call("check")
    assert answer.status == "CREDENTIALS" and "come from the environment" in answer.text
    assert "conf file" not in answer.text and emulator.count() == 3     # nothing new to try


@pytest.mark.parametrize("left_out", KEYS)
def test_half_a_pair_is_an_error(driver_program, native, left_out):
    """It names the variable, and no other source is asked."""
    env = {name: value for name, value in KEYS.items() if name != left_out}
    with Driver(driver_program, env) as lib:
        answer = lib.open(**native, must_have_creds=1)
    assert answer.status == "CONFIG" and f"{left_out} is missing" in answer.text
    assert SECRET not in answer.text


@pytest.mark.skipif(os.geteuid() != 0, reason="takes root")
def test_a_stranger_who_starts_a_setuid_program_lends_it_no_credentials(driver_program, native,
                                                                        tmp_path):
    """Nor does he say which files it reads."""
    program = tmp_path / "driver"
    shutil.copy(driver_program, program)
    os.chown(program, 12345, 12345)
    program.chmod(0o4755)
    credentials = write_profiles(tmp_path / "credentials", default=(ACCESS_KEY_ID, SECRET))
    credentials.chmod(0o644)
    for folder in [tmp_path, *tmp_path.parents]:
        if folder.stat().st_uid == os.geteuid() and folder != Path("/"):
            folder.chmod(folder.stat().st_mode | 0o055)
    native = {key: value for key, value in native.items() if key != "data_file"}
    env = {**KEYS, **NO_EC2, "AWS_SHARED_CREDENTIALS_FILE": str(credentials)}

    def opened(user: int):
        words = ["setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups"]
        script = tmp_path / f"as{user}"
        script.write_text(f'#!/bin/sh\nexec {" ".join(words)} "{program}" "$@"\n')
        script.chmod(0o755)
        with Driver(script, env) as lib:
            return lib.open(**native, must_have_creds=1)

    assert opened(12345).status == "OK"                 # who starts it is who it runs as
    answer = opened(12346)
    assert answer.status != "OK" and ("no source of AWS credentials" in answer.text or
                                      "the instance" in answer.text)


# ---- profiles ------------------------------------------------------------------------

def test_a_profile(driver, native, emulator, tmp_path):
    credentials = write_profiles(tmp_path / "credentials", default=("AKIDNO", "no"),
                                 app=(ACCESS_KEY_ID, SECRET))
    lib = driver(**native, profile="app", credentials_file=credentials)
    lib.ok("generate", "a", None, "AES", 32)
    key = lib.fetch("a")
    assert lib.ok("whoami")[:2] == [b"the profile", ACCESS_KEY_ID[-4:].encode()]

    emulator.add_user("AKIDNEW1", "new/" + SECRET, ACCOUNT)
    emulator.remove_user(ACCESS_KEY_ID)
    assert lib.call("check").status == "CREDENTIALS"
    write_profiles(credentials, app=("AKIDNEW1",))      # half of it is there yet
    answer = lib.call("check")
    assert answer.status == "CREDENTIALS"
    (line,) = lib.said("and reading them again failed", 1)
    assert "the profile app: aws_secret_access_key is missing" in line
    write_profiles(credentials, app=("AKIDNEW1", "new/" + SECRET))
    assert lib.fetch("a") == key
    (line,) = lib.said(r"\[KAWS-107\]", 2)
    assert "the profile app has newer ones" in line and line.endswith("ends in NEW1")
    assert not lib.said(re.escape(SECRET))


def test_the_profile_of_the_environment(driver, native, tmp_path):
    """The files, too; and no file in HOME is ever looked at."""
    aws = tmp_path / ".aws"
    aws.mkdir()
    write_profiles(aws / "credentials", default=("AKIDHOME", "no"), app=("AKIDHOME", "no"))
    config = tmp_path / "config"
    config.write_text("[profile app]\nregion = eu-west-1\n"
                      f"aws_access_key_id = {ACCESS_KEY_ID}\n"
                      f"aws_secret_access_key = {SECRET} # x\n")
    lib = driver({"HOME": str(tmp_path), "AWS_PROFILE": "app", "AWS_CONFIG_FILE": str(config)},
                 **native)
    lib.ok("check")
    assert len(lib.said(rf"\[KAWS-104\] the config file {config} may be read by others", 1)) == 1
    lib = driver({"HOME": str(tmp_path), **NO_EC2}, **native)
    answer = lib.call("check")
    assert answer.status == "CONFIG" and "no source of AWS credentials" in answer.text


# ---- roles: the instance and the container -------------------------------------------

@pytest.fixture
def cloud():
    """A KMS without TLS, which is the instance's metadata and the container's endpoint, too."""
    with Emulator() as emulator:
        emulator.of_instance = {"AWS_EC2_METADATA_SERVICE_ENDPOINT": emulator.url}
        emulator.of_container = {
            "AWS_CONTAINER_CREDENTIALS_FULL_URI": emulator.url + emulator.secret_path}
        yield emulator
    assert emulator.crashes == []


@pytest.fixture
def role(driver_program, tmp_path, cloud):
    """Opens rings that have no other credentials than those of a role."""
    made = []

    def opened(env: dict, status: str = "OK", **more) -> Driver:
        made.append(Driver(driver_program, env))
        answer = made[-1].open(**{"data_file": tmp_path / "data", "endpoint": cloud.url,
                                  "kms_key_id": KEY_ARN, "auth": "native", **more})
        assert answer.status == status, answer
        made[-1].opened = answer
        return made[-1]

    yield opened
    for each in made:
        each.stop()


def test_the_emulated_endpoints_are_those_that_botocore_knows(cloud, tmp_path):
    """Its own providers get the credentials; and the emulator knows no version 1."""
    fetcher = InstanceMetadataFetcher(config={"ec2_metadata_service_endpoint": cloud.url + "/",
                                              "ec2_metadata_v1_disabled": True}, num_attempts=1)
    got = InstanceMetadataProvider(iam_role_fetcher=fetcher).load()
    assert cloud.given == [got.access_key] and got.token
    assert [cloud.count(each) for each in ("token", "roles", "role")] == [1, 1, 1]
    token = tmp_path / "token"
    token.write_text("jwt")
    cloud.wanted = "jwt"
    got = ContainerProvider({**cloud.of_container,
                             "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE": str(token)}).load()
    assert cloud.given[1:] == [got.access_key]
    for path in ("/latest/meta-data/iam/security-credentials/", cloud.secret_path):
        with pytest.raises(urllib.error.HTTPError) as caught:
            urllib.request.urlopen(cloud.url + path)
        assert caught.value.code in (401, 403)


@pytest.mark.parametrize("of", ["instance", "container"])
def test_a_role(role, cloud, of, tmp_path):
    """No proxy is asked, whatever the environment says, and nothing is asked twice."""
    env = dict.fromkeys(("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY"),
                        "http://127.0.0.1:9")
    if of == "container":
        (tmp_path / "token").write_text("first\n")
        env["AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE"] = str(tmp_path / "token")
        cloud.wanted = "first"
    lib = role({**env, **getattr(cloud, f"of_{of}")}, must_have_creds=1)
    lib.ok("generate", "a", None, "AES", 32)
    key = lib.fetch("a")
    source, end, _, expires, *_ = lib.ok("whoami")
    assert (source, end) == (f"the {of}".encode(), cloud.given[0][-4:].encode())
    assert 3590 < int(expires) - time.time() <= 3600
    asked = {"instance": ["token", "roles", "role"], "container": ["container"]}[of]
    requests = cloud.log()["requests"]
    assert [each["action"] for each in requests][:len(asked) + 1] == [
        *asked, "GenerateDataKeyWithoutPlaintext"]
    assert len({each["connection"] for each in requests[:len(asked) + 1]}) == len(asked) + 1
    (line,) = lib.said(r"\[KAWS-165\]", 2)
    owner = {"instance": "the instance's role app-role",
             "container": f"arn:aws:iam::{ACCOUNT}:role/task"}[of]
    assert re.search(rf"come from the {of} \(\w+\); they belong to {owner}, their access key id"
                     rf" ends in {cloud.given[0][-4:]}, and they expire: 20\d\d\d\d\d\dT", line)

    (tmp_path / "token").write_text("second\n")         # it was rotated
    cloud.wanted = "second" if of == "container" else None
    cloud.remove_user(cloud.given[0])                   # AWS refuses: there are newer ones
    assert lib.fetch("a") == key and len(cloud.given) == 2
    cloud.remove_user(cloud.given[1])
    cloud.fault(asked[-1], "error", times=0, type="X", status=400)
    answer = lib.call("fetch", "a", None)
    assert answer.status == "CREDENTIALS" and f"come from the {of}" in answer.text
    for secret in ("role+", "tok/", "first", "second"):
        assert not lib.said(re.escape(secret))


def fetch_for(lib, seconds: int) -> list:
    """8 threads fetch a key for so long, and none fails. Returns all answers."""
    end, calls = time.monotonic() + seconds, []

    def load() -> None:
        while time.monotonic() < end:
            calls.append(lib.call("fetch", "a", None))

    with ThreadPoolExecutor(8) as pool:
        for done in [pool.submit(load) for _ in range(8)]:
            done.result()
    assert {call.status for call in calls} == {"OK"} and len(calls) > 100
    return calls


def test_credentials_that_expire_during_a_load(role, cloud):
    """They live 3 seconds: each second one of 8 threads gets new ones; no call fails or waits."""
    cloud.life = 3
    lib = role(cloud.of_instance)
    lib.ok("generate", "a", None, "AES", 32)
    fetch_for(lib, 10)
    assert 4 <= len(cloud.given) <= 12
    assert {each["signed"] for each in cloud.log()["requests"] if each["body"]} == {"OK"}


ROLE = f"arn:aws:iam::{ACCOUNT}:role/app/keyring"


@pytest.fixture
def web(cloud, tmp_path):
    """The environment of a pod with a web identity, as EKS makes it: a token behind a link."""
    (tmp_path / "..data").mkdir()
    (tmp_path / "..data" / "token").write_text("ey.first-token_x.y\n")
    (tmp_path / "web-token").symlink_to("..data/token")
    cloud.identities = {"ey.first-token_x.y": ROLE}
    return {"AWS_WEB_IDENTITY_TOKEN_FILE": str(tmp_path / "web-token"), "AWS_ROLE_ARN": ROLE,
            "AWS_ROLE_SESSION_NAME": "me@here"}


def test_the_emulated_sts_is_one_that_botocore_knows(cloud, web):
    client = botocore.session.Session().create_client("sts", "us-east-1", endpoint_url=cloud.url)
    how = {"RoleArn": ROLE, "RoleSessionName": "me", "WebIdentityToken": "ey.first-token_x.y"}
    got = client.assume_role_with_web_identity(**how)["Credentials"]
    assert cloud.given == [got["AccessKeyId"]] and got["Expiration"].year > 2000
    with pytest.raises(botocore.exceptions.ClientError, match="InvalidIdentityToken"):
        client.assume_role_with_web_identity(**{**how, "WebIdentityToken": "other"})


def test_a_web_identity(role, cloud, web, tmp_path):
    """The token is read again for each exchange, and is in no log; the request is not signed."""
    lib = role(web, sts_endpoint=cloud.url, must_have_creds=1)
    lib.ok("generate", "a", None, "AES", 32)
    key = lib.fetch("a")
    (line,) = lib.said(r"\[KAWS-165\]", 2)
    assert (f"come from the web identity {ROLE}; they belong to arn:aws:sts::{ACCOUNT}:assumed-role"
            "/keyring/me@here, their access key id ends in") in line
    asked = cloud.log()["requests"][0]
    assert asked["action"] == "AssumeRoleWithWebIdentity"
    assert "authorization" not in asked["headers"]
    (tmp_path / "..data" / "token").write_text("ey.second")
    cloud.identities = {"ey.second": ROLE}
    cloud.remove_user(cloud.given[0])
    assert lib.fetch("a") == key and cloud.count("sts") == 2
    cloud.remove_user(cloud.given[1])
    (tmp_path / "..data" / "token").write_text("ey.third")
    answer = lib.call("fetch", "a", None)
    assert answer.status == "CREDENTIALS"
    (line,) = lib.said("and reading them again failed", 1)
    assert (f"AWS STS at {cloud.url}/ refused credentials for the role {ROLE}"
            " (InvalidIdentityToken, HTTP 400, request id ") in line
    assert not lib.said("ey[.]")


@pytest.mark.parametrize("change, status, words", [
    ({"AWS_ROLE_ARN": ""}, "CONFIG", "AWS_ROLE_ARN has to be"),
    ({"AWS_WEB_IDENTITY_TOKEN_FILE": "/nowhere"}, "CREDENTIALS", "token file /nowhere of the web"),
    ({"AWS_WEB_IDENTITY_TOKEN_FILE": "/dev/null"}, "CREDENTIALS", "not hold 4 to 20000 bytes"),
    ({"AWS_ROLE_ARN": ROLE + "x"}, "CREDENTIALS", "(AccessDenied, HTTP 403"),
    ({"AWS_ROLE_SESSION_NAME": "a b&Action=x"}, "CONFIG", "AWS_ROLE_SESSION_NAME cannot be")])
def test_a_web_identity_that_is_refused(role, cloud, web, change, status, words):
    lib = role({**web, **change}, sts_endpoint=cloud.url)
    answer = lib.call("check")
    assert answer.status == status and words in answer.text and "no & no" not in answer.text


@pytest.mark.parametrize("reply, status, words", [
    ({"status": 503, "body": "html"}, "SERVICE", "(no error type, HTTP 503"),
    ({"status": 400, "body": "<E><Error><Code>IDPCommunicationError</Code></Error></E>"}, "SERVICE",
     "AWS cannot reach the provider"),
    ({"status": 400, "body": "<E><Error><Code>Throttling</Code></Error></E>"}, "SERVICE",
     "too often"),
    ({"status": 200, "body": '<!DOCTYPE a [<!ENTITY b "c">]><a>&b;</a>'}, "CREDENTIALS",
     "an element without a name"),
    ({"status": 200, "body": "<A><Credentials><Expiration>x</Expiration></Credentials></A>"},
     "CREDENTIALS", "Expiration is not a date"),
    ({"size": 70000}, "CREDENTIALS", "longer than 65536 bytes")])
def test_odd_replies_of_sts(role, cloud, web, reply, status, words):
    cloud.fault("sts", "reply", times=0, **reply)
    lib = role(web, sts_endpoint=cloud.url)
    answer = lib.call("check")
    assert answer.status == status and words in answer.text


def test_sts_is_asked_in_the_region_of_the_kms_key(driver_program, web):
    """By its host's name, which cannot be looked up here."""
    with Driver(driver_program, {**web, "https_proxy": "http://127.0.0.1:9"}) as lib:
        key = f"arn:aws-cn:kms:cn-north-1:{ACCOUNT}:key/11111111-2222-3333-4444-555555555555"
        assert lib.open(auth="native", region="us-gov-west-1", kms_key_id=key).status == "OK"
        assert "AWS STS at https://sts.cn-north-1.amazonaws.com.cn/ for" in lib.call("check").text


@pytest.mark.parametrize("of, fault, words", [
    ("token", {"what": "black_hole"}, "hop limit has to be 2"),
    ("token", {"what": "reset"}, "cannot reach the instance"),
    ("container", {"what": "slow_headers", "each_ms": 200}, "cannot reach the container")])
def test_what_hangs_costs_two_seconds_once(role, cloud, of, fault, words):
    """Also what answers a byte at a time. Then it is remembered: each table asks for its key."""
    cloud.fault(of, times=0, **fault)
    lib = role(cloud.of_container if of == "container" else cloud.of_instance, must_have_creds=1)
    in_time(lib.opened.ms, 2900)
    assert lib.said(r"\[KAWS-142\] .*" + words, 1)
    for _ in range(20):
        answer = lib.call("check")
        assert answer.status == "NETWORK" and words in answer.text
        in_time(answer.ms, 300)
    assert cloud.count(of) == 1
    cloud.clear_faults()
    lib.ok("reload_creds")
    lib.ok("check")


@pytest.mark.parametrize("reply, words", [
    ({"status": 302, "headers": {"Location": "@/elsewhere"}}, "(HTTP 302)"),
    ({"size": 70000}, "is longer than 65536 bytes"),
    ({"size": 60000}, "Expiration is not a date"),
    ({"body": '{"Code":"Failed","Message":"S3CR"}'}, "its Code is not Success"),
    ({"body": "html"}, "an object was expected"),
    ({"body": "empty"}, "an object was expected"),
    ({"status": 404, "body": "html"}, "(HTTP 404)")])
def test_odd_replies(role, cloud, reply, words):
    cloud.fault("role", "reply", times=0, **json.loads(json.dumps(reply).replace("@", cloud.url)))
    lib = role(cloud.of_instance)
    answer = lib.call("check")
    assert answer.status == "CREDENTIALS" and words in answer.text and "S3CR" not in answer.text
    assert {each["headers"]["host"] for each in cloud.log()["requests"]} == {
        cloud.url.removeprefix("http://")} and cloud.counts[""] == 0


def test_a_reply_without_end(role, cloud):
    """It is not read on beyond what fits."""
    cloud.fault("container", "reply", times=0, size=1 << 36)
    lib = role(cloud.of_container)
    answer = lib.call("check")
    assert answer.status == "CREDENTIALS" and "is longer than 65536 bytes" in answer.text
    in_time(answer.ms, 2000, "64 GB would take longer")


def test_what_the_instance_says_of_roles(role, cloud):
    cloud.roles = []
    lib = role(cloud.of_instance)
    assert "has no role: attach an instance profile" in lib.call("check").text
    cloud.roles = ["first+role", "second"]
    lib.ok("check")
    assert cloud.log()["requests"][-3]["action"] == "role" and len(cloud.given) == 1
    cloud.code = "AssumeRoleUnauthorizedAccess"
    assert "It is AssumeRoleUnauthorizedAccess" in lib.call("reload_creds").text


@pytest.mark.parametrize("of", ["instance", "container", "profile"])
def test_no_secret_is_left_in_memory(driver_program, cloud, tmp_path, of):
    """It is in its one locked page alone, and the one before it is nowhere; also if the source
    then gives what cannot be used. (The environment of a process is memory, too.)"""
    def renew() -> str:
        if of == "profile":
            keys = cloud.session(ROLE)
            write_profiles(tmp_path / "credentials", default=(
                keys["AccessKeyId"], keys["SecretAccessKey"], keys["Token"]))
        lib.do("reload_creds")
        return cloud.users[cloud.given[-1]].secret

    write_profiles(tmp_path / "credentials", default=(ACCESS_KEY_ID, SECRET))
    env = {"AWS_SHARED_CREDENTIALS_FILE": str(tmp_path / "credentials"), **NO_EC2,
           "AWS_PROFILE": "default"} if of == "profile" else getattr(cloud, f"of_{of}")
    with Searched(driver_program, env, endpoint=cloud.url, kms_key_id=KEY_ARN,
                  auth="native") as lib:
        for _ in range(3):
            secret = renew()
            lib.look_for("secret", secret.encode())
            lib.nothing_is_found()
            lib.do("check")
            lib.nothing_is_found()
            lib.pieces.clear()
            lib.look_for("old", secret.encode())
            renew()
            assert lib.find() == []
            lib.pieces.clear()
        lib.look_for("bad", b"bad/secret+0123456789/abcdefghij-0123456")
        write_profiles(tmp_path / "credentials", default=(
            "A B", "bad/secret+0123456789/abcdefghij-0123456"))
        cloud.fault("role" if of == "instance" else of, "reply", times=1, body=json.dumps({
            "AccessKeyId": "A B", "Expiration": "2027-01-01T00:00:00Z",
            "SecretAccessKey": "bad/secret+0123456789/abcdefghij-0123456"}))
        lib.fail("reload_creds")
        assert lib.find() == []


def test_no_secret_of_a_web_identity_is_left_in_memory(driver_program, cloud, web):
    """What STS gave last is in its one locked page, and what it gave before is nowhere.  (libcurl
    may leave a piece of the token that was sent: the manual says so.)"""
    with Searched(driver_program, web, endpoint=cloud.url, kms_key_id=KEY_ARN, auth="native",
                  sts_endpoint=cloud.url) as lib:
        for _ in range(3):
            lib.do("reload_creds")
            secret = cloud.users[cloud.given[-1]].secret.encode()
            lib.look_for("secret", secret)
            lib.nothing_is_found()
            lib.do("check")
            lib.nothing_is_found()
            lib.pieces.clear()
            lib.look_for("old", secret)
            lib.do("reload_creds")
            assert lib.find() == []
            lib.pieces.clear()


def test_a_container_endpoint_behind_tls(role, cloud, emulator, certs):
    """Its certificate is verified, and no proxy is asked."""
    env = {"AWS_CONTAINER_CREDENTIALS_FULL_URI": emulator.url + emulator.secret_path,
           "https_proxy": "http://127.0.0.1:9"}
    lib = role(env)
    assert lib.said("cannot reach the container at https", 1)
    lib = role({**env, "no_proxy": "nowhere"}, ca_file=certs.ca)
    assert emulator.count("container") == 1 and not lib.said("cannot", 1)


# ---- in a MySQL server ---------------------------------------------------------------

def wait_out(stage, *_) -> None:
    """The instance's metadata answer only when the server has asked for the second time."""
    by = time.monotonic() + 60
    while stage.cloud.count("token") < 2 and time.monotonic() < by:
        time.sleep(0.05)
    stage.cloud.clear_faults()


def test_a_server_with_a_role(stage):
    """EC2's metadata hang when it starts: it waits. Credentials that expire are renewed while
    tables are used; then they come from the container's endpoint."""
    with Emulator() as cloud:
        cloud.users, cloud.life = stage.kms.users, 4
        stage.cloud = cloud
        cloud.fault("token", "black_hole", times=0)
        waiting = threading.Thread(target=wait_out, args=(stage,))
        waiting.start()
        stage.conf.unlink()
        instance = {"AWS_EC2_METADATA_SERVICE_ENDPOINT": cloud.url}
        stage.start(NO_SCHEMA, "--keyring-aws=FORCE", auth="native", env=instance)
        waiting.join()
        assert stage.tagged("KAWS-142")
        assert not stage.said("ERROR") and cloud.given
        stage.db.install_keyring_udf()
        assert stage.generate("a") == 1
        for _ in range(10):
            assert stage.fetch("a") == stage.plain("a")
            time.sleep(0.7)
        assert len(cloud.given) > 2
        assert len(stage.tagged("KAWS-165")) == len(cloud.given) and not stage.said("ERROR")
        assert stage.db.stop() == 0
        (stage.db.folder / "token").write_text("ey.token")
        cloud.identities = {"ey.token": ROLE}
        web = {"AWS_WEB_IDENTITY_TOKEN_FILE": str(stage.db.folder / "token"), "AWS_ROLE_ARN": ROLE}
        stage.start(NO_SCHEMA, "--keyring-aws=FORCE", auth="native", sts_endpoint=cloud.url,
                    env=web)
        (stage.db.folder / "token").write_text("ey.rotated")
        cloud.identities = {"ey.rotated": ROLE}
        time.sleep(4.5)
        assert stage.fetch("a") == stage.plain("a") and cloud.count("sts") >= 2
        assert f"come from the web identity {ROLE};" in stage.tagged("KAWS-165")[-1]
        assert not stage.said("ERROR") and stage.db.stop() == 0
        container = {"AWS_CONTAINER_CREDENTIALS_FULL_URI": cloud.url + cloud.secret_path}
        stage.start(NO_SCHEMA, "--keyring-aws=FORCE", auth="native", env=container)
        assert stage.fetch("a") == stage.plain("a") and cloud.count("container") >= 1
        assert "come from the container" in stage.tagged("KAWS-165")[0]
    assert not cloud.crashes


REFUSED = [
    ({"profile": "none"}, r"there is no profile none: the credentials file \S+ does not have it,"
                          r" and the config file is not set"),
    ({"auth": "nativ"}, "auth is 'nativ', and has to be 'file' or 'native'"),
    ({"credentials_file": "/nowhere/at/all"}, "the credentials file /nowhere/at/all is not there"),
    ({"profile": None, "credentials_file": None}, "no source of AWS credentials is configured"),
]


def test_a_server_without_a_conf_file(stage):
    """It starts with a profile's credentials, encrypts, takes new keys while it runs, and names
    its source at the start; SQL sees the settings and cannot change them."""
    stage.conf.unlink()
    credentials = write_profiles(stage.db.folder / "credentials", default=("AKIDNO", "no"),
                                 mysql=(ACCESS_KEY_ID, SECRET))
    native = {"auth": "native", "profile": "mysql", "credentials_file": credentials}
    stage.start(NO_SCHEMA, "--keyring-aws=FORCE", **native)
    (line,) = stage.tagged("KAWS-165")
    assert line == ("the AWS credentials come from the profile mysql; they belong to an account"
                    " that it does not name, their access key id ends in"
                    f" {ACCESS_KEY_ID[-4:]}, and they expire: never")
    assert [stage.variable(name) for name in ("auth", "profile", "config_file")] == [
        "native", "mysql", None]
    assert not stage.said("ERROR")
    assert all("the data file" in line or "no data file" in line for line in stage.said("Warning"))
    stage.db.install_keyring_udf()
    assert stage.generate("a") == 1 and stage.fetch("a") == stage.plain("a")
    stage.sql("CREATE DATABASE d")
    stage.sql("CREATE TABLE d.t (a INT) ENCRYPTION = 'Y'")
    stage.sql("INSERT INTO d.t VALUES (42)")

    stage.kms.add_user("AKIDNEW1", "new/" + SECRET, ACCOUNT)
    stage.kms.remove_user(ACCESS_KEY_ID)
    write_profiles(credentials, mysql=("AKIDNEW1", "new/" + SECRET))
    assert stage.fetch("a") == stage.plain("a")
    assert [line[-12:] for line in stage.tagged("KAWS-107")] == ["ends in NEW1"]
    stage.restart(NO_SCHEMA, "--keyring-aws=FORCE", **native)
    assert stage.one("SELECT a FROM d.t") == 42 and stage.entries()["a", ROOT].arn == KEY_ARN
    assert stage.db.stop() == 0
    asked = stage.kms.count()
    for change, words in REFUSED:
        run = stage.db.run_once(*stage.options(NO_SCHEMA, "--keyring-aws=FORCE",
                                               **{**native, **change}), timeout=300, env=NO_EC2)
        assert run.returncode == 1 and "Failed to initialize early plugins" in run.stdout
        (line,) = said("ERROR", run.stdout)
        assert re.search(words, line), line
    assert stage.kms.count() == asked
