"""Each fault that can happen between us and KMS, with each operation: a table.

Each cell injects one fault and runs one operation.  It checks the status, the text, and that there
were no more requests and no more time than are due.  After a failure it checks that the data file
and the list of keys are unchanged, and that the next operation, without the fault, succeeds on the
same ring.

The fault hits the operation's main action.  The requests before that are answered well.
"""

import base64
import contextlib
import dataclasses
import re
import select
import shutil
import socket
import threading
import time
from typing import Callable

import pytest

import kms_emulator as emu
from conftest import write_conf
from driver import Driver
from kms_emulator import ACCESS_KEY_ID, KEY_ARN, SECRET
from patience import in_time, wait_for

LONG_MS = 20000                     # the time budget of a KMS call: nobody should need it
SHORT_MS = 300                      # where it is to run out
MARGIN_MS = 1000                    # for a loaded machine
TRIES = 3


# ---- operations ----------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Op:
    name: str
    command: tuple
    action: str                     # the main one
    calls: int                      # KMS calls on its way, each with a budget of its own
    after: int = 0                  # so many of the main action are answered well


NEW = ("new \xe9", "somebody")
MAKE = "GenerateDataKeyWithoutPlaintext"
OPS = (Op("check", ("check",), MAKE, 2),
       Op("prove", ("check",), "Decrypt", 2),               # the other half of a check
       Op("generate", ("generate", *NEW, "AES", 32), MAKE, 1),
       Op("store", ("store", *NEW, "SECRET", b"\0plain\xff"), "Encrypt", 1),
       Op("fetch", ("fetch", "a", None), "Decrypt", 1),
       Op("rewrap", ("rewrap",), "ReEncrypt", 3),
       Op("rotate", ("rotate",), "RotateKeyOnDemand", 3))
LATE_OPS = (Op("rewrap, first look", ("rewrap",), MAKE, 1),
            Op("rewrap, last key", ("rewrap",), "ReEncrypt", 4, after=2),
            Op("rotate, first look", ("rotate",), MAKE, 1))
NAMES = tuple(op.name for op in OPS)
REPLIES = tuple(each for each in NAMES if each != "prove")      # whose reply KMS alone can give
ONCE = tuple(each for each in NAMES if each != "rewrap")        # the main action, if all is well


# ---- the world of the table ----------------------------------------------------------------------


class World:
    """One emulator, one ring with three keys; `lib`, on `file`, does what is to be tested."""

    def __init__(self, folder, certs, program):
        self.folder, self.certs, self.program, self.dirty = folder, certs, program, False
        self.conf = write_conf(folder / "conf", ACCESS_KEY_ID, SECRET)
        self.emulator = emu.Emulator(certs.good.cert, certs.good.key).start()
        self.emulator.set(rotation_ms=0)
        self.main_file = self.file = folder / "data"
        self.main = self.lib = self.open(self.file)
        for name in "abc":
            self.lib.ok("generate", name, None, "AES", 32)

    def open(self, data, env=None, **settings) -> Driver:
        lib = Driver(self.program, env)
        answer = lib.open(**{"data_file": data, "conf_file": self.conf, "kms_key_id": KEY_ARN,
                             "endpoint": self.emulator.url, "ca_file": self.certs.ca,
                             "timeout_ms": LONG_MS, "connect_timeout_ms": LONG_MS,
                             "rewrap_parallel": 2, **settings})
        assert answer.status == "OK", answer
        return lib

    @contextlib.contextmanager
    def another(self, env=None, **settings):
        """Within it, `lib` is a process of its own, on a copy of the file."""
        self.file = self.folder / "copy"
        shutil.copyfile(self.main_file, self.file)
        self.file.chmod(0o600)
        self.lib = self.open(self.file, env, **settings)
        try:
            yield
        finally:
            self.lib.stop()
            self.lib, self.file = self.main, self.main_file

    @contextlib.contextmanager
    def served(self, context):
        """Within it, the emulator speaks TLS as the context does; None: not at all."""
        good = self.emulator.tls
        self.restart(context)
        try:
            yield
        finally:
            self.restart(good)

    def restart(self, context) -> None:
        self.emulator.stop()
        self.emulator.tls = context
        self.emulator.start()

    def close(self) -> None:
        self.main.stop()
        self.lib.stop()
        self.emulator.stop()


# ---- faults --------------------------------------------------------------------------------------


@dataclasses.dataclass
class Fault:
    """A row.  `inject` may return a context manager, within which the fault is there."""
    name: str
    inject: Callable                # of (world, op)
    status: str                     # "OK" is possible, too
    words: str = ""                 # a pattern in the error's text
    requests: int = None            # for the main action, that reach KMS
    ops: tuple = NAMES
    budget_ms: int = LONG_MS
    connect_ms: int = LONG_MS
    limit_ms: int = 0               # how long it may take, if not budget_ms
    least_ms: int = 0               # how long it has to take
    aws: str = None
    http: int = None


def on(what: str, times: int = 0, **options) -> Callable:
    """A fault of the main action; at "accept", of every connection."""
    def inject(world, op):
        action, after = ("*", 0) if options.get("where") == "accept" else (op.action, op.after)
        world.emulator.fault(action, what, times=times, after=after, **options)
    return inject


def reply(status: int, body="", **headers) -> Callable:
    """A reply of the server's, or of whatever stands in its place."""
    headers = {name.replace("_", "-"): value for name, value in headers.items()}
    return on("reply", status=status, body=body, headers=headers)


def network(name: str, inject, words: str = "", requests=TRIES, **more) -> Fault:
    """No reply came: tried three times, but for a rotation."""
    return Fault(name, inject, "NETWORK", "cannot reach AWS KMS.*" + words, requests, http=0,
                 **more)


def hang(name: str, inject, requests=1, **more) -> Fault:
    """No reply in time."""
    return network(name, inject, "(?i:time)", requests, budget_ms=SHORT_MS, **more)


def no_sense(name: str, inject, words: str, ops=REPLIES, **more) -> Fault:
    """A reply that cannot be KMS's: nothing to try again."""
    return Fault(name, inject, "REPLY", "makes no sense.*" + words, 1, ops, **more)


# -- the wire

@contextlib.contextmanager
def refused(world, op):
    world.emulator.stop()
    try:
        yield
    finally:
        world.emulator.start()


@contextlib.contextmanager
def full_backlog(world, op):
    """A port that drops the SYNs: the queue of a listener that accepts nobody is full."""
    with socket.socket() as listener, contextlib.ExitStack() as stack:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(4):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(listener.getsockname())
        time.sleep(0.05)
        port = listener.getsockname()[1]
        with world.another(endpoint=f"https://127.0.0.1:{port}"):
            yield


def kept(before: str = None, **then) -> Callable:
    """A ring of its own, whose kept connections have served a check. `before`: how a reply of that
    check ends its connection; `then`: what befalls the connections that are opened from now on."""
    @contextlib.contextmanager
    def inject(world, op):
        with world.another():
            if before:
                world.emulator.fault("Decrypt", before)
            world.lib.ok("check")
            world.emulator.reset_log()
            if then:
                world.emulator.fault("*", where="accept", **then)
            yield
    return inject


@contextlib.contextmanager
def connect_timeout(world, op):
    """A server that accepts and says nothing: the connection's own, shorter limit counts."""
    with world.another():
        on("black_hole", where="accept")(world, op)
        yield


# -- TLS, plain HTTP, and who else may answer

def tls(name: str, tls_max=None) -> Callable:
    def inject(world, op):
        pair = getattr(world.certs, name)
        return world.served(emu.tls_context(pair.cert, pair.key, tls_max))
    return inject


def waiting(world, op):
    """It takes our hello for the beginning of a request."""
    return world.served(None)


def at(endpoint: str) -> Callable:
    """A ring whose KMS is said to be there."""
    def inject(world, op):
        return world.another(endpoint=endpoint.format(world.emulator.port))
    return inject


class Canned:
    """A TCP server that says the same to everybody, after having heard something."""

    def __init__(self, *says: bytes, tls_pair=None, port: int = 0):
        self.says, self.heard, self.connections = says, b"", 0
        self.tls = emu.tls_context(*tls_pair, None) if tls_pair else None
        self.listener = socket.create_server(("127.0.0.1", port))
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self.serve, daemon=True).start()

    def serve(self) -> None:
        while True:
            try:
                sock, _ = self.listener.accept()
            except OSError:
                return
            self.connections += 1
            threading.Thread(target=self.talk, args=(sock,), daemon=True).start()

    def talk(self, sock) -> None:
        sock.settimeout(5)
        with contextlib.suppress(OSError):
            if self.tls:
                sock = self.tls.wrap_socket(sock, server_side=True)
            self.answer(sock)
        with contextlib.suppress(OSError):
            sock.close()

    def answer(self, sock) -> None:
        self.heard += sock.recv(65536)
        for each in self.says:
            sock.sendall(each)
            time.sleep(0.01)
        sock.settimeout(0.3)                # what is still to come must not become an RST
        with contextlib.suppress(OSError):
            while sock.recv(65536):
                pass

    def __enter__(self) -> "Canned":
        return self

    def __exit__(self, *_) -> None:
        with contextlib.suppress(OSError):
            self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()


class Proxy(Canned):
    """A proxy that does its job: CONNECT, then bytes both ways.  Without the line `wants` in a head
    it says `refuses`."""
    wants, refuses = b"", b""

    def route(self, host: str, port: int) -> tuple[str, int]:
        return host, port

    def answer(self, sock) -> None:
        head = sock.recv(65536)
        self.heard += head
        if self.wants not in head.split(b"\r\n"):     # an empty line is in each head
            sock.sendall(self.refuses)
            return
        host, port = head.split()[1].rsplit(b":", 1)
        with socket.create_connection(self.route(host.decode(), int(port))) as other:
            sock.sendall(*self.says)
            ends = {sock: other, other: sock}
            while True:
                for each in select.select(list(ends), [], [])[0]:
                    data = each.recv(65536)
                    if not data:
                        return
                    ends[each].sendall(data)


def says(*what: bytes, plain=False) -> Callable:
    """Somebody in KMS's place, with a good certificate or none at all."""
    @contextlib.contextmanager
    def inject(world, op):
        with Canned(*what, tls_pair=None if plain else world.certs.good) as server, \
                world.another(endpoint=f"https://127.0.0.1:{server.port}"):
            yield
    return inject


def proxy(*what: bytes, kind=Canned) -> Callable:
    @contextlib.contextmanager
    def inject(world, op):
        with kind(*what) as server:
            with world.another({"https_proxy": f"http://127.0.0.1:{server.port}"}):
                yield
        assert server.heard.startswith(b"CONNECT 127.0.0.1:") and b"AWS4" not in server.heard
    return inject


@contextlib.contextmanager
def proxy_refused(world, op):
    with socket.socket() as nobody:             # bound, but it does not listen
        nobody.bind(("127.0.0.1", 0))
        address = "http://127.0.0.1:%d" % nobody.getsockname()[1]
        with world.another({"https_proxy": address}):
            yield


def redirected(status: int) -> Callable:
    """Where it points to, nobody may ask."""
    @contextlib.contextmanager
    def inject(world, op):
        with Canned(tls_pair=world.certs.good) as elsewhere:
            target = f"https://127.0.0.1:{elsewhere.port}/"
            reply(status, "", Location=target)(world, op)
            yield
            assert elsewhere.connections == 0
    return inject


HTTP_400 = (b"HTTP/1.1 400 Bad Request\r\nContent-Type: application/x-amz-json-1.1\r\n"
            b"Content-Length: 35\r\n\r\n" + b'{"__type":"AccessDeniedException"}\n')
HTTP_1_0 = b"HTTP/1.0 200 OK\r\n\r\n<html>hello</html>"
INFORMED = b"HTTP/1.1 100 Continue\r\nx-amzn-RequestId: no\r\n\r\n" + HTTP_400
HUGE_HEAD = b"HTTP/1.1 200 OK\r\n" + b"X-Padding: " + b"x" * 400000 + b"\r\n\r\n"
LONG_ID = HTTP_400.replace(b"Content-Type:", b"x-amzn-RequestId: " + b"i" * 5000 + b"\r\nX:")
BANNER = b"SSH-2.0-OpenSSH_9.2p1\r\n"
PROXY_407 = (b"HTTP/1.1 407 Proxy Authentication Required\r\nProxy-Authenticate: Basic\r\n"
             b"Content-Length: 0\r\n\r\n")
ESTABLISHED = b"HTTP/1.1 200 Connection established\r\nx-amzn-RequestId: proxy\r\n\r\n"
# what a libcurl before 8.1 did not survive, on a handle that was used before
BLANK_FIRST = b"HTTP/1.1 200 Connection established\r\n x: y\r\nVia: it\r\n\r\n"
PROXY_502 = b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 4\r\n\r\nsad\n"


# -- the rows

WIRE = [
    network("refused", refused, "(?i:refused|connect)", requests=0),
    *(network(f"{what} at {where}", on(what, where=where),
              requests=0 if where == "accept" else TRIES)
      for what in ("reset", "cut") for where in ("accept", "request", "status", "headers",
                                                 "body")),
    network("done, and the answer lost", on("cut", where="request", perform=True)),
    Fault("kept connection closed", kept("close"), "OK", requests=1),
    Fault("kept connection reset", kept(what="reset"), "OK", requests=1),
    Fault("kept connection cut", kept(what="cut"), "OK", requests=1),
    hang("black hole before TLS", on("black_hole", where="accept"), requests=0),
    hang("black hole after the request", on("black_hole")),
    hang("black hole of SYNs", full_backlog, requests=0, ops=("check", "fetch", "rotate")),
    network("connect timeout", connect_timeout, "(?i:time)", requests=0, connect_ms=150,
            limit_ms=3 * 150 + 150),
    hang("slow headers", on("slow_headers", each_ms=30)),
    hang("slow body", on("slow_body", each_ms=60)),
    hang("too slow", on("latency", ms=1000)),
    Fault("slow, but in time", on("latency", ms=150), "OK", requests=1, ops=ONCE),
    hang("Content-Length too long", on("headers", set={"Content-Length": 9999}), ops=REPLIES),
    no_sense("Content-Length too short", on("headers", set={"Content-Length": 20}), ""),
    Fault("chunked", on("chunked"), "OK", requests=1, ops=ONCE),
    no_sense("gzip", on("gzip"), ""),
]

TLS = [
    network("certificate of another name", tls("wrong_name"), "127.0.0.1", 0),
    network("certificate expired", tls("expired"), "expired", 0),
    network("certificate of an unknown CA", tls("unknown_ca"), "(?i:certificate)", 0),
    network("TLS 1.1 only", tls("good", "TLSv1_1"), "(?i:version|protocol|TLS|SSL)", 0),
    hang("a server that waits where TLS is asked", waiting, requests=0),
    network("plain HTTP where TLS is asked", says(HTTP_400, plain=True), "(?i:SSL|TLS|version)", 0),
    network("TLS where plain HTTP is asked", at("http://127.0.0.1:{}"), "", 0),
    network("no such host", at("https://kms.us-east-1.invalid"), "(?i:resolve|resolving)", 0,
            budget_ms=SHORT_MS),
    network("proxy refuses", proxy_refused, "(?i:connect)", 0),
    network("proxy wants a password", proxy(PROXY_407), "407", 0),
    network("proxy finds nobody", proxy(PROXY_502), "502", 0),
    network("proxy hangs up", proxy(), "", 0),
    Fault("proxy works", proxy(ESTABLISHED, kind=Proxy), "OK", requests=1, ops=ONCE),
    Fault("proxy begins its headers with a blank", proxy(BLANK_FIRST, kind=Proxy), "OK",
          requests=1, ops=ONCE),
    network("another protocol", says(BANNER), "", 0),
    network("endless headers", says(HUGE_HEAD), "(?i:header)", 0),
    Fault("HTTP 1.0 and HTML", says(HTTP_1_0), "REPLY", "makes no sense", http=200),
    Fault("100 Continue, then a refusal", says(INFORMED), "DENIED", "request id none",
          aws="AccessDeniedException", http=400),
    Fault("endless request id", says(LONG_ID), "DENIED", "request id i{40,63}", http=400,
          aws="AccessDeniedException"),
]

DENY = '{"__type":"AccessDeniedException","Message":"No."}'
HTML = "<html><h1>Bad day</h1></html>"
HTTP = [
    Fault("301", redirected(301), "REPLY", "redirects are not followed", 1, http=301),
    Fault("307", redirected(307), "REPLY", "redirects are not followed", 1, http=307),
    Fault("204", reply(204), "REPLY", "HTTP 204.*is that AWS KMS", 1, http=204),
    Fault("401", reply(401), "DENIED", "HTTP 401.*credentials", 1, http=401),
    Fault("403 with a type", reply(403, DENY), "DENIED", "No[.].*IAM policy", 1, http=403,
          aws="AccessDeniedException", ops=tuple(each for each in NAMES if each != "store")),
    Fault("503 and HTML", reply(503, HTML), "SERVICE", "HTTP 503.*again later", TRIES, http=503),
    Fault("throttled once", on("throttle", times=1, retry_after=400), "OK", requests=2,
          ops=("fetch", "rotate"), least_ms=400),
    no_sense("HTML", reply(200, HTML), "at byte 0", http=200),
    no_sense("nothing at all", reply(200), "at byte 0", http=200),
    no_sense("truncated", on("reply", body="truncated"), ""),
    no_sense("too long by one", on("reply", size=16385), "longer than 16384"),
    no_sense("far too long", on("reply", size=3000000), "longer than 16384"),
    no_sense("far too long, and an error", on("reply", size=3000000, status=400), "longer than",
             http=400),
    # a 200 proves nothing: KMS is asked once more
    Fault("HTML and a proof", reply(200, HTML), "REPLY", "makes no sense", 2, ("prove",)),
]

TABLE = [*WIRE, *TLS, *HTTP]
CELLS = [pytest.param(fault, op, id=f"{fault.name}-{op.name}") for fault in TABLE for op in OPS
         if op.name in fault.ops]
LONG_CELLS = [pytest.param(fault, op, id=f"{fault.name}-{op.name}")
              for fault in (*WIRE, *HTTP) for op in LATE_OPS
              if (fault.ops is NAMES or op.name in fault.ops) and fault.status != "OK"]


# ---- the cells -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def worlds():
    """The world that is in use; a cell that fails leaves another one to its successors."""
    held = []
    yield held
    for world in held:
        world.close()


@pytest.fixture
def world(worlds, certs, driver_program, tmp_path_factory):
    if worlds and worlds[0].dirty:
        worlds.pop().close()
    if not worlds:
        worlds.append(World(tmp_path_factory.mktemp("world"), certs, driver_program))
    world = worlds[0]
    world.dirty = True
    world.emulator.clear_faults()
    world.emulator.key(KEY_ARN).materials.rotations = 0
    wait_for(world.emulator.quiet)
    world.emulator.reset_log()
    yield world


def inject(fault: Fault, world: World, op: Op):
    made = fault.inject(world, op)
    return made if hasattr(made, "__enter__") else contextlib.nullcontext()


def undo(world: World, op: Op) -> None:
    if op.command[0] in ("generate", "store"):
        world.lib.ok("remove", *NEW)


def look(fault: Fault, op: Op, answer) -> None:
    """Whether the answer is the one that is due, in time."""
    assert answer.status == fault.status, answer
    limit = (fault.limit_ms or fault.budget_ms) + MARGIN_MS * op.calls
    assert fault.least_ms <= answer.ms
    in_time(answer.ms, limit)
    if fault.status == "OK":
        assert answer[2:7] == (0, 0, "", "", ""), answer
        return
    assert re.search(fault.words, answer.text), answer.text
    assert answer.text.isascii() and answer.text.isprintable() and len(answer.text) < 512
    assert SECRET not in answer.text
    assert fault.aws in (None, answer.aws) and fault.http in (None, answer.http), answer


def requests_due(fault: Fault, op: Op) -> range:
    """How often the main action may have reached KMS."""
    throttled = fault.status == "THROTTLED" or fault.name.startswith("throttled")
    least, most = (0, TRIES) if fault.requests is None else (fault.requests, fault.requests)
    if fault.budget_ms == SHORT_MS:
        least = 0                       # a loaded machine may need it all before
    if least == TRIES:
        most += 1                       # libcurl's own, where a kept connection was dead
    if "rewrap" in op.command and op.action == "ReEncrypt":
        if fault.status == "OK":
            again = fault.requests - 1 if fault.requests else 0     # of the three keys' calls
            return range(3 + again, 4 + again if fault.requests else 7)
        after = op.after if most else 0
        return range(least and least + after, 2 * most + after + 1)     # two keys are under way
    if op.action == "RotateKeyOnDemand" and not throttled:
        return range(min(least, 1), 2)                              # never twice
    return range(least, most + 1)


def recover(world: World) -> None:
    """After calls in vain, the ring finds out that KMS is back, within 0.25 s: the first pause. (Or
    0.5 s, where the look after a rotation was a probe.)"""
    def is_back() -> bool:
        answer = world.lib.call("check")
        assert answer.status == "OK" or "has been unreachable" in answer.text, answer
        return answer.status == "OK"

    wait_for(is_back, 0.5 + MARGIN_MS / 1000)


def run_cell(world: World, fault: Fault, op: Op) -> None:
    with inject(fault, world, op):
        before, listed, logged = world.file.read_bytes(), world.lib.walk(), len(world.lib.logs)
        world.lib.ok("use_timeouts", fault.connect_ms, fault.budget_ms)
        answer = world.lib.call(*op.command)
        seen = world.emulator.count(op.action)
        look(fault, op, answer)
        assert seen in requests_due(fault, op)
        assert not [line for level, line in world.lib.logs[logged:] if level == 0]
        if fault.status == "OK":
            undo(world, op)
        else:
            assert world.file.read_bytes() == before and world.lib.walk() == listed
        world.lib.ok("use_timeouts", LONG_MS, LONG_MS)
        world.emulator.clear_faults()
    recover(world)
    world.lib.ok(*op.command)           # the next good reply works
    undo(world, op)
    world.dirty = False


@pytest.mark.parametrize("fault, op", CELLS)
def test_a_fault_has_its_status_and_changes_nothing(world, fault, op):
    run_cell(world, fault, op)


@pytest.mark.long
@pytest.mark.parametrize("fault, op", LONG_CELLS)
def test_a_fault_before_or_late_changes_nothing(world, fault, op):
    run_cell(world, fault, op)


# ---- one fault, and then a good answer -----------------------------------------------------------


ONE_FAULT = [("reset", {"where": "request"}), ("cut", {"where": "headers"}),
             ("reset", {"where": "body"}), ("error", {"type": "KMSInternalException",
                                                      "status": 500}),
             ("reply", {"status": 503, "body": "html"}), ("cut", {"where": "request",
                                                                  "perform": True})]


@pytest.mark.parametrize("op", [op for op in OPS if op.name != "rotate"], ids=lambda op: op.name)
@pytest.mark.parametrize("what, options", ONE_FAULT, ids=lambda each: str(each))
def test_one_transient_fault_is_survived(world, op, what, options):
    """The call is tried again. On a kept connection that died, libcurl may do so before us."""
    retries = world.lib.stats()["kms_retries"]
    world.lib.ok(*op.command)
    undo(world, op)
    once = world.emulator.count(op.action)
    world.emulator.fault(op.action, what, times=1, **options)
    world.lib.ok(*op.command)
    undo(world, op)
    assert world.emulator.count(op.action) == 2 * once + 1
    retried = world.lib.stats()["kms_retries"] - retries
    assert retried in ((0, 1) if options.get("where") == "request" else (1,))
    world.dirty = False


@pytest.mark.parametrize("what, options", ONE_FAULT, ids=lambda each: str(each))
def test_a_look_that_fails_after_a_rotation_is_no_failure(world, what, options):
    world.emulator.fault(MAKE, what, times=0, after=1, **options)
    world.lib.ok("rotate")
    assert world.lib.said("whether it is done could not be seen", 1)
    assert world.emulator.count("RotateKeyOnDemand") == 1
    world.emulator.clear_faults()
    recover(world)
    world.dirty = False


# ---- while KMS hangs -----------------------------------------------------------------------------


HANGING = {**{op.name: (op.command, op.action) for op in OPS if op.name != "prove"},
           "use_kms_key": (("use_kms_key", KEY_ARN), MAKE),
           "use_region": (("use_region", "eu-west-1"), "DescribeKey")}


def release(world: World) -> None:
    """Cuts all connections, but accepts new ones all the time."""
    world.emulator.clear_faults()
    world.emulator.cut()


@pytest.mark.parametrize("name", HANGING)
def test_others_work_while_kms_hangs(world, name):
    """One call gets no answer at all; the others do not wait for it."""
    command, action = HANGING[name]
    world.lib.ok("use_timeouts", LONG_MS, 60000)
    world.emulator.fault(action, "black_hole")
    pending = world.lib.begin(*command)
    while not world.emulator.count(action):
        time.sleep(0.005)
    for other in (("walk",), ("stats",), ("fetch", "b", None), ("generate", "d", None, "AES", 16),
                  ("fetch", "d", None), ("walk_begin",), ("walk_end",), ("remove", "d", None),
                  ("use_timeouts", LONG_MS, 60000), ("reload_creds",)):
        answer = world.lib.call(*other)
        assert answer.status == "OK", (other, answer)
        in_time(answer.ms, 10000, other)
    assert not pending.done()
    release(world)
    assert pending.result(60).status == ("NETWORK" if name == "rotate" else "OK")
    assert world.emulator.count("RotateKeyOnDemand") == (name == "rotate")
    if command[0] in ("generate", "store"):
        world.lib.ok("remove", *NEW)
    world.lib.ok("use_timeouts", LONG_MS, LONG_MS)
    world.dirty = False


def test_many_hang_and_one_works(world):
    """Twenty fetches in a black hole, each on a connection of its own; the next one is quick."""
    world.emulator.fault("Decrypt", "black_hole", times=20)
    world.lib.ok("use_timeouts", LONG_MS, 60000)
    pending = [world.lib.begin("fetch", "a", None) for _ in range(20)]
    while world.emulator.count("Decrypt") < 20:
        time.sleep(0.01)
    answer = world.lib.call("fetch", "a", None)
    assert answer.status == "OK"
    in_time(answer.ms, 10000)
    assert not any(each.done() for each in pending)
    release(world)
    assert {each.result(60).status for each in pending} == {"OK"}
    world.lib.ok("use_timeouts", LONG_MS, LONG_MS)
    world.dirty = False


# ---- a proxy that is set -------------------------------------------------------------------------


SPOKEN, USER, PASSWORD = "svc%40x:Xy7q%2FWv%3A8z", b"svc@x", b"Xy7q/Wv:8z"    # %2F and so on: as /
MISLEADING = ({"https_proxy": "http://127.0.0.1:1"},
              {"ALL_PROXY": "http://svc:Xy7q#Wv8z@127.0.0.1:1", "no_proxy": "127.0.0.1"},
              {"https_proxy": "http://127.0.0.1:1", "no_proxy": "*"}, {"NO_PROXY": "127.0.0.1"})


class Guarded(Proxy):
    """With a user and a password, as a client says it in the head of CONNECT."""
    wants = b"Proxy-Authorization: Basic " + base64.b64encode(USER + b":" + PASSWORD)
    refuses = PROXY_407


class Inside(Proxy):
    """It leads to one server, whatever it is asked for."""
    inside = ("", 0)

    def route(self, host: str, port: int) -> tuple[str, int]:
        return self.inside


class Hanging(Proxy):
    """It takes the request, and says nothing."""

    def answer(self, sock) -> None:
        self.heard += sock.recv(65536)
        sock.settimeout(5)
        sock.recv(65536)


@pytest.fixture
def by_proxy(driver_program, settings):
    """A function that opens rings with a proxy.  In the end, none of them has said its password."""
    opened = []

    def by(address: str, env=None, **more) -> Driver:
        lib = Driver(driver_program, env)
        opened.append(lib)
        answer = lib.open(**{**settings, "proxy": address, **more})
        assert answer.status == "OK", answer
        return lib

    yield by
    for lib in opened:
        said = str(lib.logs) + lib.stderr()
        assert not re.search("(?i)Xy7q|Wv8z|Wv%3A8z|Wv:8z|svc", said), said
        lib.stop()


@pytest.mark.parametrize("env", MISLEADING, ids=str)
def test_a_proxy_that_is_set_counts_alone(by_proxy, env):
    """Neither a proxy nor a no_proxy of the environment keeps a request from it."""
    with Guarded(ESTABLISHED) as proxy:
        lib = by_proxy(f"http://{SPOKEN}@127.0.0.1:{proxy.port}", env)
        lib.ok("generate", "a", None, "AES", 32)
        lib.ok("fetch", "a", None)
        lib.ok("check")
        assert proxy.heard.startswith(b"CONNECT 127.0.0.1:") and b"AWS4" not in proxy.heard
        assert proxy.heard.count(b"CONNECT ") == proxy.connections == 1     # it was used again
        lib.close()


def test_a_proxy_that_is_set_is_not_for_plain_http(by_proxy):
    """KMS on this machine, over plain HTTP."""
    with Proxy(ESTABLISHED) as proxy, emu.Emulator() as kms:
        lib = by_proxy(f"127.0.0.1:{proxy.port}", endpoint=kms.url, ca_file=None)
        lib.ok("check")
        assert kms.count() and not proxy.connections
        lib.close()


def test_a_proxy_that_is_set_is_for_sts_and_not_for_a_container(by_proxy, certs):
    """Only the proxy knows the way to STS and KMS, whose ports are none; the container, over TLS
    as well, is asked directly."""
    role = f"arn:aws:iam::{emu.ACCOUNT}:role/user"
    with emu.Emulator(certs.good.cert, certs.good.key) as cloud, Inside(ESTABLISHED) as proxy:
        proxy.inside = ("127.0.0.1", cloud.port)
        cloud.add_role(role)
        lib = by_proxy(f"127.0.0.1:{proxy.port}", conf_file=None, auth="native", role_arn=role,
                       endpoint="https://127.0.0.1:1", sts_endpoint="https://127.0.0.1:2", env={
                           "AWS_CONTAINER_CREDENTIALS_FULL_URI": cloud.url + cloud.secret_path})
        lib.ok("check")
        assert (cloud.count("container"), cloud.count("AssumeRole")) == (1, 1)
        assert re.findall(rb"CONNECT (\S+) ", proxy.heard) == [b"127.0.0.1:2", b"127.0.0.1:1"]


def test_a_socks_proxy_is_asked_as_one(by_proxy):
    with Canned() as proxy:
        lib = by_proxy(f"socks5h://127.0.0.1:{proxy.port}", max_attempts=1)
        answer = lib.call("check")
        assert answer.status == "NETWORK" and "through the proxy: " in answer.text, answer
        assert proxy.heard.startswith(b"\5")


@contextlib.contextmanager
def nobody():
    """A port that refuses."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        yield sock.getsockname()[1]


@contextlib.contextmanager
def at_port(proxy: Canned):
    with proxy:
        yield proxy.port


PROXIES = {
    "wants a password": (lambda certs: at_port(Guarded()), "http", "407"),
    "refuses": (lambda certs: at_port(Canned(PROXY_502)), "http", "502"),
    "is not there": (lambda certs: nobody(), "http", "(?i:connect)"),
    "hangs up": (lambda certs: at_port(Canned()), "http", ""),
    "hangs": (lambda certs: at_port(Hanging()), "http", "(?i:time)"),
    "has no certificate": (lambda certs: at_port(Canned(PROXY_502)), "https", "(?i:SSL|TLS)"),
    "has a certificate that only ca_file vouches for": (
        lambda certs: at_port(Canned(tls_pair=certs.good)), "https", "(?i:certificate)")}


@pytest.mark.parametrize("name", PROXIES)
@pytest.mark.parametrize("user", ["", "svc:Xy7qWv8z@"], ids=["no user", "wrong password"])
def test_the_error_says_that_it_is_the_proxy(by_proxy, certs, name, user):
    opens, scheme, words = PROXIES[name]
    with opens(certs) as port:
        lib = by_proxy(f"{scheme}://{user}127.0.0.1:{port}", {"no_proxy": "*"}, timeout_ms=2000)
        answer = lib.call("check")
        assert answer.status == "NETWORK"
        assert re.search("^cannot reach AWS KMS at .*: through the proxy: .*" + words, answer.text)
        assert not re.search("(?i)Xy7q|Wv8z|svc", answer.text), answer
        again = lib.call("check")                   # it says since when, or is a probe
        assert "through the proxy: " in again.text
        assert not re.search("(?i)Xy7q|Wv8z|svc", again.text), again


@pytest.mark.parametrize("address", [
    "", " ", "127.0.0.1:0", "127.0.0.1:99999", "ftp://127.0.0.1:9", "svc:Xy7qWv8z@",
    "http://svc:Xy7q/Wv8z@127.0.0.1", "http://svc:Xy7q Wv8z@127.0.0.1",
    "http://svc:Xy7q@Wv8z@127.0.0.1"])
@pytest.mark.parametrize("plain", [False, True], ids=["https", "http"])
def test_a_proxy_that_is_none_keeps_the_ring_closed(driver_program, settings, address, plain):
    if plain:
        settings = {**settings, "endpoint": "http://127.0.0.1:9"}
    with Driver(driver_program, {"no_proxy": "*"}) as lib:
        answer = lib.open(**{**settings, "proxy": address})
        assert answer.status == "CONFIG"
        assert answer.text.startswith("proxy is not of the form [scheme://]"), answer
        assert not re.search("(?i)Xy7q|Wv8z|svc|127", answer.text + str(lib.logs) + lib.stderr())
        assert not settings["data_file"].exists()
