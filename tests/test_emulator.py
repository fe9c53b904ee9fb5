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
import urllib.parse
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent / "hosts"))
import kms_emulator as emu                                          # noqa: E402
import regions                                                      # noqa: E402
import servers                                                      # noqa: E402
import sts_emulator                                                 # noqa: E402
from kms_emulator import ACCOUNT, ALIAS, KEY_ARN, KEY_ID, OTHER_ACCOUNT     # noqa: E402
from patience import calm                                           # noqa: E402

import botocore                                                     # noqa: E402
import botocore.session                                             # noqa: E402
from botocore import UNSIGNED                                       # noqa: E402
from botocore.auth import SigV4Auth                                 # noqa: E402
from botocore.awsrequest import AWSRequest                          # noqa: E402
from botocore.config import Config                                  # noqa: E402
from botocore.credentials import Credentials                        # noqa: E402
from botocore.exceptions import ClientError                         # noqa: E402
from botocore.loaders import Loader                                 # noqa: E402
from botocore.model import ServiceModel                             # noqa: E402

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
    left = kms.key(KEY_ARN).materials.due - time.monotonic()
    assert left <= 60
    calm(left > 59, left)
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


# ---- the life of a key --------------------------------------------------------------------------

def test_a_key_is_made_disabled_and_deleted(kms, client):
    """A deletion that is cancelled leaves the key disabled.  No state takes the wrong step."""
    made = client.create_key()["KeyMetadata"]
    arn, state = made["Arn"], lambda: client.describe_key(KeyId=arn)["KeyMetadata"]
    assert made["KeyState"] == "Enabled" and not made["MultiRegion"] and arn != KEY_ARN
    assert client.create_key(MultiRegion=True)["KeyMetadata"]["KeyId"].startswith("mrk-")
    invalid = "KMSInvalidStateException"
    refused(invalid, client.cancel_key_deletion, KeyId=arn)
    client.disable_key(KeyId=arn)
    refused("DisabledException", client.encrypt, KeyId=arn, Plaintext=b"x")
    client.enable_key(KeyId=arn)
    reply = client.schedule_key_deletion(KeyId=arn, PendingWindowInDays=7)
    assert reply["KeyState"] == state()["KeyState"] == "PendingDeletion"
    assert (state()["DeletionDate"] - made["CreationDate"]).days == 7
    for step in (client.enable_key, client.disable_key, client.schedule_key_deletion):
        refused(invalid, step, KeyId=arn)
    client.cancel_key_deletion(KeyId=arn)
    assert state()["KeyState"] == "Disabled" and "DeletionDate" not in state()
    client.enable_key(KeyId=arn)
    client.encrypt(KeyId=arn, Plaintext=b"x")


def test_who_may_not_manage_keys(kms):
    actions = ["CreateKey", "EnableKey", "DisableKey", "ScheduleKeyDeletion", "CancelKeyDeletion"]
    kms.add_user("AKIDPOOR", "s", ACCOUNT, denied=actions)
    poor = make_client(kms, access_key_id="AKIDPOOR", secret="s")
    refused("AccessDeniedException", poor.create_key)
    for step in (poor.enable_key, poor.disable_key, poor.schedule_key_deletion,
                 poor.cancel_key_deletion):
        refused("AccessDeniedException", step, KeyId=KEY_ARN)


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


# ---- AWS STS ------------------------------------------------------------------------------------

ROLE = f"arn:aws:iam::{OTHER_ACCOUNT}:role/team/app"
NAMED = {"RoleArn": ROLE, "RoleSessionName": "me@here"}
WEB = {**NAMED, "WebIdentityToken": "ey.token"}


def sts_client(kms, keys=None, region="us-east-1", **more):
    keys = keys or {"AccessKeyId": emu.ACCESS_KEY_ID, "SecretAccessKey": emu.SECRET}
    return SESSION.create_client(
        "sts", region, endpoint_url=kms.url, verify=kms.ca,
        aws_access_key_id=keys["AccessKeyId"], aws_secret_access_key=keys["SecretAccessKey"],
        aws_session_token=keys.get("SessionToken"), config=Config(
            parameter_validation=False, proxies={},
            **{"retries": {"total_max_attempts": 1, "mode": "standard"}, **more}))


def uses(kms, keys, **settings):
    return make_client(kms, access_key_id=keys["AccessKeyId"], secret=keys["SecretAccessKey"],
                       token=keys["SessionToken"], **settings)


@pytest.fixture
def sts(kms):
    kms.add_role(ROLE, trusts=[ACCOUNT])
    return sts_client(kms)


def test_the_rules_for_parameters_are_those_of_the_model():
    model = ServiceModel(Loader().load_service_model("sts", "service-2"))
    assert model.api_version == sts_emulator.VERSION
    for action, (required, others) in sts_emulator.ACTIONS.items():
        shape = model.operation_model(action).input_shape
        assert set(required) == set(shape.required_members)
        for name in required + others:
            rules = shape.members[name].metadata
            least, most, form = sts_emulator.PARAMETERS[name]
            assert (rules["min"], rules["max"]) == (least, most)
            if "pattern" in rules and name != "RoleArn":    # its pattern is in Java's words
                assert form == rules["pattern"]


def test_a_role_is_assumed(kms, sts):
    """Its session is of the role's account, and KMS knows it."""
    theirs = kms.add_key("us-east-1", OTHER_ACCOUNT)
    reply = sts.assume_role(**NAMED)
    keys, who = reply["Credentials"], reply["AssumedRoleUser"]
    assert who["Arn"] == f"arn:aws:sts::{OTHER_ACCOUNT}:assumed-role/app/me@here"
    assert re.fullmatch("AROA[A-Z0-9]{17}:me@here", who["AssumedRoleId"])
    assert 3595 < keys["Expiration"].timestamp() - time.time() <= 3600
    assert reply["SessionTokenSize"] == len(keys["SessionToken"]) == kms.token_size
    assert re.fullmatch("ASIA[A-Z0-9]{16}", keys["AccessKeyId"])
    assert len(keys["SecretAccessKey"]) == 40 and kms.given == [keys["AccessKeyId"]]
    assert uses(kms, keys).describe_key(KeyId=theirs)["KeyMetadata"]["Arn"] == theirs
    refused("AccessDeniedException", data_key, uses(kms, keys), KEY_ARN)
    assert kms.requests[-1]["account"] == OTHER_ACCOUNT
    again = sts.assume_role(**NAMED, DurationSeconds=900)["Credentials"]
    assert 895 < again["Expiration"].timestamp() - time.time() <= 900
    assert all(again[name] != keys[name] for name in keys)
    asked = [each for each in kms.requests if each["form"]]
    assert [(each["action"], each["signed"], each["verdict"]) for each in asked] == [
        ("AssumeRole", "OK", "OK")] * 2
    assert asked[1]["form"]["DurationSeconds"] == "900" and kms.count("sts") == 2
    assert asked[0]["request_id"] == reply["ResponseMetadata"]["RequestId"]


def test_who_somebody_is(kms, sts):
    about = sts.get_caller_identity()
    assert about["Arn"] == f"arn:aws:iam::{ACCOUNT}:user/{emu.ACCESS_KEY_ID}"
    assert (about["Account"], about["UserId"]) == (ACCOUNT, emu.ACCESS_KEY_ID)
    reply = sts.assume_role(**NAMED)
    about = sts_client(kms, reply["Credentials"]).get_caller_identity()
    who = reply["AssumedRoleUser"]
    assert (about["Arn"], about["UserId"]) == (who["Arn"], who["AssumedRoleId"])
    assert about["Account"] == OTHER_ACCOUNT


@pytest.mark.parametrize("trusts, external_id, given, well", [
    ([ACCOUNT], None, None, True), ([f"arn:aws:iam::{ACCOUNT}:root"], None, None, True),
    ([f"arn:aws:iam::{ACCOUNT}:user/{emu.ACCESS_KEY_ID}"], None, None, True),
    ([f"arn:aws:iam::{ACCOUNT}:user/other"], None, None, False), ([], None, None, False),
    ([OTHER_ACCOUNT], None, None, False), (None, None, None, False),    # None: its own account
    ([ACCOUNT], "our secret/1", None, False), ([ACCOUNT], "id:1", "id:2", False),
    ([ACCOUNT], "id:1", "id:1", True), ([ACCOUNT], None, "not wanted", False),
    ([ACCOUNT], None, "not.wanted", True)])
def test_the_trust_policy_says_who_may_assume_a_role(kms, sts, trusts, external_id, given, well):
    kms.add_role(ROLE, trusts=trusts, external_id=external_id)
    asked = {**NAMED, **({"ExternalId": given} if given else {})}
    if well:
        assert sts.assume_role(**asked)["Credentials"]
        return
    bad = given is not None and " " in given
    message = refused("ValidationError" if bad else "AccessDenied", sts.assume_role, **asked,
                      status=400 if bad else 403)
    assert bad or message == (
        f"User: arn:aws:iam::{ACCOUNT}:user/{emu.ACCESS_KEY_ID} is not authorized to perform: "
        f"sts:AssumeRole on resource: {ROLE}")
    assert kms.given == []


def test_the_callers_own_policy_counts_too(kms, sts):
    for name, resource in (("GOOD", ROLE), ("BAD", ROLE + "x")):
        kms.add_user(f"AKID{name}", "s", ACCOUNT, policy={"Statement": {
            "Effect": "Allow", "Action": "sts:AssumeRole", "Resource": resource}})
        client = sts_client(kms, {"AccessKeyId": f"AKID{name}", "SecretAccessKey": "s"})
        if name == "GOOD":
            client.assume_role(**NAMED)
        else:
            refused("AccessDenied", client.assume_role, **NAMED, status=403)
    refused("AccessDenied", sts.assume_role, **{**NAMED, "RoleArn": ROLE + "y"}, status=403)


def test_what_a_role_may_do(kms, sts):
    kms.set_key(KEY_ARN, shared_with=(OTHER_ACCOUNT,))
    kms.add_role(ROLE, trusts=[ACCOUNT], policy=LEAST)
    least = uses(kms, sts.assume_role(**NAMED)["Credentials"])
    least.encrypt(KeyId=KEY_ARN, Plaintext=b"x", EncryptionContext=CONTEXT)
    refused("AccessDeniedException", seal, least, name=KEY_ARN)


@pytest.mark.parametrize("change, words", [
    ({"RoleArn": "arn:aws:iam::1:role/x"}, " is invalid"), ({"RoleArn": "short"}, "'roleArn'"),
    ({"RoleArn": ROLE.replace("iam", "sts")}, " is invalid"), ({"RoleArn": None}, "not be null"),
    ({"RoleSessionName": "x"}, "'roleSessionName'"), ({"RoleSessionName": "a b"}, "pattern"),
    ({"RoleSessionName": "x" * 65}, "length"), ({"ExternalId": "x"}, "'externalId'"),
    ({"ExternalId": "a&b"}, "pattern"), ({"ExternalId": "x" * 1225}, "length"),
    ({"DurationSeconds": 899}, "'durationSeconds'"), ({"DurationSeconds": 43201}, "value"),
    ({"DurationSeconds": 3601}, "exceeds the MaxSessionDuration set for this role")])
def test_a_bad_parameter_is_refused(sts, change, words):
    asked = {name: value for name, value in {**NAMED, **change}.items() if value is not None}
    assert words in refused("ValidationError", sts.assume_role, **asked)


def test_a_chain_of_roles(kms, sts):
    """A role trusts another; an hour is the most; and what the source was decides."""
    last = f"arn:aws:iam::{ACCOUNT}:role/last"
    kms.add_role(last, trusts=[ROLE], max_duration=43200)
    asked = {"RoleArn": last, "RoleSessionName": "two"}
    refused("AccessDenied", sts.assume_role, **asked, status=403)
    first = sts.assume_role(**NAMED)["Credentials"]
    then = sts_client(kms, first)
    refused("ValidationError", then.assume_role, **asked, DurationSeconds=3601)
    keys = then.assume_role(**asked, DurationSeconds=3600)["Credentials"]
    assert data_key(uses(kms, keys))
    assert kms.users[keys["AccessKeyId"]].path == (emu.ACCESS_KEY_ID, ROLE,
                                                   "DurationSeconds=3600", last)
    refused("InvalidClientTokenId", sts_client(kms, {**first, "SessionToken": "no"}).assume_role,
            **asked, status=403)
    kms.users[first["AccessKeyId"]].token_expires = time.time() - 1
    refused("ExpiredToken", then.assume_role, **asked, status=403)
    refused("ExpiredToken", then.get_caller_identity, status=403)
    assert data_key(uses(kms, keys)), "what it gave lives on"
    kms.remove_role(last)
    refused("UnrecognizedClientException", data_key, uses(kms, keys))


def test_credentials_that_sts_gave_expire(kms, sts):
    kms.add_role(ROLE, trusts=[ACCOUNT], life=60)
    kms.set_key(KEY_ARN, shared_with=(OTHER_ACCOUNT,))
    keys = sts.assume_role(**NAMED)["Credentials"]
    assert data_key(uses(kms, keys), KEY_ARN)
    kms.clock_offset = 61
    refused("ExpiredTokenException", data_key, uses(kms, keys), KEY_ARN)


FORM = {"headers": {"Content-Type": "application/x-www-form-urlencoded; charset=utf-8"}}


WHO = {"Action": "GetCallerIdentity", "Version": "2011-06-15"}


def post_form(wire, form, spoil=lambda headers, body: (headers, body), **scope):
    """The reply to a signed form."""
    body = urllib.parse.urlencode(form).encode()
    wire.send(*spoil(*wire.sign(body, **FORM, **{"service": "sts", **scope})))
    return wire.reply()


def test_sts_judges_signatures(kms, sts, wire):
    def use(**changes):
        return sts_client(kms, {"AccessKeyId": emu.ACCESS_KEY_ID, "SecretAccessKey": emu.SECRET,
                                **changes}).get_caller_identity

    refused("InvalidClientTokenId", use(AccessKeyId="AKIDNOBODY"), status=403)
    refused("SignatureDoesNotMatch", use(SecretAccessKey="no"), status=403)
    refused("InvalidClientTokenId", use(SessionToken="no"), status=403)
    kms.clock_offset = 400
    assert refused("SignatureDoesNotMatch", use(), status=403).startswith("Signature expired")
    kms.clock_offset = 0
    elsewhere = sts_client(kms, region="eu-west-1")
    assert "valid region" in refused("SignatureDoesNotMatch", elsewhere.get_caller_identity,
                                     status=403)
    kms.sts_region = "eu-west-1"
    assert elsewhere.get_caller_identity()["Account"] == ACCOUNT
    kms.sts_region = "us-east-1"

    def code(spoil=lambda headers, body: (headers, body), form=WHO, **scope):
        status, _, body = post_form(wire, form, spoil, **scope)
        return status, "".join(re.findall("<Code>(.*)</Code>", body.decode()))

    wrong = (403, "SignatureDoesNotMatch")
    assert code() == (200, "")
    assert code(service="kms") == code(region="eu-west-1") == wrong
    assert code(lambda headers, body: (headers, body.replace(b"Get", b"%47et"))) == wrong
    assert code(lambda headers, body: ({**headers, "X-Amz-Extra": "1"}, body)) == wrong
    assert code(lambda headers, body: ({**headers, "Authorization": ""}, body)) == (
        403, "MissingAuthenticationToken")
    assert code(lambda headers, body: ({**headers, "Authorization": "Basic x"}, body)) == (
        400, "IncompleteSignature")
    for form in ({**WHO, "Version": "2012-06-15"}, {"Action": "GetSessionToken"}, {},
                 {"Version": "2011-06-15"}, [*WHO.items(), *WHO.items()]):
        assert code(form=form)[1] == "InvalidAction"
    assert code(form={**WHO, "Policy": "{}"})[1] == "NotEmulated"


def test_a_web_identity_is_exchanged_for_a_role(kms, sts, wire):
    """No signature is needed, and none may be there."""
    kms.identities = {"ey.token": ROLE, "ey.old": None}
    client = sts_client(kms, signature_version=UNSIGNED)
    assume = client.assume_role_with_web_identity
    reply = assume(**WEB, DurationSeconds=900)
    assert reply["AssumedRoleUser"]["Arn"].endswith(":assumed-role/app/me@here")
    assert "authorization" not in kms.requests[-1]["headers"]
    assert sts_client(kms, reply["Credentials"]).get_caller_identity()["Account"] == OTHER_ACCOUNT
    refused("InvalidIdentityToken", assume, **{**WEB, "WebIdentityToken": "other"})
    refused("ExpiredTokenException", assume, **{**WEB, "WebIdentityToken": "ey.old"})
    refused("AccessDenied", assume, **{**WEB, "RoleArn": ROLE + "x"}, status=403)
    refused("ValidationError", assume, **{**WEB, "WebIdentityToken": "x"})
    refused("ValidationError", assume, **WEB, DurationSeconds=3601)
    refused("MissingAuthenticationToken", client.assume_role, **NAMED, status=403)
    status, _, body = post_form(wire, {"Action": "AssumeRoleWithWebIdentity", **WEB,
                                       "Version": "2011-06-15"})
    assert status == 403 and b"<Code>SignatureDoesNotMatch</Code>" in body


@pytest.mark.parametrize("action, code, status, retried", [
    ("AssumeRole", "Throttling", 400, True), ("AssumeRole", "ServiceUnavailable", 503, True),
    ("AssumeRole", "InternalFailure", 500, True), ("AssumeRole", "AccessDenied", 403, False),
    ("AssumeRoleWithWebIdentity", "IDPCommunicationError", 400, True),
    ("AssumeRoleWithWebIdentity", "InvalidIdentityToken", 400, False),
    ("AssumeRoleWithWebIdentity", "IDPRejectedClaim", 403, False),
    ("sts", "RegionDisabledException", 403, False), ("*", "Throttling", 400, True)])
def test_sts_fails_once_and_then_well(kms, sts, monkeypatch, action, code, status, retried):
    """botocore tries again what AWS wants to be tried again."""
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    kms.identities = {"ey.token": ROLE}
    patient = sts_client(kms, retries={"total_max_attempts": 3, "mode": "standard"})
    web = "Web" in action
    kms.fault(action, "error", type=code, status=status, message="so & so")
    call = patient.assume_role_with_web_identity if web else patient.assume_role
    if retried:
        assert call(**(WEB if web else NAMED))["Credentials"]
    else:
        assert refused(code, call, **(WEB if web else NAMED), status=status) == "so & so"
    assert kms.count("sts") == 1 + retried == len(kms.requests)
    assert [each["fault"] for each in kms.requests] == ["error", None][:1 + retried]


PROFILES = f"""\
[profile base]
aws_access_key_id = {emu.ACCESS_KEY_ID}
aws_secret_access_key = {emu.SECRET}
[profile one]
role_arn = {ROLE}
source_profile = base
external_id = xid/1
role_session_name = one
[profile two]
role_arn = arn:aws:iam::{ACCOUNT}:role/two
source_profile = one
duration_seconds = 1800
[profile metadata]
role_arn = arn:aws:iam::{ACCOUNT}:role/two
credential_source = Ec2InstanceMetadata
[profile web]
role_arn = {ROLE}
web_identity_token_file = TOKEN
"""


@pytest.mark.parametrize("profile, path", [
    ("one", (emu.ACCESS_KEY_ID, "ExternalId=xid/1", ROLE)),
    ("two", (emu.ACCESS_KEY_ID, "ExternalId=xid/1", ROLE, "DurationSeconds=1800",
             f"arn:aws:iam::{ACCOUNT}:role/two")),
    ("metadata", ("instance", f"arn:aws:iam::{ACCOUNT}:role/app-role",
                  f"arn:aws:iam::{ACCOUNT}:role/two")),
    ("web", ("web identity", ROLE))])
def test_botocores_providers_get_credentials(kms, tmp_path, monkeypatch, profile, path):
    """And what the emulator remembers of them is where they came from."""
    kms.identities = {"ey.token": ROLE}
    kms.add_role(ROLE, trusts=[ACCOUNT], external_id="xid/1")
    kms.add_role(f"arn:aws:iam::{ACCOUNT}:role/two", trusts=[
        ROLE, f"arn:aws:iam::{ACCOUNT}:role/app-role"])
    (tmp_path / "token").write_text("ey.token")
    (tmp_path / "config").write_text(PROFILES.replace("TOKEN", str(tmp_path / "token")))
    with monkeypatch.context() as inside:
        for name, value in {"AWS_CONFIG_FILE": tmp_path / "config", "AWS_ENDPOINT_URL_STS": kms.url,
                            "AWS_EC2_METADATA_SERVICE_ENDPOINT": kms.url, "AWS_PROFILE": profile,
                            "AWS_DEFAULT_REGION": "us-east-1",
                            "AWS_EC2_METADATA_V1_DISABLED": "true"}.items():
            inside.setenv(name, str(value))
        found = botocore.session.Session().get_credentials().get_frozen_credentials()
    assert kms.users[found.access_key].path == path
    kms.set_key(KEY_ARN, shared_with=(OTHER_ACCOUNT,))
    assert data_key(make_client(kms, access_key_id=found.access_key, secret=found.secret_key,
                                token=found.token), KEY_ARN)


# ---- several regions, and the keys that are in more than one -------------------------------------

HOME, AWAY = "us-east-1", "eu-central-1"
MRK = emu.MULTI_REGION_ID
REFUSED_ARN = "Invalid arn "


class Places:
    """A primary key at home, its replica away, and a client of each region."""

    def __init__(self, home, away):
        self.home, self.away = home, away
        self.at_home, self.there = make_client(home, HOME), make_client(away, AWAY)
        self.arn = home.add_key(HOME, ACCOUNT, MRK, "alias/mrk-of-home")
        self.replica = home.replicate(self.arn, AWAY)


@pytest.fixture(params=["one port", "a port each"])
def places(request, kms):
    """One emulator for all regions, or one for each, that the tests must not be able to tell."""
    if request.param == "one port":
        yield Places(kms, kms)
        return
    with emu.Emulator(region=HOME) as home, home.sister(AWAY) as away:
        home.ca = away.ca = None
        yield Places(home, away)
        assert home.crashes == away.crashes == []


@pytest.fixture
def two(certs):
    """Two regions over TLS; what tests of one place at a time need."""
    with emu.Emulator(*certs.good, region=HOME) as home, home.sister(AWAY) as away:
        home.ca = away.ca = certs.ca
        yield Places(home, away)
    assert home.crashes == away.crashes == []


def test_related_keys_open_each_others_blobs(places):
    """And each says its own ARN, that of the region which answers."""
    arns = {places.at_home: places.arn, places.there: places.replica}
    assert places.replica == places.arn.replace(HOME, AWAY)
    assert places.arn == f"arn:aws:kms:{HOME}:{ACCOUNT}:key/{MRK}"
    for maker, opener in ((places.at_home, places.there), (places.there, places.at_home)):
        made = maker.generate_data_key(KeyId=MRK, NumberOfBytes=32, EncryptionContext=CONTEXT)
        assert made["KeyId"] == arns[maker]
        for pin in ({"KeyId": arns[opener]}, {"KeyId": MRK}, {}):
            opened = opener.decrypt(CiphertextBlob=made["CiphertextBlob"],
                                    EncryptionContext=CONTEXT, **pin)
            assert opened["KeyId"] == arns[opener]
            assert opened["Plaintext"] == made["Plaintext"]
            assert opened["KeyMaterialId"] == made["KeyMaterialId"]
        blob = seal(maker, b"y", arns[maker])
        assert opener.decrypt(CiphertextBlob=blob, KeyId=MRK)["Plaintext"] == b"y"


def test_what_a_replica_does_not_open(places):
    blob = seal(places.at_home, b"x", MRK, EncryptionContext=CONTEXT)
    decrypt, given = places.there.decrypt, {"CiphertextBlob": blob, "EncryptionContext": CONTEXT}
    assert refused("NotFoundException", decrypt, **given, KeyId=places.arn) == REFUSED_ARN + HOME
    refused("InvalidCiphertextException", decrypt, CiphertextBlob=blob, KeyId=MRK)
    refused("InvalidCiphertextException", decrypt, **{**given, "CiphertextBlob": blob[:-1] + b"x"})
    other = places.away.add_key(AWAY, ACCOUNT, "mrk-" + "1" * 32)
    refused("IncorrectKeyException", decrypt, **given, KeyId=other)
    refused("NotFoundException", decrypt, **given, KeyId="mrk-" + "2" * 32)
    places.home.remove_key(places.replica)
    assert "does not exist" in refused("AccessDeniedException", decrypt, **given)
    refused("NotFoundException", decrypt, **given, KeyId=places.replica)
    assert places.at_home.decrypt(**given)["Plaintext"] == b"x"
    places.home.replicate(places.arn, AWAY)
    assert decrypt(**given)["Plaintext"] == b"x"


def test_a_single_regions_blob_opens_only_at_home(places):
    """Even if the other region has a key with the same id."""
    twin = places.home.add_key(AWAY, ACCOUNT, KEY_ID, "alias/twin")
    blob = seal(places.at_home, b"x", KEY_ID)
    assert places.at_home.decrypt(CiphertextBlob=blob)["KeyId"] == KEY_ARN
    refused("AccessDeniedException", places.there.decrypt, CiphertextBlob=blob)
    for pin in (twin, KEY_ID, "alias/twin", MRK):
        refused("IncorrectKeyException", places.there.decrypt, CiphertextBlob=blob, KeyId=pin)


@pytest.mark.parametrize("region, account, kind", [
    (AWAY, ACCOUNT, "InvalidCiphertextException"),          # has the name, and another material
    (AWAY, OTHER_ACCOUNT, "AccessDeniedException"), ("cn-north-1", ACCOUNT, "AccessDeniedException")
    ])
def test_the_same_name_makes_no_keys_related(kms, client, region, account, kind):
    kms.add_key(HOME, ACCOUNT, MRK)
    kms.add_key(region, account, MRK)
    refused(kind, make_client(kms, region).decrypt, CiphertextBlob=seal(client, name=MRK))


def test_reencrypt_is_the_act_of_one_region(places):
    there, single = places.there, places.away.add_key(AWAY, ACCOUNT)
    blob = seal(places.at_home, b"x", MRK)
    refused("NotFoundException", there.re_encrypt, CiphertextBlob=blob,
            DestinationKeyId=places.arn)
    refused("NotFoundException", there.re_encrypt, CiphertextBlob=blob, SourceKeyId=places.arn,
            DestinationKeyId=single)
    for destination in (places.replica, single):
        moved = there.re_encrypt(CiphertextBlob=blob, SourceKeyId=places.replica,
                                 DestinationKeyId=destination)
        assert (moved["SourceKeyId"], moved["KeyId"]) == (places.replica, destination)
    refused("AccessDeniedException", places.at_home.decrypt, CiphertextBlob=moved["CiphertextBlob"])
    refused("AccessDeniedException", places.at_home.re_encrypt, DestinationKeyId=MRK,
            CiphertextBlob=moved["CiphertextBlob"])


@pytest.mark.parametrize("kind, attributes", [
    ("DisabledException", {"state": "Disabled"}), ("AccessDeniedException", {"denied": ["*crypt"]}),
    ("KMSInvalidStateException", {"state": "PendingDeletion"}),
    ("KMSInvalidStateException", {"state": "PendingReplicaDeletion"}),
    ("KMSInvalidStateException", {"state": "Creating"})])
def test_each_related_key_has_a_state_and_a_policy_of_its_own(places, kind, attributes):
    blob = seal(places.at_home, b"x", MRK)
    for arn, ill, well in ((places.replica, places.there, places.at_home),
                           (places.arn, places.at_home, places.there)):
        places.home.set_key(arn, **attributes)
        refused(kind, ill.decrypt, CiphertextBlob=blob)
        refused(kind, seal, ill, b"x", MRK)
        assert well.decrypt(CiphertextBlob=blob)["Plaintext"] == b"x" and seal(well, b"x", MRK)
        places.home.set_key(arn, state="Enabled", denied=())
        assert ill.decrypt(CiphertextBlob=blob)["Plaintext"] == b"x"


def test_each_related_key_has_its_own_aliases_and_a_policy_names_its_arn(places):
    assert seal(places.at_home, b"x", "alias/mrk-of-home")
    refused("NotFoundException", seal, places.there, b"x", "alias/mrk-of-home")
    places.home.remove_key(places.replica)
    places.home.replicate(places.arn, AWAY, "alias/away")
    reply = places.there.encrypt(KeyId="alias/away", Plaintext=b"x")
    assert reply["KeyId"] == places.replica
    refused("NotFoundException", seal, places.at_home, b"x", "alias/away")
    for place in {places.home, places.away}:
        place.add_user("AKIDHOME", "s", ACCOUNT, policy={"Statement": {
            "Effect": "Allow", "Action": "kms:*", "Resource": places.arn}})
    user = {"access_key_id": "AKIDHOME", "secret": "s"}
    assert seal(make_client(places.home, HOME, **user), b"x", MRK)
    refused("AccessDeniedException", seal, make_client(places.away, AWAY, **user), b"x", MRK)


def test_only_the_primary_key_is_rotated(places):
    places.home.rotation_ms = 0
    refused("UnsupportedOperationException", places.there.rotate_key_on_demand, KeyId=MRK)
    old = data_key(places.there, MRK)
    assert places.at_home.rotate_key_on_demand(KeyId=MRK)["KeyId"] == places.arn
    new = data_key(places.there, MRK)
    assert old["KeyMaterialId"] != new["KeyMaterialId"] == (
        data_key(places.at_home, MRK)["KeyMaterialId"])
    for each in (old, new):
        opened = places.at_home.decrypt(CiphertextBlob=each["CiphertextBlob"])
        assert opened["KeyMaterialId"] == each["KeyMaterialId"]


def test_a_replica_that_lags_behind_a_rotation(places):
    """It seals with the old material, and the new is as bad to it as a false one."""
    places.home.rotation_ms = 0
    places.home.set_key(places.replica, lag_ms=60000)
    old = data_key(places.at_home, MRK)
    places.at_home.rotate_key_on_demand(KeyId=MRK)
    new, decrypt = data_key(places.at_home, MRK), places.there.decrypt
    late = data_key(places.there, MRK)
    assert new["KeyMaterialId"] != old["KeyMaterialId"] == late["KeyMaterialId"]
    opened = places.at_home.decrypt(CiphertextBlob=late["CiphertextBlob"])
    assert opened["KeyMaterialId"] == old["KeyMaterialId"]
    for pin in ({}, {"KeyId": MRK}):
        refused("InvalidCiphertextException", decrypt, CiphertextBlob=new["CiphertextBlob"], **pin)
    assert decrypt(CiphertextBlob=old["CiphertextBlob"])["Plaintext"] == old["Plaintext"]
    west = places.home.replicate(places.arn, "us-west-2", lag_ms=60000)
    assert places.home.key(west).material_id == new["KeyMaterialId"], "it began with all"
    places.home.set_key(places.replica, lag_ms=300)
    time.sleep(0.31)
    assert decrypt(CiphertextBlob=new["CiphertextBlob"])["Plaintext"] == new["Plaintext"]
    assert data_key(places.there, MRK)["KeyMaterialId"] == new["KeyMaterialId"]


def test_describe_key_tells_all_regions(places):
    def about(client, name):
        return client.describe_key(KeyId=name)["KeyMetadata"]

    places.home.replicate(places.arn, "us-west-2")
    west = places.arn.replace(HOME, "us-west-2")
    for client, arn, kind in ((places.at_home, places.arn, "PRIMARY"),
                              (places.there, places.replica, "REPLICA")):
        told = about(client, MRK)
        assert (told["Arn"], told["KeyId"], told["MultiRegion"]) == (arn, MRK, True)
        assert told["MultiRegionConfiguration"] == {
            "MultiRegionKeyType": kind, "PrimaryKey": {"Arn": places.arn, "Region": HOME},
            "ReplicaKeys": [{"Arn": places.replica, "Region": AWAY},
                            {"Arn": west, "Region": "us-west-2"}]}
        assert told["CurrentKeyMaterialId"] == data_key(client, MRK)["KeyMaterialId"]
        assert abs(told["CreationDate"].timestamp() - time.time()) < 60
    places.home.set_key(places.replica, state="Disabled")
    assert (about(places.there, MRK)["KeyState"], about(places.there, MRK)["Enabled"]) == (
        "Disabled", False)
    assert about(places.at_home, MRK)["Enabled"]
    single = about(places.at_home, KEY_ID)
    assert single["MultiRegion"] is False and "MultiRegionConfiguration" not in single
    known = emu.MODEL.shape_for("KeyMetadata").members
    assert set(single) | set(told) <= set(known)


def test_a_primary_key_is_replicated(kms, client):
    kms.creating_ms, arn = 60000, kms.add_key(HOME, ACCOUNT, MRK)
    blob, there = seal(client, name=MRK), make_client(kms, AWAY)
    refused("AccessDeniedException", there.decrypt, CiphertextBlob=blob)
    told = client.replicate_key(KeyId=MRK, ReplicaRegion=AWAY)["ReplicaKeyMetadata"]
    assert (told["Arn"], told["KeyState"], told["Enabled"]) == (
        arn.replace(HOME, AWAY), "Creating", False)
    assert told["MultiRegionConfiguration"]["MultiRegionKeyType"] == "REPLICA"
    message = refused("KMSInvalidStateException", there.decrypt, CiphertextBlob=blob)
    assert message.endswith("is creating.")
    assert 0 < kms.key(told["Arn"]).ready - time.monotonic() <= 60
    kms.key(told["Arn"]).ready = time.monotonic()
    assert there.decrypt(CiphertextBlob=blob)["Plaintext"] == b"x"
    assert there.describe_key(KeyId=MRK)["KeyMetadata"]["KeyState"] == "Enabled"
    for region, kind in ((AWAY, "AlreadyExistsException"), (HOME, "AlreadyExistsException"),
                         ("cn-north-1", "UnsupportedOperationException"),
                         ("Frankfurt", "ValidationException"), (None, "ValidationException")):
        refused(kind, client.replicate_key, KeyId=arn, ReplicaRegion=region)
    refused("UnsupportedOperationException", there.replicate_key, KeyId=MRK,
            ReplicaRegion="eu-west-3")
    refused("UnsupportedOperationException", client.replicate_key, KeyId=MRK,
            ReplicaRegion="eu-west-3", Policy="{}")
    client.replicate_key(KeyId=arn, ReplicaRegion="eu-west-3")


@pytest.mark.parametrize("kind, made", [
    ("UnsupportedOperationException", {"key_id": None}), ("NotFoundException", None),
    ("DisabledException", {"state": "Disabled"}),
    ("KMSInvalidStateException", {"state": "PendingDeletion"}),
    ("KMSInvalidStateException", {"state": "Updating"}),
    ("AccessDeniedException", {"denied": ["ReplicateKey"]}),
    ("AccessDeniedException", {"account": OTHER_ACCOUNT, "shared_with": [ACCOUNT]})])
def test_a_key_that_cannot_be_replicated(kms, client, kind, made):
    arn = ALIAS if made is None else kms.add_key(
        **{"region": HOME, "account": ACCOUNT, "key_id": MRK, **made})
    refused(kind, client.replicate_key, KeyId=arn, ReplicaRegion=AWAY)
    assert not any(region == AWAY for region, _, _ in kms.keys)


@pytest.mark.parametrize("denied", [["ReplicateKey"], ["CreateKey"]])
def test_to_replicate_a_key_is_to_create_one(kms, denied):
    kms.add_user("AKIDPOOR", "s", ACCOUNT, denied=denied)
    refused("AccessDeniedException", make_client(kms, access_key_id="AKIDPOOR",
                                                 secret="s").replicate_key,
            KeyId=kms.add_key(HOME, ACCOUNT, MRK), ReplicaRegion=AWAY)


def test_a_test_cannot_make_what_aws_has_not(kms):
    arn = kms.add_key(HOME, ACCOUNT, MRK)
    replica = kms.replicate(arn, AWAY)
    for bad in (lambda: kms.replicate(arn, AWAY), lambda: kms.replicate(replica, "eu-west-3"),
                lambda: kms.replicate(KEY_ARN, AWAY), lambda: kms.remove_key(arn),
                lambda: kms.add_key(HOME, ACCOUNT, "mrk-" + KEY_ID)):
        with pytest.raises(ValueError):
            bad()
    kms.set_key(arn, usage="SIGN_VERIFY")
    assert kms.key(replica).usage == "SIGN_VERIFY" != kms.key(KEY_ARN).usage
    kms.remove_key(replica)
    kms.remove_key(arn)


# ---- a region is a place -------------------------------------------------------------------------

def test_a_place_answers_for_its_region_only(two):
    home, away = two.home, two.away
    assert home.url != away.url and home.region == HOME and away.region == AWAY
    assert home.url.startswith("https:") and away.url.startswith("https:")
    for place, own, other in ((home, HOME, AWAY), (away, AWAY, HOME)):
        message = refused("InvalidSignatureException", data_key, make_client(place, other), MRK)
        assert message == f"Credential should be scoped to a valid region, not '{other}'."
        assert data_key(make_client(place, own), MRK)
        refused("SignatureDoesNotMatch", sts_client(place, region=other).get_caller_identity,
                status=403)
        assert sts_client(place, region=own).get_caller_identity()["Account"] == ACCOUNT
        assert [each["region"] for each in place.requests] == [other, own] * 2
    assert home.add_key(HOME, ACCOUNT) != away.add_key(AWAY, ACCOUNT)
    assert emu.Emulator(region="eu-west-1").key(KEY_ARN.replace(HOME, "eu-west-1"))


def test_each_place_has_faults_and_a_log_and_a_clock_of_its_own(two):
    home, away = two.home, two.away
    home.fault("*", "throttle", times=0)
    away.fault("Decrypt", "error", type="KMSInternalException")
    blob = seal(two.there, b"x", MRK)
    refused("ThrottlingException", seal, two.at_home, b"x", MRK)
    refused("KMSInternalException", two.there.decrypt, CiphertextBlob=blob, status=500)
    assert (home.count(), away.count()) == (1, 2) and home.connections == away.connections == 1
    home.clear_faults()
    home.clock_offset = 400
    refused("InvalidSignatureException", seal, two.at_home, b"x", MRK)
    assert two.there.decrypt(CiphertextBlob=blob)
    home.reset_log()
    assert (home.count(), away.count()) == (0, 3)


@pytest.mark.parametrize("stopped", [0, 1])
def test_a_place_goes_away_and_comes_back_while_the_other_lives(two, stopped):
    places = [(two.home, two.at_home), (two.away, two.there)]
    (gone, its_client), (_, client) = places[stopped], places[1 - stopped]
    blob, port = seal(its_client, b"x", MRK), gone.port
    gone.stop()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port))
    assert client.decrypt(CiphertextBlob=blob)["Plaintext"] == b"x"
    gone.start()
    assert gone.port == port and its_client.decrypt(CiphertextBlob=blob)["Plaintext"] == b"x"


def test_each_place_has_users_of_its_own_and_all_know_a_session(two):
    home, away = two.home, two.away
    home.add_user("AKIDHOME", "s", ACCOUNT)
    assert seal(make_client(home, HOME, "AKIDHOME", "s"), b"x", MRK)
    refused("UnrecognizedClientException", seal, make_client(away, AWAY, "AKIDHOME", "s"), b"x",
            MRK)
    assert "AKIDHOME" in home.sister("eu-west-3").users
    home.add_role(ROLE.replace(OTHER_ACCOUNT, ACCOUNT))
    keys = sts_client(away, region=AWAY).assume_role(
        **{**NAMED, "RoleArn": ROLE.replace(OTHER_ACCOUNT, ACCOUNT)})["Credentials"]
    clients = [uses(place, keys, region=place.region) for place in (home, away)]
    for client in clients:
        assert seal(client, b"x", MRK)
    home.remove_role(ROLE.replace(OTHER_ACCOUNT, ACCOUNT))
    for client in clients:
        refused("UnrecognizedClientException", seal, client, b"x", MRK)


def hangs(port, seconds=1.2) -> bool:
    """Whether a TCP connection is not made, and not refused; a second later the client's kernel
    tries again."""
    try:
        socket.create_connection(("127.0.0.1", port), timeout=seconds).close()
    except TimeoutError:
        return True
    return False


def test_a_black_hole_takes_what_is_sent_to_it(two):
    """New connections hang and kept ones are silent; afterwards who has waited gets his answer."""
    home, members = two.home, {"KeyId": MRK, "NumberOfBytes": 8}
    wires = [Wire(home), Wire(home)]
    assert all(wire.ask(members)[0] == 200 for wire in wires)
    for _ in range(2):
        home.black_hole()
        home.black_hole()
        assert hangs(home.port) and hangs(home.port, 0.2)
        wires[0].sock.settimeout(0.3)
        wires[0].send(*wires[0].sign(members))
        with pytest.raises(TimeoutError):
            wires[0].sock.recv(1)
        assert seal(two.there, b"x", MRK) and home.connections == 2
        asked = home.count()
        wires[1].send(*wires[1].sign({"KeyId": MRK}, "RotateKeyOnDemand"))
        wires[1].sock.close()
        home.black_hole(False)
        wires[0].sock.settimeout(20)
        assert wires[0].reply()[0] == 200
        wires[1] = Wire(home)
        assert wires[1].ask(members)[0] == 200 and home.connections == 3
        assert home.count() - asked == 2 and home.count("RotateKeyOnDemand") == 0
        home.reset_log()
        home.connections = 2
    home.black_hole()
    wires[0].send(*wires[0].sign({"KeyId": MRK}, "RotateKeyOnDemand"))
    home.stop()
    assert wires[0].all() == b"" and not home.open and home.count() == 0
    with pytest.raises(ConnectionRefusedError):
        hangs(home.port)
    home.start()
    assert Wire(home).ask(members)[0] == 200


@pytest.mark.parametrize("lag_ms", [0, 60000])
def test_a_key_is_handed_over_to_another_emulator(kms, client, lag_ms):
    """With all its materials, which the other knows at once; what comes later may lag."""
    kms.rotation_ms, arn = 0, kms.add_key(HOME, ACCOUNT, MRK)
    blobs = [seal(client, name=MRK)]
    client.rotate_key_on_demand(KeyId=MRK)
    blobs.append(seal(client, name=MRK))
    with emu.Emulator(region=AWAY) as away:
        away.ca = None
        handed = json.loads(json.dumps(kms.export_key(arn)))
        assert away.import_key(AWAY, handed, "alias/x", lag_ms=lag_ms) == arn.replace(HOME, AWAY)
        there = make_client(away, AWAY)
        for blob in blobs:
            assert there.decrypt(CiphertextBlob=blob, KeyId="alias/x")["Plaintext"] == b"x"
        client.rotate_key_on_demand(KeyId=MRK)
        new = seal(client, name=MRK)
        refused("InvalidCiphertextException", there.decrypt, CiphertextBlob=new)
        away.set_key(arn.replace(HOME, AWAY), state="Disabled")
        away.import_key(AWAY, kms.export_key(arn))
        refused("DisabledException", there.decrypt, CiphertextBlob=new)
        away.set_key(arn.replace(HOME, AWAY), state="Enabled")
        if lag_ms:
            refused("InvalidCiphertextException", there.decrypt, CiphertextBlob=new)
        else:
            assert there.decrypt(CiphertextBlob=new)["Plaintext"] == b"x"
        told = there.describe_key(KeyId=MRK)["KeyMetadata"]["MultiRegionConfiguration"]
        assert told["PrimaryKey"] == {"Arn": arn, "Region": HOME}
        assert [each["Region"] for each in told["ReplicaKeys"]] == [AWAY]
        assert away.key(arn.replace(HOME, AWAY)).materials.rotations == 2


# ---- a region is a process -----------------------------------------------------------------------

@pytest.fixture(scope="module", params=["plain", "tls"])
def processes(request, certs):
    """The two, their clients, and the CA that the clients trust."""
    tls = certs.good if request.param == "tls" else None
    with regions.two_regions(tls) as (home, other):
        home.ca = other.ca = certs.ca
        yield home, other
        assert home.log()["crashes"] == other.log()["crashes"] == []


@pytest.fixture
def pair(processes):
    for region in processes:
        region.clear_faults()
        region.reset_log()
    return [(region, make_client(region, region.region)) for region in processes]


def test_two_processes_have_one_multi_region_key(pair):
    (home, at_home), (other, there) = pair
    assert home.pid != other.pid and other.arn == home.arn.replace(home.region, other.region)
    for maker, opener, arn in ((at_home, there, other.arn), (there, at_home, home.arn)):
        opened = opener.decrypt(CiphertextBlob=seal(maker, b"x", MRK), KeyId=arn)
        assert opened["Plaintext"] == b"x" and opened["KeyId"] == arn
    told = [client.describe_key(KeyId=MRK)["KeyMetadata"] for client in (at_home, there)]
    assert [each["MultiRegionConfiguration"]["MultiRegionKeyType"] for each in told] == [
        "PRIMARY", "REPLICA"]
    for each in told:
        assert each["MultiRegionConfiguration"]["PrimaryKey"]["Arn"] == home.arn
        assert each["MultiRegionConfiguration"]["ReplicaKeys"] == [
            {"Arn": other.arn, "Region": other.region}]
    refused("InvalidSignatureException", seal, make_client(home, other.region), b"x", MRK)
    refused("UnsupportedOperationException", there.rotate_key_on_demand, KeyId=MRK)
    assert [each["region"] for each in home.log()["requests"]].count(home.region) == 3


def test_the_other_process_learns_of_a_rotation_when_it_is_told(pair):
    (home, at_home), (other, there) = pair
    home.set(rotation_ms=0)
    at_home.rotate_key_on_demand(KeyId=MRK)
    new, old = data_key(at_home, MRK), data_key(there, MRK)
    refused("InvalidCiphertextException", there.decrypt, CiphertextBlob=new["CiphertextBlob"])
    assert at_home.decrypt(CiphertextBlob=old["CiphertextBlob"])["Plaintext"] == old["Plaintext"]
    other.set_key(other.arn, lag_ms=60000)
    regions.catch_up(home, other)
    refused("InvalidCiphertextException", there.decrypt, CiphertextBlob=new["CiphertextBlob"])
    other.set_key(other.arn, lag_ms=0)
    assert there.decrypt(CiphertextBlob=new["CiphertextBlob"])["Plaintext"] == new["Plaintext"]
    assert data_key(there, MRK)["KeyMaterialId"] == new["KeyMaterialId"]
    for blob in (old, new):
        assert there.decrypt(CiphertextBlob=blob["CiphertextBlob"])["Plaintext"] == (
            blob["Plaintext"])


@pytest.mark.parametrize("away", [0, 1])
def test_a_process_is_away_while_the_other_lives(pair, away):
    """Paused, it takes connections and is silent; stopped, it refuses; in a black hole, to connect
    hangs."""
    (gone, its_client), (_, client) = pair[away], pair[1 - away]
    blob = seal(its_client, b"x", MRK)

    def lives():
        return client.decrypt(CiphertextBlob=blob)["Plaintext"] == b"x"

    gone.tls = gone.url.startswith("https")
    wire = Wire(gone)
    gone.pause()
    assert not hangs(gone.port) and lives()
    wire.send(*wire.sign({"KeyId": MRK, "NumberOfBytes": 8}, region=gone.region))
    wire.sock.settimeout(0.5)
    with pytest.raises(TimeoutError):
        wire.sock.recv(1)
    assert lives()
    gone.resume()
    wire.sock.settimeout(20)
    assert wire.reply()[0] == 200
    gone.stop()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", gone.port))
    assert lives()
    gone.start()
    assert its_client.decrypt(CiphertextBlob=blob)["Plaintext"] == b"x"
    gone.black_hole()
    assert hangs(gone.port) and lives()
    gone.black_hole(False)
    assert its_client.decrypt(CiphertextBlob=blob)["Plaintext"] == b"x"
    gone.pause()
    with contextlib.ExitStack() as stack:
        for _ in range(9):      # more than one can wait again
            stack.enter_context(socket.create_connection(("127.0.0.1", gone.port), timeout=5))
        gone.resume()
    gone.fault("*", "error", times=0, type="KMSInternalException")
    refused("KMSInternalException", its_client.decrypt, CiphertextBlob=blob, status=500)
    gone.clear_faults()
    gone.fault("*", "throttle", times=1)
    refused("ThrottlingException", its_client.decrypt, CiphertextBlob=blob)
    assert its_client.decrypt(CiphertextBlob=blob)["Plaintext"] == b"x" and lives()
    with pytest.raises(servers.ServerError, match="no such fault"):
        gone.fault("*", "nonsense")


def test_both_processes_end_even_if_one_is_paused():
    with regions.two_regions() as (home, other):
        pids = [home.pid, other.pid]
        other.pause()
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)
    assert other.code == 0, "in good order"


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
