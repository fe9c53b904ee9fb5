"""The emulator's faithfulness: botocore's real KMS client runs every action against it.

All but what has nothing to do with the wire runs twice, over plain HTTP and over TLS.
"""

import base64
import concurrent.futures
import email.utils
import gzip
import http.client
import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import time
import warnings
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
import kms_emulator as emu                                          # noqa: E402
from kms_emulator import ACCOUNT, ALIAS, KEY_ARN, KEY_ID, OTHER_ACCOUNT     # noqa: E402

import botocore                                                     # noqa: E402
import botocore.session                                             # noqa: E402
from botocore.auth import SigV4Auth                                 # noqa: E402
from botocore.awsrequest import AWSRequest                          # noqa: E402
from botocore.config import Config                                  # noqa: E402
from botocore.credentials import Credentials                        # noqa: E402
from botocore.exceptions import ClientError, ConnectionClosedError  # noqa: E402

PROGRAM = Path(__file__).with_name("kms_emulator.py")
SESSION = botocore.session.Session()
CONTEXT = {"app": "keyring_aws", "key_id": "clé %25", "key_type": "AES"}


# ---- fixtures -----------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def cert(tmp_path_factory):
    """A self-signed certificate for 127.0.0.1, and its key."""
    folder = tmp_path_factory.mktemp("cert")
    subprocess.run(["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2",
                    "-subj", "/CN=emulator", "-addext", "subjectAltName=IP:127.0.0.1",
                    "-keyout", folder / "key.pem", "-out", folder / "cert.pem"],
                   check=True, capture_output=True)
    return str(folder / "cert.pem"), str(folder / "key.pem")


@pytest.fixture(params=["plain", "tls"])
def kms(request, cert):
    with emu.Emulator(*(cert if request.param == "tls" else ())) as emulator:
        emulator.ca = cert[0]
        yield emulator
    assert emulator.crashes == []


PLAIN = pytest.mark.parametrize("kms", ["plain"], indirect=True)     # TLS would add nothing


def make_client(kms, region="us-east-1", access_key_id=emu.ACCESS_KEY_ID, secret=emu.SECRET,
                token=None, attempts=1):
    return SESSION.create_client(
        "kms", region_name=region, endpoint_url=kms.url, verify=kms.ca,
        aws_access_key_id=access_key_id, aws_secret_access_key=secret, aws_session_token=token,
        config=Config(parameter_validation=False, proxies={}, connect_timeout=20, read_timeout=20,
                      retries={"total_max_attempts": attempts, "mode": "standard"}))


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
        self.sock.sendall(self.text(headers, body, first))

    @staticmethod
    def text(headers, body, first="POST / HTTP/1.1"):
        headers = {"Content-Length": str(len(body)), **headers}
        lines = [first, *(f"{name}: {value}" for name, value in headers.items()), "", ""]
        return "\r\n".join(lines).encode() + body

    def all(self):
        """What comes until the stream ends, well or badly."""
        data = b""
        try:
            while part := self.sock.recv(65536):
                data += part
        except ConnectionResetError:
            pass
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
        return response.status, {name.lower(): value for name, value in response.getheaders()}, \
            response.read()

    def ask(self, members=None, **kwargs):
        self.send(*self.sign({"KeyId": KEY_ID, "NumberOfBytes": 8} if members is None else members,
                             **kwargs))
        return self.reply()

    def kind(self, *args, **kwargs):
        """The error type of a request's reply, or OK."""
        if args or kwargs:
            self.send(*args, **kwargs)
        status, _, body = self.reply()
        return "OK" if status == 200 else json.loads(body)["__type"]


@pytest.fixture
def wire(kms):
    wire = Wire(kms)
    yield wire
    wire.sock.close()


# ---- the judge itself ---------------------------------------------------------------------------


def test_botocore_is_the_new_one():
    version = tuple(int(each) for each in botocore.__version__.split("+")[0].split(".")[:2])
    assert version >= (1, 43), (
        f"botocore {botocore.__version__} of {botocore.__file__} is too old: make the private "
        "tree (tests/servers.py), or name one in KEYRING_AWS_TREE")
    assert set(emu.ACTIONS) <= set(emu.MODEL.operation_names)
    decrypt = emu.MODEL.operation_model("Decrypt").input_shape.members
    assert "DryRun" in decrypt and set(emu.NOT_EMULATED) <= set(decrypt)


def test_finder_takes_no_compiled_modules_from_the_tree():
    finders = [each for each in sys.meta_path if isinstance(each, emu.TreeFinder)]
    assert len(finders) == 2 and botocore.__file__.startswith(finders[0].folder)
    assert finders[0].folder not in sys.path
    for finder in finders:
        assert finder.find_spec("yaml") is None
        assert finder.find_spec("botocore", ["/a/package"]) is None


# ---- every action, good -------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 31, 32, 33, 4096])
def test_encrypt_decrypt(client, size):
    plain = os.urandom(size)
    sealed = client.encrypt(KeyId=KEY_ID, Plaintext=plain, EncryptionContext=CONTEXT)
    assert sealed["KeyId"] == KEY_ARN and sealed["EncryptionAlgorithm"] == "SYMMETRIC_DEFAULT"
    assert "KeyMaterialId" not in sealed
    blob = sealed["CiphertextBlob"]
    assert len(blob) <= 6144 and (size < 16 or plain not in blob)
    opened = client.decrypt(CiphertextBlob=blob, EncryptionContext=CONTEXT, KeyId=KEY_ARN)
    assert opened["Plaintext"] == plain and opened["KeyId"] == KEY_ARN
    assert opened["EncryptionAlgorithm"] == "SYMMETRIC_DEFAULT"
    assert len(opened["KeyMaterialId"]) == 64


def test_two_blobs_of_one_plaintext_differ(client):
    one, two = (client.encrypt(KeyId=KEY_ID, Plaintext=b"x" * 64)["CiphertextBlob"]
                for _ in range(2))
    assert one != two


@pytest.mark.parametrize("size, given", [
    (1, {"NumberOfBytes": 1}), (1024, {"NumberOfBytes": 1024}),
    (16, {"KeySpec": "AES_128"}), (32, {"KeySpec": "AES_256"})])
def test_data_keys(client, size, given):
    made = client.generate_data_key(KeyId=ALIAS, EncryptionContext=CONTEXT, **given)
    bare = client.generate_data_key_without_plaintext(KeyId=ALIAS, EncryptionContext=CONTEXT,
                                                      **given)
    assert len(made["Plaintext"]) == size and "Plaintext" not in bare
    for each in (made, bare):
        opened = client.decrypt(CiphertextBlob=each["CiphertextBlob"], EncryptionContext=CONTEXT)
        assert each["KeyId"] == KEY_ARN and len(opened["Plaintext"]) == size
        assert each["KeyMaterialId"] == opened["KeyMaterialId"]
        assert opened["Plaintext"] == each.get("Plaintext", opened["Plaintext"])


def test_reencrypt(kms, client):
    other = kms.add_key("us-east-1", ACCOUNT)
    blob = client.encrypt(KeyId=KEY_ID, Plaintext=b"secret", EncryptionContext=CONTEXT)
    moved = client.re_encrypt(
        CiphertextBlob=blob["CiphertextBlob"], SourceEncryptionContext=CONTEXT,
        SourceKeyId=KEY_ARN, DestinationKeyId=other, DestinationEncryptionContext={"b": "2"})
    assert (moved["SourceKeyId"], moved["KeyId"]) == (KEY_ARN, other)
    assert moved["SourceKeyMaterialId"] == kms.key(KEY_ARN).materials.current_id
    assert moved["DestinationKeyMaterialId"] == kms.key(other).materials.current_id
    assert moved["SourceEncryptionAlgorithm"] == moved["DestinationEncryptionAlgorithm"]
    opened = client.decrypt(CiphertextBlob=moved["CiphertextBlob"], EncryptionContext={"b": "2"})
    assert opened["Plaintext"] == b"secret" and opened["KeyId"] == other


def test_describe_key(kms, client):
    about = client.describe_key(KeyId=ALIAS)["KeyMetadata"]
    assert about["Arn"] == KEY_ARN and about["KeyId"] == KEY_ID and about["Enabled"]
    assert about["AWSAccountId"] == ACCOUNT and about["KeyState"] == "Enabled"
    assert about["CurrentKeyMaterialId"] == kms.key(KEY_ARN).materials.current_id
    assert abs(about["CreationDate"].timestamp() - time.time()) < 60 and not about["MultiRegion"]
    kms.key(KEY_ARN).state = "Disabled"
    assert not client.describe_key(KeyId=KEY_ARN)["KeyMetadata"]["Enabled"]


def test_enable_rotation_and_status(kms, client):
    assert not client.get_key_rotation_status(KeyId=KEY_ID)["KeyRotationEnabled"]
    client.enable_key_rotation(KeyId=KEY_ID)
    assert client.get_key_rotation_status(KeyId=KEY_ARN)["RotationPeriodInDays"] == 365
    client.enable_key_rotation(KeyId=KEY_ID, RotationPeriodInDays=90)
    status = client.get_key_rotation_status(KeyId=KEY_ID)
    assert status["KeyRotationEnabled"] and status["RotationPeriodInDays"] == 90
    assert status["KeyId"] == KEY_ARN and status["NextRotationDate"].timestamp() > time.time()
    kms.key(KEY_ARN).state = "PendingDeletion"
    assert not client.get_key_rotation_status(KeyId=KEY_ID)["KeyRotationEnabled"]


# ---- rotation on demand -------------------------------------------------------------------------


def test_rotation_is_asynchronous(kms, client):
    kms.rotation_ms = 60000
    old = client.generate_data_key(KeyId=KEY_ID, NumberOfBytes=8)
    assert client.rotate_key_on_demand(KeyId=KEY_ARN)["KeyId"] == KEY_ARN
    assert "OnDemandRotationStartDate" in client.get_key_rotation_status(KeyId=KEY_ID)
    during = client.generate_data_key(KeyId=KEY_ID, NumberOfBytes=8)
    assert during["KeyMaterialId"] == old["KeyMaterialId"]
    refused("ConflictException", client.rotate_key_on_demand, KeyId=KEY_ID)
    kms.key(KEY_ARN).materials.due = time.monotonic()
    new = client.generate_data_key(KeyId=KEY_ID, NumberOfBytes=8)
    assert new["KeyMaterialId"] != old["KeyMaterialId"]
    assert "OnDemandRotationStartDate" not in client.get_key_rotation_status(KeyId=KEY_ID)
    opened = client.decrypt(CiphertextBlob=old["CiphertextBlob"])
    assert opened["Plaintext"] == old["Plaintext"]
    assert opened["KeyMaterialId"] == old["KeyMaterialId"]
    renewed = client.re_encrypt(CiphertextBlob=old["CiphertextBlob"], DestinationKeyId=KEY_ID)
    assert renewed["SourceKeyMaterialId"] == old["KeyMaterialId"]
    assert renewed["DestinationKeyMaterialId"] == new["KeyMaterialId"]


def test_rotation_takes_its_time(kms, client):
    kms.rotation_ms = 50
    start, old = time.monotonic(), client.describe_key(KeyId=KEY_ID)["KeyMetadata"]
    client.rotate_key_on_demand(KeyId=KEY_ID)
    while (client.describe_key(KeyId=KEY_ID)["KeyMetadata"]["CurrentKeyMaterialId"]
           == old["CurrentKeyMaterialId"]):
        assert time.monotonic() < start + 10
    assert time.monotonic() >= start + 0.05


def test_rotation_limit(kms, client):
    kms.rotation_ms = 0
    for _ in range(25):
        client.rotate_key_on_demand(KeyId=KEY_ID)
    refused("LimitExceededException", client.rotate_key_on_demand, KeyId=KEY_ID)


def test_rotation_refuses_aliases(kms, client):
    for call in (client.rotate_key_on_demand, client.enable_key_rotation,
                 client.get_key_rotation_status):
        refused("NotFoundException", call, KeyId=ALIAS)
        refused("InvalidArnException", call, KeyId=f"arn:aws:kms:us-east-1:{ACCOUNT}:{ALIAS}")


@PLAIN
@pytest.mark.parametrize("kind, attributes", [
    ("DisabledException", {"state": "Disabled"}),
    ("KMSInvalidStateException", {"state": "PendingDeletion"}),
    ("UnsupportedOperationException", {"spec": "RSA_2048"}),
    ("UnsupportedOperationException", {"origin": "EXTERNAL_KEY_STORE"})])
def test_rotation_refuses_such_keys(kms, client, kind, attributes):
    kms.set_key(KEY_ARN, **attributes)
    refused(kind, client.rotate_key_on_demand, KeyId=KEY_ID)
    refused(kind, client.enable_key_rotation, KeyId=KEY_ID)


def test_rotation_is_not_for_other_accounts(kms, client):
    foreign = kms.add_key("us-east-1", OTHER_ACCOUNT, shared_with=(ACCOUNT,))
    client.encrypt(KeyId=foreign, Plaintext=b"x")
    refused("AccessDeniedException", client.rotate_key_on_demand, KeyId=foreign)


# ---- keys, regions, accounts, partitions --------------------------------------------------------


def test_key_ids(kms, client):
    unknown = "99999999-2222-3333-4444-555555555555"
    seal = dict(Plaintext=b"x")
    for name in (KEY_ID, KEY_ARN, ALIAS, f"arn:aws:kms:us-east-1:{ACCOUNT}:{ALIAS}"):
        assert client.encrypt(KeyId=name, **seal)["KeyId"] == KEY_ARN
    message = refused("NotFoundException", client.encrypt, KeyId=unknown, **seal)
    assert message == f"Key 'arn:aws:kms:us-east-1:{ACCOUNT}:key/{unknown}' does not exist"
    for bad in ("alias/nobody", "nonsense", "arn:aws:kms:us-east-1:1:key/x",
                f"arn:aws-cn:kms:us-east-1:{ACCOUNT}:key/{KEY_ID}"):
        refused("NotFoundException", client.encrypt, KeyId=bad, **seal)
    refused("InvalidArnException", client.rotate_key_on_demand, KeyId="arn:aws:s3:::bucket")


def test_arn_of_another_region(kms, client):
    west = kms.add_key("us-west-2", ACCOUNT)
    assert refused("NotFoundException", client.generate_data_key, KeyId=west,
                   NumberOfBytes=1) == "Invalid arn us-west-2"
    there = make_client(kms, "us-west-2")
    blob = there.encrypt(KeyId=west, Plaintext=b"x")["CiphertextBlob"]
    assert there.decrypt(CiphertextBlob=blob, KeyId=west)["KeyId"] == west
    assert "does not exist" in refused("AccessDeniedException", client.decrypt, CiphertextBlob=blob)
    refused("NotFoundException", there.encrypt, KeyId=KEY_ARN, Plaintext=b"x")
    refused("NotFoundException", there.encrypt, KeyId=ALIAS, Plaintext=b"x")
    assert [each["region"] for each in kms.requests].count("us-west-2") == 4


def test_the_same_key_id_in_two_regions_is_two_keys(kms, client):
    twin = kms.add_key("us-west-2", ACCOUNT, KEY_ID, ALIAS)
    blob = client.encrypt(KeyId=KEY_ID, Plaintext=b"x")["CiphertextBlob"]
    there = make_client(kms, "us-west-2")
    assert there.encrypt(KeyId=ALIAS, Plaintext=b"x")["KeyId"] == twin
    refused("AccessDeniedException", there.decrypt, CiphertextBlob=blob)


def test_multi_region_keys(kms, client):
    first = kms.add_key("us-east-1", ACCOUNT, multi_region=True)
    second = kms.add_key("eu-west-1", ACCOUNT, first.split("/")[1], multi_region=True)
    there = make_client(kms, "eu-west-1")
    for maker, made_with, opener, opened_with in ((client, first, there, second),
                                                  (there, second, client, first)):
        blob = maker.encrypt(KeyId=made_with, Plaintext=b"x")["CiphertextBlob"]
        assert opener.decrypt(CiphertextBlob=blob, KeyId=opened_with)["KeyId"] == opened_with
    about = there.describe_key(KeyId=second)["KeyMetadata"]["MultiRegionConfiguration"]
    assert about["MultiRegionKeyType"] == "REPLICA" and about["PrimaryKey"]["Arn"] == first
    refused("UnsupportedOperationException", there.rotate_key_on_demand, KeyId=second)
    kms.rotation_ms = 0
    client.rotate_key_on_demand(KeyId=first)
    assert (there.generate_data_key(KeyId=second, NumberOfBytes=1)["KeyMaterialId"]
            == client.generate_data_key(KeyId=first, NumberOfBytes=1)["KeyMaterialId"])


@PLAIN
@pytest.mark.parametrize("region, partition", [
    ("cn-north-1", "aws-cn"), ("us-gov-west-1", "aws-us-gov"), ("us-iso-east-1", "aws-iso"),
    ("us-isob-east-1", "aws-iso-b"), ("eu-isoe-west-1", "aws-iso-e"),
    ("us-isof-south-1", "aws-iso-f"), ("eusc-de-east-1", "aws-eusc"), ("mx-central-1", "aws")])
def test_partitions(kms, region, partition):
    arn = kms.add_key(region, ACCOUNT)
    assert arn.startswith(f"arn:{partition}:kms:{region}:{ACCOUNT}:key/")
    assert make_client(kms, region).encrypt(KeyId=arn, Plaintext=b"x")["KeyId"] == arn


def test_other_accounts(kms, client):
    closed = kms.add_key("us-east-1", OTHER_ACCOUNT, alias="alias/theirs")
    refused("AccessDeniedException", client.encrypt, KeyId=closed, Plaintext=b"x")
    nowhere = f"arn:aws:kms:us-east-1:{OTHER_ACCOUNT}:key/{KEY_ID}"
    refused("AccessDeniedException", client.encrypt, KeyId=nowhere, Plaintext=b"x")
    refused("NotFoundException", client.encrypt, KeyId="alias/theirs", Plaintext=b"x")
    kms.key(closed).shared_with = (ACCOUNT,)
    assert client.encrypt(KeyId=f"arn:aws:kms:us-east-1:{OTHER_ACCOUNT}:alias/theirs",
                          Plaintext=b"x")["KeyId"] == closed
    kms.add_user("AKIDTHEIRS", "their-secret", OTHER_ACCOUNT)
    theirs = make_client(kms, access_key_id="AKIDTHEIRS", secret="their-secret")
    assert theirs.encrypt(KeyId="alias/theirs", Plaintext=b"x")["KeyId"] == closed
    assert kms.requests[-1]["account"] == OTHER_ACCOUNT


def test_removed_key(kms, client):
    blob = client.encrypt(KeyId=KEY_ID, Plaintext=b"x")["CiphertextBlob"]
    kms.remove_key(KEY_ARN)
    refused("AccessDeniedException", client.decrypt, CiphertextBlob=blob)
    refused("NotFoundException", client.decrypt, CiphertextBlob=blob, KeyId=KEY_ARN)
    refused("NotFoundException", client.describe_key, KeyId=ALIAS)


# ---- what seals must open, and nothing else -----------------------------------------------------


@PLAIN
@pytest.mark.parametrize("context", [
    {}, {**CONTEXT, "more": "1"}, {**CONTEXT, "app": "Keyring_aws"},
    {"APP" if name == "app" else name: value for name, value in CONTEXT.items()}])
def test_context_must_match(client, context):
    blob = client.encrypt(KeyId=KEY_ID, Plaintext=b"x", EncryptionContext=CONTEXT)["CiphertextBlob"]
    message = refused("InvalidCiphertextException", client.decrypt, CiphertextBlob=blob,
                      EncryptionContext=context)
    assert message == ""                # KMS says nothing either
    refused("InvalidCiphertextException", client.re_encrypt, CiphertextBlob=blob,
            SourceEncryptionContext=context, DestinationKeyId=KEY_ID)


def test_context_order_does_not_matter(client):
    blob = client.encrypt(KeyId=KEY_ID, Plaintext=b"x", EncryptionContext=CONTEXT)["CiphertextBlob"]
    turned = dict(reversed(CONTEXT.items()))
    assert client.decrypt(CiphertextBlob=blob, EncryptionContext=turned)["Plaintext"] == b"x"


def test_context_values_may_not_be_empty(client):
    for call in (client.generate_data_key, client.generate_data_key_without_plaintext):
        refused("ValidationException", call, KeyId=KEY_ID, NumberOfBytes=1,
                EncryptionContext={"user_id": ""})
    refused("ValidationException", client.encrypt, KeyId=KEY_ID, Plaintext=b"x",
            EncryptionContext={"user_id": ""})


def test_pins(kms, client):
    other = kms.add_key("us-east-1", ACCOUNT, alias="alias/other")
    blob = client.encrypt(KeyId=KEY_ID, Plaintext=b"x")["CiphertextBlob"]
    for pin in (KEY_ID, KEY_ARN, ALIAS):
        assert client.decrypt(CiphertextBlob=blob, KeyId=pin)["Plaintext"] == b"x"
        client.re_encrypt(CiphertextBlob=blob, SourceKeyId=pin, DestinationKeyId=other)
    for pin in (other, "alias/other"):
        refused("IncorrectKeyException", client.decrypt, CiphertextBlob=blob, KeyId=pin)
        refused("IncorrectKeyException", client.re_encrypt, CiphertextBlob=blob, SourceKeyId=pin,
                DestinationKeyId=other)
    refused("NotFoundException", client.decrypt, CiphertextBlob=blob, KeyId="alias/nobody")


@PLAIN
def test_every_damaged_blob_is_refused(kms):
    """Byte by byte, by the service itself: over the wire it would take long."""
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


@PLAIN
@pytest.mark.parametrize("kind, attributes", [
    ("DisabledException", {"state": "Disabled"}),
    ("KMSInvalidStateException", {"state": "PendingDeletion"}),
    ("KMSInvalidStateException", {"state": "PendingImport"}),
    ("KMSInvalidStateException", {"state": "Unavailable"}),
    ("InvalidKeyUsageException", {"usage": "SIGN_VERIFY"}),
    ("InvalidKeyUsageException", {"spec": "RSA_2048"})])
def test_unusable_keys(kms, client, kind, attributes):
    other = kms.add_key("us-east-1", ACCOUNT)
    blob = client.encrypt(KeyId=KEY_ID, Plaintext=b"x")["CiphertextBlob"]
    fine = client.encrypt(KeyId=other, Plaintext=b"x")["CiphertextBlob"]
    kms.set_key(KEY_ARN, **attributes)
    refused(kind, client.generate_data_key, KeyId=KEY_ID, NumberOfBytes=1)
    refused(kind, client.generate_data_key_without_plaintext, KeyId=KEY_ID, NumberOfBytes=1)
    refused(kind, client.encrypt, KeyId=KEY_ID, Plaintext=b"x")
    refused(kind, client.decrypt, CiphertextBlob=blob)
    refused(kind, client.re_encrypt, CiphertextBlob=blob, DestinationKeyId=other)
    refused(kind, client.re_encrypt, CiphertextBlob=fine, DestinationKeyId=KEY_ID)


def test_custom_key_store_makes_no_data_keys(kms, client):
    kms.set_key(KEY_ARN, origin="EXTERNAL_KEY_STORE")
    refused("UnsupportedOperationException", client.generate_data_key, KeyId=KEY_ID,
            NumberOfBytes=1)
    client.encrypt(KeyId=KEY_ID, Plaintext=b"x")


# ---- bad requests -------------------------------------------------------------------------------


@PLAIN
@pytest.mark.parametrize("action, members", [
    ("GenerateDataKey", {"KeyId": KEY_ID, "NumberOfBytes": 0}),
    ("GenerateDataKey", {"KeyId": KEY_ID, "NumberOfBytes": 1025}),
    ("GenerateDataKey", {"KeyId": KEY_ID}),
    ("GenerateDataKey", {"KeyId": KEY_ID, "NumberOfBytes": 16, "KeySpec": "AES_128"}),
    ("GenerateDataKey", {"KeyId": KEY_ID, "KeySpec": "AES_512"}),
    ("GenerateDataKey", {"NumberOfBytes": 16}),
    ("GenerateDataKey", {"KeyId": None, "NumberOfBytes": 16}),
    ("GenerateDataKey", {"KeyId": "", "NumberOfBytes": 16}),
    ("GenerateDataKey", {"KeyId": "k" * 2049, "NumberOfBytes": 16}),
    ("GenerateDataKey", {"KeyId": KEY_ID, "NumberOfBytes": 16, "GrantTokens": ["t"] * 11}),
    ("Encrypt", {"KeyId": KEY_ID, "Plaintext": ""}),
    ("Encrypt", {"KeyId": KEY_ID, "Plaintext": base64.b64encode(bytes(4097)).decode()}),
    ("Encrypt", {"KeyId": KEY_ID}),
    ("Encrypt", {"KeyId": KEY_ID, "Plaintext": "eA==", "EncryptionAlgorithm": "ROT13"}),
    ("Decrypt", {"CiphertextBlob": ""}), ("Decrypt", {}),
    ("Decrypt", {"CiphertextBlob": base64.b64encode(bytes(6145)).decode()}),
    ("ReEncrypt", {"CiphertextBlob": "eA=="}),
    ("EnableKeyRotation", {"KeyId": KEY_ID, "RotationPeriodInDays": 89}),
    ("EnableKeyRotation", {"KeyId": KEY_ID, "RotationPeriodInDays": 2561})])
def test_validation(wire, action, members):
    assert wire.kind(*wire.sign(members, action)) == "ValidationException"


@PLAIN
@pytest.mark.parametrize("action, body", [
    ("GenerateDataKey", b""), ("GenerateDataKey", b"{"), ("GenerateDataKey", b"[]"),
    ("GenerateDataKey", b'"x"'), ("GenerateDataKey", b'{"KeyId":"\xff"}'),
    ("GenerateDataKey", b'{"KeyId":7}'), ("GenerateDataKey", b'{"KeyId":"x","NumberOfBytes":"8"}'),
    ("GenerateDataKey", b'{"KeyId":"x","NumberOfBytes":true}'),
    ("GenerateDataKey", b'{"KeyId":"x","NumberOfBytes":8,"DryRun":1}'),
    ("GenerateDataKey", b'{"KeyId":"x","NumberOfBytes":8,"EncryptionContext":[]}'),
    ("GenerateDataKey", b'{"KeyId":"x","NumberOfBytes":8,"EncryptionContext":{"a":1}}'),
    ("GenerateDataKey", b'{"KeyId":"x","NumberOfBytes":8,"GrantTokens":[1]}'),
    ("Encrypt", b'{"KeyId":"x","Plaintext":"?"}'), ("Encrypt", b'{"KeyId":"x","Plaintext":"eA="}'),
    ("Decrypt", b'{"CiphertextBlob":"eA == "}')])
def test_serialization(wire, action, body):
    assert wire.kind(*wire.sign(body, action)) == "SerializationException"


def test_unknown_members_are_ignored_and_nulls_absent(wire):
    assert wire.ask({"KeyId": KEY_ID, "NumberOfBytes": 8, "Zzz": 1, "KeySpec": None})[0] == 200


def test_unknown_operations(wire, kms):
    for action in ("Sign", "NoSuchThing", ""):
        assert wire.kind(*wire.sign({}, action)) == "UnknownOperationException"
    headers, body = wire.sign({})
    headers["X-Amz-Target"] = "Elsewhere.Encrypt"
    assert wire.kind(headers, body) == "InvalidSignatureException"
    assert kms.requests[-1]["action"] == ""


def test_what_is_not_emulated_says_so(client):
    refused("InvalidGrantTokenException", client.encrypt, KeyId=KEY_ID, Plaintext=b"x",
            GrantTokens=["token"])
    refused("UnsupportedOperationException", client.generate_data_key, KeyId=KEY_ID,
            NumberOfBytes=1, Recipient={"AttestationDocument": b"x"})
    refused("InvalidKeyUsageException", client.encrypt, KeyId=KEY_ID, Plaintext=b"x",
            EncryptionAlgorithm="RSAES_OAEP_SHA_256")


# ---- dry runs -----------------------------------------------------------------------------------


def dry_calls(client):
    blob = client.encrypt(KeyId=KEY_ID, Plaintext=b"x")["CiphertextBlob"]
    return ((client.generate_data_key, {"KeyId": KEY_ID, "NumberOfBytes": 1}),
            (client.generate_data_key_without_plaintext, {"KeyId": KEY_ID, "NumberOfBytes": 1}),
            (client.encrypt, {"KeyId": KEY_ID, "Plaintext": b"x"}),
            (client.decrypt, {"CiphertextBlob": blob, "KeyId": KEY_ARN}),
            (client.re_encrypt, {"CiphertextBlob": blob, "DestinationKeyId": KEY_ID}))


def test_dry_run(kms, client):
    for call, members in dry_calls(client):
        refused("DryRunOperationException", call, **members, DryRun=True)
        call(**members, DryRun=False)
    kms.ignore_dry_run = True
    for call, members in dry_calls(client):
        call(**members, DryRun=True)


def test_dry_run_tells_what_would_fail(kms, client):
    calls = dry_calls(client)
    kms.key(KEY_ARN).state = "Disabled"
    for call, members in calls:
        refused("DisabledException", call, **members, DryRun=True)
    kms.key(KEY_ARN).state = "Enabled"
    refused("InvalidCiphertextException", client.decrypt, DryRun=True,
            **{**calls[3][1], "EncryptionContext": CONTEXT})
    kms.add_user("AKIDPOOR", "poor-secret", ACCOUNT, denied=["Decrypt"])
    poor = make_client(kms, access_key_id="AKIDPOOR", secret="poor-secret")
    refused("AccessDeniedException", poor.decrypt, **calls[3][1], DryRun=True)


# ---- who may do what ----------------------------------------------------------------------------


def test_denied_actions_and_keys(kms, client):
    other = kms.add_key("us-east-1", ACCOUNT)
    kms.add_user("AKIDPOOR", "poor-secret", ACCOUNT, denied=["Decrypt", f"Encrypt {other}",
                                                             "ReEncryptFrom"])
    poor = make_client(kms, access_key_id="AKIDPOOR", secret="poor-secret")
    blob = poor.encrypt(KeyId=KEY_ID, Plaintext=b"x")["CiphertextBlob"]
    message = refused("AccessDeniedException", poor.decrypt, CiphertextBlob=blob)
    assert "kms:Decrypt" in message and KEY_ARN in message
    refused("AccessDeniedException", poor.encrypt, KeyId=other, Plaintext=b"x")
    assert "kms:ReEncryptFrom" in refused("AccessDeniedException", poor.re_encrypt,
                                          CiphertextBlob=blob, DestinationKeyId=KEY_ID)
    assert client.decrypt(CiphertextBlob=blob)["Plaintext"] == b"x"


LEAST = {"Version": "2012-10-17", "Statement": [
    {"Effect": "Allow", "Resource": KEY_ARN,
     "Action": ["kms:GenerateDataKeyWithoutPlaintext", "kms:Encrypt", "kms:Decrypt",
                "kms:ReEncryptFrom", "kms:ReEncryptTo"],
     "Condition": {"StringEquals": {"kms:EncryptionContext:app": "keyring_aws"}}},
    {"Effect": "Allow", "Action": "kms:RotateKeyOnDemand", "Resource": KEY_ARN}]}


def test_iam_policy(kms):
    kms.add_user("AKIDLEAST", "least-secret", ACCOUNT, policy=LEAST)
    least = make_client(kms, access_key_id="AKIDLEAST", secret="least-secret")
    made = least.generate_data_key_without_plaintext(KeyId=ALIAS, NumberOfBytes=8,
                                                     EncryptionContext=CONTEXT)
    blob = made["CiphertextBlob"]
    least.decrypt(CiphertextBlob=blob, EncryptionContext=CONTEXT)
    least.re_encrypt(CiphertextBlob=blob, SourceEncryptionContext=CONTEXT, DestinationKeyId=KEY_ID,
                     DestinationEncryptionContext=CONTEXT)
    least.rotate_key_on_demand(KeyId=KEY_ID)
    refused("AccessDeniedException", least.generate_data_key, KeyId=KEY_ID, NumberOfBytes=8,
            EncryptionContext=CONTEXT)
    refused("AccessDeniedException", least.encrypt, KeyId=KEY_ID, Plaintext=b"x")
    refused("AccessDeniedException", least.encrypt, KeyId=KEY_ID, Plaintext=b"x",
            EncryptionContext={"app": "other"})
    refused("AccessDeniedException", least.re_encrypt, CiphertextBlob=blob,
            SourceEncryptionContext=CONTEXT, DestinationKeyId=KEY_ID)
    refused("AccessDeniedException", least.describe_key, KeyId=KEY_ID)


@pytest.mark.parametrize("operator, name, wanted, context, allowed", [
    ("StringEquals", "APP", "one", {"app": "one"}, True),       # names ignore case, values do not
    ("StringEquals", "app", "One", {"app": "one"}, False),
    ("StringEquals", "app", ["one", "two"], {"app": "two"}, True),
    ("StringEquals", "key_id", "one", {"app": "one"}, False),
    ("StringNotEquals", "app", "one", {"app": "one"}, False),
    ("StringNotEquals", "app", "one", {}, True),
    ("StringLike", "app", "o*", {"app": "one"}, True),
    ("StringLike", "app", "o*", {"app": "two"}, False),
    ("StringLike", "app", "*", {}, False)])
def test_policy_conditions(operator, name, wanted, context, allowed):
    service = emu.Kms()
    service.add_user("AKIDX", "x", ACCOUNT, policy={"Statement": {
        "Effect": "Allow", "Action": "kms:enc*", "Resource": ["arn:aws:kms:*:*:key/*"],
        "Condition": {operator: {"kms:EncryptionContext:" + name: wanted}}}})
    assert service.users["AKIDX"].may_do("kms:Encrypt", KEY_ARN, context) is allowed
    assert not service.users["AKIDX"].may_do("kms:Decrypt", KEY_ARN, context)
    assert not service.users["AKIDX"].may_do("kms:Encrypt", KEY_ARN.replace("key", "x"), context)


@pytest.mark.parametrize("extra", [
    {"Condition": {"StringEquals": {"aws:SourceIp": "127.0.0.1"}}},
    {"Condition": {"Bool": {"kms:EncryptionContext:app": "true"}}},
    {"NotAction": "kms:*"}])
def test_policies_not_understood_are_refused(extra):
    with pytest.raises(ValueError):
        emu.Emulator().add_user("AKIDX", "x", ACCOUNT, policy={
            "Statement": {"Effect": "Allow", "Action": "kms:*", **extra}})


# ---- signatures ---------------------------------------------------------------------------------


def test_unknown_access_key(kms):
    refused("UnrecognizedClientException",
            make_client(kms, access_key_id="AKIDNOBODY").describe_key, KeyId=KEY_ID)


def test_wrong_secret(kms):
    message = refused("InvalidSignatureException", make_client(kms, secret="wrong").describe_key,
                      KeyId=KEY_ID)
    assert message.startswith("The request signature we calculated does not match")


def test_tokens(kms):
    def use(token):
        return make_client(kms, access_key_id="ASIDTEMP", secret="temp-secret", token=token)

    kms.add_user("ASIDTEMP", "temp-secret", ACCOUNT, "token-1", time.time() + 60)
    use("token-1").describe_key(KeyId=KEY_ID)
    for bad in (None, "token-2"):
        refused("UnrecognizedClientException", use(bad).describe_key, KeyId=KEY_ID)
    refused("UnrecognizedClientException", make_client(kms, token="t").describe_key, KeyId=KEY_ID)
    kms.users["ASIDTEMP"].token_expires = time.time() - 1
    refused("ExpiredTokenException", use("token-1").describe_key, KeyId=KEY_ID)
    kms.add_user("ASIDTEMP", "temp-secret", ACCOUNT, "token-2", time.time() + 60)
    use("token-2").describe_key(KeyId=KEY_ID)


@pytest.mark.parametrize("offset, words", [(301, "Signature expired: "),
                                           (7200, " - 5 min.)"), (-7200, " + 5 min.)"),
                                           (-303, "Signature not yet current: ")])
def test_skew(kms, client, offset, words):
    kms.clock_offset = offset
    assert words in refused("InvalidSignatureException", client.describe_key, KeyId=KEY_ID)
    with pytest.raises(ClientError) as caught:
        client.describe_key(KeyId=KEY_ID)
    headers = caught.value.response["ResponseMetadata"]["HTTPHeaders"]
    date = email.utils.parsedate_to_datetime(headers["date"]).timestamp()
    assert abs(date - time.time() - offset) < 5


def test_skew_within_five_minutes(kms, client):
    for kms.clock_offset in (290, -290):
        client.describe_key(KeyId=KEY_ID)


def change(headers, name, value):
    return {**headers, name: value} if value else {
        each: text for each, text in headers.items() if each != name}


@PLAIN
@pytest.mark.parametrize("tamper, kind", [
    (lambda h, b: (h, b.replace(b"8", b"9")), "InvalidSignatureException"),
    (lambda h, b: (h, b + b" "), "InvalidSignatureException"),
    (lambda h, b: (change(h, "X-Amz-Target", "TrentService.DescribeKey"), b),
     "InvalidSignatureException"),
    (lambda h, b: (change(h, "X-Amz-Date", h["X-Amz-Date"][:-2] + "%dZ" % (
        (int(h["X-Amz-Date"][-2]) + 1) % 10)), b), "InvalidSignatureException"),
    (lambda h, b: (change(h, "X-Amz-Date", "20200101T000000Z"), b), "InvalidSignatureException"),
    (lambda h, b: (change(h, "X-Amz-Date", "yesterday"), b), "IncompleteSignatureException"),
    (lambda h, b: (change(h, "X-Amz-Date", None), b), "IncompleteSignatureException"),
    (lambda h, b: (change(h, "Host", "kms.us-west-2.amazonaws.com"), b),
     "InvalidSignatureException"),
    (lambda h, b: (change(h, "Content-Type", "text/plain"), b), "InvalidSignatureException"),
    (lambda h, b: (change(h, "Content-Type", None), b), "InvalidSignatureException"),
    (lambda h, b: (change(h, "X-Amz-Extra", "1"), b), "InvalidSignatureException"),
    (lambda h, b: (change(h, "X-Amz-Security-Token", "t"), b), "UnrecognizedClientException"),
    (lambda h, b: (change(h, "Authorization", None), b), "MissingAuthenticationTokenException"),
    (lambda h, b: (change(h, "Authorization", "Basic eDp4"), b), "IncompleteSignatureException"),
    (lambda h, b: (change(h, "Authorization", h["Authorization"][:-1]), b),
     "IncompleteSignatureException"),
    (lambda h, b: (change(h, "Authorization", h["Authorization"].replace("us-east-1", "us-east-2")),
                   b), "InvalidSignatureException"),
    (lambda h, b: (change(h, "Authorization", h["Authorization"].replace("/kms/", "/s3/")), b),
     "InvalidSignatureException"),
    (lambda h, b: (change(h, "Authorization", h["Authorization"].replace(
        h["X-Amz-Date"][:8] + "/", "20200101/")), b), "InvalidSignatureException"),
    (lambda h, b: (change(h, "Authorization", h["Authorization"].replace(";host", "")), b),
     "InvalidSignatureException"),
    (lambda h, b: (change(h, "Authorization", h["Authorization"].replace(";x-amz-target", "")), b),
     "InvalidSignatureException")])
def test_tampered_requests(kms, wire, tamper, kind):
    headers, body = wire.sign({"KeyId": KEY_ID, "NumberOfBytes": 8})
    assert wire.kind(headers, body) == "OK"
    assert wire.kind(*tamper(dict(headers), body)) == kind
    assert [each["signed"] for each in kms.requests] == ["OK", kind]


class LazySigner(SigV4Auth):
    """Signs rightly, but leaves one header out."""
    left_out = ""

    def headers_to_sign(self, request):
        headers = super().headers_to_sign(request)
        del headers[self.left_out]
        return headers


@pytest.mark.parametrize("name", ["host", "x-amz-date", "x-amz-target", "content-type"])
def test_what_must_be_signed(kms, wire, monkeypatch, name):
    monkeypatch.setattr(LazySigner, "left_out", name)
    monkeypatch.setitem(globals(), "SigV4Auth", LazySigner)
    headers, body = wire.sign({"KeyId": KEY_ID, "NumberOfBytes": 8})
    kind = "OK" if name == "content-type" else "InvalidSignatureException"
    assert name not in headers["Authorization"] and wire.kind(headers, body) == kind


def test_request_line_is_signed(wire):
    headers, body = wire.sign({"KeyId": KEY_ID, "NumberOfBytes": 8})
    for first in ("PUT / HTTP/1.1", "POST /x HTTP/1.1", "POST /?a=b HTTP/1.1"):
        assert wire.kind(headers, body, first) == "InvalidSignatureException"
    headers, body = wire.sign({"KeyId": KEY_ID, "NumberOfBytes": 8}, path="/x")
    assert wire.kind(headers, body, "POST /x HTTP/1.1") == "UnknownOperationException"
    headers, body = wire.sign({"KeyId": KEY_ID, "NumberOfBytes": 8}, method="PUT")
    assert wire.kind(headers, body, "PUT / HTTP/1.1") == "UnknownOperationException"


def test_content_hash_header_does_not_replace_the_body(wire):
    """A signed x-amz-content-sha256 is one more header, not a way round the body."""
    for value in ("UNSIGNED-PAYLOAD", "0" * 64):
        headers, body = wire.sign({"KeyId": KEY_ID, "NumberOfBytes": 8},
                                  headers={"X-Amz-Content-SHA256": value})
        assert wire.kind(headers, body) == "InvalidSignatureException"


@pytest.mark.parametrize("kwargs", [{"service": "s3"}, {"secret_key": "x"}])
def test_scope_and_secret(wire, kwargs):
    assert wire.kind(*wire.sign({"KeyId": KEY_ID}, **kwargs)) == "InvalidSignatureException"


def test_odd_spacing_is_canonical(wire):
    headers, body = wire.sign({"KeyId": KEY_ID, "NumberOfBytes": 8}, headers={"X-Amz-Odd": "a b"})
    headers["X-Amz-Odd"] = "  a \t  b "
    headers["x-amz-TARGET"] = headers.pop("X-Amz-Target")
    assert wire.kind(headers, body) == "OK"


# ---- the wire -----------------------------------------------------------------------------------


def test_reply_headers_and_log(kms, wire):
    status, headers, body = wire.ask()
    assert status == 200 and headers["content-type"] == "application/x-amz-json-1.1"
    assert int(headers["content-length"]) == len(body)
    date = email.utils.parsedate_to_datetime(headers["date"])
    assert abs(date.timestamp() - time.time()) < 5 and headers["date"].endswith("GMT")
    record = kms.requests[0]
    assert record["request_id"] == headers["x-amzn-requestid"] and len(record["request_id"]) == 36
    assert record["body"] == {"KeyId": KEY_ID, "NumberOfBytes": 8}
    assert record["host"] == f"127.0.0.1:{kms.port}" and record["region"] == "us-east-1"
    assert (record["verdict"], record["status"], record["connection"]) == ("OK", 200, 1)
    assert record["access_key_id"] == emu.ACCESS_KEY_ID and record["account"] == ACCOUNT


def test_connections_are_kept(kms, client):
    for _ in range(5):
        client.describe_key(KeyId=KEY_ID)
    refused("NotFoundException", client.describe_key, KeyId="alias/nobody")
    assert kms.connections == 1 and kms.count() == 6 and kms.count("Decrypt") == 0
    assert {each["connection"] for each in kms.requests} == {1}
    assert kms.requests[0]["attempt"].startswith("attempt=1")
    kms.reset_log()
    assert kms.requests == [] and kms.count() == kms.connections == 0


def test_connection_close_is_obeyed(wire):
    headers, body = wire.sign({"KeyId": KEY_ID, "NumberOfBytes": 8})
    wire.send({**headers, "Connection": "close"}, body)
    assert wire.all().startswith(b"HTTP/1.1 200 OK\r\n")


def test_requests_in_pieces_and_expect_continue(wire):
    headers, body = wire.sign({"KeyId": KEY_ID, "NumberOfBytes": 8})
    wire.send({**headers, "Expect": "100-continue", "Content-Length": str(len(body))}, b"")
    assert wire.sock.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
    for at in range(len(body)):
        wire.sock.sendall(body[at:at + 1])
    assert wire.reply()[0] == 200


def test_two_requests_at_once(kms, wire):
    text = wire.text(*wire.sign({"KeyId": KEY_ID, "NumberOfBytes": 8}))
    wire.sock.sendall(text * 2)
    data = b""
    while data.count(b"HTTP/1.1 200 OK") < 2:
        data += wire.sock.recv(65536)
    assert [each["verdict"] for each in kms.requests] == ["OK", "OK"]


def test_not_http(wire):
    wire.sock.sendall(b"EHLO there\r\n\r\n")
    assert wire.all().startswith(b"HTTP/1.1 400 ")


def test_silent_connections_are_closed(kms):
    kms.idle_timeout = 0.4
    wire = Wire(kms)
    assert wire.ask()[0] == 200
    assert wire.all() == b""


def test_error_forms(kms, client):
    kms.type_form, kms.modelled_status = "com.amazonaws.kms#{}:http://x/", True
    wire = Wire(kms)
    status, _, body = wire.ask({"KeyId": "alias/nobody", "NumberOfBytes": 8})
    assert status == 404
    assert json.loads(body)["__type"] == "com.amazonaws.kms#NotFoundException:http://x/"
    refused("NotFoundException", client.describe_key, KeyId="alias/nobody", status=404)
    refused("DryRunOperationException", client.encrypt, KeyId=KEY_ID, Plaintext=b"x", DryRun=True,
            status=412)
    kms.key(KEY_ARN).state = "Disabled"
    refused("DisabledException", client.encrypt, KeyId=KEY_ID, Plaintext=b"x", status=409)


def test_message_is_capital_where_kms_has_it_so(kms, wire):
    kms.add_user(emu.ACCESS_KEY_ID, emu.SECRET, ACCOUNT, denied=["GenerateDataKey"])
    assert "Message" in json.loads(wire.ask()[2])
    assert "message" in json.loads(wire.ask({"KeyId": "alias/x", "NumberOfBytes": 1})[2])


def test_many_threads(kms):
    clients = [make_client(kms) for _ in range(8)]
    kms.latency_ms = 20

    def work(client):
        for at in range(5):
            plain = b"%d" % at
            blob = client.encrypt(KeyId=KEY_ID, Plaintext=plain)["CiphertextBlob"]
            assert client.decrypt(CiphertextBlob=blob)["Plaintext"] == plain

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        list(pool.map(work, clients))
    assert kms.count() == 80 and kms.connections == 8 and 2 <= kms.peak <= 8
    deadline = time.monotonic() + 10
    while kms.in_flight and time.monotonic() < deadline:    # the last reply is out before it counts
        time.sleep(0.01)
    assert kms.in_flight == 0


def test_outage_and_return(kms, client):
    client.describe_key(KeyId=KEY_ID)
    port = kms.port
    kms.stop()
    with pytest.raises(OSError):
        socket.create_connection(("127.0.0.1", port))
    kms.start()
    assert kms.port == port
    client.describe_key(KeyId=KEY_ID)
    assert kms.connections == 2


def test_connections_are_cut(kms, client):
    client.describe_key(KeyId=KEY_ID)
    kms.cut()
    assert not kms.open
    client.describe_key(KeyId=KEY_ID)
    assert kms.connections == 2


# ---- faults -------------------------------------------------------------------------------------


MODELLED = sorted({error.name for action in emu.ACTIONS if action in emu.MODEL.operation_names
                   for error in emu.MODEL.operation_model(action).error_shapes})


@PLAIN
@pytest.mark.parametrize("kind", MODELLED)
def test_every_modelled_error(kms, client, kind):
    kms.fault("*", "error", type=kind, message="so it is")
    status = 500 if kind in emu.SERVER_FAULTS else 400
    assert refused(kind, client.describe_key, KeyId=KEY_ID, status=status) == "so it is"
    client.describe_key(KeyId=KEY_ID)


@pytest.mark.parametrize("kind", ["ExpiredTokenException", "InternalFailure", "ExpiredToken"])
def test_other_errors_with_a_status(kms, client, kind):
    kms.fault("DescribeKey", "error", type=kind, status=403)
    refused(kind, client.describe_key, KeyId=KEY_ID, status=403)


def test_throttling(kms, client):
    kms.fault("DescribeKey", "throttle", retry_after=1500)
    with pytest.raises(ClientError) as caught:
        client.describe_key(KeyId=KEY_ID)
    assert caught.value.response["Error"]["Code"] == "ThrottlingException"
    answer = caught.value.response["ResponseMetadata"]
    assert answer["HTTPStatusCode"] == 400 and answer["HTTPHeaders"]["x-amz-retry-after"] == "1500"


def test_botocore_retries_as_it_would_with_aws(kms, monkeypatch):
    monkeypatch.setattr("botocore.endpoint.time.sleep", lambda seconds: None)
    client = make_client(kms, attempts=3)
    kms.fault("Encrypt", "throttle")
    kms.fault("Encrypt", "reply", status=503)
    assert client.encrypt(KeyId=KEY_ID, Plaintext=b"x")["KeyId"] == KEY_ARN
    assert [each["status"] for each in kms.requests] == [400, 503, 200]
    assert all(f"attempt={at}" in each["attempt"] for at, each in enumerate(kms.requests, 1))
    assert [each["fault"] for each in kms.requests] == ["throttle", "reply", None]
    kms.fault("Encrypt", "cut", where="request", times=0)
    with pytest.raises(ConnectionClosedError):
        client.encrypt(KeyId=KEY_ID, Plaintext=b"x")
    assert kms.count("Encrypt") == 6


def test_rules_wait_and_run_out(kms, wire):
    kms.fault("GenerateDataKey", "reply", times=2, after=1, status=500)
    kms.fault("Decrypt", "reply", status=502)
    assert [wire.ask()[0] for _ in range(5)] == [200, 500, 500, 200, 200]
    kms.fault("*", "reply", times=0, status=504)
    assert [wire.ask()[0] for _ in range(3)] == [504] * 3
    kms.clear_faults()
    assert wire.ask()[0] == 200


@pytest.mark.parametrize("options", [
    {"what": "nonsense"}, {"what": "cut", "where": "nowhere"}, {"what": "gzip", "status": 1},
    {"what": "cut", "where": "accept", "action": "Decrypt"},
    {"what": "black_hole", "where": "body"}])
def test_bad_rules_are_refused(options):
    with pytest.raises(ValueError):
        emu.Emulator().fault(**{"action": "*", **options})


@pytest.mark.parametrize("options, status, body", [
    ({"status": 500, "body": "html"}, 500, b"<html>"), ({"status": 502}, 502, b""),
    ({"status": 503, "body": "json"}, 503, b"{}"), ({"status": 504}, 504, b""),
    ({"body": "html"}, 200, b"<html>"), ({"body": "garbage"}, 200, bytes(range(9))),
    ({"body": "empty"}, 200, b""), ({"body": "nested"}, 200, b"[[[["),
    ({"body": "truncated"}, 200, b'{"KeyId":"arn'), ({"body": '{"a":1}'}, 200, b'{"a":1}')])
def test_replaced_replies(kms, wire, options, status, body):
    kms.fault("*", "reply", **options)
    got = wire.ask()
    assert got[0] == status and got[2].startswith(body) and (body or not got[2])
    assert got[1]["content-type"] == ("text/html" if body == b"<html>" else
                                      "application/x-amz-json-1.1")
    assert wire.ask()[0] == 200


def test_redirect_and_oversized(kms, wire):
    kms.fault("*", "redirect", location="https://example.com/elsewhere")
    status, headers, _ = wire.ask()
    assert status == 301 and headers["location"] == "https://example.com/elsewhere"
    kms.fault("*", "reply", size=1000000)
    body = wire.ask()[2]
    assert len(body) == 1000000 and len(json.loads(body)["CiphertextBlob"]) == 999979


@pytest.mark.parametrize("where", ["request", "status", "headers", "body"])
def test_cut(kms, wire, where):
    kms.fault("GenerateDataKey", "cut", where=where)
    wire.send(*wire.sign({"KeyId": KEY_ID, "NumberOfBytes": 8}))
    data = wire.all()
    assert not wire.was_reset()
    if where == "request":
        assert data == b""
    if where == "status":
        assert data == b"HTTP/1.1 200 OK\r\n"
    if where == "headers":
        assert data.startswith(b"HTTP/1.1 200 OK\r\nx-amzn") and b"\r\n\r\n" not in data
    if where == "body":
        head, _, body = data.partition(b"\r\n\r\n")
        size = int(head.split(b"Content-Length: ")[1].split()[0])
        assert len(body) == size // 2
    assert Wire(kms).ask()[0] == 200


@pytest.mark.parametrize("where", ["request", "status", "headers", "body"])
def test_reset(kms, wire, where):
    kms.fault("GenerateDataKey", "reset", where=where)
    wire.send(*wire.sign({"KeyId": KEY_ID, "NumberOfBytes": 8}))
    data = wire.all()
    assert data.startswith(b"HTTP/1.1 200 OK") if where != "request" else data == b""
    assert wire.was_reset()
    assert Wire(kms).ask()[0] == 200


def test_broken_before_reading(kms):
    kms.fault("*", "cut", where="accept")
    with socket.create_connection(("127.0.0.1", kms.port)) as sock:
        assert sock.recv(1) == b""      # before TLS, if any, began
    wire = Wire(kms)
    assert wire.ask()[0] == 200
    kms.fault("*", "reset", where="accept")      # now a kept connection that is dead
    wire.send(*wire.sign({"KeyId": KEY_ID}))
    assert wire.all() == b"" and wire.was_reset()
    assert kms.count() == 1 and kms.connections == 2


def test_close_without_a_word(kms, wire):
    kms.fault("*", "close")
    status, headers, _ = wire.ask()
    assert status == 200 and "connection" not in headers
    assert wire.all() == b"" and not wire.was_reset()


@pytest.mark.parametrize("where", ["accept", "request"])
def test_black_hole(kms, where):
    kms.fault("*", "black_hole", where=where)
    sock = socket.create_connection(("127.0.0.1", kms.port))
    if where == "request":
        sock.close()
        wire = Wire(kms)
        sock = wire.sock
        wire.send(*wire.sign({"KeyId": KEY_ID}))
    sock.settimeout(0.2)
    with pytest.raises(TimeoutError):
        sock.recv(1)
    sock.close()
    deadline = time.monotonic() + 3
    while kms.open and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not kms.open                 # it noticed that we left


def test_stop_ends_a_black_hole(kms):
    kms.fault("*", "black_hole")
    wire = Wire(kms)
    wire.send(*wire.sign({"KeyId": KEY_ID}))
    time.sleep(0.05)
    start = time.monotonic()
    kms.stop()
    assert time.monotonic() - start < 4 and not kms.open


def test_what_was_performed(kms, wire):
    """A lost reply is not a lost action, unless the request was lost."""
    rotations = kms.key(KEY_ARN).materials
    for where, perform, done in (("request", False, 0), ("request", True, 1), ("body", False, 2)):
        kms.rotation_ms = 0
        kms.fault("RotateKeyOnDemand", "cut", where=where, perform=perform)
        wire = Wire(kms)
        wire.send(*wire.sign({"KeyId": KEY_ID}, "RotateKeyOnDemand"))
        wire.all()
        assert rotations.rotations == done
    kms.fault("RotateKeyOnDemand", "throttle")
    Wire(kms).ask({"KeyId": KEY_ID}, action="RotateKeyOnDemand")
    assert rotations.rotations == 2 and kms.count("RotateKeyOnDemand") == 4


def test_latency_and_slow_replies(kms, wire):
    def timed():
        start = time.monotonic()
        assert wire.ask({"KeyId": KEY_ID}, action="RotateKeyOnDemand")[0] in (200, 400)
        return time.monotonic() - start

    assert min(timed() for _ in range(5)) < 0.1
    kms.fault("*", "latency", ms=150)
    assert timed() >= 0.15
    kms.fault("*", "slow_headers", each_ms=1)
    assert timed() > 0.15
    kms.fault("*", "slow_body", each_ms=2)
    assert timed() > 0.15
    kms.latency_ms = 100
    assert timed() >= 0.1


def test_encodings(kms, wire):
    kms.fault("*", "gzip")
    _, headers, body = wire.ask()
    assert headers["content-encoding"] == "gzip" and b"KeyMaterialId" in gzip.decompress(body)
    kms.fault("*", "chunked")
    _, headers, body = wire.ask()
    assert headers["transfer-encoding"] == "chunked" and "content-length" not in headers
    assert json.loads(body)["KeyId"] == KEY_ARN


def test_spoiled_headers(kms, wire):
    kms.fault("*", "headers", drop=["Date", "x-amzn-RequestId"])
    headers = wire.ask()[1]
    assert "date" not in headers and "x-amzn-requestid" not in headers
    kms.fault("*", "headers", set={"Date": "Thu, 99 Foo 1970"})
    assert wire.ask()[1]["date"] == "Thu, 99 Foo 1970"
    kms.fault("*", "headers", set={"Content-Length": 10})
    assert len(wire.ask()[2]) == 10


def test_spoiled_members(kms, wire):
    kms.fault("*", "edit", set={"KeyId": "other", "CiphertextBlob": 7}, drop=["KeyMaterialId"],
              plaintext_size=5)
    reply = json.loads(wire.ask()[2])
    assert (reply["KeyId"], reply["CiphertextBlob"]) == ("other", 7)
    assert "KeyMaterialId" not in reply
    assert len(base64.b64decode(reply["Plaintext"])) == 5
    kms.fault("*", "edit", duplicate={"KeyId": "again"})
    body = wire.ask()[2]
    assert body.count(b'"KeyId"') == 2 and json.loads(body)["KeyId"] == "again"


# ---- TLS, and the program -----------------------------------------------------------------------


def test_old_tls_only(cert):
    with emu.Emulator(*cert, tls_max="TLSv1_1") as kms:
        for least, works in ((ssl.TLSVersion.TLSv1_2, False), (ssl.TLSVersion.TLSv1, True)):
            context = ssl.create_default_context(cafile=cert[0])
            context.set_ciphers("DEFAULT@SECLEVEL=0")
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)
                context.minimum_version = least
            with socket.create_connection(("127.0.0.1", kms.port)) as sock:
                if works:
                    with context.wrap_socket(sock, server_hostname="127.0.0.1") as tls:
                        assert tls.version() in ("TLSv1", "TLSv1.1")
                else:
                    with pytest.raises(ssl.SSLError):
                        context.wrap_socket(sock, server_hostname="127.0.0.1")
        assert kms.tls_failures


def test_plain_http_to_the_tls_port(cert):
    with emu.Emulator(*cert) as kms:
        with socket.create_connection(("127.0.0.1", kms.port)) as sock:
            sock.sendall(b"POST / HTTP/1.1\r\n\r\n")
            try:
                sock.recv(100)
            except ConnectionResetError:
                pass
        deadline = time.monotonic() + 3
        while not kms.tls_failures and time.monotonic() < deadline:
            time.sleep(0.01)
        assert kms.tls_failures and kms.count() == 0


def test_the_program_and_its_control_port(cert, tmp_path):
    ready = tmp_path / "ready"
    program = subprocess.Popen([sys.executable, PROGRAM, "--cert", cert[0], "--key", cert[1],
                                "--ready-file", ready], stdout=subprocess.PIPE, text=True)
    try:
        about = json.loads(program.stdout.readline())
        assert about == json.loads(ready.read_text()) and about["url"].startswith("https://")
        remote = emu.Remote(about["control"])
        remote.url, remote.ca = about["url"], cert[0]
        arn = remote.add_key(region="eu-west-3", account=ACCOUNT, alias="alias/remote")
        remote.add_user(access_key_id="AKIDREMOTE", secret="remote-secret", account=ACCOUNT)
        client = make_client(remote, "eu-west-3", "AKIDREMOTE", "remote-secret")
        assert client.describe_key(KeyId="alias/remote")["KeyMetadata"]["Arn"] == arn
        remote.set_key(arn=arn, state="Disabled")
        refused("DisabledException", client.encrypt, KeyId=arn, Plaintext=b"x")
        remote.fault(action="DescribeKey", what="throttle")
        refused("ThrottlingException", client.describe_key, KeyId=arn)
        remote.set(clock_offset=-9000)
        refused("InvalidSignatureException", client.describe_key, KeyId=arn)
        assert remote.count(action="DescribeKey") == 3 and remote.count() == 4
        log = remote.log()
        assert [each["verdict"] for each in log["requests"]] == [
            "OK", "DisabledException", None, "InvalidSignatureException"]
        assert log["connections"] == 1 and not log["crashes"]
        remote.stop()
        with pytest.raises(OSError):
            socket.create_connection(("127.0.0.1", about["port"]))
        remote.set(clock_offset=0)
        remote.start()
        client.describe_key(KeyId=arn)
        for bad in ({"name": "fault", "what": "x", "action": "*"}, {"name": "set", "port": 1},
                    {"name": "judge"}):
            with pytest.raises(ValueError):
                getattr(remote, bad.pop("name"))(**bad)
    finally:
        program.send_signal(signal.SIGTERM)
        assert program.wait(10) == 0
