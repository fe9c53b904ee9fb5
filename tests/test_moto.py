"""Library and plugin against moto, a KMS that others wrote, over TLS and with signature checks; and
against its AWS STS and its EC2 metadata. (It cannot check signatures and take a web identity's
request, which has none, at the same time; and it takes any token for the metadata.)"""

import contextlib
import json
import re
import socket
import urllib.request

import pytest

import kms_emulator as emu
from conftest import write_conf
from driver import Driver
from mysql_fixtures import Stage
from servers import Moto, _open
from test_library import EU, story

import botocore.session             # after kms_emulator, which says where it is
from botocore.config import Config
from botocore.exceptions import ClientError

OTHER, FAR = 1, 2                       # of Moto.key_arns


@pytest.fixture(scope="module")
def moto(certs):
    with Moto("us-east-1", "us-east-1", EU, tls=certs.good) as kms:
        yield kms


@pytest.fixture
def ring(moto, certs, tmp_path, driver_program):
    """Opens rings on one data file: ring(kms_key_id=...)."""
    conf = write_conf(tmp_path / "conf", moto.access_key_id, moto.secret)
    settings = {"data_file": tmp_path / "keyring" / "data", "conf_file": conf, "ca_file": certs.ca,
                "endpoint": moto.url, "kms_key_id": moto.key_arn, "timeout_ms": 30000}
    made = []

    def make(**changes):
        made.append(Driver(driver_program))
        answer = made[-1].open(**{**settings, **changes})
        assert answer.status == "OK", answer
        return made[-1]

    make.conf, make.data = conf, settings["data_file"]
    yield make
    for each in made:
        each.stop()


def test_story(moto, ring):
    story(ring(), ring, moto.key_arns[OTHER], moto.key_arns[FAR], ring.data)


def test_keys_by_id_and_alias(moto, ring):
    lib = ring(kms_key_id=moto.key_arn.rsplit("/", 1)[1])
    lib.ok("check")
    lib.ok("generate", "a", None, "AES", 32)
    assert len(lib.fetch("a")) == 32 and lib.walk()[0].arn == moto.key_arn
    lib.ok("use_kms_key", moto.key_arns[FAR])
    lib.ok("generate", "b", None, "AES", 32)
    assert len(lib.fetch("b")) == len(lib.fetch("a")) == 32


def test_the_context_is_enforced(moto, ring):
    lib = ring()
    sealed = lib.ok("kms_encrypt", b"hello", "app", "mine")
    assert lib.ok("kms_decrypt", *sealed[:2], 5, "app", "mine") == [b"hello"]
    answer = lib.call("kms_decrypt", *sealed[:2], 5, "app", "yours")
    assert (answer.status, answer.aws) == ("MISMATCH", "InvalidCiphertextException")


def test_a_wrong_secret_is_refused(moto, ring):
    """moto answers 403 with XML, which only its HTTP status explains."""
    lib = ring()
    lib.ok("generate", "a", None, "AES", 32)
    key, before = lib.fetch("a"), ring.data.read_bytes()
    write_conf(ring.conf, moto.access_key_id, moto.secret[::-1])
    lib.ok("reload_creds")
    for command in (("check",), ("generate", "b", None, "AES", 32), ("fetch", "a", None),
                    ("store", "b", None, "AES", b"x"), ("rewrap",), ("rotate",)):
        answer = lib.call(*command)
        assert (answer.status, answer.http) == ("DENIED", 403) and "credentials" in answer.text
        assert moto.secret not in answer.text
    assert ring.data.read_bytes() == before
    write_conf(ring.conf, "AKIANOBODY", moto.secret)
    lib.ok("reload_creds")
    assert lib.call("fetch", "a", None).http == 403
    write_conf(ring.conf, moto.access_key_id, moto.secret)
    assert lib.fetch("a") == key, "the good ones are found in the conf file again"


def test_the_plugin_in_a_real_server(moto):
    """Keys, an encrypted table, both functions and a restart, the same as with our emulator."""
    stage = Stage(cmk_id=moto.key_arn, endpoint=moto.url, timeout=30000)
    with stage:
        stage.write_conf(moto.access_key_id, moto.secret)
        stage.start().install_functions()
        assert stage.generate("made") == 1 and stage.store("mine", "SECRET", b"correct horse") == 1
        made = stage.fetch("made")
        assert len(made) == 32 and stage.fetch("mine") == b"correct horse"
        stage.sql("CREATE DATABASE d")
        stage.sql("CREATE TABLE d.t (a INT PRIMARY KEY) ENCRYPTION = 'Y'")
        stage.sql("INSERT INTO d.t VALUES (42)")
        stage.sql("ALTER INSTANCE ROTATE INNODB MASTER KEY")
        assert stage.one("SELECT keyring_aws_rotate_cmk()") == 1
        before = stage.entries()
        assert stage.one("SELECT keyring_aws_rotate_keys()") == 1
        assert all(entry.blob != before[name].blob for name, entry in stage.entries().items())
        stage.restart()
        assert stage.one("SELECT a FROM d.t") == 42 and stage.fetch("made") == made
        assert stage.remove("mine") == 1 and stage.fetch("mine") is None


# ---- AWS STS and EC2's metadata ------------------------------------------------------

@contextlib.contextmanager
def unchecked(moto):
    """moto judges no signatures and no permissions."""
    def allow(calls: str) -> None:
        _open(urllib.request.Request(moto.url + "/moto-api/reset-auth", calls.encode(),
                                     {"Content-Type": "text/plain"}))

    allow("1000000")
    try:
        yield
    finally:
        allow("0")


ACCOUNT = "123456789012"                # moto's
USED = f"arn:aws:iam::{ACCOUNT}:role/used"


def make_role(moto, name: str, principal: str) -> None:
    """A role that may do all with AWS KMS, and who may assume it."""
    with unchecked(moto):
        trust = {"Version": "2012-10-17", "Statement": [{
            "Effect": "Allow", "Action": "sts:AssumeRole", "Principal": {"AWS": principal}}]}
        moto._iam("CreateRole", RoleName=name, AssumeRolePolicyDocument=json.dumps(trust))
        moto._iam("PutRolePolicy", RoleName=name, PolicyName="kms", PolicyDocument=json.dumps({
            "Version": "2012-10-17", "Statement": [{
                "Effect": "Allow", "Action": "kms:*", "Resource": "*"}]}))


def test_a_role_of_motos_sts(moto, ring):
    """moto checks the signature for STS, who the role trusts, and then for each request to KMS the
    signature with the session token, and what the role may do."""
    make_role(moto, "used", f"arn:aws:iam::{ACCOUNT}:user/keyring")
    make_role(moto, "closed", "arn:aws:iam::999999999999:root")
    lib = ring(role_arn=USED, sts_endpoint=moto.url)
    lib.ok("generate", "a", None, "AES", 32)
    assert len(lib.fetch("a")) == 32
    assert lib.ok("whoami")[2] == ACCOUNT.encode()
    (line,) = lib.said(r"\[KAWS-165\]", 2)
    assert f"they belong to arn:aws:sts::{ACCOUNT}:assumed-role/used/keyring_aws" in line
    assert re.search(r"they expire: 20\d+T\d+Z", line), "moto's date has microseconds"
    answer = ring(role_arn=USED.replace("used", "closed"), sts_endpoint=moto.url).call("check")
    assert (answer.status, answer.http) == ("CREDENTIALS", 403), answer
    write_conf(ring.conf, moto.access_key_id, moto.secret[::-1])
    answer = ring(role_arn=USED, sts_endpoint=moto.url).call("check")
    assert (answer.status, answer.http) == ("CREDENTIALS", 403), answer
    assert moto.secret[::-1] not in answer.text


def test_a_web_identity_of_motos_sts(moto, ring, tmp_path):
    config = write_conf(tmp_path / "config", "[profile app]", f"role_arn = {USED}",
                        f"web_identity_token_file = {tmp_path / 'token'}")
    (tmp_path / "token").write_text("ey.any")
    with unchecked(moto):
        lib = ring(auth="native", profile="app", config_file=config, sts_endpoint=moto.url)
        lib.ok("generate", "a", None, "AES", 32)
        assert len(lib.fetch("a")) == 32
    (line,) = lib.said(r"\[KAWS-165\]", 2)
    assert f"they belong to arn:aws:sts::{ACCOUNT}:assumed-role/used/keyring_aws" in line


def test_motos_metadata(driver_program, tmp_path):
    """Version 2, of which moto checks only that it is asked."""
    with Moto("us-east-1") as moto, unchecked(moto), Driver(driver_program, {
            "AWS_EC2_METADATA_SERVICE_ENDPOINT": moto.url}) as lib:
        assert lib.open(auth="native", data_file=tmp_path / "data", endpoint=moto.url,
                        kms_key_id=moto.key_arn, must_have_creds=1).status == "OK"
        lib.ok("generate", "a", None, "AES", 32)
        assert len(lib.fetch("a")) == 32
        assert lib.ok("whoami")[:2] == [b"the instance", b""], "its id is short of an id"
        assert '"PUT /latest/api/token' in moto.log()


# ---- a multi-region key --------------------------------------------------------------

HOME, AWAY = "us-east-1", "eu-central-1"


@pytest.fixture(params=["moto", "emulator"])
def regional(request):
    """Two KMSs, to be the same in all that both know: the server, and the key's ARN."""
    if request.param == "moto":
        with Moto(HOME, replicas=[AWAY]) as moto:
            yield moto, moto.key_arn
        return
    with emu.Emulator() as ours:
        ours.access_key_id, ours.secret = emu.ACCESS_KEY_ID, emu.SECRET
        arn = ours.add_key(HOME, emu.ACCOUNT, emu.MULTI_REGION_ID)
        ours.replicate(arn, AWAY)
        yield ours, arn


def kms_client(server, region: str):
    return botocore.session.Session().create_client(
        "kms", region, endpoint_url=server.url, aws_access_key_id=server.access_key_id,
        aws_secret_access_key=server.secret, config=Config(
            proxies={}, retries={"total_max_attempts": 1, "mode": "standard"}))


def test_moto_and_the_emulator_agree_on_multi_region_keys(regional):
    server, arn = regional
    arns = {HOME: arn, AWAY: arn.replace(HOME, AWAY)}
    clients = {region: kms_client(server, region) for region in arns}
    assert re.fullmatch("mrk-[0-9a-f]{32}", arn.split("/")[1])
    for region, kind in ((HOME, "PRIMARY"), (AWAY, "REPLICA")):
        told = clients[region].describe_key(KeyId=arns[region])["KeyMetadata"]
        assert told["MultiRegion"] and told["KeyState"] == "Enabled"
        assert (told["Arn"], told["KeyId"]) == (arns[region], arn.split("/")[1])
        assert told["MultiRegionConfiguration"] == {
            "MultiRegionKeyType": kind, "PrimaryKey": {"Arn": arn, "Region": HOME},
            "ReplicaKeys": [{"Arn": arns[AWAY], "Region": AWAY}]}
    for maker, opener in ((HOME, AWAY), (AWAY, HOME), (AWAY, AWAY)):
        made = clients[maker].generate_data_key(KeyId=arns[maker], NumberOfBytes=32,
                                                EncryptionContext={"a": "b"})
        given = {"CiphertextBlob": made["CiphertextBlob"], "KeyId": arns[opener]}
        opened = clients[opener].decrypt(**given, EncryptionContext={"a": "b"})
        assert (made["KeyId"], opened["KeyId"]) == (arns[maker], arns[opener])
        assert opened["Plaintext"] == made["Plaintext"]
        moved = clients[opener].re_encrypt(
            CiphertextBlob=made["CiphertextBlob"], SourceEncryptionContext={"a": "b"},
            DestinationKeyId=arns[opener])
        assert moved["SourceKeyId"] == moved["KeyId"] == arns[opener]
        with pytest.raises(ClientError) as caught:
            clients[opener].decrypt(**given, EncryptionContext={"a": "c"})
        assert caught.value.response["Error"]["Code"] == "InvalidCiphertextException"
    elsewhere = kms_client(server, EU)
    with pytest.raises(ClientError) as caught:
        elsewhere.decrypt(CiphertextBlob=made["CiphertextBlob"])
    assert caught.value.response["Error"]["Code"] == "AccessDeniedException"


def test_motos_second_region_answers_for_the_library(driver_program, tmp_path, regional):
    """Home is a port that nobody listens on, and then the same server."""
    server, arn = regional
    conf = write_conf(tmp_path / "conf", server.access_key_id, server.secret)
    settings = {"data_file": tmp_path / "data", "conf_file": conf, "kms_key_id": arn,
                "timeout_ms": 30000}
    with socket.socket() as nobody, Driver(driver_program) as lib:
        nobody.bind(("127.0.0.1", 0))
        assert lib.open(**settings, endpoint=f"http://127.0.0.1:{nobody.getsockname()[1]}",
                        failover_regions=f"{AWAY}={server.url}").status == "OK"
        lib.ok("generate", "made", None, "AES", 32)
        lib.ok("store", "mine", None, "SECRET", b"correct horse")
        made = lib.fetch("made")
        assert len(made) == 32 and lib.fetch("mine") == b"correct horse"
        assert {entry.arn for entry in lib.walk()} == {arn}, "entries name home's ARN"
        assert lib.stats()["region_in_use"] == AWAY
        for command in ("rewrap", "rotate"):
            answer = lib.call(command)
            assert answer.status == "NETWORK" and f"own region, {HOME}, does this" in answer.text
    with Driver(driver_program) as lib:
        assert lib.open(**settings, endpoint=server.url).status == "OK"
        assert lib.fetch("made") == made and lib.fetch("mine") == b"correct horse"
        lib.ok("rewrap")
        assert lib.fetch("made") == made
