"""What lies between the parts that give credentials: who may choose them, what a message says of
them, and whose time a step takes.

Each test is a fault that was found by an attack on a real ring, with real libcurl and programs.
"""

import errno
import json
import os
import subprocess
import threading
import time
from pathlib import Path

import pytest

from conftest import write_conf
from driver import HEADER, Driver
from kms_emulator import ACCESS_KEY_ID, ACCOUNT, KEY_ARN, SECRET
from patience import calm, in_time

from test_native import KEYS, NO_EC2, cloud, role                           # noqa: F401
from test_process import GOOD, SAY, USED, write_helper

ROOT_ONLY = pytest.mark.skipif(os.geteuid() != 0, reason="takes root")


@pytest.fixture
def app(tmp_path):
    """Settings for a profile with a program that prints good credentials."""
    helper = write_helper(tmp_path / "helper", SAY)
    return {"profile": "app", "config_file": write_conf(
        tmp_path / "config", "[profile app]", f"credential_process = {helper}")}


# ---- who may choose what is run ------------------------------------------------------

@pytest.mark.parametrize("mode, well", [(0o600, True), (0o644, True), (0o664, False),
                                        (0o602, False)])
@pytest.mark.parametrize("name", ["config_file", "credentials_file"])
def test_whoever_may_write_the_file_that_names_a_program(role, tmp_path, name, mode,    # noqa: F811
                                                         well):
    """It would be run as the server's user, by any program of root's: /bin/sh."""
    ran = tmp_path / "ran"
    head = "[app]" if name == "credentials_file" else "[profile app]"
    file = write_conf(tmp_path / "file", head,
                      f"credential_process = /bin/sh -c 'touch {ran}; cat {tmp_path}/reply'")
    (tmp_path / "reply").write_text(json.dumps(GOOD))
    file.chmod(mode)
    answer = role({}, profile="app", **{name: file}).call("check")
    assert (answer.status == "OK") == ran.exists() == well, answer
    if not well:
        assert answer.status == "CONFIG" and str(file) in answer.text
        assert "other users may change the" in answer.text


@ROOT_ONLY
def test_a_file_of_another_user_that_names_a_program(role, app):                # noqa: F811
    os.chown(app["config_file"], 12345, 12345)
    answer = role({}, **app).call("check")
    assert answer.status == "CONFIG" and "must belong to root" in answer.text


def test_an_unsafe_file_that_names_no_program_is_only_warned_of(role, app, tmp_path):   # noqa: F811
    """What the other file says of the program counts."""
    other = write_conf(tmp_path / "credentials", "[other]", "region = x")
    other.chmod(0o666)
    lib = role({}, **app, credentials_file=other)
    lib.ok("check")
    assert lib.said(r"\[KAWS-104\] the credentials file", 1)


# ---- a program that cannot be started ------------------------------------------------

@ROOT_ONLY
def test_no_process_is_left_for_the_helper(driver_program, cloud, app, tmp_path):   # noqa: F811
    """That passes: a starting server must wait for it, and not give up for good."""
    for path in (app["config_file"], tmp_path / "helper"):
        os.chown(path, 12345, 12345)
        path.chmod(0o755)
    for folder in [tmp_path, *tmp_path.parents]:
        if folder.stat().st_uid == os.geteuid() and folder != Path("/"):
            folder.chmod(folder.stat().st_mode | 0o055)
    wrap = write_helper(tmp_path / "wrap", "exec prlimit --nproc=1 setpriv --reuid=12345 "
                        f"--regid=12345 --clear-groups {driver_program}\n")
    with Driver(wrap, NO_EC2) as lib:
        assert lib.open(auth="native", kms_key_id=KEY_ARN, endpoint=cloud.url, **app,
                        must_have_creds=1).status == "OK"
        answer = lib.call("check")
        assert answer.status == "SERVICE" and "one more process?" in answer.text, answer


def test_the_helper_is_being_written(role, app, tmp_path):                      # noqa: F811
    """By cp, for example: it cannot be run for a moment."""
    with (tmp_path / "helper").open("a", encoding="ascii"):
        try:
            subprocess.run([tmp_path / "helper"], stdout=subprocess.DEVNULL, check=True)
            pytest.skip("this kernel runs what is being written")
        except OSError as error:
            assert error.errno == errno.ETXTBSY
        lib = role({}, **app, must_have_creds=1)
        answer = lib.call("check")
    assert answer.status == "SERVICE" and "renaming" in answer.text, answer
    lib.ok("reload_creds")
    lib.ok("check")


@pytest.mark.parametrize("head", ["#!/usr/bin/nothing-like-it", "#!/bin/sh\r"])
def test_what_would_run_the_helper_is_missing(role, app, tmp_path, head):       # noqa: F811
    """The system says that there is no such file, and the administrator sees it there."""
    write_helper(tmp_path / "helper", SAY, head=head)
    answer = role({}, **app).call("check")
    assert answer.status == "CONFIG" and "it is there" in answer.text and "#! line" in answer.text


def test_the_helper_may_not_be_executed(role, app, tmp_path):                   # noqa: F811
    (tmp_path / "helper").chmod(0o600)
    answer = role({}, **app).call("check")
    assert answer.status == "CONFIG" and "executable" in answer.text and "AppArmor" in answer.text


# ---- messages ------------------------------------------------------------------------

@pytest.mark.parametrize("variable, fault", [("FULL", "refused"), ("FULL", "not json"),
                                             ("FULL", "no answer"), ("RELATIVE", "")])
def test_no_message_shows_the_path_of_a_container(role, cloud, variable, fault):    # noqa: F811
    """On ECS whoever knows the path gets the task's credentials."""
    secret = "/v2/credentials/8ca9f2c1-bearer"
    if variable == "FULL":
        cloud.secret_path = secret
        env = {"AWS_CONTAINER_CREDENTIALS_FULL_URI": f"{cloud.url}{secret}?k=bearer"}
        how = {"refused": ("reply", {"status": 403}), "not json": ("reply", {"body": "html"}),
               "no answer": ("cut", {})}[fault]
        cloud.fault("container", how[0], times=0, **how[1])
    else:
        env = {"AWS_CONTAINER_CREDENTIALS_RELATIVE_URI": secret}
    lib = role(env)
    answer = lib.call("check")
    assert answer.status in ("CREDENTIALS", "NETWORK", "SERVICE"), answer
    host = cloud.url if variable == "FULL" else "http://169.254.170.2"
    assert "the container" in answer.text and f"at {host} " in answer.text
    assert "bearer" not in answer.text and not lib.said("bearer")


@pytest.mark.parametrize("what, options, words, status", [
    ("error", {"type": "InternalFailure", "status": 500}, "AWS STS has failed", "SERVICE"),
    ("error", {"type": "ServiceUnavailable", "status": 503}, "AWS STS has failed", "SERVICE"),
    ("error", {"type": "RequestLimitExceeded", "status": 400}, "too often", "SERVICE"),
    ("error", {"type": "OptInRequired", "status": 403}, "enable the region", "CREDENTIALS"),
    ("reply", {"status": 302, "body": "html"}, "is that AWS STS?", "CREDENTIALS"),
    ("reply", {"status": 404, "body": "html"}, "is that AWS STS?", "CREDENTIALS"),
    ("reply", {"status": 400, "body": '{"__type":"UnknownOperationException"}'},
     "is that AWS STS?", "CREDENTIALS"),
    ("reply", {"status": 502, "body": "html"}, "is that AWS STS?", "SERVICE"),
    ("error", {"type": "AccessDenied", "status": 403}, "trust policy", "CREDENTIALS")])
def test_sts_fails_and_the_advice_fits(role, cloud, what, options, words, status):  # noqa: F811
    """Nobody should look into a trust policy because AWS STS, or a proxy, is down."""
    cloud.fault("sts", what, times=0, **options)
    answer = role(KEYS, role_arn=USED, sts_endpoint=cloud.url).call("reload_creds")
    assert answer.status == status and words in answer.text, answer
    assert ("trust policy" in answer.text) == (words == "trust policy")
    assert answer.aws == options.get("type", "")
    assert "type" in options or "(no error type, HTTP" in answer.text


@pytest.mark.parametrize("kind", ["UnrecognizedClientException", "ExpiredTokenException"])
def test_kms_refuses_a_role_of_the_conf_file(role, cloud, tmp_path, kind):      # noqa: F811
    """The conf file's keys are well: what to look at is the role."""
    cloud.add_role(USED)
    lib = role({}, auth="file", conf_file=write_conf(tmp_path / "conf", ACCESS_KEY_ID, SECRET),
               role_arn=USED, sts_endpoint=cloud.url)
    cloud.fault("GenerateDataKeyWithoutPlaintext", "error", times=0, type=kind)
    answer = lib.call("check")
    assert answer.status == "CREDENTIALS" and answer.aws == kind
    assert "check the role that is assumed with what comes from the conf file" in answer.text
    assert "AKIA" not in answer.text and "session token" not in answer.text


def test_the_program_of_a_source_profile(role, cloud, tmp_path):                # noqa: F811
    """The message names the profile that has the program, not the one that leads to it."""
    helper = write_helper(tmp_path / "helper", "exit 1\n")
    config = write_conf(tmp_path / "config", "[profile app]", f"role_arn = {USED}",
                        "source_profile = base", "[profile base]",
                        f"credential_process = {helper}")
    lib = role({}, profile="app", config_file=config, sts_endpoint=cloud.url)
    assert f"{helper} of the profile base gave" in lib.call("reload_creds").text
    helper.unlink()
    assert "the profile base: cannot read the program" in lib.call("reload_creds").text


@pytest.mark.parametrize("change, words", [
    ({"SessionToken": 1}, "a string was expected, at byte "),
    ({"Expiration": 2111111111}, "a string was expected, at byte ")])
def test_what_is_wrong_with_what_a_helper_prints(role, app, tmp_path, change, words):   # noqa: F811
    """It may not be shown, so the message says where it is."""
    write_helper(tmp_path / "helper", f"echo '{json.dumps({**GOOD, **change})}'\n")
    answer = role({}, **app).call("check")
    assert answer.status == "CREDENTIALS" and words in answer.text, answer
    write_helper(tmp_path / "helper", "exit 0\n")
    assert "it printed nothing" in role({}, **app).call("check").text


@pytest.mark.parametrize("account", [111122223333, None, {"id": "1"}, ["1"]])
def test_an_account_that_is_no_string_does_no_harm(role, cloud, app, tmp_path,       # noqa: F811
                                                   account):
    """It is for the log alone. So is what a container tells of its role."""
    write_helper(tmp_path / "helper", f"echo '{json.dumps({**GOOD, 'AccountId': account})}'\n")
    role({}, **app).ok("check")
    cloud.fault("container", "edit", set={"RoleArn": account, "AccountId": account})
    role(cloud.of_container).ok("check")


# ---- a file of the settings that is not there ----------------------------------------

@pytest.mark.parametrize("name", ["config_file", "credentials_file"])
@pytest.mark.parametrize("elsewhere", ["nothing", "the container"])
def test_a_file_of_the_settings_that_is_not_there_yet(role, cloud, tmp_path, name,   # noqa: F811
                                                      elsewhere):
    """Its volume is mounted late, or its name is wrong. The error says so; no other source is
    taken for it, with the rights of another role, for as long as the ring is open."""
    file = tmp_path / "later"
    lib = role(cloud.of_container if elsewhere == "the container" else {}, **{name: file})
    answer = lib.call("check")
    assert answer.status == "CONFIG" and f"{file} is not there" in answer.text, answer
    assert cloud.count() == 0
    write_conf(file, "[default]", f"aws_access_key_id = {ACCESS_KEY_ID}",
               f"aws_secret_access_key = {SECRET}")
    lib.ok("check")
    assert cloud.count("container") == 0


def test_the_environments_keys_still_come_before_such_a_file(role, tmp_path):   # noqa: F811
    role(KEYS, credentials_file=tmp_path / "nothing").ok("check")


def test_an_instance_that_is_switched_off(role, cloud, tmp_path):               # noqa: F811
    """A profile does not switch it on again."""
    cloud.add_role(USED)
    config = write_conf(tmp_path / "config", "[profile app]", f"role_arn = {USED}",
                        "credential_source = Ec2InstanceMetadata")
    lib = role({**cloud.of_instance, **NO_EC2}, profile="app", config_file=config,
               sts_endpoint=cloud.url)
    answer = lib.call("check")
    assert answer.status == "CONFIG" and "AWS_EC2_METADATA_DISABLED is true" in answer.text
    assert cloud.count() == 0


@pytest.mark.parametrize("change", [{"AWS_ROLE_ARN": "app"}, {"AWS_ROLE_SESSION_NAME": "a b"}])
def test_a_role_of_the_environment_that_cannot_be_right(role, cloud, tmp_path,   # noqa: F811
                                                        change):
    """AWS STS is not asked, as it is not for one of a profile."""
    (tmp_path / "token").write_text("ey.token")
    lib = role({"AWS_WEB_IDENTITY_TOKEN_FILE": str(tmp_path / "token"), "AWS_ROLE_ARN": USED,
                **change}, sts_endpoint=cloud.url)
    answer = lib.call("check")
    assert answer.status == "CONFIG" and list(change)[0] in answer.text and cloud.count() == 0


def test_a_token_file_that_is_being_written(driver_program, cloud, tmp_path):   # noqa: F811
    """In place: it is empty for a moment. That is not the end of a server's start."""
    token = tmp_path / "token"
    token.touch()
    cloud.identities = {"ey.token": USED}
    written: list[float] = []

    def write() -> None:
        token.write_text("ey.token")
        written.append(time.monotonic())

    writing = threading.Timer(0.4, write)
    with Driver(driver_program, {**NO_EC2, "AWS_WEB_IDENTITY_TOKEN_FILE": str(token),
                                 "AWS_ROLE_ARN": USED}) as lib:
        began = time.monotonic()
        writing.start()
        answer = lib.open(auth="native", kms_key_id=KEY_ARN, endpoint=cloud.url,
                          sts_endpoint=cloud.url, must_have_creds=1)
        writing.join()
        in_time(written[0] - began, 0.75, "then it is read for the last time")
        assert answer.status == "OK"
        calm(answer.ms > 100, "the token was written before it was read for the first time")
        assert cloud.count("sts") == 1 and not lib.said("KAWS-142")
        lib.ok("check")


@pytest.mark.parametrize("number", [9, 31])
def test_which_signal_ended_the_helper(role, app, tmp_path, number):            # noqa: F811
    """9: perhaps the system had no memory; 31: a sandbox forbids what it does."""
    write_helper(tmp_path / "helper", f"kill -{number} $$\n")
    answer = role({}, **app).call("reload_creds")
    assert answer.status == "SERVICE" and f"a signal ended it ({number})" in answer.text


# ---- AWS refuses what is new ---------------------------------------------------------

@pytest.mark.parametrize("of", ["a role", "the instance", "the container"])
def test_aws_refuses_all_that_a_source_gives(role, cloud, of):                  # noqa: F811
    """As in a region that is not switched on for the account: each call would get new ones. So
    the source is asked once a second; and once AWS accepts them, all is well."""
    cloud.add_role(USED)
    env, more, asked = {"a role": (KEYS, {"role_arn": USED, "sts_endpoint": cloud.url}, "sts"),
                        "the instance": (cloud.of_instance, {}, "token"),
                        "the container": (cloud.of_container, {}, "container")}[of]
    lib = role(env, **more)
    cloud.fault("GenerateDataKeyWithoutPlaintext", "error", times=0,
                type="UnrecognizedClientException")
    began, calls = time.monotonic(), 0
    while time.monotonic() < began + 2.5 or calls <= 10 or cloud.count(asked) < 3:
        assert lib.call("check").status == "CREDENTIALS"
        calls += 1
        assert time.monotonic() < began + 20, (calls, cloud.count(asked))
    assert cloud.count(asked) <= 2 + (time.monotonic() - began)
    cloud.clear_faults()
    lib.ok("check")


# ---- whose time it is ----------------------------------------------------------------

SLOW = r"""
#define KEYRING_AWS_IMPLEMENTATION
#include "keyring_aws.h"
static int creds(void *ctx, kaws_creds_wanted *w) {
    (void)ctx;
    kaws__sys_sleep_ms(NULL, 1500);
    w->creds.id = getenv("ID");
    w->creds.secret = getenv("SECRET");
    return 0;
}
int main(void) {
    kaws_config cfg = { .kms_key_id = getenv("KEY"), .endpoint = getenv("URL"),
                        .sts_endpoint = getenv("URL"), .role_arn = getenv("ROLE"),
                        .timeout_ms = 2000, .hooks = { .creds = creds } };
    kaws *ring;
    kaws_error err;
    if (kaws_open(&ring, &cfg, &err) == KAWS_OK)
        (void)kaws_check(ring, &err);
    puts(err.text);
    kaws_close(ring);
    return (int)err.status;
}
"""


def test_the_programs_hook_and_the_role_share_the_calls_time(cloud, tmp_path):  # noqa: F811
    """2 s in all: of these the hook takes 1.5."""
    (tmp_path / "slow.c").write_text(SLOW)
    subprocess.run(["gcc", "-w", "-O1", "-I", HEADER.parent, "-o", tmp_path / "slow",
                    tmp_path / "slow.c", "-l:libbearssl.a", "-lcurl"], check=True)
    cloud.add_role(USED)
    cloud.fault("AssumeRole", "black_hole", times=0)
    began = time.monotonic()
    run = subprocess.run([tmp_path / "slow"], stdout=subprocess.PIPE, text=True, timeout=300, env={
        "KEY": KEY_ARN, "URL": cloud.url, "ROLE": USED, "ID": ACCESS_KEY_ID, "SECRET": SECRET})
    assert run.returncode and "AWS STS" in run.stdout, run
    took = time.monotonic() - began
    assert took > 1.9
    in_time(took, 3.3)


# ---- regions -------------------------------------------------------------------------

def test_a_region_that_is_down_says_nothing_of_another(role, cloud):
    """AWS STS fails in the KMS key's region, which is remembered; but a move to another region asks
    STS there at once. And a region that has no STS, tried by mistake, closes no good one."""
    for region in ("us-east-1", "eu-west-1"):
        cloud.add_key(region, ACCOUNT, alias="alias/app")
    cloud.add_role(USED, life=2)
    lib = role(KEYS, role_arn=USED, sts_endpoint=cloud.url, kms_key_id="alias/app")
    lib.ok("check")
    cloud.fault("AssumeRole", "error", times=0, type="ServiceUnavailable", status=503)
    time.sleep(2.1)
    assert lib.call("use_region", "eu-west-1").status == "SERVICE"
    cloud.clear_faults()
    lib.ok("check")
    cloud.fault("AssumeRole", "error", times=0, type="ServiceUnavailable", status=503)
    time.sleep(2.1)
    assert lib.call("check").status == "SERVICE"
    cloud.clear_faults()
    asked = cloud.count("AssumeRole")
    assert lib.call("check").status == "SERVICE" and cloud.count("AssumeRole") == asked
    cloud.sts_region = "eu-west-1"
    lib.ok("use_region", "eu-west-1")
    assert cloud.count("AssumeRole") == asked + 1
