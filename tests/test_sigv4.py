"""kaws_sign against botocore's signers: random requests, compared step by step, byte by byte; with
headers and presigned, to S3 and to other services.

Each request follows from its seed, which a failure prints.  KAWS_SEED=n makes other requests,
KAWS_LONG=1 makes 20 times as many.  Random requests have nothing that botocore would change or
leave out (see DIFFERENCES), because then the comparison would prove nothing.
"""

import dataclasses
import datetime
import hashlib
import itertools
import random
import string
import types
import urllib.parse

import pytest

import kms_emulator                                                       # finds botocore
from oracle import LONG, SEED, Oracle, unfield
from botocore.auth import S3SigV4Auth, S3SigV4QueryAuth, SigV4Auth, SigV4QueryAuth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

ROUNDS = 4000 if LONG else 200                                            # of each family
HOST = "kms.us-east-1.amazonaws.com"
LETTERS = string.ascii_letters + string.digits
UNRESERVED = LETTERS + "-._~"
WIDE = "\u00e9\u00fc\u00df\u0416\u05d0\u20ac\u4e2d\uffff\U0001f511\U0010ffff"
NOT_SIGNED = {"expect", "transfer-encoding", "user-agent", "x-amzn-trace-id", "connection",
              "date", "authorization", "x-amz-content-sha256", "x-amz-date", "host",
              "x-amz-security-token", "te", "trailer", "upgrade", "baggage", "keep-alive",
              "proxy-authenticate", "proxy-authorization", "traceparent", "tracestate"}


@dataclasses.dataclass
class Request:
    method: str = "POST"
    path: str = "/"
    query: str | None = None
    headers: list[tuple[str, str]] = dataclasses.field(default_factory=list)
    body: bytes = b""
    region: str = "us-east-1"
    service: str = "kms"
    when: int = 1440938160
    id: str = "AKIDEXAMPLE"
    secret: str = "not-a-real-secret"
    token: str | None = None
    path_as_sent: bool = False
    payload: str | None = None
    token_unsigned: bool = False
    expires: int = 0

    def __post_init__(self) -> None:
        if not any(name.lower() == "host" for name, _ in self.headers):
            self.headers.append(("Host", HOST))


@dataclasses.dataclass
class Steps:
    canonical: str
    result: str                                                           # Authorization, or query


UNSIGNED = "UNSIGNED-PAYLOAD"
S3_UNSIGNED = types.SimpleNamespace(s3={"payload_signing_enabled": False})


def signer_of(request: Request) -> SigV4Auth:
    token = None if request.token_unsigned else request.token
    common = (Credentials(request.id, request.secret, token), request.service, request.region)
    if not request.expires:
        return (S3SigV4Auth if request.path_as_sent else SigV4Auth)(*common)
    return (S3SigV4QueryAuth if request.path_as_sent else SigV4QueryAuth)(*common, request.expires)


def by_botocore(request: Request) -> Steps:
    url = f"https://{HOST}{request.path}"
    if request.query is not None:
        url += "?" + request.query
    wire = AWSRequest(request.method, url, data=request.body)
    for name, value in request.headers:
        wire.headers[name] = value                                        # adds
    if request.payload and not request.expires and "x-amz-content-sha256" not in wire.headers:
        wire.headers["X-Amz-Content-SHA256"] = request.payload
    signer = signer_of(request)
    moment = datetime.datetime.fromtimestamp(request.when, datetime.timezone.utc)
    wire.context["timestamp"] = moment.strftime("%Y%m%dT%H%M%SZ")
    wire.context["client_config"] = S3_UNSIGNED if request.payload == UNSIGNED else None
    signer._modify_request_before_signing(wire)
    canonical = signer.canonical_request(wire)
    to_sign = signer.string_to_sign(wire, canonical)
    if request.expires and request.token_unsigned and request.token:
        wire.url += "&X-Amz-Security-Token=" + urllib.parse.quote(request.token, safe="-._~")
    signer._inject_signature_to_request(wire, signer.signature(to_sign, wire))
    result = wire.url.split("?", 1)[1] if request.expires else wire.headers["Authorization"]
    return Steps(canonical, result)


def by_kaws(oracle: Oracle, request: Request) -> Steps:
    lines = [f"{name}:{value}" for name, value in request.headers]
    status, *steps = oracle("sign", request.method, request.path, request.query, request.region,
                            request.service, request.body, request.when, request.id,
                            request.secret, request.token, int(request.path_as_sent),
                            request.payload, int(request.token_unsigned), request.expires, *lines)
    steps = [unfield(step).decode() for step in steps]
    assert status == "0", f"refused: {steps}\n{request}"
    return Steps(*steps)


@pytest.fixture(scope="module")
def oracle():
    oracle = Oracle()
    yield oracle
    oracle.close()


# ---- random requests ----------------------------------------------------------------------------


def word(r: random.Random, letters: str = LETTERS, most: int = 12) -> str:
    return "".join(r.choices(letters, k=r.randint(1, most)))


def escaped(r: random.Random) -> str:
    """A piece of a path or query as it may be sent: mostly plain, or percent-encoded."""
    kind = r.randrange(8)
    if kind < 4:
        return word(r, UNRESERVED, 6)
    if kind < 6:
        return "".join(f"%{byte:02X}" for byte in word(r, LETTERS + WIDE + " /%+&=?#", 3).encode())
    return word(r, "!$'()*+,;:@%" if kind == 6 else WIDE, 4)


def path(r: random.Random) -> str:
    segments = r.choices(["", ".", "..", "...", "a", "%2e%2e", "%2F", "b b", "+", None],
                         k=r.randint(0, 8))
    parts = [escaped(r) if segment is None else segment for segment in segments]
    return "/" + "/".join(parts) + r.choice(["", "", "/", "//", "/."])


def query(r: random.Random) -> str | None:
    names = [escaped(r) for _ in range(3)] + ["", "a", "A", "a-b", "ab"]
    parts = []
    for _ in range(r.choice([0, 1, 2, 3, 5, 9, 40])):
        value = r.choice([None, "", "1", "10", "2", "=", "a=b", escaped(r)])
        parts.append(r.choice(names) + ("" if value is None else "=" + value))
    return "&".join(parts) or r.choice([None, ""])


def value(r: random.Random) -> str:
    pieces = [word(r, LETTERS + "\"',;:/=()", 8), word(r, WIDE, 3), " ", "  ", "\t", " \t ", ""]
    return "".join(r.choices(pieces, k=r.randint(0, 9)))


def headers(r: random.Random, most: int = 12) -> list[tuple[str, str]]:
    names = [name for name in (word(r, LETTERS + "-_.", 40) for _ in range(6))
             if name.lower() not in NOT_SIGNED]
    names += ["X-Amz-Target", "content-TYPE", "Content-Length", "accept", "x-amz-meta-b"]
    found = []
    for _ in range(r.randrange(most)):
        name = r.choice(names)
        found.append((r.choice([name, name.upper(), name.lower(), name.title()]), value(r)))
    found.insert(r.randint(0, len(found)),
                 (r.choice(["Host", "host", "HOST"]), r.choice([" ", ""]) + r.choice(
                     [HOST, HOST + ":8443", "127.0.0.1:1", "[::1]:80"])))
    return found


def body(r: random.Random) -> bytes:
    return r.randbytes(r.choice([0, 0, 1, 55, 56, 63, 64, 65, 1000, 10000]))


def token(r: random.Random) -> str | None:
    return r.choice([None, word(r, LETTERS + "/+=", 1200), word(r), " " + word(r) + "  x "])


def moment(r: random.Random) -> int:
    return r.choice([1, 86399, 951782400, 4102444800, 253402300799, r.randint(1, 253402300799),
                     r.randint(1700000000, 1900000000), r.randint(1700000000, 1900000000)])


def names(r: random.Random) -> dict[str, str]:
    return {"region": word(r, LETTERS + "-_.", 60), "service": word(r, LETTERS + "-", 60),
            "id": word(r, most=128), "secret": word(r, string.printable[:95] + WIDE[:3], 100)}


def everything(r: random.Random) -> Request:
    request = Request(r.choice(["GET", "POST", "PUT", "DELETE", "HEAD", "PATCH", "OPTIONS", "X-Y"]),
                      path(r), query(r), headers(r), body(r), when=moment(r), token=token(r),
                      **names(r))
    if r.randrange(4) == 0:                      # what is signed anyhow may be there already
        stamp = datetime.datetime.fromtimestamp(request.when, datetime.timezone.utc)
        request.headers.append(("x-amz-DATE", stamp.strftime(" %Y%m%dT%H%M%SZ ")))
    if r.randrange(4) == 0:
        request.headers.append(("X-Amz-Security-Token", request.token or "of the header"))
    return request


def like_ours(r: random.Random) -> Request:
    """What the library itself sends."""
    return Request(headers=[("Host", HOST), ("Content-Type", "application/x-amz-json-1.1"),
                            ("X-Amz-Target", "TrentService." + word(r))],
                   body=body(r), token=token(r), when=moment(r))


def encoded(r: random.Random, most: int = 3) -> str:
    """Percent-encoded as AWS wants it: everything but the unreserved."""
    return urllib.parse.quote(word(r, UNRESERVED + WIDE + " /%+&=?#$(", most), safe="-._~")


def to_s3(r: random.Random) -> Request:
    segments = r.choices(["", ".", "..", "%2F", "a", None], k=r.randint(0, 8))
    body_ = body(r)
    return Request(r.choice(["GET", "PUT", "HEAD"]),
                   "/" + "/".join(encoded(r) if each is None else each for each in segments),
                   query(r), headers(r), body_, service="s3", when=moment(r), token=token(r),
                   path_as_sent=True,
                   payload=r.choice([UNSIGNED, hashlib.sha256(body_).hexdigest()]))


def with_payload(r: random.Random) -> Request:
    """To a service that wants X-Amz-Content-SHA256, and is not S3."""
    payload = r.choice([UNSIGNED, "STREAMING-UNSIGNED-PAYLOAD-TRAILER", r.randbytes(32).hex()])
    listed = r.choice([[], [("x-amz-CONTENT-sha256", payload)]])
    return Request("PUT", path(r), headers=headers(r) + listed, body=body(r), token=token(r),
                   payload=payload)


def unsigned_token(r: random.Random) -> Request:
    return dataclasses.replace(r.choice([like_ours, to_s3, presigned])(r), token_unsigned=True)


def presigned(r: random.Random) -> Request:
    """botocore takes a query apart and a body into it, so: names once, no body."""
    names_ = {encoded(r) for _ in range(r.choice([0, 1, 5, 40]))}
    query_ = "&".join(name + "=" + r.choice(["", encoded(r)]) for name in names_)
    s3 = r.randrange(2)
    request = dataclasses.replace(to_s3(r) if s3 else Request("GET", path(r), headers=headers(r)),
                                  query=r.choice([query_, query_ or None]), body=b"",
                                  payload=UNSIGNED if s3 else None, token=token(r),
                                  when=moment(r), **names(r))
    if r.randrange(4) == 0:
        request.payload = UNSIGNED
        request.headers.append(("X-Amz-Content-SHA256", UNSIGNED))
    request.expires = r.choice([1, 60, 3600, 604800, r.randint(1, 604800)])
    return request


FAMILIES = {
    "paths": lambda r: Request("GET", path(r)),
    "queries": lambda r: Request("GET", "/", query(r)),
    "headers": lambda r: Request(headers=headers(r, 60)),
    "names": lambda r: Request(when=moment(r), **names(r)),
    "ours": like_ours,
    "everything": everything,
    "S3": to_s3,
    "payload": with_payload,
    "presigned": presigned,
    "unsigned token": unsigned_token,
}


@pytest.mark.parametrize("family", FAMILIES)
def test_random_requests(oracle: Oracle, family: str) -> None:
    for number in range(ROUNDS):
        seed = f"{family} {SEED} {number}"
        request = FAMILIES[family](random.Random(seed))
        assert by_kaws(oracle, request) == by_botocore(request), f"seed {seed!r}: {request}"


def test_short_paths_and_queries(oracle: Oracle) -> None:
    """Every path and query of a few of these characters."""
    for length in range(8 if LONG else 6):
        for chars in itertools.product("/.a", repeat=length):
            request = Request(path="/" + "".join(chars))
            assert by_kaws(oracle, request) == by_botocore(request), request
        for chars in itertools.product("&=ab", repeat=min(length, 5)):
            request = Request(query="".join(chars))
            assert by_kaws(oracle, request) == by_botocore(request), request


def test_random_requests_vary() -> None:
    """Each family of requests has the cases that it is for."""
    made = [everything(random.Random(f"{SEED} {number}")) for number in range(500)]
    lines = [[name.lower() for name, _ in request.headers] for request in made]
    for share in (sum(request.token is not None for request in made),
                  sum(len(set(line)) < len(line) for line in lines),
                  sum(".." in request.path for request in made),
                  sum("%" in (request.query or "") for request in made),
                  sum("&&" in f"&{request.query}&" for request in made),
                  sum(len(request.body) > 64 for request in made),
                  sum(not str(request.headers).isascii() for request in made),
                  sum("\\t" in str(request.headers) for request in made)):
        assert 25 <= share <= 480
    made = [presigned(random.Random(f"{SEED} {number}")) for number in range(500)]
    for share in (sum(request.path_as_sent for request in made),
                  sum(request.token is not None for request in made),
                  sum(bool(request.query) for request in made),
                  sum(len(request.headers) > 4 for request in made),
                  sum("//" in request.path for request in made)):
        assert 100 <= share <= 450


# ---- where they differ, and why -----------------------------------------------------------------

DIFFERENCES = [
    # What the caller gives is what is signed: he knows what he sends.
    (Request(headers=[("User-Agent", "x")]), "user-agent:x\n", True),
    (Request(headers=[("Expect", "100-continue")]), "expect:100-continue\n", True),
    # The hash of the body is the body's; only S3 lets a header stand in for it.
    (Request(headers=[("X-Amz-Content-SHA256", "UNSIGNED-PAYLOAD")], body=b"x"),
     "2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881", True),
    # Methods are told apart by case.
    (Request("post"), "post\n", True),
    # HTTP's blanks are two; others are part of the value.
    (Request(headers=[("x", "a\u00a0\u2003 b")]), "x:a\u00a0\u2003 b\n", True),
    # A date header is signed like any other, and X-Amz-Date as well.
    (Request(headers=[("Date", "Sun, 30 Aug 2015 12:36:00 GMT")]),
     "date:Sun, 30 Aug 2015 12:36:00 GMT\nhost:" + HOST + "\nx-amz-date:", True),
    # Without a path both sign "/".
    (Request(path=""), "POST\n/\n\n", False),
    # A path to S3 that is not encoded is signed as S3 encodes it: AWS's own example has a dollar.
    (Request("GET", "/a$b c%20%24", path_as_sent=True, payload=UNSIGNED), "GET\n/a%24b%20c%20%24\n",
     True),
    # The parameters of a presigned URL stay as the caller has them.
    (Request("GET", query="a=1&a=2&b", expires=1), "Headers=host&a=1&a=2&b=\n", True),
]


@pytest.mark.parametrize("request_, has, differs", DIFFERENCES)
def test_differences(oracle: Oracle, request_: Request, has: str, differs: bool) -> None:
    ours, theirs = by_kaws(oracle, request_), by_botocore(request_)
    assert has in ours.canonical
    assert (ours.canonical != theirs.canonical) == differs


def test_emulator_shares_the_judge() -> None:
    """The emulator judges signatures by the same signer that this file compares with."""
    assert issubclass(kms_emulator.Judge, SigV4Auth)
