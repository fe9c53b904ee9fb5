"""An AWS account, for clean machines (machine.py): moto, and what it lacks.

    aws_account.py CERT KEY REGION      with the tree's Python; prints one line of JSON when it is
                                        ready: an administrator's access key, the instance's id

moto answers for all services at 127.0.0.1:443, and judges each signature.  Added to it are:
  * IAM's judgement of calls to KMS.  moto does not know on which key a call acts, nor an encryption
    context; kms_emulator.py reads policies strictly.
  * EKS: `create-addon` and the associations of Pod Identity.  There is a cluster named `blue`.
  * the instance's metadata at 169.254.169.254, version 2 only, and Pod Identity's agent at
    169.254.170.23.  Both give sessions of moto's STS, of the role that the instance's profile or
    the pod's association names, if its trust policy allows that.
AWS itself takes some seconds until all of it knows what IAM has made.  Here all is known at once,
but a new instance profile: EC2 refuses it when it is first named, as AWS does.
"""

import base64
import http.server
import json
import re
import secrets
import sys
import threading
import time
import urllib.parse
import uuid
from typing import Callable, Iterable

from kms_emulator import Statement, as_list, matches
from moto import settings
from moto.ec2.exceptions import EC2ClientError
from moto.ec2.models import EC2Backend, ec2_backends
from moto.eks.models import eks_backends
from moto.iam.access_control import IAMRequest
from moto.iam.models import iam_backends
from moto.kms import models
from moto.kms.exceptions import AccessDeniedException
from moto.kms.models import kms_backends
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from moto.sts.models import sts_backends
from werkzeug.serving import run_simple

ACCOUNT, CLUSTER = "123456789012", "blue"       # moto's account
METADATA, AGENT = "169.254.169.254", "169.254.170.23"
IAM, STS = iam_backends[ACCOUNT]["aws"], sts_backends[ACCOUNT]["aws"]


# ---- multi-region keys, mended as in servers.py: their ids have AWS's form, and ARNs name them ---

def replicate_key(kms, key_id: str, region: str, motos=models.KmsBackend.replicate_key) -> object:
    return motos(kms, kms.get_key_id(key_id), region)


def key_id(multi_region: bool = False) -> str:
    return "mrk-" + uuid.uuid4().hex if multi_region else str(uuid.uuid4())


# ---- what a call to KMS may do -------------------------------------------------------------------

OWN_CONTEXT = "EncryptionContext"
PARTS = {"ReEncrypt": (("ReEncryptFrom", "SourceEncryptionContext"),
                       ("ReEncryptTo", "DestinationEncryptionContext"))}


def key_arn(region: str, action: str, call: dict) -> str:
    """The KMS key on which a part of a call acts."""
    kms = kms_backends[ACCOUNT][region]
    if action in ("Decrypt", "ReEncryptFrom"):          # moto's ciphertext begins with the key's id
        named = base64.b64decode(call["CiphertextBlob"])[:36].decode("ascii", "replace")
    else:
        named = call.get("DestinationKeyId") or call.get("KeyId") or call.get("TargetKeyId", "")
    key = kms.keys.get(kms.any_id_to_key_id(named) if named else "")
    return key.arn if key else "*"


def judge(request: IAMRequest, resource: str, motos=IAMRequest.check_action_permitted) -> None:
    """Refuses a call that the caller's policies do not allow."""
    service, action = request._action.split(":")
    if service != "kms":
        motos(request, resource)
        return
    documents = [json.loads(getattr(policy, "document", None) or policy["policy_document"]
                            if not isinstance(policy, str) else policy)
                 for policy in request._access_key.collect_policies()]
    statements = [Statement(each) for document in documents
                  for each in as_list(document["Statement"])]
    call = json.loads(request._body or "{}")
    for part, context in PARTS.get(action, ((action, OWN_CONTEXT),)):
        arn = key_arn(request._region, part, call)
        effects = {each.effect for each in statements
                   if each.fits(f"kms:{part}", arn, call.get(context) or {})}
        if effects != {"Allow"}:                        # in AWS's words
            raise AccessDeniedException(
                f"User: {request._access_key.arn} is not authorized to perform: kms:{part} on"
                f" resource: {arn} because no identity-based policy allows the kms:{part} action")


def check_signature(request: IAMRequest, motos=IAMRequest.check_signature) -> None:
    """moto counts what is in a GET's path as its body."""
    if request._method == "GET":
        request._data = {}
    motos(request)


# ---- roles that services assume ------------------------------------------------------------------

class Untrusting(Exception):
    """A role does not let in the service that is to have it."""


def tests_hold(tests: dict, tags: dict[str, str]) -> bool:
    """Whether the conditions of a trust policy hold: on tags of the request only."""
    prefix = "aws:RequestTag/"
    return all(operator == "StringEquals" and name.startswith(prefix)
               and tags.get(name.removeprefix(prefix)) in as_list(wanted)
               for operator, all_wanted in tests.items() for name, wanted in all_wanted.items())


def session(role_name: str, service: str, actions: Iterable[str], tags: dict[str, str],
            name: str) -> dict[str, str]:
    """A role's credentials for a service, as EC2 and EKS give them."""
    role = IAM.get_role(role_name)
    document = json.loads(urllib.parse.unquote(role.assume_role_policy_document))
    lets_in = [each for each in as_list(document["Statement"])
               if each["Effect"] == "Allow" and tests_hold(each.get("Condition", {}), tags)
               and service in as_list(each.get("Principal", {}).get("Service", []))]
    if not all(any(matches(action, each["Action"]) for each in lets_in) for action in actions):
        raise Untrusting(f"role {role_name} does not let in {service} with {tags}")
    given = STS.assume_role("us-east-1", name, role.arn, None, 3600, None)
    return {"AccessKeyId": given.access_key_id, "SecretAccessKey": given.secret_access_key,
            "Token": given.session_token,
            "Expiration": time.strftime("%Y-%m-%dT%H:%M:%SZ", given.expiration.utctimetuple())}


class Plain(http.server.BaseHTTPRequestHandler):
    """An HTTP server of this machine's own."""
    protocol_version = "HTTP/1.1"

    def reply(self, status: int, body: str = "") -> None:
        self.send_response(status)
        self.send_header("Content-Type", "text/plain")
        self.send_header("Content-Length", str(len(body.encode())))
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, *_: object) -> None:
        pass


def start(handler: type, address: str) -> None:
    server = http.server.ThreadingHTTPServer((address, 80), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()


class Metadata(Plain):
    """The metadata of the instance."""
    instance, region, tokens = "", "", set()
    ROLE = "/latest/meta-data/iam/security-credentials/"

    def do_PUT(self) -> None:
        life = self.headers.get("X-aws-ec2-metadata-token-ttl-seconds", "")
        if self.path != "/latest/api/token" or not life.isdigit():
            self.reply(400)
            return
        self.tokens.add(token := secrets.token_urlsafe(40))
        self.reply(200, token)

    def do_GET(self) -> None:
        if self.headers.get("X-aws-ec2-metadata-token") not in self.tokens:
            self.reply(401)                     # version 1 is off, as it is on new instances
            return
        role, found = self.role(), {"/latest/meta-data/instance-id": self.instance,
                                    "/latest/meta-data/placement/region": self.region}
        if role:
            found |= {self.ROLE: role, self.ROLE.rstrip("/"): role}
        if role and self.path == self.ROLE + role:
            found[self.path] = json.dumps(self.credentials(role))
        self.reply(200 if self.path in found else 404, found.get(self.path, ""))

    def role(self) -> str:
        """The role in the profile that the instance has now; "": none."""
        there = ec2_backends[ACCOUNT][self.region].iam_instance_profile_associations
        profile = self.instance in there and there[self.instance].iam_instance_profile
        return profile.roles[0].name if profile and profile.roles else ""

    def credentials(self, role: str) -> dict[str, str]:
        try:
            return {"Code": "Success", "Type": "AWS-HMAC", **session(
                role, "ec2.amazonaws.com", ["sts:AssumeRole"], {}, self.instance)}
        except Untrusting as reason:
            return {"Code": "AssumeRoleUnauthorizedAccess", "Message": str(reason)}


seen: set[str] = set()


def associate(ec2, instance_id: str, iam_instance_profile_name: str | None = None,
              iam_instance_profile_arn: str | None = None,
              motos=EC2Backend.associate_iam_instance_profile) -> object:
    """EC2 knows a profile only when it has been asked for once."""
    if iam_instance_profile_name not in seen:
        seen.add(iam_instance_profile_name)
        raise EC2ClientError(
            "InvalidParameterValue", f"Value ({iam_instance_profile_name}) for parameter"
            " iamInstanceProfile.name is invalid. Invalid IAM Instance Profile name")
    return motos(ec2, instance_id, iam_instance_profile_name, iam_instance_profile_arn)


# ---- EKS -----------------------------------------------------------------------------------------

associations: dict[tuple[str, str, str], dict] = {}     # by cluster, namespace, service account
addons: set[tuple[str, str]] = set()


class Agent(Plain):
    """Pod Identity's agent.  It believes what the pod's token says; EKS would check it."""

    def do_GET(self) -> None:
        try:
            claims = self.headers.get("Authorization", "").split(".")[1]
            subject = json.loads(base64.urlsafe_b64decode(claims + "=="))["sub"]
            namespace, account = re.fullmatch("system:serviceaccount:(.+):(.+)", subject).groups()
        except (IndexError, ValueError, KeyError, AttributeError):
            self.reply(400, '{"message": "no token of a service account"}')
            return
        made = associations.get((CLUSTER, namespace, account))
        if self.path != "/v1/credentials" or not made or (CLUSTER, ADDON) not in addons:
            self.reply(404, '{"message": "no association found for the service account"}')
            return
        tags = {"eks-cluster-name": CLUSTER, "kubernetes-namespace": namespace,
                "kubernetes-service-account": account}
        try:
            self.reply(200, json.dumps(session(
                made["roleArn"].split("/")[-1], "pods.eks.amazonaws.com",
                ["sts:AssumeRole", "sts:TagSession"], tags, "eks-blue-mysql")))
        except Untrusting as reason:
            self.reply(403, json.dumps({"message": str(reason)}))


ADDON = "eks-pod-identity-agent"
PLACES = (r"/clusters/([^/]+)/addons", r"/clusters/([^/]+)/pod-identity-associations")


def make_addon(cluster: str, call: dict) -> dict:
    addons.add((cluster, call["addonName"]))
    return {"addon": {"addonName": call["addonName"], "clusterName": cluster, "status": "ACTIVE"}}


def make_association(cluster: str, call: dict) -> dict:
    IAM.get_role_by_arn(call["roleArn"])
    made = {"clusterName": cluster, "associationId": f"a-{secrets.token_hex(8)}",
            **{name: call[name] for name in ("namespace", "serviceAccount", "roleArn")}}
    associations[cluster, call["namespace"], call["serviceAccount"]] = made
    return {"association": made}


class Account:
    """The WSGI application: moto's, and before it what moto's EKS lacks (unsigned, too)."""

    def __init__(self) -> None:
        self.moto = DomainDispatcherApplication(create_backend_app)
        self.moto.debug = True

    def __call__(self, environ: dict, start_response: Callable) -> Iterable[bytes]:
        for place, make in zip(PLACES, (make_addon, make_association)):
            found = re.fullmatch(place, environ["PATH_INFO"])
            if found and environ["REQUEST_METHOD"] == "POST":
                call = json.loads(environ["wsgi.input"].read(int(environ["CONTENT_LENGTH"])))
                there = found[1] == CLUSTER
                reply = make(found[1], call) if there else {"message": "No cluster found"}
                body = json.dumps(reply).encode()
                start_response("200 OK" if there else "404 Not Found", [
                    ("Content-Type", "application/json"), ("Content-Length", str(len(body))),
                    *([] if there else [("x-amzn-ErrorType", "ResourceNotFoundException")])])
                return [body]
        return self.moto(environ, start_response)


def set_up(region: str) -> dict[str, str]:
    """An administrator, an instance and a cluster."""
    IAM.create_user(region, "administrator")
    IAM.put_user_policy("administrator", "all", json.dumps({
        "Version": "2012-10-17",
        "Statement": [{"Effect": "Allow", "Action": "*", "Resource": "*"}]}))
    key = IAM.create_access_key("administrator")
    made = ec2_backends[ACCOUNT][region].run_instances(
        "ami-12c6146b", 1, None, [], instance_type="t3.small", is_instance_type_default=False,
        placement=f"{region}a", region_name=region)
    eks_backends[ACCOUNT][region].create_cluster(
        CLUSTER, f"arn:aws:iam::{ACCOUNT}:role/eks", {"subnetIds": [], "securityGroupIds": []})
    Metadata.instance, Metadata.region = made.instances[0].id, region
    return {"access_key_id": key.access_key_id, "secret": key.secret_access_key,
            "instance": Metadata.instance, "region": region}


def main(cert: str, key: str, region: str) -> None:
    IAMRequest.check_action_permitted, IAMRequest.check_signature = judge, check_signature
    EC2Backend.associate_iam_instance_profile = associate
    models.KmsBackend.replicate_key, models.generate_key_id = replicate_key, key_id
    told = set_up(region)
    settings.INITIAL_NO_AUTH_ACTION_COUNT = 0
    start(Metadata, METADATA)
    start(Agent, AGENT)
    print(json.dumps(told), flush=True)
    run_simple("127.0.0.1", 443, Account(), threaded=True, ssl_context=(cert, key))


if __name__ == "__main__":
    main(*sys.argv[1:])
