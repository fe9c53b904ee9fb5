"""Where requests go: every region with both switches, as botocore's own endpoint rules have it;
which FIPS hosts AWS has, as botocore's list has it; and what the environment may say.

Nothing is sent: a proxy of ours refuses each connection, and notes for which host it was.
"""

import os
import re
from unittest import mock

import pytest

from conftest import write_conf
from driver import Driver
from kms_emulator import ACCESS_KEY_ID, ACCOUNT, SECRET
from oracle import Oracle, unfield
from test_network import Canned

import botocore.session                                     # after the emulator's finder
from botocore.endpoint_provider import EndpointProvider
from botocore.loaders import create_loader

LOADER = create_loader()
PARTITIONS = LOADER.load_data("partitions")
REGIONS = [region for partition in PARTITIONS["partitions"] for region in partition["regions"]
           if not region.endswith("-global")]
UNKNOWN = ["us-west-9", "us-gov-north-1", "cn-south-1", "us-iso-north-2", "eusc-de-west-3"]
RULES = {service: EndpointProvider(LOADER.load_service_model(service, "endpoint-rule-set-1"),
                                   PARTITIONS) for service in ("kms", "sts")}
SWITCHES = [(fips, dual) for fips in (False, True) for dual in (False, True)]


def listed_fips() -> dict[tuple[str, str], str]:
    """The FIPS hosts that AWS has, by service and region."""
    return {(service, region): variant["hostname"]
            for partition in LOADER.load_data("endpoints")["partitions"] for service in RULES
            for region, about in partition["services"][service]["endpoints"].items()
            for variant in about.get("variants", ()) if variant["tags"] == ["fips"]}


@pytest.fixture(scope="module")
def ask():
    oracle = Oracle()

    def hosts(service: str, region: str, fips: bool, dual: bool) -> tuple[str, str, bool]:
        url, warning, known = oracle("hosts", service, region, int(fips), int(dual))
        return unfield(url).decode(), (unfield(warning) or b"").decode(), known == "1"

    yield hosts
    oracle.close()


@pytest.mark.parametrize("service", RULES)
@pytest.mark.parametrize("fips, dual", SWITCHES)
def test_every_region_has_the_host_of_botocores_rules(ask, service, fips, dual):
    assert len(REGIONS) >= 46
    for region in REGIONS + UNKNOWN:
        theirs = RULES[service].resolve_endpoint(Region=region, UseFIPS=fips, UseDualStack=dual)
        assert ask(service, region, fips, dual)[0] == theirs.url + "/"


def test_every_region_is_known(ask):
    known = {region for region in REGIONS + UNKNOWN if ask("kms", region, False, False)[2]}
    assert known == set(REGIONS)


@pytest.mark.parametrize("service", RULES)
def test_the_warning_is_where_botocore_lists_no_fips_host(ask, service):
    """And a host that it lists is the one that we ask."""
    listed = listed_fips()
    assert len(listed) == 32 + 2 + 2 + 1 + 1 + 2 + (4 + 2)          # of KMS, and of STS
    for region in REGIONS + UNKNOWN:
        for dual in (False, True):
            url, warning, _ = ask(service, region, True, dual)
            assert bool(warning) == ((service, region) not in listed), (region, warning)
            if warning:
                assert re.match(rf"\[KAWS-166\] .*AWS {service.upper()} has no FIPS host in the"
                                f" region {region}: ", warning)
            elif not dual:
                assert url == f"https://{listed[service, region]}/"
            assert not ask(service, region, False, dual)[1]


# ---- a whole ring -------------------------------------------------------------------------------

ROLE = f"arn:aws:iam::{ACCOUNT}:role/app"
FIPS, DUAL = "AWS_USE_FIPS_ENDPOINT", "AWS_USE_DUALSTACK_ENDPOINT"
KEYS = {"AWS_ACCESS_KEY_ID": ACCESS_KEY_ID, "AWS_SECRET_ACCESS_KEY": SECRET}


def asked_hosts(program, env: dict, **settings) -> tuple[list[str], Driver]:
    """The hosts that a ring asks for one call, each once."""
    refusal = b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n"
    with Canned(refusal) as proxy:
        env = {**env, "https_proxy": f"http://127.0.0.1:{proxy.port}"}
        with Driver(program, env) as lib:
            answer = lib.open(kms_key_id="alias/app", max_attempts=1, **settings)
            assert answer.status == "OK", answer
            answer = lib.call("check")
            assert answer.status == "NETWORK" and "response 403" in answer.text
            endpoint = lib.call("whoami").results[5].decode()
        heard = re.findall(rb"^CONNECT ([^ ]+):443 ", proxy.heard, re.M)
    hosts = list(dict.fromkeys(host.decode() for host in heard))
    assert endpoint == f"https://{hosts[-1]}/" or hosts[-1].startswith("sts")
    assert f" at {hosts[-1]}" in answer.text or f" at https://{hosts[-1]}" in answer.text
    return hosts, lib


@pytest.mark.parametrize("region", ["eu-west-1", "us-gov-west-1", "cn-north-1", "eusc-de-east-1"])
@pytest.mark.parametrize("fips, dual", SWITCHES)
def test_a_ring_asks_those_hosts(driver_program, tmp_path, region, fips, dual):
    """KMS, as the identity has it; and STS for a role. The warnings are in the log."""
    settings = {"region": region, "fips": int(fips), "dualstack": int(dual),
                "conf_file": write_conf(tmp_path / "conf", ACCESS_KEY_ID, SECRET)}
    for service, more in ("kms", {}), ("sts", {"role_arn": ROLE}):
        wanted = RULES[service].resolve_endpoint(Region=region, UseFIPS=fips, UseDualStack=dual)
        hosts, lib = asked_hosts(driver_program, {}, **settings, **more)
        assert [f"https://{host}" for host in hosts] == [wanted.url]
        warned = [line for level, line in lib.logs if level == 1 and "KAWS-166" in line]
        missing = {each for each in ("kms", *(["sts"] if more else []))
                   if fips and (each, region) not in listed_fips()}
        assert len(warned) == len(missing), warned
        assert all(any(f"AWS {each.upper()} has" in line for line in warned) for each in missing)


@pytest.mark.parametrize("value", ["true", "TRUE", "True", "false", "FALSE", "", None])
@pytest.mark.parametrize("name", [FIPS, DUAL])
def test_the_environment_switches_as_botocores_does(driver_program, name, value):
    env = KEYS | ({} if value is None else {name: value})
    with mock.patch.dict(os.environ, env, clear=True):
        session = botocore.session.Session()
        session.register_component("data_loader", LOADER)
        client = session.create_client("kms", "us-east-2")
    hosts, _ = asked_hosts(driver_program, env, region="us-east-2", auth="native")
    assert [f"https://{host}" for host in hosts] == [client.meta.endpoint_url]


def test_the_environment_counts_with_native_alone(driver_program, tmp_path):
    conf = write_conf(tmp_path / "conf", ACCESS_KEY_ID, SECRET)
    env = {FIPS: "true", DUAL: "maybe"}
    assert asked_hosts(driver_program, env, conf_file=conf)[0] == ["kms.us-east-1.amazonaws.com"]


@pytest.mark.parametrize("name", [FIPS, DUAL])
@pytest.mark.parametrize("value", ["yes", "1", "on", "true ", "truefalse"])
def test_another_word_is_refused(driver_program, name, value):
    """botocore takes it for false, and would ask a host that the administrator did not mean."""
    with Driver(driver_program, {**KEYS, name: value}) as lib:
        answer = lib.open(kms_key_id="alias/app", auth="native", fips=1)
        assert answer.status == "CONFIG" and answer.text == (
            f"{name} in the environment is '{value}', and has to be true or false")
