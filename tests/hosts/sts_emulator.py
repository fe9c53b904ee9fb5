"""AWS STS, for kms_emulator.py: roles, who may assume them, and what credentials they get.

It knows AssumeRole, AssumeRoleWithWebIdentity and GetCallerIdentity, in the Query protocol: a form
goes in, XML comes out.  Session credentials are random, carry the account of the role, expire, and
are checked by the emulated KMS, and here if a chain of roles goes on.  botocore's own client and
providers prove it faithful, in test_emulator.py.

The errors' types, statuses and messages are AWS's where AWS's pages, its model or its tools' issues
show them; else the text is ours.
"""

import base64
import dataclasses
import os
import re
import time
from xml.sax.saxutils import escape

VERSION, NAMESPACE = "2011-06-15", "https://sts.amazonaws.com/doc/2011-06-15/"
HOUR = 3600
ROLE_ARN = re.compile(r"arn:(aws[a-z-]*):iam::(\d{12}):role/(?:[\w+=,.@/-]*/)?([\w+=,.@-]{1,64})")

# name: shortest, longest, form; of DurationSeconds the least and the most.  The emulator knows no
# more parameters, and refuses those that STS has beside them.
PARAMETERS = {
    "RoleArn": (20, 2048, "[\t\n\r -\x7e\x85\xa0-\ud7ff\ue000-\ufffd]+"),
    "RoleSessionName": (2, 64, r"[\w+=,.@-]*"),
    "ExternalId": (2, 1224, r"[\w+=,.@:\/-]*"),
    "WebIdentityToken": (4, 20000, ".*"),
    "DurationSeconds": (900, 43200, None),
}
ACTIONS = {                             # required parameters, and others
    "AssumeRole": (("RoleArn", "RoleSessionName"), ("ExternalId", "DurationSeconds")),
    "AssumeRoleWithWebIdentity": (("RoleArn", "RoleSessionName", "WebIdentityToken"),
                                  ("DurationSeconds",)),
    "GetCallerIdentity": ((), ()),
}
# what the judge of signatures says, as STS says it
REFUSALS = {
    "UnrecognizedClientException": (403, "InvalidClientTokenId"),
    "ExpiredTokenException": (403, "ExpiredToken"),
    "InvalidSignatureException": (403, "SignatureDoesNotMatch"),
    "MissingAuthenticationTokenException": (403, "MissingAuthenticationToken"),
    "IncompleteSignatureException": (400, "IncompleteSignature"),
}


class StsError(Exception):
    def __init__(self, status: int, kind: str, message: str):
        super().__init__(kind, message)
        self.status, self.kind, self.message = status, kind, message


def invalid(message: str) -> StsError:
    return StsError(400, "ValidationError", message)


def as_refused(kind: str, message: str) -> StsError:
    """The refusal of a signature."""
    return StsError(*REFUSALS[kind], message)


@dataclasses.dataclass(eq=False)
class Role:
    arn: str
    trusts: tuple                       # ARNs, or accounts, that its trust policy lets in
    external_id: str                    # that the trust policy wants; None: none
    max_duration: int
    life: float                         # seconds of a session if the caller names none
    policy: dict                        # what its sessions may do; None: all

    def lets_in(self, caller, external_id: str) -> bool:
        named = {caller.arn, caller.role, caller.account, f"arn:aws:iam::{caller.account}:root"}
        return bool(named & set(self.trusts)) and self.external_id in (None, external_id)


# ---- XML ----------------------------------------------------------------------------------------

def to_xml(value, indent: str = "") -> str:
    """Elements of a dict, indented as AWS does it."""
    if not isinstance(value, dict):
        return escape(str(value))
    inner = "".join(f"\n{indent}  <{name}>{to_xml(each, indent + '  ')}</{name}>"
                    for name, each in value.items())
    return f"{inner}\n{indent}"


def answer_xml(action: str, result: dict, request_id: str) -> str:
    inner = to_xml({f"{action}Result": result, "ResponseMetadata": {"RequestId": request_id}})
    return f'<{action}Response xmlns="{NAMESPACE}">{inner}</{action}Response>\n'


def error_xml(error: StsError, request_id: str) -> str:
    kind = "Sender" if error.status < 500 else "Receiver"
    inner = to_xml({"Error": {"Type": kind, "Code": error.kind, "Message": error.message},
                    "RequestId": request_id})
    return f'<ErrorResponse xmlns="{NAMESPACE}">{inner}</ErrorResponse>\n'


# ---- the form -----------------------------------------------------------------------------------

def check_value(name: str, value: str) -> None:
    least, most, form = PARAMETERS[name]
    shown = f"1 validation error detected: Value at '{name[0].lower() + name[1:]}' failed to " \
            "satisfy constraint: Member must "
    if form is None:
        if not re.fullmatch(r"-?\d+", value):
            raise StsError(400, "MalformedInput", "not an integer")
        if not least <= int(value) <= most:
            raise invalid(f"{shown}have value from {least} to {most}")
        return
    if not least <= len(value) <= most:
        raise invalid(f"{shown}have length from {least} to {most}")
    if not re.fullmatch(form, value, re.A | re.S):
        raise invalid(f"{shown}satisfy regular expression pattern: {form}")


def check_form(form: dict) -> str:
    """The action of a form whose parameters are well formed."""
    action = form.get("Action", "")
    if action not in ACTIONS or form.get("Version") != VERSION:
        raise StsError(400, "InvalidAction", f"Could not find operation {action} for version "
                                             f"{form.get('Version')}")
    required, others = ACTIONS[action]
    for name in required:
        if name not in form:
            raise invalid(f"1 validation error detected: Value null at '{name}' failed to satisfy "
                          "constraint: Member must not be null")
    for name, value in form.items():
        if name in required + others:
            check_value(name, value)
        elif name not in ("Action", "Version"):
            raise StsError(400, "NotEmulated", f"{action} has no {name} here")
    return action


# ---- the service --------------------------------------------------------------------------------

class Sts:
    """Who is who. Needs users and add_user() of the emulated KMS, and its clock.

    iam_roles   by ARN; see add_role
    identities  the role's ARN for each web identity's token; None: the token has expired
    sts_region  that the endpoint is in, and requests have to be signed for
    life        seconds that credentials live; negative: they come expired
    token_size  bytes of a session token; AWS promises 4,096 at the most
    given       the access key ids of all sessions, in order
    """

    def __init__(self):
        self.iam_roles, self.identities, self.sts_region = {}, {}, "us-east-1"
        self.life, self.token_size, self.given = HOUR, 400, []

    def add_role(self, arn, trusts=None, external_id=None, max_duration=HOUR, life=None,
                 policy=None) -> None:
        """trusts: who may assume it; by default all of its account. A caller's own policy has to
        allow it, too, if he has one."""
        if not ROLE_ARN.fullmatch(arn):
            raise ValueError(f"bad role ARN {arn}")
        trusts = (ROLE_ARN.fullmatch(arn)[2],) if trusts is None else tuple(trusts)
        self.iam_roles[arn] = Role(arn, trusts, external_id, max_duration, life, policy)

    def remove_role(self, arn) -> None:
        """And the sessions that it has."""
        self.iam_roles.pop(arn, None)
        for key_id in [each.access_key_id for each in self.users.values() if each.role == arn]:
            self.remove_user(key_id)

    def session(self, role_arn: str, name: str = "i-0f", life: float = None, path: tuple = (),
                policy: dict = None) -> dict:
        """New credentials of a role, in the members that EC2 and ECS give them. path: how the role
        was come by."""
        partition, account, short = ROLE_ARN.fullmatch(role_arn).groups()
        key_id = "ASIAROLE" + base64.b32encode(os.urandom(8)).decode()[:12]
        secret = "role+" + base64.b64encode(os.urandom(27)).decode()[:35]
        token = "tok/" + base64.b64encode(os.urandom(self.token_size)).decode()
        token = token[:self.token_size - 2] + "=="
        expires = self.now() + (self.life if life is None else life)
        self.add_user(key_id, secret, account, token=token, token_expires=expires, policy=policy,
                      arn=f"arn:{partition}:sts::{account}:assumed-role/{short}/{name}",
                      role=role_arn, path=(*path, role_arn))
        self.given.append(key_id)
        return {"AccessKeyId": key_id, "SecretAccessKey": secret, "Token": token,
                "Expiration": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(expires))}

    # -- the actions

    def sts(self, form: dict, signed: bool, caller, refusal) -> dict:
        """The result of an action. caller: who signed it, or None because of the refusal (kind,
        message)."""
        action = check_form(form)
        if action == "AssumeRoleWithWebIdentity":
            if signed:
                raise StsError(403, "SignatureDoesNotMatch", "not to be signed, for us")
            return self.assume_by_web_identity(form)
        if caller is None:
            raise as_refused(*refusal)
        if action == "AssumeRole":
            return self.assume_role(form, caller)
        user_id = caller.access_key_id if caller.role is None else role_id(caller.arn)
        return {"Arn": caller.arn, "UserId": user_id, "Account": caller.account}

    def assume_role(self, form: dict, caller) -> dict:
        arn, seconds = form["RoleArn"], int(form.get("DurationSeconds", 0))
        if not ROLE_ARN.fullmatch(arn):
            raise invalid(f"{arn} is invalid")
        role = self.iam_roles.get(arn)
        if (role is None or not role.lets_in(caller, form.get("ExternalId"))
                or not caller.may_do("sts:AssumeRole", arn, {})):
            raise StsError(403, "AccessDenied", f"User: {caller.arn} is not authorized to perform: "
                                                f"sts:AssumeRole on resource: {arn}")
        if caller.role is not None and seconds > HOUR:
            raise invalid("The requested DurationSeconds exceeds the 1 hour session limit for "
                          "roles assumed by role chaining")
        step = tuple(f"{name}={form[name]}" for name in ("ExternalId", "DurationSeconds")
                     if name in form)
        return self.assumed(role, form, seconds, (*caller.path, *step))

    def assume_by_web_identity(self, form: dict) -> dict:
        arn, token = form["RoleArn"], form["WebIdentityToken"]
        if token not in self.identities:
            raise StsError(400, "InvalidIdentityToken", "No OpenIDConnect provider found in your "
                                                        "account for this & that")
        if self.identities[token] is None:
            raise StsError(400, "ExpiredTokenException", "Token expired: current date/time must "
                                                         "be before the expiration date/time")
        if self.identities[token] != arn:
            raise StsError(403, "AccessDenied",
                           "Not authorized to perform sts:AssumeRoleWithWebIdentity")
        role = self.iam_roles.get(arn) or Role(arn, (), None, 12 * HOUR, None, None)
        result = self.assumed(role, form, int(form.get("DurationSeconds", 0)), ("web identity",))
        return {"SubjectFromWebIdentityToken": "system:serviceaccount:db:mysql",
                "Audience": "sts.amazonaws.com", **result,
                "Provider": "arn:aws:iam::111122223333:oidc-provider/oidc.eks.example/id/1"}

    def assumed(self, role: Role, form: dict, seconds: int, path: tuple) -> dict:
        if seconds > role.max_duration:
            raise invalid("The requested DurationSeconds exceeds the MaxSessionDuration set for "
                          "this role.")
        name = form["RoleSessionName"]
        keys = self.session(role.arn, name, seconds or role.life, path, role.policy)
        arn = self.users[keys["AccessKeyId"]].arn
        pairs = [("AccessKeyId", keys["AccessKeyId"]), ("SessionToken", keys["Token"]),
                 ("SecretAccessKey", keys["SecretAccessKey"]), ("Expiration", keys["Expiration"])]
        turn = len(self.given) % len(pairs)         # the order is not promised
        return {"AssumedRoleUser": {"AssumedRoleId": role_id(arn), "Arn": arn},
                "Credentials": dict(pairs[turn:] + pairs[:turn]),
                "SessionTokenSize": len(keys["Token"]),
                "SessionTokenUtilization": len(keys["Token"]) * 100 // 4096}


def role_id(arn: str) -> str:
    """AROA...:session of an assumed role's ARN."""
    _, role, name = arn.split("/")
    mark = base64.b32encode(role.encode()).decode().replace("=", "A")
    return f"AROA{mark[:17]:A<17}:{name}"
