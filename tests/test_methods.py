"""GET, HEAD and PUT over the wire, and the headers of their replies: by the built-in sender with
the real libcurl over TLS, and by a caller's `send` hook over plain sockets."""

import collections
import contextlib
import hashlib
import subprocess
from pathlib import Path

import pytest

from object_server import ObjectServer
from patience import within

HOSTS = Path(__file__).resolve().parent / "hosts"
OK, NETWORK = 0, 17
Said = collections.namedtuple("Said", "status http etag modified place body why")
LARGE = bytes(range(256)) * 300                     # more than one TLS record
WHEN = "Sat, 28 Nov 2026 12:00:00 GMT"
OF_TWO = b"Content-Length: 2\r\n\r\n{}"


@pytest.fixture(scope="session")
def programs(tmp_path_factory):
    """wire.c, with libcurl and without, both with the sanitizers."""
    made = {}
    for name, flags in (("curl", ["-lcurl"]), ("hook", ["-DKEYRING_AWS_NO_CURL"])):
        made[name] = tmp_path_factory.mktemp("wire") / name
        subprocess.run(["gcc", "-std=gnu99", "-O1", "-g", "-Wall", "-Wextra", "-Werror",
                        "-Wno-unused-function", "-fsanitize=address,undefined",
                        "-fno-sanitize-recover=all", "-o", made[name], HOSTS / "wire.c",
                        "-l:libbearssl.a", *flags, "-lpthread"], check=True)
    return made


class Wire:
    def __init__(self, process, server):
        self.process, self.server = process, server

    def ask(self, method: str, path: str, body: bytes = b"", clean: int = 1) -> Said:
        self.process.stdin.write(f"{method} {path} {clean} {body.hex() or '-'}\n")
        self.process.stdin.flush()
        said = self.process.stdout.readline().rstrip("\n").split("|")
        pairs = [(int(said[i]), said[i + 1]) for i in (2, 4, 6)]
        gone = None if said[8] == "long" else bytes.fromhex(said[8])
        return Said(int(said[0]), int(said[1]), *pairs, gone, said[9])


@contextlib.contextmanager
def sending(program, certs, tls: bool):
    with ObjectServer(*((certs.good.cert, certs.good.key) if tls else ())) as server:
        command = ["timeout", "60", program, server.url, *([certs.ca] if tls else [])]
        with subprocess.Popen(command, text=True, stdin=subprocess.PIPE,
                              stdout=subprocess.PIPE) as process:
            yield Wire(process, server)
            process.stdin.close()
        assert process.returncode == 0


@pytest.fixture
def wire(programs, certs):
    with sending(programs["curl"], certs, True) as it:
        yield it


@pytest.fixture(params=["curl over TLS", "curl", "hook"])
def any_wire(request, programs, certs):
    with sending(programs[request.param.split()[0]], certs, "TLS" in request.param) as it:
        yield it


def tag(body: bytes) -> tuple[int, str]:
    return 1, f'"{hashlib.md5(body).hexdigest()}"'


# ---- what each sender can --------------------------------------------------------------------


@pytest.mark.parametrize("body", [b"", b"{}", b"\0\r\n\r\n\xff    ", LARGE],
                         ids=["empty", "small", "odd", "large"])
def test_an_object_comes_and_goes(any_wire, body):
    """It comes byte for byte, whatever its bytes are, and at once: nobody waits for a 100."""
    with within(0.9):
        said = any_wire.ask("PUT", "/b/o?x=1%20", body)
        assert said == Said(OK, 200, tag(body), (1, WHEN), (1, "7 8"), b"", "")
        assert any_wire.ask("GET", "/b/o?x=1%20").body == body
        said = any_wire.ask("HEAD", "/b/o?x=1%20")
        assert said == Said(OK, 200, tag(body), (1, WHEN), (1, "7 8"), b"", "")
    sent = [(method, path, body) for method, path, _, body in any_wire.server.requests]
    assert sent == [("PUT", "/b/o?x=1%20", body), ("GET", "/b/o?x=1%20", b""),
                    ("HEAD", "/b/o?x=1%20", b"")]
    heads = "".join(each[2] for each in any_wire.server.requests)
    assert "Expect" not in heads and "Transfer-Encoding" not in heads


def test_what_is_not_there(any_wire):
    said = any_wire.ask("GET", "/none")
    assert said == Said(OK, 404, (0, ""), (0, ""), (0, ""), b"none", "")
    assert any_wire.ask("HEAD", "/none") == said._replace(body=b"")


def test_an_unknown_method_is_not_sent(any_wire):
    said = any_wire.ask("BREW", "/b")
    assert said.status == NETWORK and said.http == 0 and said.why
    assert any_wire.server.requests == []


ODD = {
    "twice": (b"ETag: a\r\nETag: b\r\n", (-1, "")),
    "twice the same": (b"ETag: a\r\netag: a\r\n", (-1, "")),
    "in another case": (b"eTAG:a\r\n", (1, "a")),
    "empty": (b"ETag:\r\n", (1, "")),
    "as long as may be": (b"ETag: " + b"x" * 255 + b"\r\n", (1, "x" * 255)),
    "too long": (b"ETag: " + b"x" * 256 + b"\r\n", (-1, "")),
    "far too long": (b"ETag: " + b"x" * 50000 + b"\r\n", (-1, "")),
    "not ASCII": (b"ETag: \xc3\xa4\r\n", (-1, "")),
    "a control byte": (b"ETag: a\x1bb\r\n", (-1, "")),
    "many others": (b"X: y\r\n" * 3000 + b"ETag: a\r\n", (1, "a")),
}


@pytest.mark.parametrize("head, etag", ODD.values(), ids=ODD.keys())
def test_odd_headers(any_wire, head, etag):
    any_wire.server.answer["/odd"] = b"HTTP/1.1 200 OK\r\n" + head + OF_TWO
    said = any_wire.ask("GET", "/odd")
    assert said == Said(OK, 200, etag, (0, ""), (0, ""), b"{}", "")


def test_a_folded_header(any_wire):
    """It is in pieces, or whole if libcurl (8.14 or so) has put it together; never cut."""
    any_wire.server.answer["/odd"] = b"HTTP/1.1 200 OK\r\nETag: a\r\n b\r\n" + OF_TWO
    assert any_wire.ask("GET", "/odd").etag in [(-1, ""), (1, "a b")]


def test_a_nul_in_a_header(any_wire):
    """No sender returns the part before the NUL as the whole value."""
    any_wire.server.answer["/odd"] = b"HTTP/1.1 200 OK\r\nETag: a\0b\r\n" + OF_TWO
    said = any_wire.ask("GET", "/odd")
    assert said.status == NETWORK or said.etag == (-1, "")


def test_interim_replies_do_not_count(any_wire):
    any_wire.server.answer["/odd"] = (
        b"HTTP/1.1 103 Hints\r\nETag: a\r\nLast-Modified: x\r\n y\r\n\r\n"
        b"HTTP/1.1 100 Continue\r\nETag: b\r\n\r\nHTTP/1.1 200 OK\r\nETag: c\r\n" + OF_TWO)
    for method, body in (("GET", b""), ("PUT", b"{}")):
        said = any_wire.ask(method, "/odd", body)
        assert (said.http, said.etag, said.modified) == (200, (1, "c"), (0, ""))


def test_a_redirect_is_a_reply(any_wire):
    any_wire.server.answer["/odd"] = (b"HTTP/1.1 307 Moved\r\nLocation: /b\r\nETag: a\r\n" + OF_TWO)
    assert any_wire.ask("GET", "/odd")[:3] == (OK, 307, (1, "a"))
    assert len(any_wire.server.requests) == 1


def test_a_body_longer_than_its_room(any_wire):
    any_wire.ask("PUT", "/b", LARGE)
    any_wire.server.objects["/b"] = bytes(100001), ""
    said = any_wire.ask("GET", "/b", clean=0)
    assert (said.status, said.http, said.body) == (OK, 200, None)


# ---- the built-in sender's connections -----------------------------------------------------------


def test_a_clean_connection_serves_all_paths_of_its_host(wire):
    """These replies have no request id, and the caller says that none is needed."""
    for path in ("/a", "/b?c", "/a"):
        wire.server.objects[path] = b"{}", ""
        assert wire.ask("GET", path).http == 200
    assert wire.ask("POST", "/a", b"{}").http == 200
    assert wire.server.connections == 1
    wire.ask("GET", "/a", clean=0)
    wire.ask("GET", "/a")
    assert wire.server.connections == 2


@pytest.mark.parametrize("method", ["HEAD", "PUT"])
def test_after_a_reply_without_a_body_the_session_is_resumed(wire, method):
    """libcurl does not tell what it has read behind such a reply, so the connection is not used
    again; the next has the same TLS session."""
    wire.server.answer["/odd"] = (b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
                                  b"HTTP/1.1 200 OK\r\nETag: stale\r\n" + OF_TWO)
    wire.server.objects["/a"] = b"mine", ""
    for count in (1, 2, 3):
        assert wire.ask(method, "/odd").body == b""
        assert wire.ask("GET", "/a")[2] == tag(b"mine")
        assert wire.server.connections == count + 1
        wire.server.answer["/odd"] = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
    assert wire.server.resumed == 3


def test_head_of_a_long_object_does_not_wait_for_it(wire):
    wire.server.objects["/a"] = bytes(90000), ""
    with within(0.9):
        assert wire.ask("HEAD", "/a").body == b""


@pytest.mark.parametrize("size, status", [(60000, OK), (70000, NETWORK)])
def test_a_flood_of_headers(wire, size, status):
    wire.server.answer["/odd"] = b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * (size // 6) + OF_TWO
    said = wire.ask("GET", "/odd")
    assert said.status == status
    assert ("the reply's headers are far too long" in said.why) == (status == NETWORK)
    wire.server.objects["/a"] = b"{}", ""
    assert wire.ask("GET", "/a").http == 200
    assert wire.server.connections == (1 if status == OK else 2)
