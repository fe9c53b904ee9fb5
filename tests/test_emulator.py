"""The emulator is faithful to AWS KMS: botocore's real KMS client runs every action against it.

These tests prove that the emulator is strict, because no other test would notice what it wrongly
lets pass.  The tests that inject a fault see for themselves that it happens, test_network.py above
all.
"""

import base64
import contextlib
import email.utils
import http.client
import json
import os
import re
import signal
import socket
import ssl
import subprocess
import sys
import time
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent / "hosts"))
import kms_emulator as emu                                          # noqa: E402
from kms_emulator import ACCOUNT, ALIAS, KEY_ARN, KEY_ID, OTHER_ACCOUNT     # noqa: E402

import botocore                                                     # noqa: E402
import botocore.session                                             # noqa: E402
from botocore.auth import SigV4Auth                                 # noqa: E402
from botocore.awsrequest import AWSRequest                          # noqa: E402
from botocore.config import Config                                  # noqa: E402
from botocore.credentials import Credentials                        # noqa: E402
from botocore.exceptions import ClientError                         # noqa: E402

PROGRAM = Path(__file__).parent / "hosts" / "kms_emulator.py"
SESSION = botocore.session.Session()
CONTEXT = {"app": "keyring_aws", "key_id": "clé %25", "key_type": "AES"}


# ---- fixtures -----------------------------------------------------------------------------------

@pytest.fixture
def kms(request, certs):
    tls = certs.good if getattr(request, "param", "plain") == "tls" else ()
    with emu.Emulator(*tls) as emulator:
        emulator.ca = certs.ca
        yield emulator
    assert emulator.crashes == []


BOTH = pytest.mark.parametrize("kms", ["plain", "tls"], indirect=True)


def make_client(kms, region="us-east-1", access_key_id=emu.ACCESS_KEY_ID, secret=emu.SECRET,
                token=None):
    return SESSION.create_client(
        "kms", region_name=region, endpoint_url=kms.url, verify=kms.ca,
        aws_access_key_id=access_key_id, aws_secret_access_key=secret, aws_session_token=token,
        config=Config(parameter_validation=False, proxies={}, connect_timeout=20, read_timeout=20,
                      retries={"total_max_attempts": 1, "mode": "standard"}))


@pytest.fixture
def client(kms):
    return make_client(kms)


def refused(kind, call, *args, status=400, **kwargs):
    """The call fails with that error, as the modelled class where there is one."""
    with pytest.raises(ClientError) as caught:
        call(*args, **kwargs)
    answer = caught.value.response
    assert answer["Error"]["Code"] == kind
    assert answer["ResponseMetadata"]["HTTPStatusCode"] == status
    if kind in emu.MODEL.shape_names:
        assert type(caught.value).__name__ == kind
    return answer["Error"].get("Message", "")


class Wire:
    """One connection to the emulator, and requests signed by botocore, sent as they are."""

    def __init__(self, kms):
        self.kms, self.sock = kms, socket.create_connection(("127.0.0.1", kms.port))
        self.sock.settimeout(20)
        if kms.tls:
            self.sock = ssl.create_default_context(cafile=kms.ca).wrap_socket(
                self.sock, server_hostname="127.0.0.1")

    def sign(self, members, action="GenerateDataKey", **kwargs):
        body = members if isinstance(members, bytes) else json.dumps(members).encode()
        user = {"access_key": emu.ACCESS_KEY_ID, "secret_key": emu.SECRET, "service": "kms",
                "region": "us-east-1", "headers": {}, **kwargs}
        request = AWSRequest(user.get("method", "POST"), "https://kms" + user.get("path", "/"),
                             data=body, headers={
            "Host": f"127.0.0.1:{self.kms.port}", "X-Amz-Target": "TrentService." + action,
            "Content-Type": "application/x-amz-json-1.1", **user["headers"]})
        SigV4Auth(Credentials(user["access_key"], user["secret_key"]), user["service"],
                  user["region"]).add_auth(request)
        return dict(request.headers.items()), body

    def send(self, headers, body, first="POST / HTTP/1.1"):
        headers = {"Content-Length": str(len(body)), **headers}
        lines = [first, *(f"{name}: {value}" for name, value in headers.items()), "", ""]
        self.sock.sendall("\r\n".join(lines).encode() + body)

    def all(self):
        """What comes until the stream ends, well or badly."""
        data = b""
        with contextlib.suppress(ConnectionResetError):
            while part := self.sock.recv(65536):
                data += part
        return data

    def was_reset(self):
        """Whether an RST came (state CLOSE) or a FIN (CLOSE_WAIT); Python's ssl hides which."""
        state = self.sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0]
        assert state in (7, 8)
        return state == 7

    def reply(self):
        """(status, headers, body) of the next reply."""
        response = http.client.HTTPResponse(self.sock)
        response.begin()
        return response.status, response.headers, response.read()

    def ask(self, members=None, **kwargs):
        self.send(*self.sign(SMALL if members is None else members,
                             **kwargs))
        return self.reply()

    def kind(self, *args):
        """The error type of a request's reply, or OK."""
        self.send(*args)
        status, _, body = self.reply()
        return "OK" if status == 200 else json.loads(body)["__type"]


@pytest.fixture
def wire(kms):
    wire = Wire(kms)
    yield wire
    wire.sock.close()


SMALL = {"KeyId": KEY_ID, "NumberOfBytes": 8}       # of a good GenerateDataKey


def seal(client, plain=b"x", name=KEY_ID, **more) -> bytes:
    return client.encrypt(KeyId=name, Plaintext=plain, **more)["CiphertextBlob"]


def data_key(client, name=KEY_ID, **more) -> dict:
    return client.generate_data_key(KeyId=name, NumberOfBytes=8, **more)


def calls(client, blob: bytes) -> list[tuple]:
    """Each action that needs a usable key, and what it takes."""
    return [(client.generate_data_key, SMALL), (client.generate_data_key_without_plaintext, SMALL),
            (client.encrypt, {"KeyId": KEY_ID, "Plaintext": b"x"}),
            (client.decrypt, {"CiphertextBlob": blob, "KeyId": KEY_ARN}),
            (client.re_encrypt, {"CiphertextBlob": blob, "DestinationKeyId": KEY_ID})]


# ---- the judge itself ---------------------------------------------------------------------------

def test_botocore_is_the_new_one():
    version = tuple(int(each) for each in botocore.__version__.split("+")[0].split(".")[:2])
    assert version >= (1, 43), (
        f"botocore {botocore.__version__} of {botocore.__file__} is too old: make the private "
        "tree (tests/hosts/servers.py), or name one in KEYRING_AWS_TREE")
    members = {name for action in emu.ACTIONS
               for name in emu.MODEL.operation_model(action).input_shape.members}
    assert "DryRun" in members and emu.NOT_EMULATED <= members
    (first, _) = (each for each in sys.meta_path if isinstance(each, emu.TreeFinder))
    assert botocore.__file__.startswith(first.folder) and first.folder not in sys.path


# ---- every action, good -------------------------------------------------------------------------

@BOTH
@pytest.mark.parametrize("size", [1, 33, 4096])
def test_what_encrypt_seals_decrypt_opens(client, size):
    plain = os.urandom(size)
    blob, another = (seal(client, plain, EncryptionContext=CONTEXT) for _ in range(2))
    assert len(blob) <= 6144 and (size < 16 or plain not in blob) and blob != another
    opened = client.decrypt(CiphertextBlob=blob, EncryptionContext=CONTEXT, KeyId=KEY_ARN)
    assert opened["Plaintext"] == plain and opened["KeyId"] == KEY_ARN
    assert len(opened["KeyMaterialId"]) == 64


@pytest.mark.parametrize("size", [1, 1024])
def test_both_kinds_of_data_keys_can_be_decrypted(client, size):
    given = dict(KeyId=ALIAS, NumberOfBytes=size, EncryptionContext=CONTEXT)
    made = client.generate_data_key(**given)
    bare = client.generate_data_key_without_plaintext(**given)
    assert len(made["Plaintext"]) == size and "Plaintext" not in bare
    for each in (made, bare):
        opened = client.decrypt(CiphertextBlob=each["CiphertextBlob"], EncryptionContext=CONTEXT)
        assert each["KeyId"] == KEY_ARN and len(opened["Plaintext"]) == size
        assert each["KeyMaterialId"] == opened["KeyMaterialId"]
        assert opened["Plaintext"] == each.get("Plaintext", opened["Plaintext"])


def test_reencrypt_moves_a_key_to_another_kms_key(kms, client):
    other = kms.add_key("us-east-1", ACCOUNT)
    moved = client.re_encrypt(
        CiphertextBlob=seal(client, b"secret", EncryptionContext=CONTEXT), SourceKeyId=KEY_ARN,
        SourceEncryptionContext=CONTEXT, DestinationKeyId=other,
        DestinationEncryptionContext={"b": "2"})
    assert (moved["SourceKeyId"], moved["KeyId"]) == (KEY_ARN, other)
    assert moved["SourceKeyMaterialId"] == kms.key(KEY_ARN).materials.current_id
    assert moved["DestinationKeyMaterialId"] == kms.key(other).materials.current_id
    opened = client.decrypt(CiphertextBlob=moved["CiphertextBlob"], EncryptionContext={"b": "2"})
    assert opened["Plaintext"] == b"secret" and opened["KeyId"] == other


# ---- rotation on demand -------------------------------------------------------------------------

def test_rotation_takes_its_time_and_ends(kms, client):
    kms.rotation_ms = 60000
    old = data_key(client)
    assert client.rotate_key_on_demand(KeyId=KEY_ARN)["KeyId"] == KEY_ARN
    assert data_key(client)["KeyMaterialId"] == old["KeyMaterialId"]
    refused("ConflictException", client.rotate_key_on_demand, KeyId=KEY_ID)
    assert 59 < kms.key(KEY_ARN).materials.due - time.monotonic() <= 60
    kms.key(KEY_ARN).materials.due = time.monotonic()
    new = data_key(client)
    assert new["KeyMaterialId"] != old["KeyMaterialId"]
    opened = client.decrypt(CiphertextBlob=old["CiphertextBlob"])
    assert all(opened[name] == old[name] for name in ("Plaintext", "KeyMaterialId"))
    renewed = client.re_encrypt(CiphertextBlob=old["CiphertextBlob"], DestinationKeyId=KEY_ID)
    assert renewed["SourceKeyMaterialId"] == old["KeyMaterialId"]
    assert renewed["DestinationKeyMaterialId"] == new["KeyMaterialId"]
    kms.rotation_ms = 0
    for _ in range(24):
        client.rotate_key_on_demand(KeyId=KEY_ID)
    refused("LimitExceededException", client.rotate_key_on_demand, KeyId=KEY_ID)


def test_a_rotation_is_refused_as_aws_refuses_it(kms, client):
    rotate = client.rotate_key_on_demand
    refused("NotFoundException", rotate, KeyId=ALIAS)
    refused("InvalidArnException", rotate, KeyId=f"arn:aws:kms:us-east-1:{ACCOUNT}:{ALIAS}")
    refused("InvalidArnException", rotate, KeyId="arn:aws:s3:::bucket")
    foreign = kms.add_key("us-east-1", OTHER_ACCOUNT, shared_with=(ACCOUNT,))
    seal(client, name=foreign)
    refused("AccessDeniedException", rotate, KeyId=foreign)
    for kind, attributes in (("DisabledException", {"state": "Disabled"}),
                             ("KMSInvalidStateException", {"state": "PendingDeletion"}),
                             ("UnsupportedOperationException", {"spec": "RSA_2048"})):
        refused(kind, rotate, KeyId=kms.add_key("us-east-1", ACCOUNT, **attributes))


# ---- keys, regions, accounts, partitions --------------------------------------------------------

def test_a_key_is_found_by_id_arn_and_alias(kms, client):
    unknown = "99999999-2222-3333-4444-555555555555"
    for name in (KEY_ID, KEY_ARN, ALIAS, f"arn:aws:kms:us-east-1:{ACCOUNT}:{ALIAS}"):
        assert client.encrypt(KeyId=name, Plaintext=b"x")["KeyId"] == KEY_ARN
    message = refused("NotFoundException", seal, client, name=unknown)
    assert message == f"Key 'arn:aws:kms:us-east-1:{ACCOUNT}:key/{unknown}' does not exist"
    for bad in ("alias/nobody", "nonsense", "arn:aws:kms:us-east-1:1:key/x",
                f"arn:aws-cn:kms:us-east-1:{ACCOUNT}:key/{KEY_ID}"):
        refused("NotFoundException", seal, client, name=bad)


def test_a_key_is_in_one_region_only(kms, client):
    """A key with the same id in another region is a different key."""
    west, there = kms.add_key("us-west-2", ACCOUNT), make_client(kms, "us-west-2")
    assert refused("NotFoundException", data_key, client, west) == "Invalid arn us-west-2"
    blob = seal(there, name=west)
    assert there.decrypt(CiphertextBlob=blob, KeyId=west)["KeyId"] == west
    assert "does not exist" in refused("AccessDeniedException", client.decrypt, CiphertextBlob=blob)
    refused("NotFoundException", seal, there, name=KEY_ARN)
    refused("NotFoundException", seal, there, name=ALIAS)
    assert [each["region"] for each in kms.requests].count("us-west-2") == 4
    twin, blob = kms.add_key("us-west-2", ACCOUNT, KEY_ID, ALIAS), seal(client)
    assert there.encrypt(KeyId=ALIAS, Plaintext=b"x")["KeyId"] == twin
    refused("AccessDeniedException", there.decrypt, CiphertextBlob=blob)


@pytest.mark.parametrize("region, partition", [
    ("cn-north-1", "aws-cn"), ("us-gov-west-1", "aws-us-gov"), ("us-iso-east-1", "aws-iso"),
    ("us-isob-east-1", "aws-iso-b"), ("eu-isoe-west-1", "aws-iso-e"),
    ("us-isof-south-1", "aws-iso-f"), ("eusc-de-east-1", "aws-eusc"), ("mx-central-1", "aws")])
def test_each_region_has_its_partition(kms, region, partition):
    arn = kms.add_key(region, ACCOUNT)
    assert arn.startswith(f"arn:{partition}:kms:{region}:{ACCOUNT}:key/")
    assert seal(make_client(kms, region), name=arn)


def test_another_accounts_key_must_be_shared(kms, client):
    closed = kms.add_key("us-east-1", OTHER_ACCOUNT, alias="alias/theirs")
    for name in (closed, f"arn:aws:kms:us-east-1:{OTHER_ACCOUNT}:key/{KEY_ID}"):
        refused("AccessDeniedException", seal, client, name=name)
    refused("NotFoundException", seal, client, name="alias/theirs")
    kms.set_key(closed, shared_with=(ACCOUNT,))
    assert seal(client, name=f"arn:aws:kms:us-east-1:{OTHER_ACCOUNT}:alias/theirs")
    kms.add_user("AKIDTHEIRS", "their-secret", OTHER_ACCOUNT)
    theirs = make_client(kms, access_key_id="AKIDTHEIRS", secret="their-secret")
    assert theirs.encrypt(KeyId="alias/theirs", Plaintext=b"x")["KeyId"] == closed
    record = kms.requests[-1]
    assert record["account"] == OTHER_ACCOUNT and record["access_key_id"] == "AKIDTHEIRS"
    assert (record["verdict"], record["status"], record["host"]) == ("OK", 200, kms.url[7:])
    assert record["body"]["KeyId"] == "alias/theirs" and len(record["request_id"]) == 36


def test_a_removed_key_opens_nothing(kms, client):
    blob = seal(client)
    kms.remove_key(KEY_ARN)
    refused("AccessDeniedException", client.decrypt, CiphertextBlob=blob)
    refused("NotFoundException", client.decrypt, CiphertextBlob=blob, KeyId=KEY_ARN)
    refused("NotFoundException", data_key, client, ALIAS)


# ---- what seals must open, and nothing else -----------------------------------------------------

@pytest.mark.parametrize("context", [
    {}, {**CONTEXT, "more": "1"}, {**CONTEXT, "app": "Keyring_aws"},
    {"APP" if name == "app" else name: value for name, value in CONTEXT.items()}])
def test_context_must_match(client, context):
    blob = seal(client, EncryptionContext=CONTEXT)
    message = refused("InvalidCiphertextException", client.decrypt, CiphertextBlob=blob,
                      EncryptionContext=context)
    assert message == ""                # KMS says nothing either
    refused("InvalidCiphertextException", client.re_encrypt, CiphertextBlob=blob,
            SourceEncryptionContext=context, DestinationKeyId=KEY_ID)
    turned = dict(reversed(CONTEXT.items()))
    assert client.decrypt(CiphertextBlob=blob, EncryptionContext=turned)["Plaintext"] == b"x"


def test_a_pin_must_name_the_key_that_sealed(kms, client):
    other = kms.add_key("us-east-1", ACCOUNT, alias="alias/other")
    blob = seal(client)
    for pin in (KEY_ID, KEY_ARN, ALIAS):
        assert client.decrypt(CiphertextBlob=blob, KeyId=pin)["Plaintext"] == b"x"
        client.re_encrypt(CiphertextBlob=blob, SourceKeyId=pin, DestinationKeyId=other)
    for pin in (other, "alias/other"):
        refused("IncorrectKeyException", client.decrypt, CiphertextBlob=blob, KeyId=pin)
        refused("IncorrectKeyException", client.re_encrypt, CiphertextBlob=blob, SourceKeyId=pin,
                DestinationKeyId=other)
    refused("NotFoundException", client.decrypt, CiphertextBlob=blob, KeyId="alias/nobody")


def test_every_damaged_blob_is_refused(kms):
    """Each byte is damaged in turn. The service is called directly, because the wire is slow."""
    key, blob = kms.key(KEY_ARN), emu.seal(kms.key(KEY_ARN), CONTEXT, b"sixteen bytes ..")
    call = emu.Call("Decrypt", kms.users[emu.ACCESS_KEY_ID], "us-east-1", {})
    spoiled = [blob[:at] + bytes([blob[at] ^ 1 << at % 8]) + blob[at + 1:]
               for at in range(len(blob))]
    for bad in spoiled + [blob[:at] for at in range(len(blob))] + [blob + b"x"]:
        call.args = {"CiphertextBlob": bad, "EncryptionContext": CONTEXT}
        with pytest.raises(emu.KmsError) as caught:
            kms.do_Decrypt(call)
        assert caught.value.kind == "InvalidCiphertextException"
    assert emu.unseal(key, CONTEXT, blob)[0] == b"sixteen bytes .."


@pytest.mark.parametrize("kind, attributes", [
    ("DisabledException", {"state": "Disabled"}),
    ("KMSInvalidStateException", {"state": "PendingDeletion"}),
    ("KMSInvalidStateException", {"state": "Unavailable"}),
    ("InvalidKeyUsageException", {"usage": "SIGN_VERIFY"}),
    ("InvalidKeyUsageException", {"spec": "RSA_2048"})])
def test_an_unusable_key_is_refused(kms, client, kind, attributes):
    other = kms.add_key("us-east-1", ACCOUNT)
    blob, fine = seal(client), seal(client, name=other)
    kms.set_key(KEY_ARN, **attributes)
    for call, members in (*calls(client, blob), (client.re_encrypt, {
            "CiphertextBlob": blob, "DestinationKeyId": other}), (client.re_encrypt, {
                "CiphertextBlob": fine, "DestinationKeyId": KEY_ID})):
        refused(kind, call, **members)
    refused(kind, client.decrypt, CiphertextBlob=blob, DryRun=True)


# ---- bad requests -------------------------------------------------------------------------------

def base64_of(size: int) -> str:
    return base64.b64encode(bytes(size)).decode()


VALIDATION, SERIALIZATION = "ValidationException", "SerializationException"


@pytest.mark.parametrize("kind, action, body", [
    (VALIDATION, "GenerateDataKey", {"KeyId": KEY_ID, "NumberOfBytes": 0}),
    (VALIDATION, "GenerateDataKey", {"KeyId": KEY_ID, "NumberOfBytes": 1025}),
    (VALIDATION, "GenerateDataKey", {"KeyId": KEY_ID}),
    (VALIDATION, "GenerateDataKey", {"KeyId": None, "NumberOfBytes": 16}),
    (VALIDATION, "GenerateDataKey", {"KeyId": "k" * 2049, "NumberOfBytes": 16}),
    (VALIDATION, "Encrypt", {"KeyId": KEY_ID, "Plaintext": ""}),
    (VALIDATION, "Encrypt", {"KeyId": KEY_ID, "Plaintext": base64_of(4097)}),
    (VALIDATION, "Encrypt", {"KeyId": KEY_ID, "Plaintext": "eA==", "EncryptionContext": {"a": ""}}),
    (VALIDATION, "Decrypt", {"CiphertextBlob": ""}), (VALIDATION, "Decrypt", {}),
    (VALIDATION, "Decrypt", {"CiphertextBlob": base64_of(6145)}),
    (VALIDATION, "ReEncrypt", {"CiphertextBlob": "eA=="}),
    (SERIALIZATION, "GenerateDataKey", b""), (SERIALIZATION, "GenerateDataKey", b"[]"),
    (SERIALIZATION, "GenerateDataKey", b'{"KeyId":"\xff"}'),
    (SERIALIZATION, "GenerateDataKey", {"KeyId": KEY_ID, "NumberOfBytes": "8"}),
    (SERIALIZATION, "GenerateDataKey", {"KeyId": KEY_ID, "NumberOfBytes": True}),
    (SERIALIZATION, "GenerateDataKey", {"KeyId": KEY_ID, "NumberOfBytes": 8, "DryRun": 1}),
    (SERIALIZATION, "Encrypt", {"KeyId": KEY_ID, "Plaintext": "eA==", "EncryptionContext": []}),
    (SERIALIZATION, "Encrypt", {"KeyId": KEY_ID, "Plaintext": "eA="}),
    (SERIALIZATION, "Decrypt", {"CiphertextBlob": "eA == "}),
    ("UnsupportedOperationException", "GenerateDataKey",
     {"KeyId": KEY_ID, "NumberOfBytes": 8, "GrantTokens": ["t"]}),
    ("UnsupportedOperationException", "GenerateDataKey", {"KeyId": KEY_ID, "KeySpec": "AES_256"}),
    ("UnknownOperationException", "Sign", {}), ("UnknownOperationException", "", {}),
    ("OK", "GenerateDataKey", {"KeyId": KEY_ID, "NumberOfBytes": 8, "Zzz": 1, "DryRun": None})])
def test_a_bad_body_is_refused(wire, kind, action, body):
    assert wire.kind(*wire.sign(body, action)) == kind


# ---- dry runs, and who may do what ---------------------------------------------------------------

def test_a_dry_run_checks_and_does_nothing(kms, client):
    blob, kms.ignore_dry_run = seal(client), False
    for call, members in calls(client, blob):
        refused("DryRunOperationException", call, **members, DryRun=True)
        call(**members, DryRun=False)
    refused("InvalidCiphertextException", client.decrypt, CiphertextBlob=blob, DryRun=True,
            EncryptionContext=CONTEXT)
    kms.ignore_dry_run = True
    for call, members in calls(client, blob):
        call(**members, DryRun=True)


def test_a_denied_action_or_key_is_refused(kms, client):
    other = kms.add_key("us-east-1", ACCOUNT)
    kms.add_user("AKIDPOOR", "poor-secret", ACCOUNT, denied=["Decrypt", f"Encrypt {other}",
                                                             "ReEncryptFrom"])
    poor = make_client(kms, access_key_id="AKIDPOOR", secret="poor-secret")
    blob = seal(poor)
    for dry in (False, True):
        message = refused("AccessDeniedException", poor.decrypt, CiphertextBlob=blob, DryRun=dry)
        assert "kms:Decrypt" in message and KEY_ARN in message
    refused("AccessDeniedException", seal, poor, name=other)
    assert "kms:ReEncryptFrom" in refused("AccessDeniedException", poor.re_encrypt,
                                          CiphertextBlob=blob, DestinationKeyId=KEY_ID)
    assert client.decrypt(CiphertextBlob=blob)["Plaintext"] == b"x"


LEAST = {"Version": "2012-10-17", "Statement": [
    {"Effect": "Allow", "Resource": KEY_ARN,
     "Action": ["kms:GenerateDataKeyWithoutPlaintext", "kms:Encrypt", "kms:Decrypt",
                "kms:ReEncryptFrom", "kms:ReEncryptTo"],
     "Condition": {"StringEquals": {"kms:EncryptionContext:app": "keyring_aws"}}},
    {"Effect": "Allow", "Action": "kms:RotateKeyOnDemand", "Resource": KEY_ARN}]}


def test_the_least_policy_allows_its_actions_only(kms):
    kms.add_user("AKIDLEAST", "least-secret", ACCOUNT, policy=LEAST)
    least = make_client(kms, access_key_id="AKIDLEAST", secret="least-secret")
    blob = least.generate_data_key_without_plaintext(
        KeyId=ALIAS, NumberOfBytes=8, EncryptionContext=CONTEXT)["CiphertextBlob"]
    least.decrypt(CiphertextBlob=blob, EncryptionContext=CONTEXT)
    moving = {"CiphertextBlob": blob, "SourceEncryptionContext": CONTEXT,
              "DestinationKeyId": KEY_ID}
    least.re_encrypt(**moving, DestinationEncryptionContext=CONTEXT)
    least.rotate_key_on_demand(KeyId=KEY_ID)
    refused("AccessDeniedException", data_key, least, EncryptionContext=CONTEXT)
    refused("AccessDeniedException", seal, least)
    refused("AccessDeniedException", seal, least, EncryptionContext={"app": "other"})
    refused("AccessDeniedException", least.re_encrypt, **moving)
    refused("AccessDeniedException", least.describe_key, KeyId=KEY_ID)
    assert make_client(kms).describe_key(KeyId=ALIAS)["KeyMetadata"]["Arn"] == KEY_ARN


@pytest.mark.parametrize("operator, name, wanted, context, allowed", [
    ("StringEquals", "APP", "one", {"app": "one"}, True),       # names ignore case, values do not
    ("StringEquals", "app", "One", {"app": "one"}, False),
    ("StringEquals", "app", ["one", "two"], {"app": "two"}, True),
    ("StringEquals", "key_id", "one", {"app": "one"}, False),
    ("StringLike", "app", "one", {"app": "one"}, None),
    ("StringEquals", "SourceIp", "127.0.0.1", {}, None), ("Bool", "app", "true", {}, None)])
def test_a_condition_allows_only_what_it_says(operator, name, wanted, context, allowed):
    """allowed None: the policy is refused, because the emulator does not understand it."""
    service, name = emu.Kms(), "aws:SourceIp" if name == "SourceIp" else (
        "kms:EncryptionContext:" + name)
    statement = {"Effect": "Allow", "Action": "kms:enc*", "Resource": ["arn:aws:kms:*:*:key/*"],
                 "Condition": {operator: {name: wanted}}}
    if allowed is None:
        with pytest.raises(ValueError):
            service.add_user("AKIDX", "x", ACCOUNT, policy={"Statement": statement})
        return
    service.add_user("AKIDX", "x", ACCOUNT, policy={"Statement": statement})
    assert service.users["AKIDX"].may_do("kms:Encrypt", KEY_ARN, context) is allowed
    assert not service.users["AKIDX"].may_do("kms:Decrypt", KEY_ARN, context)
    assert not service.users["AKIDX"].may_do("kms:Encrypt", KEY_ARN.replace("key", "x"), context)


# ---- signatures ---------------------------------------------------------------------------------

def test_a_user_needs_the_right_secret_and_token(kms):
    def use(kind, access_key_id="ASIDTEMP", secret="temp-secret", token=None):
        client = make_client(kms, access_key_id=access_key_id, secret=secret, token=token)
        return refused(kind, data_key, client) if kind else data_key(client)

    unknown, wrong = "UnrecognizedClientException", "InvalidSignatureException"
    use(unknown, "AKIDNOBODY")
    assert use(wrong, emu.ACCESS_KEY_ID, "wrong").startswith(
        "The request signature we calculated does not match")
    use(unknown, emu.ACCESS_KEY_ID, emu.SECRET, "t")
    kms.add_user("ASIDTEMP", "temp-secret", ACCOUNT, "token-1", time.time() + 60)
    use(None, token="token-1")
    use(unknown)
    use(unknown, token="token-2")
    kms.users["ASIDTEMP"].token_expires = time.time() - 1
    use("ExpiredTokenException", token="token-1")


@pytest.mark.parametrize("offset, words", [
    (290, None), (-290, None), (301, "Signature expired: "), (7200, " - 5 min.)"),
    (-7200, " + 5 min.)"), (-303, "Signature not yet current: ")])
def test_a_clock_that_is_off_by_five_minutes_is_refused(kms, client, offset, words):
    kms.clock_offset = offset
    if words is None:
        data_key(client)
        return
    with pytest.raises(ClientError) as caught:
        data_key(client)
    answer = caught.value.response
    assert answer["Error"]["Code"] == "InvalidSignatureException"
    assert words in answer["Error"]["Message"]
    date = answer["ResponseMetadata"]["HTTPHeaders"]["date"]
    assert abs(email.utils.parsedate_to_datetime(date).timestamp() - time.time() - offset) < 5


WRONG, ODD = "InvalidSignatureException", "IncompleteSignatureException"


@pytest.mark.parametrize("kind, name, value", [     # what a header becomes; None: it is left out
    (WRONG, "X-Amz-Target", "TrentService.DescribeKey"), (WRONG, "X-Amz-Target", "Elsewhere.Sign"),
    (WRONG, "X-Amz-Date", lambda old: old[:-2] + f"{(int(old[-2]) + 1) % 10}Z"),
    (WRONG, "X-Amz-Date", "20200101T000000Z"), (ODD, "X-Amz-Date", "yesterday"),
    (ODD, "X-Amz-Date", None), (WRONG, "Host", "kms.us-west-2.amazonaws.com"),
    (WRONG, "Content-Type", "text/plain"), (WRONG, "Content-Type", None),
    (WRONG, "X-Amz-Extra", "1"), ("UnrecognizedClientException", "X-Amz-Security-Token", "t"),
    ("MissingAuthenticationTokenException", "Authorization", None),
    (ODD, "Authorization", "Basic eDp4"), (ODD, "Authorization", lambda old: old[:-1]),
    (WRONG, "Authorization", lambda old: old.replace("us-east-1", "us-east-2")),
    (WRONG, "Authorization", lambda old: old.replace("/kms/", "/s3/")),
    (WRONG, "Authorization", lambda old: re.sub(r"/\d{8}/", "/20200101/", old)),
    (WRONG, "Authorization", lambda old: old.replace(";host", "")),
    (WRONG, "Authorization", lambda old: old.replace(";x-amz-target", ""))])
def test_a_tampered_request_is_refused(kms, wire, kind, name, value):
    headers, body = wire.sign(SMALL)
    assert wire.kind(headers, body) == "OK"
    headers[name] = value(headers[name]) if callable(value) else value
    assert wire.kind({each: text for each, text in headers.items() if text}, body) == kind
    assert [each["signed"] for each in kms.requests] == ["OK", kind]


class LazySigner(SigV4Auth):
    """Signs rightly, but leaves one header out."""
    left_out = ""

    def headers_to_sign(self, request):
        headers = super().headers_to_sign(request)
        del headers[self.left_out]
        return headers


@pytest.mark.parametrize("name", ["host", "x-amz-date", "x-amz-target", "content-type"])
def test_each_header_that_matters_must_be_signed(wire, monkeypatch, name):
    monkeypatch.setattr(LazySigner, "left_out", name)
    monkeypatch.setitem(globals(), "SigV4Auth", LazySigner)
    headers, body = wire.sign(SMALL)
    kind = "OK" if name == "content-type" else WRONG
    assert name not in headers["Authorization"] and wire.kind(headers, body) == kind


def test_all_of_a_request_is_signed(wire):
    """Line, body and scope are signed. A header with the body's hash does not replace the body."""
    members = SMALL
    headers, body = wire.sign(members)
    for first in ("PUT / HTTP/1.1", "POST /x HTTP/1.1", "POST /?a=b HTTP/1.1"):
        assert wire.kind(headers, body, first) == WRONG
    for changed in (body.replace(b"8", b"9"), body + b" "):
        assert wire.kind(headers, changed) == WRONG
    for other in ({"service": "s3"}, {"secret_key": "x"},
                  {"headers": {"X-Amz-Content-SHA256": "UNSIGNED-PAYLOAD"}}):
        assert wire.kind(*wire.sign(members, **other)) == WRONG
    for method, path in (("POST", "/x"), ("PUT", "/")):
        signed = wire.sign(members, method=method, path=path)
        assert wire.kind(*signed, f"{method} {path} HTTP/1.1") == "UnknownOperationException"


# ---- the wire -----------------------------------------------------------------------------------

@BOTH
def test_a_connection_is_kept_until_it_is_cut(kms, client):
    """Or until it is idle for too long, or told to close. A stopped emulator starts again."""
    for _ in range(5):
        data_key(client)
    refused("NotFoundException", data_key, client, "alias/nobody")
    assert kms.connections == 1 and kms.count() == 6 and kms.count("Decrypt") == 0
    assert {each["connection"] for each in kms.requests} == {1}
    kms.reset_log()
    assert kms.requests == [] and kms.count() == kms.connections == 0
    kms.cut()
    assert not kms.open
    data_key(client)
    assert kms.connections == 1
    port = kms.port
    kms.stop()
    with pytest.raises(OSError):
        socket.create_connection(("127.0.0.1", port))
    kms.start()
    data_key(client)
    assert kms.port == port and kms.connections == 2
    kms.idle_timeout = 0.3
    wire = Wire(kms)
    assert wire.ask()[0] == 200 and wire.all() == b""
    wire = Wire(kms)
    headers, body = wire.sign(SMALL)
    wire.send({**headers, "Connection": "close"}, body)
    assert wire.all().startswith(b"HTTP/1.1 200 OK\r\n")


# ---- faults -------------------------------------------------------------------------------------

def test_rules_wait_and_run_out(kms, wire):
    kms.fault("GenerateDataKey", "reply", times=2, after=1, status=500)
    kms.fault("Decrypt", "reply", status=502)
    assert [wire.ask()[0] for _ in range(5)] == [200, 500, 500, 200, 200]
    assert [each["fault"] for each in kms.requests] == [None, "reply", "reply", None, None]
    kms.fault("*", "reply", times=0, status=504)
    assert [wire.ask()[0] for _ in range(3)] == [504] * 3
    kms.clear_faults()
    assert wire.ask()[0] == 200
    for bad in ({"what": "nonsense"}, {"what": "cut", "where": "nowhere"},
                {"what": "gzip", "status": 1}, {"what": "black_hole", "where": "body"},
                {"what": "cut", "where": "accept", "action": "Decrypt"}):
        with pytest.raises(ValueError):
            kms.fault(**{"action": "*", **bad})


@BOTH
@pytest.mark.parametrize("what", ["cut", "reset"])
@pytest.mark.parametrize("where", ["request", "status", "headers", "body"])
def test_a_connection_breaks_where_the_fault_says(kms, wire, what, where):
    kms.fault("GenerateDataKey", what, where=where)
    wire.send(*wire.sign(SMALL))
    data = wire.all()
    head, end, body = data.partition(b"\r\n\r\n")
    assert wire.was_reset() == (what == "reset")
    assert {"request": data == b"", "status": data == b"HTTP/1.1 200 OK\r\n",
            "headers": data.startswith(b"HTTP/1.1 200 OK\r\nx-amzn") and not end,
            "body": end and len(body) == int(re.findall(rb"Content-Length: (\d+)", head + b"\r\n"
                                                        b"Content-Length: 0")[0]) // 2}[where]
    assert Wire(kms).ask()[0] == 200


@BOTH
def test_a_connection_breaks_before_it_is_read(kms):
    kms.fault("*", "cut", where="accept")
    with socket.create_connection(("127.0.0.1", kms.port)) as sock:
        assert sock.recv(1) == b""      # before TLS, if any, began
    wire = Wire(kms)
    assert wire.ask()[0] == 200
    kms.fault("*", "reset", where="accept")      # now a kept connection that is dead
    wire.send(*wire.sign({"KeyId": KEY_ID}))
    assert wire.all() == b"" and wire.was_reset()
    assert kms.count() == 1 and kms.connections == 2
    kms.fault("*", "close")             # after a reply, and without having said so
    wire = Wire(kms)
    status, headers, _ = wire.ask()
    assert status == 200 and "connection" not in headers
    assert wire.all() == b"" and not wire.was_reset()


def test_an_action_is_done_even_if_its_reply_is_lost(kms):
    """A lost reply is not a lost action, unless the request was lost."""
    rotations, kms.rotation_ms = kms.key(KEY_ARN).materials, 0
    for where, perform, done in (("request", False, 0), ("request", True, 1), ("body", False, 2)):
        kms.fault("RotateKeyOnDemand", "cut", where=where, perform=perform)
        wire = Wire(kms)
        wire.send(*wire.sign({"KeyId": KEY_ID}, "RotateKeyOnDemand"))
        wire.all()
        assert rotations.rotations == done
    kms.fault("RotateKeyOnDemand", "throttle")
    Wire(kms).ask({"KeyId": KEY_ID}, action="RotateKeyOnDemand")
    assert rotations.rotations == 2 and kms.count("RotateKeyOnDemand") == 4


def test_the_program_obeys_its_control_port(certs):
    program = subprocess.Popen([sys.executable, PROGRAM, "--cert", certs.good.cert, "--key",
                                certs.good.key], stdout=subprocess.PIPE, text=True)
    about = json.loads(program.stdout.readline())

    def order(name, **arguments):
        link = http.client.HTTPConnection("127.0.0.1", about["control"], timeout=30)
        link.request("POST", "/", json.dumps({"do": name, **arguments}))
        reply = link.getresponse()
        return reply.status == 200, json.loads(reply.read()).get("result")

    try:
        assert about["url"] == f"https://127.0.0.1:{about['port']}"
        good, arn = order("add_key", region="eu-west-3", account=ACCOUNT)
        assert good and arn.startswith("arn:aws:kms:eu-west-3:") and order("count") == (True, 0)
        assert order("stop")[0]
        with pytest.raises(OSError):
            socket.create_connection(("127.0.0.1", about["port"]))
        assert order("start")[0] and socket.create_connection(("127.0.0.1", about["port"]))
        assert not any(order(name, **arguments)[0] for name, arguments in (
            ("fault", {"what": "x", "action": "*"}), ("set", {"port": 1}), ("judge", {})))
    finally:
        program.send_signal(signal.SIGTERM)
        assert program.wait(10) == 0
