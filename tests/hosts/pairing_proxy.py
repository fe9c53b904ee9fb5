"""A TLS proxy between the product and the emulated KMS.  It mixes up which reply belongs to which
request: it doubles, prefixes, delays, swaps, repeats, cuts and withholds replies.

    with PairingProxy(emulator, certs.good) as proxy:       # the emulator speaks plain HTTP
        proxy.fault("double", "Decrypt", "segment")         # the next Decrypt's reply comes twice
        proxy.storm(seed, rate=0.1)                         # or: at random, every tenth reply
    proxy.done["double", "segment"]                         # what did happen

A fault sends the reply, and bytes that nobody asked for: a surplus.  The surplus comes:

    record      in the TLS record of the reply      next        in a record of its own, sent after
    body        in that of its body, which comes    ms          so many milliseconds later
                after its head: the TLS library     idle        when nothing is under way, after ms
                has then read it, and nobody else   during      when the next request has come,
    segment     in a record of its own, sent with               before that one's own reply
                the reply

Both copies of a doubled reply have the same x-amzn-RequestId, unless the caller asks for a fresh
one in the second.  If a copy with a fresh id comes during the next exchange, no client can tell it
from that exchange's own reply; so a storm sends such a copy only together with its reply.  For the
same reason a storm swaps only replies that differ in more than their bytes, and repeats only
replies that are among the last REMEMBERED.
"""

import collections
import dataclasses
import json
import random
import re
import socket
import ssl
import threading
import time
import uuid

PLACES = ("record", "body", "segment", "next", "ms", "idle", "during")
AT_ONCE = ("record", "body", "segment")
REMEMBERED = 200                        # the product knows a host's last 256 request ids
SWAP_S = 0.3                            # how long a reply waits for another to change places with
GRACE_S = 0.1                           # a request may be on its way while a surplus is sent
GENERATED = {"CiphertextBlob", "KeyId", "KeyMaterialId"}
SORRY = {"503": b"HTTP/1.1 503 Service Unavailable", "408": b"HTTP/1.1 408 Request Timeout"}


@dataclasses.dataclass
class Fault:
    """What happens to a reply.

    double      it comes twice                      early 503   an error comes, the reply is surplus
    surplus 503, 408    an error comes behind it    early 408   likewise
    tls         a TLS message without data comes    stale       the one before comes in its place
    delay       it comes ms later                   swap        it changes places with another's
    cut         only a share of it comes, and the connection ends
    hush        the same, but the connection stays
    """
    what: str
    action: str = "*"
    place: str = "segment"
    nth: int = 1                        # of the replies to that action
    ms: float = 5
    fresh: bool = False
    share: float = 0

    @property
    def name(self) -> tuple:
        return (self.what, self.place if self.what in PLACED else "")


PLACED = ("double", "early 503", "early 408", "surplus 503", "surplus 408", "tls")
# What a storm is made of: a weight, the fault, and what is drawn for it.
STORM = ((40, "double"), (8, "early 503"), (4, "early 408"), (4, "surplus 503"), (6, "surplus 408"),
         (4, "tls"), (8, "stale"), (4, "swap"), (12, "delay"), (8, "cut"), (1, "hush"))


def sorry(which: str) -> bytes:
    return SORRY[which] + b"\r\nContent-Type: text/html\r\nContent-Length: 13\r\n\r\n<html></html>"


def with_fresh_id(reply: bytes) -> bytes:
    return re.sub(rb"(?i)(x-amzn-requestid: )[^\r]*", rb"\g<1>" + str(uuid.uuid4()).encode(),
                  reply, count=1)


def differ(one: bytes, other: bytes) -> bool:
    """Whether a client can tell that two good replies changed places: they are of two actions, or
    have keys of two lengths, or blobs, which open only as what they are; but nobody opens that of
    a key that KMS has just made."""
    if not all(reply.startswith(b"HTTP/1.1 200 ") for reply in (one, other)):
        return False
    a, b = (json.loads(reply.partition(b"\r\n\r\n")[2] or b"{}") for reply in (one, other))
    if "CiphertextBlob" in a and "CiphertextBlob" in b:
        return not any(each.keys() == GENERATED for each in (a, b))
    return (a.keys() != b.keys()
            or len(a.get("Plaintext", "")) != len(b.get("Plaintext", "")))


class Client:
    """One connection of the product's, and one to the emulator for it."""

    def __init__(self, proxy: "PairingProxy", sock: socket.socket):
        self.proxy, self.sock, self.lock = proxy, sock, threading.Lock()
        self.inn, self.out = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = proxy.context.wrap_bio(self.inn, self.out, server_side=True)
        self.upstream = socket.create_connection(("127.0.0.1", proxy.emulator.port))
        self.upstream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.busy = False               # a request has come, and is not answered yet
        self.spoiled = None             # the fault after which it must not be used again,
        self.spoiled_at = 0             # and when that was
        self.last, self.last_number = b"", 0    # the reply before, and its place among all
        self.waiting = []               # surplus for when the next request has come

    def run(self) -> None:
        try:
            while self.exchange():
                pass
        except (OSError, ssl.SSLError, ValueError):
            pass                        # one of the two went away
        finally:
            for fault, _ in self.waiting:
                self.proxy.note(self.proxy.gone, fault)
            self.proxy.forget(self)
            for sock in (self.sock, self.upstream):
                sock.close()

    def exchange(self) -> bool:
        """One request and what comes of it; False at the end of the connection."""
        request = self.message(self.receive)
        if not request:
            return False
        self.busy = True
        grace = GRACE_S if self.spoiled and self.spoiled.place in ("next", "ms", "idle") else 0
        if self.spoiled and time.monotonic() > self.spoiled_at + grace:
            self.proxy.note(self.proxy.reused, self.spoiled)
        for fault, surplus in self.waiting:
            if self.remembered(fault):
                self.surplus(fault, surplus)
        self.waiting = []
        action = re.search(rb"(?i)x-amz-target: *TrentService\.(\w+)", request)
        fault = self.proxy.choose(action[1].decode() if action else "", self)
        self.upstream.sendall(request)
        reply = self.message(lambda: self.upstream.recv(65536))
        self.last = self.deliver(fault, reply) if reply else b""
        self.last_number = self.proxy.count_reply()
        self.busy = False
        return bool(self.last)

    # -- bytes

    def receive(self) -> bytes:
        while True:
            with self.lock:
                try:
                    data = self.tls.read(65536)
                except ssl.SSLWantReadError:
                    data = None
                self.sock.sendall(self.out.read())
            if data is not None:
                return data
            data = self.sock.recv(65536)
            if not data:
                return b""
            with self.lock:
                self.inn.write(data)

    def message(self, receive) -> bytes:
        """A whole request or reply; nothing at the end."""
        data, size = b"", None
        while size is None or len(data) < size:
            more = receive()
            if not more:
                return b""
            data += more
            head, end, _ = data.partition(b"\r\n\r\n")
            length = re.search(rb"(?i)\r\ncontent-length: *(\d+)", head) if end else None
            size = len(head) + 4 + int(length[1]) if length else None
        return data

    def send(self, *segments: tuple) -> None:
        """Segments, of one or several TLS records each."""
        with self.lock:
            for segment in segments:
                for record in segment:
                    if record is None:
                        self.tls.verify_client_post_handshake()     # no data, but something to read
                        self.tls.do_handshake()
                    else:
                        self.tls.write(record)
                self.sock.sendall(self.out.read())

    # -- faults

    def deliver(self, fault: Fault, reply: bytes) -> bytes:
        """Which reply went out in the end; none where the connection is to end."""
        if fault is None:
            self.send((reply,))
        elif fault.what in PLACED:
            self.with_surplus(fault, reply)
        elif fault.what in ("cut", "hush"):
            return self.break_off(fault, reply)
        elif fault.what == "delay":
            self.proxy.note(self.proxy.done, fault)
            self.proxy.sleep(fault.ms)
            self.send((reply,))
        else:
            reply = self.last if fault.what == "stale" else self.proxy.swap(fault, reply)
            if fault.what == "stale":
                self.spoil(fault)
            self.send((reply,))
        return reply

    def with_surplus(self, fault: Fault, reply: bytes) -> None:
        kind, _, which = fault.what.partition(" ")
        first, extra = {"early": lambda: (sorry(which), reply),
                        "surplus": lambda: (reply, sorry(which)),
                        "tls": lambda: (reply, None),
                        "double": lambda: (reply, with_fresh_id(reply) if fault.fresh else reply),
                        }[kind]()
        if fault.place in (*AT_ONCE, "next"):
            head, body = first.split(b"\r\n\r\n", 1)
            self.spoil(fault)
            self.send(*{"record": ((first + (extra or b""),),), "segment": ((first, extra),),
                        "body": ((head + b"\r\n\r\n",), (body + (extra or b""),)),
                        "next": ((first,), (extra,))}[fault.place])
            return
        if kind == "early":
            self.spoiled, self.spoiled_at = fault, time.monotonic()
        if fault.place == "during":
            self.waiting.append((fault, extra))
        self.send((first,))
        if fault.place in ("ms", "idle"):
            self.later(fault, extra)

    def later(self, fault: Fault, extra) -> None:
        timer = threading.Timer(fault.ms / 1000, self.surplus, (fault, extra))
        timer.daemon = True
        timer.start()

    def surplus(self, fault: Fault, extra) -> None:
        """Sends it, if anybody is still there."""
        if fault.place == "idle" and self.busy:
            return self.later(fault, extra)
        if not self.remembered(fault):
            return
        try:
            self.send((extra,))
            self.spoil(fault)
        except (OSError, ssl.SSLError):
            self.proxy.note(self.proxy.gone, fault)     # dropped in time: so it should be

    def remembered(self, fault: Fault) -> bool:
        return self.proxy.replies - self.last_number < REMEMBERED

    def break_off(self, fault: Fault, reply: bytes) -> bytes:
        self.spoil(fault)
        part = reply[:int(len(reply) * fault.share)]
        if part:
            self.send((part,))
        while fault.what == "hush" and self.receive():
            self.proxy.note(self.proxy.reused, fault)
        return b""

    def spoil(self, fault: Fault) -> None:
        self.proxy.note(self.proxy.done, fault)
        if fault.what != "tls":         # that, a client may well be able to read
            self.spoiled, self.spoiled_at = fault, time.monotonic()


class PairingProxy:
    def __init__(self, emulator, pair):
        self.emulator = emulator
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.load_cert_chain(pair.cert, pair.key)
        self.context.load_verify_locations(pair.cert)
        self.context.post_handshake_auth = True
        self.context.verify_mode = ssl.CERT_OPTIONAL
        self.lock, self.clients, self.ended = threading.Condition(), set(), threading.Event()
        self.held = []                  # [fault, its reply, the other's]: waiting to swap
        self.replies, self.connections = 0, 0
        self.calm()

    def calm(self) -> None:
        """No more faults; what was counted is forgotten."""
        with self.lock:
            self.script, self.chance, self.rate, self.late_ms = [], None, 0, 0
            self.done = collections.Counter()       # faults that came to be
            self.gone = collections.Counter()       # surplus for which nobody was there any more
            self.reused = collections.Counter()     # requests over a connection after its fault

    def fault(self, *args, **options) -> None:
        with self.lock:
            self.script.append(Fault(*args, **options))

    def storm(self, seed: int, rate: float, late_ms: float) -> None:
        """Faults by chance; late_ms: the product has given a call up by then."""
        with self.lock:
            self.chance, self.rate, self.late_ms = random.Random(seed), rate, late_ms

    # -- life

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.port}"

    def __enter__(self) -> "PairingProxy":
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self.accept, daemon=True).start()
        return self

    def __exit__(self, *_) -> None:
        self.ended.set()
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        self.cut()

    def cut(self) -> None:
        """Ends all connections that there are."""
        with self.lock:
            clients = list(self.clients)
        for client in clients:
            try:
                client.sock.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass

    def accept(self) -> None:
        while True:
            try:
                sock, _ = self.listener.accept()
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                client = Client(self, sock)
            except OSError:
                return
            with self.lock:
                self.clients.add(client)
                self.connections += 1
            threading.Thread(target=client.run, daemon=True).start()

    def forget(self, client: Client) -> None:
        with self.lock:
            self.clients.discard(client)

    def sleep(self, ms: float) -> None:
        self.ended.wait(ms / 1000)

    # -- what the connections share

    def note(self, counter: collections.Counter, fault: Fault) -> None:
        with self.lock:
            counter[fault.name] += 1
            self.lock.notify_all()

    def happened(self) -> bool:
        """Waits until a fault has happened, unless none is under way."""
        with self.lock:
            return bool(self.lock.wait_for(lambda: self.done or self.gone,
                                           0.1 if self.script else 10))

    def settle(self) -> None:
        """Waits until a fault has happened, and its surplus is where the product can see it."""
        with self.lock:
            self.lock.wait_for(lambda: self.done or self.gone, 10)
        self.sleep(2 * GRACE_S * 1000)

    def count_reply(self) -> int:
        with self.lock:
            self.replies += 1
            return self.replies

    def choose(self, action: str, client: Client) -> Fault:
        with self.lock:
            for fault in self.script:
                if fault.action in ("*", action):
                    fault.nth -= 1
                    if fault.nth == 0:
                        self.script.remove(fault)
                        return fault
            if self.chance is None or self.chance.random() >= self.rate:
                return None
            fault = self.draw()
        if fault.what == "stale" and not (client.last and client.remembered(fault)):
            return None
        return fault

    def draw(self) -> Fault:
        chance = self.chance
        what = chance.choices([what for _, what in STORM], [weight for weight, _ in STORM])[0]
        fault = Fault(what, place=chance.choice(PLACES), ms=chance.choice((1, 5, 20, 50)),
                      share=chance.choice((0, 0.3, 0.9)))
        if what == "tls" and fault.place in AT_ONCE:
            fault.place = "segment"
        if what == "double" and fault.place in AT_ONCE:
            fault.fresh = chance.random() < 0.5
        if what == "delay" and chance.random() < 0.05:
            fault.ms = self.late_ms
        return fault

    def swap(self, fault: Fault, reply: bytes) -> bytes:
        """The reply that another connection waits for, if one comes soon; that gets this one."""
        end = time.monotonic() + SWAP_S
        mine = [fault, reply, None]
        with self.lock:
            for other in self.held:
                if other[2] is None and differ(reply, other[1]):
                    other[2] = reply
                    self.done[fault.name] += 1
                    self.lock.notify_all()
                    return other[1]
            self.held.append(mine)
            while mine[2] is None and self.lock.wait(end - time.monotonic()):
                pass
            self.held.remove(mine)
            return mine[2] or reply
