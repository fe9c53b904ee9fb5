#!/usr/bin/python3
"""An emulator of AWS KMS, for the tests.

It speaks KMS's JSON over HTTP/1.1, plain or TLS, and really encrypts.  botocore's own SigV4 signer
judges every request as it came over the wire.  Faults are injected on command.  On the same port
are what gives credentials to a role: AWS STS (sts_emulator.py), EC2's metadata, and the endpoint
that a container has.

From Python:    with Emulator() as kms: kms.fault("Decrypt", "throttle", times=2) ...
As a program:   kms_emulator.py [--region NAME] [--cert FILE --key FILE]
                prints one JSON line {"url", "port", "control"} when it is ready; the control
                port takes the same operations (see Control); SIGTERM ends it.

An emulator serves every region on its one port, unless it is told the one that it is in:

    with Emulator(region="us-east-1") as home, home.sister("eu-central-1") as other:
        arn = home.add_key(home.region, ACCOUNT, MULTI_REGION_ID)
        home.replicate(arn, other.region)

Each has a port, faults, log, clock and users of its own; they share the keys.  Regions that have to
fail as a process does are programs (see regions.py), which hand keys over by export_key and
import_key.

It knows the actions that keyring_aws and its manual use, and refuses the rest of KMS.  If AWS's own
words for an error are not known for certain, the error's type is right, and its text is ours.
"""

import argparse
import base64
import calendar
import collections
import contextlib
import dataclasses
import email.utils
import fnmatch
import gzip
import hashlib
import hmac
import http.client
import http.server
import importlib.machinery
import json
import os
import re
import select
import signal
import socket
import ssl
import struct
import sys
import threading
import time
import traceback
import urllib.parse
import uuid
import warnings
from pathlib import Path


class TreeFinder:
    """Finds only the named top-level modules in one folder."""

    def __init__(self, folder: Path, *names: str):
        self.folder, self.names = str(folder), names

    def find_spec(self, name, path=None, target=None):
        if path is None and name in self.names:
            return importlib.machinery.PathFinder.find_spec(name, [self.folder])


def use_tree(tree=None) -> bool:
    """Let `import botocore` find that of the private Debian sid tree; False if it has none.

    The tree's compiled modules are for another Python, so its folder must not join sys.path:
    botocore comes from there first, the pure-Python modules it needs only if missing here.
    """
    tree = Path(tree or os.environ.get("KEYRING_AWS_TREE")
                or Path(__file__).resolve().parents[2] / "build" / "tree")
    folder = tree / "usr/lib/python3/dist-packages"
    found, loaded = (folder / "botocore").is_dir(), sys.modules.get("botocore")
    if found and loaded and not loaded.__file__.startswith(str(folder)):
        raise ImportError("kms_emulator has to be imported before botocore")
    if found and not any(isinstance(finder, TreeFinder) for finder in sys.meta_path):
        sys.meta_path.insert(0, TreeFinder(folder, "botocore"))
        sys.meta_path.append(TreeFinder(folder, "dateutil", "jmespath", "six", "urllib3", "idna",
                                        "requests", "certifi", "charset_normalizer", "chardet"))
    return found


use_tree()
from botocore.auth import SigV4Auth                                 # noqa: E402
from botocore.awsrequest import AWSRequest                          # noqa: E402
from botocore.compat import HTTPHeaders                             # noqa: E402
from botocore.credentials import Credentials                        # noqa: E402
from botocore.loaders import Loader                                 # noqa: E402
from botocore.model import ServiceModel                             # noqa: E402
from sts_emulator import ACTIONS as STS_ACTIONS                     # noqa: E402
from sts_emulator import Sts, StsError, answer_xml, error_xml       # noqa: E402

# ---- what every emulator starts with ------------------------------------------------------------

ACCESS_KEY_ID = "AKIDEXAMPLE"
SECRET = "not-a-real-secret/for-tests-only+0123456"
ACCOUNT, OTHER_ACCOUNT = "111122223333", "444455556666"
REGION = "us-east-1"
KEY_ID = "11111111-2222-3333-4444-555555555555"
KEY_ARN = f"arn:aws:kms:{REGION}:{ACCOUNT}:key/{KEY_ID}"
ALIAS = "alias/keyring"
MULTI_REGION = "mrk-"                   # begins the id of a key that may have replicas
MULTI_REGION_ID = MULTI_REGION + "0123456789abcdef0123456789abcdef"

# ---- errors, and what each action takes: botocore's model of KMS says it ------------------------

SERVER_FAULTS = ("KMSInternalException", "DependencyTimeoutException", "KeyUnavailableException")
CAPITAL_MESSAGE = ("AccessDeniedException", "UnsupportedOperationException")

ACTIONS = ("GenerateDataKey", "GenerateDataKeyWithoutPlaintext", "Encrypt", "Decrypt", "ReEncrypt",
           "DescribeKey", "RotateKeyOnDemand", "ReplicateKey", "CreateKey", "EnableKey",
           "DisableKey", "ScheduleKeyDeletion", "CancelKeyDeletion")
NOT_EMULATED = {"Recipient", "DryRunModifiers", "GrantTokens", "KeySpec", "EncryptionAlgorithm",
                "SourceEncryptionAlgorithm", "DestinationEncryptionAlgorithm", "Policy", "Tags",
                "Description", "BypassPolicyLockoutSafetyCheck"}
MODEL = ServiceModel(Loader().load_service_model("kms", "service-2"))
JSON_TYPES = {"structure": dict, "map": dict, "string": str, "blob": str, "integer": int,
              "boolean": bool, "list": list}


class KmsError(Exception):
    """An error as KMS answers it; on the wire all are 400 but the three server faults."""

    def __init__(self, kind: str, message: str = None, status: int = None):
        super().__init__(kind, message)
        self.kind, self.message = kind, message
        self.status = status or (500 if kind in SERVER_FAULTS else 400)


def invalid(name: str, must: str) -> KmsError:
    return KmsError("ValidationException", f"1 validation error detected: Value at '{name}' "
                                           f"failed to satisfy constraint: {must}")


def read_value(shape, value, name: str = "body"):
    """A JSON value as the model's shape wants it, or the error that KMS gives for it."""
    if type(value) is not JSON_TYPES[shape.type_name]:
        raise KmsError("SerializationException", f"{name} is not a {shape.type_name}")
    if shape.type_name == "blob":
        try:
            value = base64.b64decode(value, validate=True)
        except ValueError:
            raise KmsError("SerializationException", f"{name} is not base64") from None
    rules = shape.metadata
    size = value if type(value) in (int, bool) else len(value)
    if not rules.get("min", size) <= size <= rules.get("max", size):
        raise invalid(name, f"from {rules.get('min')} to {rules.get('max')}")
    if shape.type_name == "structure":
        return read_members(shape, value)
    if shape.type_name == "map":
        if "" in value.values():
            raise invalid(name, "no empty values")
        return {key: read_value(shape.value, each, name) for key, each in value.items()}
    return value


def read_members(shape, value: dict) -> dict:
    """Unknown members and nulls are as good as absent."""
    missing = [name for name in shape.required_members if value.get(name) is None]
    if missing:
        raise invalid(missing[0], "not null")
    return {name: read_value(shape.members[name], each, name) for name, each in value.items()
            if name in shape.members and each is not None}


# ---- KMS keys and blobs -------------------------------------------------------------------------

PARTITIONS = {"cn-": "aws-cn", "us-gov-": "aws-us-gov", "us-iso-": "aws-iso", "eusc-": "aws-eusc",
              "us-isob-": "aws-iso-b", "us-isof-": "aws-iso-f", "eu-isoe-": "aws-iso-e"}
ROTATIONS_MAX = 25
BLOB_MAGIC, BLOB_TAG = b"\x01KMSemu", 32


def partition_of(region: str) -> str:
    return next((PARTITIONS[each] for each in PARTITIONS if region.startswith(each)), "aws")


def make_arn(region: str, account: str, rest: str) -> str:
    return f"arn:{partition_of(region)}:kms:{region}:{account}:{rest}"


class Materials:
    """A key's materials, newest last; and the regions that have them, that of the primary key
    first.  Related multi-region keys share one."""

    def __init__(self, region: str):
        self.secrets, self.rotations, self.due = {}, 0, None
        self.made = {}                  # when (monotonic) a material was made
        self.regions = [region]
        self.add(os.urandom(32))

    def add(self, secret: bytes) -> None:
        self.current_id = hashlib.sha256(b"material id" + secret).hexdigest()
        self.secrets[self.current_id] = secret
        self.made[self.current_id] = time.monotonic()

    def known(self, born: float, lag_ms: float) -> dict:
        """The materials that a key knows: those that there were when it was made, and the others
        so much later."""
        secrets = self.settle().secrets
        then = max(born, time.monotonic() - lag_ms / 1000)
        return {each: secret for each, secret in secrets.items() if self.made[each] <= then}

    def rotate(self, milliseconds: float) -> None:
        """Asynchronous, as KMS's is: the new material is there that much later."""
        self.rotations += 1
        self.due = time.monotonic() + milliseconds / 1000

    def settle(self) -> "Materials":
        if self.due is not None and time.monotonic() >= self.due:
            self.due = None
            self.add(os.urandom(32))
        return self


@dataclasses.dataclass(eq=False)
class Key:
    region: str
    account: str
    key_id: str
    materials: Materials
    state: str = "Enabled"
    usage: str = "ENCRYPT_DECRYPT"
    spec: str = "SYMMETRIC_DEFAULT"
    shared_with: tuple = ()             # accounts that its key policy lets in
    denied: tuple = ()                  # actions that its key policy forbids to all
    pending_days: int = 30              # until it is deleted, if it is pending deletion
    lag_ms: float = 0                   # how long it takes to know a new material
    ready: float = 0                    # when (monotonic) it is no longer being created
    born: float = dataclasses.field(default_factory=time.monotonic)
    created: float = dataclasses.field(default_factory=time.time)

    @property
    def arn(self) -> str:
        return self.arn_in(self.region)

    def arn_in(self, region: str) -> str:
        return make_arn(region, self.account, "key/" + self.key_id)

    @property
    def multi_region(self) -> bool:
        return self.key_id.startswith(MULTI_REGION)

    @property
    def primary(self) -> bool:
        return self.region == self.materials.regions[0]

    @property
    def known(self) -> dict:
        """The materials that it knows, newest last."""
        return self.materials.known(self.born, self.lag_ms)

    @property
    def material_id(self) -> str:
        """Of the material that it seals with."""
        return list(self.known)[-1]

    @property
    def deleted(self) -> float:
        """When it will be, if it is pending deletion; the emulator never does that by itself."""
        return self.created + 86400 * self.pending_days

    @property
    def state_now(self) -> str:
        return self.state if time.monotonic() >= self.ready else "Creating"


def keystream_xor(secret: bytes, nonce: bytes, data: bytes) -> bytes:
    stream = b"".join(hmac.digest(secret, b"stream" + nonce + struct.pack(">I", i), "sha256")
                      for i in range((len(data) + 31) // 32))[:len(data)]
    mixed = int.from_bytes(data, "big") ^ int.from_bytes(stream, "big")
    return mixed.to_bytes(len(data), "big")


def blob_tag(secret: bytes, front: bytes, context: dict) -> bytes:
    bound = json.dumps(sorted(context.items())).encode()
    return hmac.digest(secret, b"tag" + struct.pack(">I", len(front)) + front + bound, "sha256")


def seal(key: Key, context: dict, plain: bytes) -> bytes:
    """A blob: name, nonce, ciphertext, tag; the name is the key's ARN and the material's id."""
    material_id, nonce = key.material_id, os.urandom(16)
    secret = key.materials.secrets[material_id]
    front = blob_name(key.arn, material_id) + nonce + keystream_xor(secret, nonce, plain)
    return front + blob_tag(secret, front, context)


def blob_name(arn: str, material_id: str) -> bytes:
    """Magic, length, ARN, material id; a check tells a damaged name from an unknown one."""
    name = BLOB_MAGIC + bytes([len(arn)]) + arn.encode() + bytes.fromhex(material_id)
    return name + hashlib.sha256(name).digest()


def read_blob(blob: bytes) -> tuple:
    """(ARN, material id, offset of the nonce) of a blob, unproved."""
    start = len(BLOB_MAGIC) + 1
    end = start + (blob[start - 1] if len(blob) >= start else 0)
    arn, material_id = blob[start:end].decode("latin-1"), blob[end:end + 32].hex()
    nonce_at = end + 64
    if len(blob) <= nonce_at + 16 + BLOB_TAG or blob[:nonce_at] != blob_name(arn, material_id):
        raise KmsError("InvalidCiphertextException")
    return arn, material_id, nonce_at


def unseal(key: Key, context: dict, blob: bytes) -> tuple:
    """(plaintext, material id); KMS says no word about what was wrong.  A material that has not
    come to this region yet is as unknown as a false one."""
    _, material_id, at = read_blob(blob)
    secret, front = key.known.get(material_id), blob[:-BLOB_TAG]
    if secret is None or not hmac.compare_digest(blob[-BLOB_TAG:],
                                                 blob_tag(secret, front, context)):
        raise KmsError("InvalidCiphertextException")
    return keystream_xor(secret, front[at:at + 16], front[at + 16:]), material_id


# ---- users and what they may do -----------------------------------------------------------------

CONTEXT_KEY = "kms:encryptioncontext:"


def as_list(value) -> list:
    return [value] if isinstance(value, (str, dict)) else list(value)


def matches(text: str, patterns) -> bool:
    return any(fnmatch.fnmatchcase(text, each) for each in as_list(patterns))


class Statement:
    """One statement of an IAM policy; what is not understood is refused, not ignored."""

    def __init__(self, text: dict):
        self.effect, self.actions = text["Effect"], as_list(text["Action"])
        self.resources, self.tests = text.get("Resource", "*"), []
        for operator, wanted in text.get("Condition", {}).items():
            for name, values in wanted.items():
                if operator != "StringEquals" or not name.lower().startswith(CONTEXT_KEY):
                    raise ValueError(f"policy condition not understood: {operator} {name}")
                self.tests.append((name.lower(), as_list(values)))
        if set(text) - {"Sid", "Effect", "Action", "Resource", "Condition"}:
            raise ValueError(f"policy statement not understood: {text}")

    def fits(self, action: str, arn: str, context: dict) -> bool:
        """Names in conditions ignore case, as IAM's do."""
        folded = {CONTEXT_KEY + name.lower(): value for name, value in context.items()}
        return (matches(action.lower(), [each.lower() for each in self.actions])
                and matches(arn, self.resources)
                and all(folded.get(name) in wanted for name, wanted in self.tests))


@dataclasses.dataclass(eq=False)
class User:
    access_key_id: str
    secret: str
    account: str
    token: str
    token_expires: float                # Unix seconds
    statements: list
    arn: str
    role: str                           # the ARN of the role whose session it is, or None
    path: tuple                         # where its credentials came from, the last role last

    def may_do(self, action: str, arn: str, context: dict) -> bool:
        effects = [each.effect for each in self.statements if each.fits(action, arn, context)]
        return "Allow" in effects and "Deny" not in effects


# ---- the judge of signatures --------------------------------------------------------------------

AUTHORIZATION = re.compile(
    r"AWS4-HMAC-SHA256 +Credential=([^/, ]+)/(\d{8})/([^/, ]+)/([^/, ]+)/aws4_request"
    r" *, *SignedHeaders=([^, ]+) *, *Signature=([0-9a-f]{64})")
STAMP_FORM = "%Y%m%dT%H%M%SZ"
SKEW_MAX = 300


@dataclasses.dataclass
class Request:
    """A request as it came over the wire."""
    method: str
    target: str
    headers: list                       # (name, value), in order
    body: bytes
    user: User = None                   # once judged: who signed it,
    refusal: KmsError = None            # or why nobody did

    def get(self, name: str, default: str = ""):
        return next((value for key, value in self.headers if key.lower() == name), default)


class Judge(SigV4Auth):
    """botocore's signer, made to sign the headers that the client says it signed."""

    def __init__(self, user: User, service: str, region: str, signed: HTTPHeaders):
        super().__init__(Credentials(user.access_key_id, user.secret, user.token), service, region)
        self.signed = signed

    def headers_to_sign(self, request):
        return self.signed

    def expected(self, request: Request, stamp: str) -> str:
        # No headers here, so that x-amz-content-sha256 cannot stand in for the body's real hash.
        wire = AWSRequest(request.method, "https://kms" + request.target, data=request.body)
        wire.context["timestamp"] = stamp
        return self.signature(self.string_to_sign(wire, self.canonical_request(wire)), wire)


def bad_signature(message: str) -> KmsError:
    return KmsError("InvalidSignatureException", message)


def check_skew(stamp: str, now: float) -> None:
    try:
        when = calendar.timegm(time.strptime(stamp, STAMP_FORM))
    except ValueError:
        raise KmsError("IncompleteSignatureException", "X-Amz-Date is missing or odd") from None
    early, here, late = (time.strftime(STAMP_FORM, time.gmtime(now + each))
                         for each in (-SKEW_MAX, 0, SKEW_MAX))
    if when < now - SKEW_MAX:
        raise bad_signature(f"Signature expired: {stamp} is now earlier than {early} "
                            f"({here} - 5 min.)")
    if when > now + SKEW_MAX:
        raise bad_signature(f"Signature not yet current: {stamp} is still later than {late} "
                            f"({here} + 5 min.)")


def signed_headers(request: Request, names: list) -> HTTPHeaders:
    """The headers said to be signed; all that mean something to AWS must be."""
    present = {name.lower() for name, _ in request.headers}
    needed = {"host"} | {name for name in present if name.startswith("x-amz-")}
    if needed - set(names) or set(names) - present:
        raise bad_signature(f"to be sent and signed: {needed | set(names)}")
    signed = HTTPHeaders()
    for name, value in request.headers:
        if name.lower() in names:
            signed.add_header(name.lower(), value)
    return signed


def judge(request: Request, users: dict, now: float, wanted: str = "kms", where=None) -> User:
    """The user whose signature holds for the request to that service, in the region `where` if
    one is given; else raises AWS's error."""
    if not request.get("authorization"):
        raise KmsError("MissingAuthenticationTokenException", "Missing Authentication Token")
    match = AUTHORIZATION.fullmatch(request.get("authorization"))
    if not match:
        raise KmsError("IncompleteSignatureException", "Authorization header not understood")
    access_key_id, day, region, service, names, signature = match.groups()
    user, stamp = users.get(access_key_id), request.get("x-amz-date")
    if user is None or request.get("x-amz-security-token", None) != user.token:
        raise KmsError("UnrecognizedClientException",
                       "The security token included in the request is invalid.")
    if user.token_expires is not None and now >= user.token_expires:
        raise KmsError("ExpiredTokenException",
                       "The security token included in the request is expired")
    check_skew(stamp, now)
    if (day, service) != (stamp[:8], wanted):
        raise bad_signature(f"Credential should be scoped to the date and to service '{wanted}'.")
    if where not in (None, region):
        raise bad_signature(f"Credential should be scoped to a valid region, not '{region}'.")
    expected = Judge(user, wanted, region, signed_headers(request, names.split(";"))).expected(
        request, stamp)
    if not hmac.compare_digest(expected, signature):
        raise bad_signature("The request signature we calculated does not match the signature "
                            "you provided. Check your AWS Secret Access Key and signing method.")
    return user


# ---- the service: keys, users, actions; no network ----------------------------------------------

KEY_ARN_FORM = re.compile(r"arn:[a-z-]+:kms:([a-z0-9-]+):(\d{12}):((?:key|alias)/.+)")
KEY_ID_FORM = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}|mrk-[0-9a-f]{32}")
REGION_FORM = re.compile(r"([a-z]+-){2,3}\d+")
KEY_ATTRIBUTES = ("state", "usage", "spec", "shared_with", "denied", "lag_ms")
SHARED_ATTRIBUTES = ("usage", "spec")   # by related multi-region keys


@dataclasses.dataclass
class Call:
    action: str
    user: User
    region: str
    args: dict

    def get(self, name: str, default=None):
        return self.args.get(name, default)


class Kms:
    """The keys of all regions, and the users of one, or of all if region is None.

    sister      another region's, with which it shares the keys
    """

    def __init__(self, region: str = None, sister: "Kms" = None):
        self.region, self.users = region, {}
        self.lock = sister.lock if sister else threading.RLock()
        self.keys = sister.keys if sister else {}
        self.aliases = sister.aliases if sister else {}
        self.clock_offset = 0           # seconds that this server's clock is fast
        self.rotation_ms = 100          # how long a rotation takes
        self.creating_ms = 100          # how long ReplicateKey takes, once it has answered
        self.ignore_dry_run = False     # as moto does
        if sister:
            self.users.update(sister.users)
        else:
            self.add_user(ACCESS_KEY_ID, SECRET, ACCOUNT)
            self.add_key(region or REGION, ACCOUNT, KEY_ID, ALIAS)

    def now(self) -> float:
        return time.time() + self.clock_offset

    def add_user(self, access_key_id, secret, account, token=None, token_expires=None,
                 denied=(), policy=None, arn=None, role=None, path=None) -> None:
        """denied: "Decrypt", "Decrypt ARN" ...; policy: an IAM policy, else all is allowed."""
        texts = as_list((policy or {"Statement": {"Effect": "Allow", "Action": "*"}})["Statement"])
        for rule in denied:
            action, _, arn = rule.partition(" ")
            texts.append({"Effect": "Deny", "Action": "kms:" + action, "Resource": arn or "*"})
        self.users[access_key_id] = User(
            access_key_id, secret, account, token, token_expires,
            [Statement(text) for text in texts],
            arn or f"arn:aws:iam::{account}:user/{access_key_id}", role, path or (access_key_id,))

    def remove_user(self, access_key_id) -> None:
        del self.users[access_key_id]

    def add_key(self, region, account, key_id=None, alias=None, **attributes):
        """Makes a key, a multi-region primary if its id says so; returns its ARN."""
        key_id = key_id or str(uuid.uuid4())
        if not KEY_ID_FORM.fullmatch(key_id):
            raise ValueError(f"bad key id {key_id}")
        return self.put_key(Key(region, account, key_id, Materials(region)), alias, attributes)

    def put_key(self, key: Key, alias: str, attributes: dict) -> str:
        with self.lock:
            self.keys[key.region, key.account, key.key_id] = key
            if alias:
                self.aliases[key.region, key.account, alias] = key
            self.set_key(key.arn, **attributes)
        return key.arn

    def replicate(self, arn: str, region: str, alias=None, creating_ms=0, **attributes) -> str:
        """Makes a replica of a multi-region primary key; returns its ARN.  The attributes and the
        alias are the replica's own."""
        with self.lock:
            key = self.key(arn)
            if not key.multi_region or not key.primary or region in key.materials.regions:
                raise ValueError(f"{arn} cannot be replicated to {region}")
            key.materials.regions.append(region)
            return self.put_key(
                Key(region, key.account, key.key_id, key.materials, usage=key.usage, spec=key.spec,
                    ready=time.monotonic() + creating_ms / 1000), alias, attributes)

    def export_key(self, arn: str) -> dict:
        """What another process needs to have a related key: see import_key."""
        with self.lock:
            key = self.key(arn)
            materials = key.materials.settle()
            return {"account": key.account, "key_id": key.key_id, "regions": materials.regions,
                    "secrets": [each.hex() for each in materials.secrets.values()],
                    "rotations": materials.rotations,
                    **{name: getattr(key, name) for name in SHARED_ATTRIBUTES}}

    def import_key(self, region: str, exported: dict, alias=None, **attributes) -> str:
        """Makes the replica here of a multi-region key that another process has exported, or, if it
        is here, brings it up to date; returns its ARN."""
        with self.lock:
            account, key_id = exported["account"], exported["key_id"]
            key = self.keys.get((region, account, key_id))
            new = key is None
            if new:
                key = Key(region, account, key_id, Materials(region))
                key.materials.secrets.clear()
            materials = key.materials
            materials.rotations = exported["rotations"]
            materials.regions = list(dict.fromkeys([*exported["regions"], region]))
            for secret in map(bytes.fromhex, exported["secrets"]):
                if secret not in materials.secrets.values():
                    materials.add(secret)
            if new:
                key.born = time.monotonic()
            shared = {name: exported[name] for name in SHARED_ATTRIBUTES}
            return self.put_key(key, alias, {**shared, **attributes})

    def key(self, arn: str) -> Key:
        region, account, name = arn.split(":", 5)[3:]
        return self.keys[region, account, name.split("/")[1]]

    def set_key(self, arn: str, **attributes) -> None:
        for name, value in attributes.items():
            if name not in KEY_ATTRIBUTES:
                raise ValueError(f"a key has no {name}")
            key = self.key(arn)
            for each in list(self.keys.values()) if name in SHARED_ATTRIBUTES else [key]:
                if each.materials is key.materials:
                    setattr(each, name, value)

    def remove_key(self, arn: str) -> None:
        with self.lock:
            key = self.key(arn)
            if key.primary and len(key.materials.regions) > 1:
                raise ValueError(f"{arn} still has replicas")
            del self.keys[key.region, key.account, key.key_id]
            key.materials.regions.remove(key.region)
            for name in [name for name, each in self.aliases.items() if each is key]:
                del self.aliases[name]

    def perform(self, action: str, user: User, region: str, body: bytes) -> dict:
        if action not in ACTIONS or action not in MODEL.operation_names:
            raise KmsError("UnknownOperationException")
        try:
            members = json.loads(body.decode("utf-8"))
        except ValueError:
            raise KmsError("SerializationException", "The body is not JSON") from None
        args = read_value(MODEL.operation_model(action).input_shape, members)
        if NOT_EMULATED & set(args):
            raise KmsError("UnsupportedOperationException", f"not emulated: {sorted(args)}")
        with self.lock:
            return getattr(self, "do_" + action)(Call(action, user, region, args))

    # -- finding a key, and whether it may be used

    def find_key(self, call: Call, name: str, manage: bool = False) -> Key:
        """The key that a KeyId names; the actions that manage keys take no aliases."""
        match = KEY_ARN_FORM.fullmatch(name)
        if name.startswith("arn:") and (not match or manage and ":alias/" in name):
            raise KmsError("InvalidArnException" if manage else "NotFoundException",
                           f"Invalid arn {name}")
        region, account, rest = match.groups() if match else (
            call.region, call.user.account, name if name.startswith("alias/") else "key/" + name)
        arn = make_arn(region, account, rest)
        if region != call.region or match and arn != name:
            raise KmsError("NotFoundException", f"Invalid arn {region}")
        if rest.startswith("alias/") and not manage:
            key, missing = self.aliases.get((region, account, rest)), f"Alias {arn} is not found."
        else:
            key_id = rest.removeprefix("key/")
            key, missing = self.keys.get((region, account, key_id)), f"Key '{arn}' does not exist"
            if not KEY_ID_FORM.fullmatch(key_id):
                missing = f"Invalid keyId '{key_id}'"
        if key is None and account == call.user.account:
            raise KmsError("NotFoundException", missing)
        if key is None:
            raise KmsError("AccessDeniedException", f"{arn} does not exist in this Region, no "
                           "resource-based policies allow access, or one denies it")
        return key

    def find_source(self, call: Call, blob: bytes, pin: str) -> Key:
        """The key of a blob; a pin must name just that one.  A multi-region key's blob is also that
        of the key here which is related to it."""
        pinned = self.find_key(call, pin) if pin else None
        arn = read_blob(blob)[0]
        region, account, _, key_id = re.split("[:/]", arn)[3:]
        if key_id.startswith(MULTI_REGION) and arn.split(":")[1] == partition_of(call.region):
            region = call.region
        key = self.keys.get((region, account, key_id))
        if pinned and pinned is not key:
            raise KmsError("IncorrectKeyException", "The key ID in the request does not identify "
                           "a CMK that can perform this operation.")
        if key is None or region != call.region:
            raise KmsError("AccessDeniedException", "The ciphertext refers to a key that does not "
                           "exist, does not exist in this region, or is not open to you.")
        return key

    def allow(self, call: Call, key: Key, context: dict, permission: str = None) -> None:
        permission = "kms:" + (permission or call.action)
        accounts = (key.account, *key.shared_with)
        if (call.user.account not in accounts or matches(permission.removeprefix("kms:"),
                                                         key.denied)
                or not call.user.may_do(permission, key.arn, context)):
            raise KmsError("AccessDeniedException", f"User: {call.user.access_key_id} is not "
                           f"authorized to perform: {permission} on resource: {key.arn}")

    def enabled(self, key: Key) -> None:
        state = key.state_now
        if state == "Disabled":
            raise KmsError("DisabledException", f"{key.arn} is disabled.")
        if state not in ("Enabled", "Updating"):
            what = re.sub("(?<!^)([A-Z])", r" \1", state).lower()
            raise KmsError("KMSInvalidStateException", f"{key.arn} is {what}.")

    def ready(self, call: Call, key: Key, prefix: str = "", permission: str = None) -> dict:
        """The checks on a key before it seals or opens; returns the context to do it with."""
        context = call.get(prefix + "EncryptionContext", {})
        self.allow(call, key, context, permission)
        if key.usage != "ENCRYPT_DECRYPT" or key.spec != "SYMMETRIC_DEFAULT":
            raise KmsError("InvalidKeyUsageException", f"{key.arn} is not valid for {call.action}.")
        self.enabled(key)
        return context

    def dry_run(self, call: Call) -> None:
        if call.get("DryRun") and not self.ignore_dry_run:
            raise KmsError("DryRunOperationException",
                           "The request would have succeeded, but the DryRun option is set.")

    # -- the actions

    def do_GenerateDataKey(self, call: Call) -> dict:
        if call.get("NumberOfBytes") is None:
            raise KmsError("ValidationException", "Give either number of bytes or key spec.")
        key = self.find_key(call, call.get("KeyId"))
        context = self.ready(call, key)
        self.dry_run(call)
        plain = os.urandom(call.get("NumberOfBytes"))
        return {"CiphertextBlob": seal(key, context, plain), "Plaintext": plain,
                "KeyId": key.arn, "KeyMaterialId": key.material_id}

    def do_GenerateDataKeyWithoutPlaintext(self, call: Call) -> dict:
        reply = self.do_GenerateDataKey(call)
        del reply["Plaintext"]
        return reply

    def do_Encrypt(self, call: Call) -> dict:
        key = self.find_key(call, call.get("KeyId"))
        context = self.ready(call, key)
        self.dry_run(call)
        return {"CiphertextBlob": seal(key, context, call.get("Plaintext")), "KeyId": key.arn,
                "EncryptionAlgorithm": "SYMMETRIC_DEFAULT"}

    def open_source(self, call: Call, prefix: str, pin: str, permission: str) -> tuple:
        """The opening half of Decrypt and ReEncrypt: key, plaintext, material id."""
        blob = call.get("CiphertextBlob")
        if blob is None:
            raise invalid("CiphertextBlob", "not null")
        key = self.find_source(call, blob, pin)
        return key, *unseal(key, self.ready(call, key, prefix, permission), blob)

    def do_Decrypt(self, call: Call) -> dict:
        key, plain, material_id = self.open_source(call, "", call.get("KeyId"), "Decrypt")
        self.dry_run(call)
        return {"KeyId": key.arn, "Plaintext": plain, "KeyMaterialId": material_id,
                "EncryptionAlgorithm": "SYMMETRIC_DEFAULT"}

    def do_ReEncrypt(self, call: Call) -> dict:
        source, plain, material_id = self.open_source(call, "Source", call.get("SourceKeyId"),
                                                      "ReEncryptFrom")
        key = self.find_key(call, call.get("DestinationKeyId"))
        context = self.ready(call, key, "Destination", "ReEncryptTo")
        self.dry_run(call)
        return {"CiphertextBlob": seal(key, context, plain),
                "SourceKeyId": source.arn, "KeyId": key.arn,
                "SourceEncryptionAlgorithm": "SYMMETRIC_DEFAULT",
                "DestinationEncryptionAlgorithm": "SYMMETRIC_DEFAULT",
                "SourceKeyMaterialId": material_id,
                "DestinationKeyMaterialId": key.material_id}

    def do_DescribeKey(self, call: Call) -> dict:
        key = self.find_key(call, call.get("KeyId"))
        self.allow(call, key, {})
        return {"KeyMetadata": metadata(key)}

    def do_RotateKeyOnDemand(self, call: Call) -> dict:
        key = self.find_key(call, call.get("KeyId"), manage=True)
        self.allow(call, key, {})
        materials = key.materials.settle()
        if key.spec != "SYMMETRIC_DEFAULT":
            raise KmsError("UnsupportedOperationException", f"{key.arn} does not support rotation")
        if key.account != call.user.account:
            raise KmsError("AccessDeniedException", "Rotation is not for other accounts' keys")
        if not key.primary:
            raise KmsError("UnsupportedOperationException", f"{key.arn} is not a multi-region "
                                                            "primary key.")
        self.enabled(key)
        if materials.due is not None:
            raise KmsError("ConflictException", f"A rotation of {key.arn} is in progress")
        if materials.rotations >= ROTATIONS_MAX:
            raise KmsError("LimitExceededException", f"{key.arn} was rotated {ROTATIONS_MAX} times")
        materials.rotate(self.rotation_ms)
        return {"KeyId": key.arn}

    def do_CreateKey(self, call: Call) -> dict:
        if not call.user.may_do("kms:CreateKey", "*", {}):
            raise KmsError("AccessDeniedException", "You may not perform kms:CreateKey")
        key_id = MULTI_REGION + uuid.uuid4().hex if call.get("MultiRegion") else None
        return {"KeyMetadata": metadata(self.key(self.add_key(
            call.region, call.user.account, key_id)))}

    def do_EnableKey(self, call: Call) -> dict:
        self.manage(call, "Enabled", "Disabled").state = "Enabled"
        return {}

    def do_DisableKey(self, call: Call) -> dict:
        self.manage(call, "Enabled", "Disabled").state = "Disabled"
        return {}

    def do_ScheduleKeyDeletion(self, call: Call) -> dict:
        key = self.manage(call, "Enabled", "Disabled")
        key.state, key.pending_days = "PendingDeletion", call.get("PendingWindowInDays", 30)
        return {"KeyId": key.arn, "KeyState": key.state, "DeletionDate": key.deleted,
                "PendingWindowInDays": key.pending_days}

    def do_CancelKeyDeletion(self, call: Call) -> dict:
        """The key is disabled then."""
        key = self.manage(call, "PendingDeletion")
        key.state = "Disabled"
        return {"KeyId": key.arn}

    def manage(self, call: Call, *states: str) -> Key:
        """A key that is in one of these states."""
        key = self.find_key(call, call.get("KeyId"), manage=True)
        self.allow(call, key, {})
        if key.state_now not in states:
            raise KmsError("KMSInvalidStateException", f"{key.arn} is {key.state_now}.")
        return key

    def do_ReplicateKey(self, call: Call) -> dict:
        region = call.get("ReplicaRegion")
        if not REGION_FORM.fullmatch(region):
            raise invalid("replicaRegion", f"pattern {REGION_FORM.pattern}")
        key = self.find_key(call, call.get("KeyId"), manage=True)
        self.allow(call, key, {})
        if key.account != call.user.account or not call.user.may_do("kms:CreateKey", "*", {}):
            raise KmsError("AccessDeniedException", f"{key.arn} is another account's, or you may "
                           "not perform kms:CreateKey")
        if not key.multi_region or not key.primary:
            raise KmsError("UnsupportedOperationException", f"{key.arn} is not a multi-region "
                                                            "primary key.")
        if partition_of(region) != partition_of(key.region):
            raise KmsError("UnsupportedOperationException", f"{region} is in another partition")
        self.enabled(key)
        if key.state_now == "Updating":
            raise KmsError("KMSInvalidStateException", f"{key.arn} is updating.")
        if region in key.materials.regions:
            raise KmsError("AlreadyExistsException", f"{key.arn_in(region)} already exists.")
        arn = self.replicate(key.arn, region, creating_ms=self.creating_ms)
        return {"ReplicaKeyMetadata": metadata(self.key(arn)), "ReplicaTags": []}


def metadata(key: Key) -> dict:
    """What DescribeKey tells, and ReplicateKey of the replica."""
    about = {"AWSAccountId": key.account, "KeyId": key.key_id, "Arn": key.arn,
             "CreationDate": key.created, "Enabled": key.state_now == "Enabled",
             "KeyUsage": key.usage, "KeyState": key.state_now, "KeySpec": key.spec,
             "Origin": "AWS_KMS", "MultiRegion": key.multi_region}
    if key.spec == "SYMMETRIC_DEFAULT":
        about["CurrentKeyMaterialId"] = key.material_id
    if key.state == "PendingDeletion":
        about["DeletionDate"] = key.deleted
    if key.multi_region:
        primary, *replicas = [{"Arn": key.arn_in(region), "Region": region}
                              for region in key.materials.regions]
        about["MultiRegionConfiguration"] = {
            "MultiRegionKeyType": "PRIMARY" if key.primary else "REPLICA",
            "PrimaryKey": primary, "ReplicaKeys": replicas}
    return about


# ---- faults -------------------------------------------------------------------------------------

# what: its options; "where" says how far a connection gets before it breaks
FAULTS = {
    "latency": (),                      # only waits, as every fault does that is given ms
    "slow_headers": ("each_ms",),       # between the bytes of the head
    "slow_body": ("each_ms",),          # between the bytes of the body
    "error": ("type", "status", "message", "retry_after"),
    "throttle": ("retry_after",),       # ThrottlingException
    "reply": ("status", "body", "size", "headers"),     # see BODIES; size: an oversized one
    "cut": ("where", "perform"),        # the end of the stream
    "reset": ("where", "perform"),      # RST
    "black_hole": ("where", "perform"),     # silence until the client goes away
    "close": (),                        # after the reply, without having said so
    "edit": ("set", "drop", "duplicate"),       # members of a good reply
    "headers": ("set", "drop"),         # of a good reply: Date, Content-Length ...
    "gzip": (), "chunked": (),
}
WHERES = {"cut": ("accept", "request", "status", "headers", "body"),
          "reset": ("accept", "request", "status", "headers", "body"),
          "black_hole": ("accept", "request")}
MEGABYTE = 1 << 20
BODIES = {"html": b"<html><body><h1>Bad day</h1></body></html>", "empty": b"",
          "truncated": b'{"KeyId":"arn:aw'}


@dataclasses.dataclass
class Rule:
    action: str
    what: str
    times: int                          # 0: for ever
    after: int                          # so many matching requests pass first
    ms: float
    options: dict

    def __post_init__(self):
        if self.what not in FAULTS or set(self.options) - set(FAULTS[self.what]):
            raise ValueError(f"no such fault: {self.what} {self.options}")
        wheres = WHERES.get(self.what, ("",))
        self.where = self.options.get("where", "request" if "request" in wheres else "")
        if self.where not in wheres or self.where == "accept" and self.action != "*":
            raise ValueError(f"{self.what} cannot happen at {self.where} for {self.action}")

    def get(self, name: str, default=None):
        return self.options.get(name, default)


@dataclasses.dataclass
class Reply:
    status: int
    body: bytes = b""
    headers: dict = dataclasses.field(default_factory=dict)     # None drops one
    blanks: int = 0                     # so many bytes more, which are not kept in memory


def to_json(value) -> bytes:
    """As KMS writes it: no spaces, bytes as base64."""
    return json.dumps(value, separators=(",", ":"),
                      default=lambda data: base64.b64encode(data).decode()).encode()


def error_reply(error: KmsError, retry_after=None) -> Reply:
    body = {"__type": error.kind}
    if error.message is not None:
        body["Message" if error.kind in CAPITAL_MESSAGE else "message"] = error.message
    return Reply(error.status, to_json(body), {"x-amz-retry-after": retry_after})


def replaced_reply(rule: Rule, record: dict):
    """The reply of a fault that keeps the action from being performed, or None."""
    if rule.what in ("throttle", "error") and record["action"] in STS_ACTIONS:
        return sts_error(StsError(rule.get("status", 400), rule.get("type", "Throttling"),
                                  rule.get("message", "Rate exceeded")), record)
    if rule.what in ("throttle", "error"):
        error = KmsError(rule.get("type", "ThrottlingException"),
                         rule.get("message", "Rate exceeded"), rule.get("status"))
        return error_reply(error, rule.get("retry_after"))
    if rule.what == "reply":
        body = rule.get("body", "empty")
        body = BODIES[body] if body in BODIES else body.encode()
        if rule.get("size"):
            body = b'{"CiphertextBlob":"' + b"A" * (min(rule.get("size"), MEGABYTE) - 21) + b'"}'
        kind = {"Content-Type": "text/html"} if body.startswith(b"<") else {}
        return Reply(rule.get("status", 200), body, {**kind, **rule.get("headers", {})},
                     max(0, rule.get("size", 0) - len(body)))
    return None


def edit_reply(rule: Rule, reply: Reply) -> None:
    """Spoils a good reply."""
    if rule.what == "headers":
        reply.headers.update(rule.get("set", {}), **dict.fromkeys(rule.get("drop", ())))
    if rule.what == "gzip":
        reply.body, reply.headers["Content-Encoding"] = gzip.compress(reply.body), "gzip"
    if rule.what == "chunked":
        parts = [reply.body[i:i + 50] for i in range(0, len(reply.body), 50)]
        reply.body = b"".join(b"%x\r\n%b\r\n" % (len(p), p) for p in parts) + b"0\r\n\r\n"
        reply.headers.update({"Transfer-Encoding": "chunked", "Content-Length": None})
    if rule.what == "edit":
        members = {**json.loads(reply.body), **rule.get("set", {})}
        pairs = [pair for pair in members.items() if pair[0] not in rule.get("drop", ())]
        pairs += rule.get("duplicate", {}).items()
        reply.body = b"{%b}" % b",".join(to_json(name) + b":" + to_json(value)
                                         for name, value in pairs)


# ---- what gives session credentials -------------------------------------------------------------

def plain_reply(status: int, body: bytes = b"", **headers) -> "Reply":
    return Reply(status, body, {"x-amzn-RequestId": None, "Content-Type": "text/plain", **headers})


def sts_error(error: StsError, record: dict) -> "Reply":
    return Reply(error.status, error_xml(error, record["request_id"]).encode(),
                 {"Content-Type": "text/xml"})


def read_form(request: Request):
    """The names and values of a form, each once; {} if it is not well formed, None if it is no
    form at all."""
    if not request.get("content-type").startswith("application/x-www-form-urlencoded"):
        return None
    try:
        pairs = urllib.parse.parse_qsl(request.body.decode(), True, True)
    except ValueError:
        return {}
    return dict(pairs) if len(dict(pairs)) == len(pairs) else {}


class Roles(Sts):
    """AWS STS; EC2's instance metadata, version 2 only; and the endpoint that a container has.

    Each answer with credentials makes new ones, which the KMS knows until they expire.

    roles       names of the instance's roles, in order
    code        "Success", or why EC2 has no credentials for the role
    secret_path the path of the container's endpoint
    wanted      the Authorization that it wants; None: none
    """

    CREDENTIALS = "/latest/meta-data/iam/security-credentials/"

    def __init__(self):
        super().__init__()
        self.roles, self.code = ["app-role"], "Success"
        self.secret_path, self.wanted = "/v2/credentials/6f2a", None
        self.tokens = set()

    def metadata(self, request: Request) -> Reply:
        if request.get("x-forwarded-for"):
            return plain_reply(403)
        if request.method == "PUT" and request.target == "/latest/api/token":
            life = request.get("x-aws-ec2-metadata-token-ttl-seconds")
            if not life.isdigit() or not 1 <= int(life) <= 21600:
                return plain_reply(400)
            token = base64.b64encode(os.urandom(40))
            self.tokens.add(token.decode())
            return plain_reply(200, token, **{"X-Aws-Ec2-Metadata-Token-Ttl-Seconds": life})
        if request.get("x-aws-ec2-metadata-token") not in self.tokens:
            return plain_reply(401)               # as without a token: version 1 is off
        role = request.target.removeprefix(self.CREDENTIALS)
        if request.method != "GET" or role == request.target or role and role not in self.roles:
            return plain_reply(404, b"<html>404</html>")
        if not role:
            return plain_reply(200 if self.roles else 404, "\n".join(self.roles).encode())
        body = {"Code": self.code, "LastUpdated": "2026-11-28T00:00:00Z", "Type": "AWS-HMAC"}
        body.update(self.session(f"arn:aws:iam::{ACCOUNT}:role/{role}", path=("instance",))
                    if self.code == "Success" else {"Message": "no"})
        return plain_reply(200, json.dumps(body, indent=2).encode())

    def container(self, request: Request) -> Reply:
        if (self.wanted or "") != request.get("authorization"):
            return plain_reply(403, b'{"code":"AccessDenied","message":"no"}')
        arn = f"arn:aws:iam::{ACCOUNT}:role/task"
        return plain_reply(200, to_json({"RoleArn": arn, **self.session(arn, path=("container",))}))

    def sts_reply(self, request: Request, record: dict) -> Reply:
        refusal = request.refusal and (request.refusal.kind, request.refusal.message)
        try:
            if (request.method, request.target) != ("POST", "/") or not record["form"]:
                raise StsError(404, "InvalidAction", "a form is to be posted to /, each name once")
            result = self.sts(record["form"], bool(request.get("authorization")), request.user,
                              refusal)
            record["verdict"] = "OK"
            return Reply(200, answer_xml(record["action"], result, record["request_id"]).encode(),
                         {"Content-Type": "text/xml"})
        except StsError as error:
            record["verdict"] = error.kind
            return sts_error(error, record)

    def serves(self, request: Request) -> str:
        """What the request is counted as, if it is one for credentials."""
        form = read_form(request)
        if form is not None:
            return form.get("Action") if form.get("Action") in STS_ACTIONS else "sts"
        path = request.target.partition("?")[0]
        if path == self.secret_path:
            return "container"
        if path.startswith("/latest/"):
            return "token" if path.endswith("/token") else (
                "roles" if path.endswith("/") else "role")
        return ""


# ---- one connection -----------------------------------------------------------------------------

class Connection:
    """Reads requests and writes replies byte by byte, so that both can go wrong."""

    def __init__(self, emulator: "Emulator", sock: socket.socket, number: int):
        self.emulator, self.sock, self.number, self.buffer = emulator, sock, number, b""
        self.lost = False               # what a black hole has taken

    def run(self) -> None:
        try:
            if self.broken_at_accept():
                return
            if self.emulator.tls:
                self.sock = self.emulator.tls.wrap_socket(self.sock, server_side=True,
                                                          do_handshake_on_connect=False)
                self.sock.do_handshake()
                self.emulator.resumed += self.sock.session_reused
            self.sock.settimeout(self.emulator.idle_timeout)
            kept = False
            while self.receive() and not (kept and self.broken_at_accept()):
                request, kept = self.read_request(), True
                if request is None or not self.arrived() or not self.answer(request):
                    return
        except OSError:
            pass                        # the client refused TLS, went away, or was silent for long
        finally:
            with self.emulator.lock:
                self.emulator.open.pop(self, None)
            self.sock.close()

    def broken_at_accept(self) -> bool:
        rule = self.emulator.take_fault("*", True)
        if rule:
            self.emulator.wait(rule.ms)
            self.break_off(rule)
        return rule is not None

    def break_off(self, rule: Rule) -> None:
        if rule.what == "black_hole":
            gone = select.poll()
            gone.register(self.sock.fileno(), select.POLLRDHUP)
            gone.poll()                 # stop() ends this too
        if rule.what == "reset":
            time.sleep(0.02)            # or the RST would overtake what was sent before it
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()

    def receive(self) -> bool:
        """Waits until there is something in the buffer; False at the end of the stream."""
        self.buffer = self.buffer or self.sock.recv(65536)
        return bool(self.buffer)

    def read_until(self, enough) -> None:
        while not enough():
            data = self.sock.recv(65536)
            if not data or len(self.buffer) > 1 << 20:
                raise OSError("request cut short, or far too long")
            self.buffer += data

    def read_request(self) -> Request:
        self.read_until(lambda: b"\r\n\r\n" in self.buffer)
        head, _, self.buffer = self.buffer.partition(b"\r\n\r\n")
        try:
            first, *lines = head.decode("utf-8").split("\r\n")
            method, target, _ = first.split(" ")
            pairs = [line.split(":", 1) for line in lines]
            request = Request(method, target, [(name, text.strip(" \t")) for name, text in pairs],
                              b"")
            size = int(request.get("content-length", "0"))
        except ValueError:
            self.sock.sendall(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")
            return None
        self.read_until(lambda: len(self.buffer) >= size)
        request.body, self.buffer = self.buffer[:size], self.buffer[size:]
        return request

    def arrived(self) -> bool:
        """True at once, or at the end of a black hole if the client has waited for it."""
        self.emulator.passable.wait()
        return not self.lost

    def left(self) -> bool:
        """Whether the client has."""
        gone = select.poll()
        gone.register(self.sock.fileno(), select.POLLRDHUP)
        return bool(gone.poll(0))

    def answer(self, request: Request) -> bool:
        """True if the connection lives on."""
        emulator = self.emulator
        record, rule = emulator.begin(request, self.number)
        emulator.wait(emulator.latency_ms + (rule.ms if rule else 0))
        if rule and rule.where == "request" and not rule.get("perform"):
            self.break_off(rule)
            return False
        reply = rule and replaced_reply(rule, record)
        if reply is None:
            reply = emulator.reply_to(request, record)
            if rule and reply.status == 200:
                edit_reply(rule, reply)
        record["status"] = reply.status
        return (self.send(reply, record["request_id"], rule)
                and request.get("connection").lower() != "close")

    def send(self, reply: Reply, request_id: str, rule: Rule) -> bool:
        headers = {"x-amzn-RequestId": request_id, "Content-Length": len(reply.body) + reply.blanks,
                   "Date": email.utils.formatdate(self.emulator.now(), usegmt=True),
                   "Content-Type": "application/x-amz-json-1.1", **reply.headers}
        status = f"HTTP/1.1 {reply.status} {http.client.responses.get(reply.status, 'Odd')}\r\n"
        head = (status + "".join(f"{name}: {value}\r\n" for name, value in headers.items()
                                 if value is not None) + "\r\n").encode("latin-1")
        if rule and rule.where:
            size = {"request": 0, "status": len(status), "headers": (len(status) + len(head)) // 2,
                    "body": len(head) + len(reply.body) // 2}[rule.where]
            self.sock.sendall((head + reply.body)[:size])
            self.break_off(rule)
            return False
        what, data = rule.what if rule else "", head + reply.body
        slow, fast = {"slow_headers": (0, len(head)), "slow_body": (len(head), len(data))}.get(
            what, (0, 0))
        self.sock.sendall(data[:slow])
        for at in range(slow, fast):
            self.sock.sendall(data[at:at + 1])
            self.emulator.wait(rule.get("each_ms", 20))
        self.sock.sendall(data[fast:])
        for at in range(0, reply.blanks, MEGABYTE):
            self.sock.sendall(b" " * min(MEGABYTE, reply.blanks - at))
        return what != "close"


# ---- the emulator -------------------------------------------------------------------------------

BACKLOG = 128
LOG_MAX = 20000                         # requests kept; the counters go on


def named(action: str) -> tuple:
    """The names that a request for the action has in faults and counts."""
    return ("*", action, "sts") if action in STS_ACTIONS else ("*", action)


class Emulator(Kms, Roles):
    SETTINGS = ("clock_offset", "rotation_ms", "creating_ms", "ignore_dry_run", "latency_ms",
                "idle_timeout", "life", "sts_region", "token_size")
    CONTROLS = ("add_key", "set_key", "remove_key", "replicate", "export_key", "import_key",
                "add_user", "remove_user", "add_role", "remove_role", "fault", "clear_faults",
                "set", "reset_log", "count", "log", "start", "stop", "cut", "black_hole")

    def __init__(self, cert=None, key=None, tls_max=None, region=None, sister=None):
        """tls_max: newest TLS version to speak, as ssl.TLSVersion names it ("TLSv1_1").
        region: the only one that it answers for; by default it answers for all."""
        Kms.__init__(self, region, sister)
        Roles.__init__(self)
        self.sisters = [*sister.sisters, self] if sister else [self]
        for each in self.sisters:
            each.sisters = self.sisters
        self.sts_region = region or self.sts_region
        if sister:
            self.iam_roles, self.identities = sister.iam_roles, sister.identities
        self.port, self.tls = 0, tls_context(cert, key, tls_max) if cert else None
        self.latency_ms = 0             # before every reply
        self.idle_timeout = None        # seconds after which a silent connection is closed
        self.stopping, self.listener, self.open = threading.Event(), None, {}
        self.keeper = None              # of the port
        self.passable, self.held = threading.Event(), threading.Event()     # see black_hole
        self.plugs, self.ours = [], set()       # sockets; addresses of the connected ones
        self.passable.set()
        self.rules = []
        self.reset_log()

    @property
    def url(self) -> str:
        return f"{'https' if self.tls else 'http'}://127.0.0.1:{self.port}"

    def sister(self, region: str) -> "Emulator":
        """Another region, not started yet: its keys are ours.  So are the roles of IAM; its users
        are those that we have now, and all sessions that any of us gives."""
        emulator = Emulator(region=region, sister=self)
        emulator.tls = self.tls
        return emulator

    def session(self, *args, **kwargs) -> dict:
        keys = super().session(*args, **kwargs)
        for each in self.sisters:
            each.users[keys["AccessKeyId"]] = self.users[keys["AccessKeyId"]]
        return keys

    def remove_role(self, arn) -> None:
        for each in self.sisters:
            super(Emulator, each).remove_role(arn)

    def start(self) -> "Emulator":
        """Listens, on the same port as before if it was stopped: a socket that never listens keeps
        it from others meanwhile, and from a client's own end of a connection to it."""
        self.stopping.clear()
        if self.keeper is None:
            self.keeper = socket.socket()
            self.keeper.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self.keeper.bind(("127.0.0.1", 0))
            self.port = self.keeper.getsockname()[1]
        self.listener = socket.create_server(("127.0.0.1", self.port), backlog=BACKLOG)
        threading.Thread(target=self.accept, args=(self.listener,), daemon=True).start()
        return self

    def stop(self) -> None:
        """Refuses and cuts all connections; keys, users, faults and log stay."""
        if self.listener is None:
            return
        self.stopping.set()
        self.black_hole(False)
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        self.listener = None
        self.ours.clear()
        self.cut()

    def cut(self) -> None:
        """Ends all connections that there are, and goes on with new ones."""
        with self.lock:
            threads = list(self.open.items())
        for connection, thread in threads:
            with contextlib.suppress(OSError):          # it may be closing by itself
                socket.socket.shutdown(connection.sock, socket.SHUT_RDWR)
            thread.join(5)

    def quiet(self) -> bool:
        """Whether it has seen the end of each connection that a client has left: no request that
        was given up will be counted any more."""
        with self.lock:
            connections = list(self.open)
        with contextlib.suppress(ValueError):           # one is closing by itself
            return not any(each.left() for each in connections)
        return False

    def black_hole(self, on: bool = True) -> None:
        """While it is on, no packet seems to arrive: to connect hangs, because the kernel drops the
        SYNs for a listener whose queue is full; and the connections that there are stay silent."""
        if on:
            self.held.clear()
            self.passable.clear()
            self.listener.listen(0)
            while self.plug():          # the first goes to accept(), which holds on to it
                self.held.wait()
            return
        with self.lock:
            for connection in () if self.passable.is_set() else self.open:
                connection.lost = self.stopping.is_set() or connection.left()
        for plug in self.plugs:
            plug.close()
        self.plugs.clear()
        self.listener.listen(BACKLOG)
        self.passable.set()

    def plug(self) -> bool:
        """Connects to our own port; False if that hangs for a time that is long for loopback."""
        plug = socket.socket()
        self.plugs.append(plug)
        plug.settimeout(0.2)
        try:
            plug.bind(("127.0.0.1", 0))
            self.ours.add(plug.getsockname())
            plug.connect(("127.0.0.1", self.port))
        except TimeoutError:
            self.ours.discard(plug.getsockname())
            return False
        return True

    def __enter__(self) -> "Emulator":
        return self.start()

    def __exit__(self, *_) -> None:
        self.stop()

    def accept(self, listener: socket.socket) -> None:
        while True:
            try:
                sock, client = listener.accept()
            except OSError:
                return
            if not self.passable.is_set():
                self.held.set()
                self.passable.wait()
            if client in self.ours:
                self.ours.discard(client)
                sock.close()
                continue
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with self.lock:
                if self.stopping.is_set():
                    return sock.close()
                self.connections += 1
                connection = Connection(self, sock, self.connections)
                self.open[connection] = threading.Thread(target=connection.run, daemon=True)
                self.open[connection].start()

    def wait(self, milliseconds: float) -> None:
        if milliseconds:
            self.stopping.wait(milliseconds / 1000)

    # -- faults and settings

    def fault(self, action, what, times=1, after=0, ms=0, **options) -> None:
        """The next `times` requests for `action` ("*": any, "sts": any of AWS STS's), after `after`
        others, go wrong."""
        with self.lock:
            self.rules.append(Rule(action, what, times, after, ms, options))

    def clear_faults(self) -> None:
        with self.lock:
            self.rules = []

    def take_fault(self, action: str, at_accept: bool):
        """The first rule that is due, used up by one."""
        with self.lock:
            for rule in self.rules:
                if rule.action not in named(action) or (rule.where == "accept") != at_accept:
                    continue
                if rule.after > 0:
                    rule.after -= 1
                    continue
                if rule.times == 1:
                    self.rules.remove(rule)
                rule.times = max(0, rule.times - 1)
                return rule
        return None

    def set(self, **settings) -> None:
        for name, value in settings.items():
            if name not in self.SETTINGS:
                raise ValueError(f"no such setting: {name}")
            setattr(self, name, value)

    # -- requests and their log

    def reset_log(self) -> None:
        with self.lock:
            self.requests, self.counts = [], collections.Counter()
            self.connections = self.resumed = 0
            self.crashes = []

    def count(self, action=None) -> int:
        """Requests for an action, or all, that came in, well or badly answered."""
        counts = list(self.counts.items())      # at once: a request may come meanwhile
        return sum(number for each, number in counts if (action or "*") in named(each))

    def log(self) -> dict:
        with self.lock:
            return {"requests": list(self.requests), "connections": self.connections,
                    "resumed": self.resumed, "crashes": self.crashes}

    def begin(self, request: Request, connection: int) -> tuple:
        """Judges a request's signature and writes it into the log, with the fault that it has: what
        is counted takes no later request's.  Returns the record and the rule."""
        target = request.get("x-amz-target")
        action = (target[13:] if target.startswith("TrentService.") else
                  self.serves(request))
        match = AUTHORIZATION.fullmatch(request.get("authorization"))
        record = {"action": action, "host": request.get("host"), "connection": connection,
                  "time": self.now(),
                  "headers": {name.lower(): value for name, value in request.headers},
                  "request_id": str(uuid.uuid4()), "access_key_id": match and match[1],
                  "account": None, "region": match and match[3], "body": None,
                  "form": read_form(request),
                  "signed": "OK", "verdict": None, "status": None, "fault": None}
        with contextlib.suppress(ValueError):
            record["body"] = json.loads(request.body)
        try:
            service, region = ("kms", self.region) if record["form"] is None else (
                "sts", self.sts_region)
            request.user = judge(request, self.users, self.now(), service, region)
            record["account"] = request.user.account
        except KmsError as error:
            request.refusal, record["signed"] = error, error.kind
        with self.lock:
            rule = self.take_fault(action, False)
            record["fault"] = rule and rule.what
            self.requests.append(record)
            del self.requests[:-LOG_MAX]
            self.counts[action] += 1
        return record, rule

    def reply_to(self, request: Request, record: dict) -> Reply:
        try:
            if record["form"] is not None:
                with self.lock:
                    return self.sts_reply(request, record)
            if self.serves(request):
                with self.lock:
                    return (self.container if record["action"] == "container" else
                            self.metadata)(request)
            if request.refusal:
                raise request.refusal
            if (request.method, request.target) != ("POST", "/"):
                raise KmsError("UnknownOperationException", status=404)
            result = self.perform(record["action"], request.user, record["region"], request.body)
            record["verdict"] = "OK"
            return Reply(200, to_json(result))
        except KmsError as error:
            record["verdict"] = error.kind
            return error_reply(error)
        except Exception:               # a bug here: let the tests see it
            record["verdict"] = "InternalFailure"
            self.crashes.append(traceback.format_exc())
            return Reply(500, b'{"__type":"InternalFailure"}')


def tls_context(cert, key, tls_max) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    if tls_max:
        context.set_ciphers("DEFAULT@SECLEVEL=0")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            context.minimum_version = ssl.TLSVersion.TLSv1
            context.maximum_version = ssl.TLSVersion[tls_max]
    return context


# ---- the control port and the program -----------------------------------------------------------

class Control(http.server.BaseHTTPRequestHandler):
    """POST {"do": name, "args": [...], arguments...}: an Emulator method of CONTROLS; answers
    {"result"}."""

    def do_POST(self) -> None:
        try:
            order = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            name, args = order.pop("do"), order.pop("args", ())
            if name not in Emulator.CONTROLS:
                raise ValueError(f"cannot {name}")
            status, answer = 200, {"result": getattr(self.server.emulator, name)(*args, **order)}
        except Exception as error:
            status, answer = 400, {"error": f"{type(error).__name__}: {error}"}
        body = json.dumps(answer, default=str).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_) -> None:
        pass


def serve_control(emulator: Emulator) -> http.server.ThreadingHTTPServer:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Control)
    server.emulator = emulator
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


def main() -> None:
    parser = argparse.ArgumentParser(description="An emulator of AWS KMS, for tests.")
    parser.add_argument("--cert")
    parser.add_argument("--key")
    parser.add_argument("--region", help="the only one to answer for")
    args = parser.parse_args()
    ends = (signal.SIGTERM, signal.SIGINT)
    # Else another thread may get them, when they follow a SIGCONT, and this one sleep on.
    signal.pthread_sigmask(signal.SIG_BLOCK, ends)
    with Emulator(args.cert, args.key, region=args.region) as emulator:
        control = serve_control(emulator)
        print(json.dumps({"url": emulator.url, "port": emulator.port,
                          "control": control.server_port}), flush=True)
        signal.sigwait(ends)
        control.shutdown()


if __name__ == "__main__":
    main()
