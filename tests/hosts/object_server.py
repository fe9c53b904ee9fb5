"""A tiny object server, over TLS or plain: PUT keeps an object, GET and HEAD return it, as in S3.

    with ObjectServer(cert, key) as server:             # without the two: plain HTTP
        server.answer["/odd"] = b"HTTP/1.1 ..."         # these bytes answer every request for it
        ... server.url, server.requests, server.connections
"""

import hashlib
import re
import socket
import ssl
import threading


class ObjectServer:
    def __init__(self, cert=None, key=None):
        self.tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER) if cert else None
        if self.tls:
            self.tls.load_cert_chain(cert, key)
        self.objects, self.answer = {}, {}
        self.requests = []              # (method, path, head, body) of each
        self.connections = self.resumed = 0
        self.sockets, self.threads = [], []

    def __enter__(self) -> "ObjectServer":
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http{'s' if self.tls else ''}://127.0.0.1:{self.listener.getsockname()[1]}"
        self._start(self._accept)
        return self

    def __exit__(self, *_) -> None:
        for each in (self.listener, *self.sockets):
            try:
                each.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
            each.close()
        for each in self.threads:
            each.join(10)

    def _start(self, run, *args) -> None:
        self.threads.append(threading.Thread(target=run, args=args, daemon=True))
        self.threads[-1].start()

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self.listener.accept()
            except OSError:
                return
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.sockets.append(sock)
            self._start(self._serve, sock)

    def _serve(self, sock) -> None:
        try:
            if self.tls:
                sock = self.tls.wrap_socket(sock, server_side=True)
                self.sockets.append(sock)
                self.resumed += sock.session_reused
            self.connections += 1
            while self._exchange(sock):
                pass
        except OSError:
            pass
        sock.close()

    def _exchange(self, sock) -> bool:
        """One request; False at the end of the connection."""
        data, size = b"", None
        while size is None or len(data) < size:
            more = sock.recv(65536)
            if not more:
                return False
            data += more
            head, end, _ = data.partition(b"\r\n\r\n")
            length = re.search(rb"(?i)\r\ncontent-length: *(\d+)", head)
            size = len(head) + 4 + int(length[1] if length else 0) if end else None
        method, path, _ = head.decode().split(" ", 2)
        self.requests.append((method, path, head.decode(), data[len(head) + 4:]))
        reply = self.answer.get(path) or self.reply(*self.requests[-1])
        sock.sendall(reply)
        return b"\r\nconnection: close" not in head.lower() + reply.lower()

    def reply(self, method: str, path: str, head: str, body: bytes) -> bytes:
        meta = "".join(f"{line}\r\n" for line in head.split("\r\n")
                       if line.lower().startswith("x-amz-meta-"))
        if method == "PUT":
            self.objects[path] = body, meta
        if path not in self.objects:
            return b"HTTP/1.1 404 Not Found\r\nContent-Length: 4\r\n\r\n" + (
                b"" if method == "HEAD" else b"none")
        kept, meta = self.objects[path]
        tag = hashlib.md5(kept).hexdigest()
        shown = b"" if method == "PUT" else kept
        return (f'HTTP/1.1 200 OK\r\nETag: "{tag}"\r\nLast-Modified: Sat, 28 Nov 2026 12:00:00 GMT'
                f"\r\n{meta}Content-Length: {len(shown)}\r\n\r\n").encode() + (
                    b"" if method == "HEAD" else shown)
