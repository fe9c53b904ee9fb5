"""No secret is left in memory, logs or files.

A driver uses the real libcurl over TLS; its memory is searched after each operation.
"""

import base64
import hmac
import json
import mmap
import os
import re

import pytest

from conftest import write_conf
from driver import Driver
from kms_emulator import ACCESS_KEY_ID, ACCOUNT, KEY_ARN, SECRET, Emulator, tls_context
from servers import memory_of

EU = "eu-west-1"


# ---- the process that is searched ----------------------------------------------------------------

PIECE = 16                              # so many bytes of a secret are a find


def forms(data: bytes) -> dict:
    """How a secret may lie in memory: raw, base64 at any alignment, hex."""
    found = {"raw": data, "hex": data.hex().encode(), "HEX": data.hex().upper().encode()}
    for shift in range(3):
        whole = base64.b64encode(b"\0" * shift + data)
        found[f"base64+{shift}"] = whole[(0, 2, 3)[shift]:len(whole) - len(whole) % 4]
    found["reply"] = base64.b64encode(data)
    return found


class Searched(Driver):
    """A driver whose memory is searched between its operations, from outside."""

    def __init__(self, program, env=None, **settings):
        super().__init__(program, env)
        self.pieces = {}
        assert self.open(rewrap_parallel=2, **settings).status == "OK"

    def look_for(self, label: str, secret: bytes) -> None:
        for name, form in forms(secret).items():
            for at in (*range(0, len(form) - PIECE, PIECE), max(0, len(form) - PIECE)):
                self.pieces.setdefault(form[at:at + PIECE], f"{label}:{name}")

    def find(self) -> list:
        """Label, "locked" if the page is locked and in no core dump, mapping, neighbours."""
        found = []
        for locked, name, data in memory_of(self.process.pid):
            data = re.sub(b"\0{64,}", bytes(64), data)
            for piece, label in self.pieces.items():
                at = data.find(piece)
                while at >= 0:
                    found.append(f"{label} {'locked' if locked else name} "
                                 f"{data[max(0, at - 48):at]} {data[at + len(piece):][:48]}")
                    at = data.find(piece, at + 1)
        return found

    def nothing_is_found(self) -> None:
        """Except the secret access key and the page key, each in its one place, which is in no
        core dump."""
        page_key = self.page_key()
        if page_key:
            self.look_for("page key", page_key)
        found = self.find()
        places = [each for each in found if each.startswith("secret:raw locked")]
        assert len(places) == 3, "40 bytes in 16-byte pieces: one, in locked and undumpable pages"
        places += [each for each in found if page_key and each.startswith("page key:raw locked")]
        assert len(places) == (5 if page_key else 3)
        assert [each for each in found if each not in places] == []

    def page_key(self) -> bytes:
        """What the cache encrypts with; it stands at the start of a locked page, before a 1."""
        for locked, _, data in memory_of(self.process.pid):
            for at in range(0, len(data) if locked else 0, mmap.PAGESIZE):
                if data[at + 32:at + 40] == b"\1" + bytes(7) and data[at:at + 32].count(0) < 4:
                    return data[at:at + 32]
        return b""

    def do(self, *words) -> None:
        answer = self.quietly(*words)
        assert answer.status == "OK", answer

    def fail(self, *words) -> str:
        answer = self.quietly(*words)
        assert answer.status != "OK", words[:2]
        return answer.text

    def cleanly(self, *words, fails=False) -> None:
        """An operation that leaves nothing to be found."""
        (self.fail if fails else self.do)(*words)
        self.nothing_is_found()

    def store(self, name: str, key: bytes, **how) -> None:
        self.cleanly("store", name, None, "AES" if len(key) == 32 else "SECRET", key, **how)

    def timeout(self, ms: int) -> None:
        self.do("use_timeouts", 0, ms)


@pytest.fixture(params=[("TLSv1_3", 0), ("TLSv1_2", 0), ("TLSv1_3", 3600)],
                ids=["TLSv1_3", "TLSv1_2", "cache"])
def searched(request, driver_program, emulator, settings, certs):
    """With the secret access key looked for from the start; with the cache, the page key too."""
    version, cached = request.param
    emulator.stop()
    emulator.tls = tls_context(certs.good.cert, certs.good.key, version)
    emulator.start()
    with Searched(driver_program, cache_seconds=cached, **settings) as process:
        process.cached = cached
        process.look_for("secret", SECRET.encode())
        yield process


# ---- memory --------------------------------------------------------------------------------------


def test_the_search_finds_what_the_driver_has_said(searched):
    """A command that returns its results does leave them in the driver's memory."""
    for part in (lambda key: key, lambda key: base64.b64encode(key)[16:32],
                 lambda key: key.hex().encode()[16:32], lambda key: key[16:],
                 lambda key: base64.b64encode(b"x" + key)[18:34]):
        key = os.urandom(16).hex().encode()
        searched.look_for("key", key)
        searched.cleanly("show", part(key))
        searched.ok("show", part(key))
        assert [each for each in searched.find() if each.startswith("key:")]
        searched.pieces = {piece: label for piece, label in searched.pieces.items()
                           if not label.startswith("key:")}


def test_store_and_fetch(searched, emulator):
    key = os.urandom(32)
    searched.look_for("key", key)
    searched.nothing_is_found()
    searched.store("a", key)
    for _ in range(3):
        searched.cleanly("fetch", "a", None)
    assert bool(searched.page_key()) == bool(searched.cached)
    assert emulator.count("Decrypt") == (2 if searched.cached else 4), "one proves the store"
    searched.cleanly("use_cache", 0)
    searched.cleanly("use_cache", searched.cached)
    searched.cleanly("fetch", "a", None)
    searched.cleanly("kms_encrypt", key)
    searched.do("close")
    assert searched.find() == [], "after closing, not even the secret access key"


@pytest.mark.parametrize("size", [1, 15, 16, 24, 100, 1000, 3000, 4096])
def test_keys_of_other_sizes(searched, size):
    key = os.urandom(size)
    if size >= 15:                      # a shorter one is anywhere by chance
        searched.look_for("key", key)
    searched.store("a", key)
    for _ in range(2):
        searched.cleanly("fetch", "a", None)


def test_sign(searched):
    key = b"AWS4" + SECRET.encode()
    for word in ("20150830", "us-east-1", "kms", "aws4_request"):
        key = hmac.digest(key, word.encode(), "sha256")
        searched.look_for(word, key)
    searched.cleanly("sign", "POST", "/", None, "us-east-1", "kms", b"", 1440938160, "AKIDEXAMPLE",
                     SECRET, None, 0, None, 0, 0, "Host:kms.us-east-1.amazonaws.com")
    token = os.urandom(300).hex()
    searched.look_for("token", token.encode())
    for query, fails in (("", False), (3600 * "a", True)):    # the driver has room for 4096 bytes
        searched.cleanly("sign", "GET", "/", query, "us-east-1", "kms", b"", 1440938160,
                         "AKIDEXAMPLE", SECRET, token, 0, None, 0, 60, "Host:h", fails=fails)


def test_generate(searched, driver):
    """KMS makes the key, and it never comes here. Another process tells the test what it is."""
    searched.do("generate", "a", None, "AES", 32)
    searched.look_for("key", driver(read_only=1).fetch("a"))
    searched.nothing_is_found()
    searched.cleanly("fetch", "a", None)


def test_kms_calls_with_a_plaintext(searched, emulator):
    """The test knows what KMS answered from the emulator."""
    made = []
    of_kms = emulator.do_GenerateDataKey
    emulator.do_GenerateDataKey = lambda call: made.append(of_kms(call)) or made[-1]
    searched.do("kms_generate", 32, 1)
    searched.look_for("key", made[0]["Plaintext"])
    searched.nothing_is_found()
    searched.cleanly("kms_decrypt", made[0]["CiphertextBlob"], KEY_ARN, 32)
    assert emulator.count("Decrypt") == 1


def test_check_rotate_and_rewrap(searched, emulator):
    keys = [os.urandom(32) for _ in range(5)]
    for number, key in enumerate(keys):
        searched.look_for(f"key{number}", key)
        searched.store(f"k{number}", key)
    searched.cleanly("check")
    searched.do("rotate")
    searched.cleanly("rewrap")
    for region in (EU, "us-east-1"):    # across regions, and back
        searched.do("use_kms_key", emulator.add_key(region, ACCOUNT))
        searched.cleanly("rewrap")
    assert emulator.count("Encrypt") == 15, "the keys did come through here"
    searched.do("remove", "k0", None)
    searched.cleanly("reload_creds")


STORE_FAULTS = [("error", {"type": "AccessDeniedException"}), ("error", {"status": 503}),
                ("reset", {"where": "request"}), ("cut", {"where": "headers"}),
                ("black_hole", {}), ("reply", {"body": "html"}), ("throttle", {})]


@pytest.mark.parametrize("what, options", STORE_FAULTS, ids=str)
def test_store_fails(searched, emulator, what, options):
    key = os.urandom(100)
    searched.look_for("key", key)
    searched.timeout(500)
    emulator.fault("Encrypt", what, times=0, **options)
    for _ in range(2):
        searched.ok("later")
        searched.store("a", key, fails=True)
    emulator.clear_faults()
    searched.timeout(0)
    searched.ok("later")
    searched.store("a", key)


FETCH_FAULTS = [("cut", {"where": "body"}), ("reset", {"where": "body"}),
                ("slow_body", {"each_ms": 3}), ("edit", {"drop": ["KeyId"]}),
                ("edit", {"set": {"KeyId": 17}}), ("edit", {"set": {"Pad": "x" * 20000}}),
                ("edit", {"duplicate": {"KeyId": KEY_ARN}}), ("headers", {"set": {
                    "Content-Length": "250"}}), ("headers", {"set": {"Content-Length": "9999"}}),
                ("edit", {"set": {"Zebra": "\ud800"}})]


@pytest.mark.parametrize("what, options", FETCH_FAULTS, ids=str)
def test_fetch_fails(searched, emulator, what, options):
    """The reply holds the key, or a part of it, but is refused."""
    key = os.urandom(100)
    searched.look_for("key", key)
    searched.store("a", key)
    searched.timeout(400)
    emulator.fault("Decrypt", what, times=0, **options)
    for _ in range(2):
        searched.ok("later")
        searched.cleanly("fetch", "a", None, fails=True)
    emulator.clear_faults()
    searched.timeout(0)
    searched.ok("later")
    searched.cleanly("fetch", "a", None)


def test_a_reply_of_the_wrong_length(searched, emulator):
    searched.do("generate", "a", None, "AES", 32)
    wrong = os.urandom(31)
    searched.look_for("key", wrong)
    emulator.fault("Decrypt", "edit", set={"Plaintext": base64.b64encode(wrong).decode()})
    assert "length" in searched.fail("fetch", "a", None)
    searched.nothing_is_found()


def test_replies_in_odd_pieces(searched, emulator):
    key = os.urandom(1000)
    searched.look_for("key", key)
    searched.store("a", key)
    for what in ("chunked", "close", "slow_body"):
        emulator.fault("Decrypt", what, **({"each_ms": 0.1} if what == "slow_body" else {}))
        searched.cleanly("fetch", "a", None)


def test_kept_connections_that_died(searched, emulator):
    """libcurl sends the plaintext a second time."""
    key = os.urandom(500)
    searched.look_for("key", key)
    searched.do("check")
    for what in ("reset", "cut"):
        emulator.fault("*", what, where="accept")
        searched.store(what, key)
        searched.do("fetch", what, None)
        emulator.fault("*", what, where="accept")
        searched.cleanly("fetch", what, None)


def test_credentials_that_were_replaced(searched, emulator, conf):
    new = "Another/Secret/of/exactly/40/characters+"
    searched.do("check")
    emulator.add_user("AKIDNEW", new, ACCOUNT)
    emulator.remove_user(ACCESS_KEY_ID)
    write_conf(conf, "AKIDNEW", new)
    searched.do("check")                # it finds them itself
    assert searched.find() == [], "nothing is left of the old ones"
    searched.look_for("new", new.encode())
    places = searched.find()
    assert len(places) == 3 and all(each.startswith("new:raw locked") for each in places)
    conf.write_text(f"AKIDNEW\n{new} two words\n")
    assert "line 2" in searched.fail("reload_creds")
    assert searched.find() == places


# ---- words ---------------------------------------------------------------------------------------


TOKEN = "FwoGZXIvYXdzEXAMPLE/token/" + "aB3+" * 100
EVERY_COMMAND = (("check",), ("generate", "g", None, "AES", 32),
                 ("store", "s", None, "SECRET", b"correct horse battery staple"),
                 ("fetch", "there", None), ("rewrap",), ("rotate",))
TYPES = ("AccessDeniedException", "NotFoundException", "DisabledException",
         "KMSInvalidStateException", "InvalidArnException", "InvalidKeyUsageException",
         "UnsupportedOperationException", "LimitExceededException", "ConflictException",
         "ValidationException", "InvalidSignatureException", "UnrecognizedClientException",
         "ExpiredTokenException", "SerializationException", "ThrottlingException",
         "KMSInternalException", "InvalidCiphertextException", "SomethingNewException")


class Echo:
    """An emulator whose errors repeat what they were sent, in part or whole."""

    def __init__(self, emulator):
        self.emulator, self.sent = emulator, []
        self.reply_to = emulator.reply_to
        emulator.reply_to = self

    def __call__(self, request, record):
        self.sent.append(request)
        if self.kind is None:
            return self.reply_to(request, record)
        signature = request.get("authorization")
        body = request.body.decode("utf-8", "replace").rstrip()
        message = {"body": f"you sent {body}", "token": f"token {request.get(TOKEN_HEADER)}?",
                   "part": f"{request.get(TOKEN_HEADER)[40:70]} is too old",
                   "signature": f"the signature {signature[-64:]}",
                   "authorization": signature, "plaintext": self.plaintext(body)}[self.what]
        return reply_of(self.kind, message)

    @staticmethod
    def plaintext(body: str) -> str:
        plain = json.loads(body).get("Plaintext", "")
        return f"Value '{base64.b64decode(plain).decode('latin-1')}' ({plain}) is not good"


TOKEN_HEADER = "x-amz-security-token"


def reply_of(kind: str, message: str):
    from kms_emulator import KmsError, error_reply
    return error_reply(KmsError(kind, message))


@pytest.fixture
def with_token(emulator, conf):
    emulator.add_user("ASIATOKEN", SECRET, ACCOUNT, token=TOKEN)
    write_conf(conf, "ASIATOKEN", SECRET, TOKEN)


def pieces(secret: str, size: int = 12) -> list:
    return [secret[at:at + size] for at in range(0, len(secret) - size + 1)]


@pytest.mark.parametrize("what", ["body", "token", "part", "signature", "authorization",
                                  "plaintext"])
def test_kms_repeats_secrets(emulator, with_token, driver, what):
    """No error, log line or figure holds a piece of a secret."""
    lib = driver(max_attempts=1)
    lib.ok("store", "there", None, "SECRET", b"correct horse battery staple")
    key = lib.fetch("there")
    echo = Echo(emulator)
    echo.what, words = what, []
    for echo.kind in TYPES:
        for command in EVERY_COMMAND:
            lib.ok("later")
            answer = lib.call(*command)
            assert answer.status != "OK" and echo.kind in (answer.aws, answer.aws + "Exception")
            words += [answer.text, answer.aws, answer.request_id]
    echo.kind = None
    words += [line for _, line in lib.logs] + [str(lib.stats()), lib.stderr()]
    said = "\n".join(words)
    signatures = {request.get("authorization")[-64:] for request in echo.sent}
    encoded = base64.b64encode(key).decode()
    for secret in (SECRET, TOKEN, key.decode(), encoded, *signatures):
        assert not [each for each in pieces(secret) if each in said]
    assert not re.search(r"Signature=|Credential=|(?<!Without)Plaintext", said)


@pytest.mark.parametrize("what", ["type", "request id", "message"])
@pytest.mark.parametrize("change", [str, str.swapcase, "-".join, " . ".join])
def test_kms_repeats_secrets_in_other_places(emulator, with_token, driver, what, change):
    """Wherever it repeats them, in another case or with something in between."""
    lib = driver(max_attempts=1)
    plain = b"correct horse battery staple"
    encoded, words = base64.b64encode(plain).decode(), []

    def echo(request, record):
        reply = reply_of(change(secret) if what == "type" else "AccessDeniedException",
                         change(secret) if what == "message" else "")
        if what == "request id":
            reply.headers["x-amzn-RequestId"] = change(secret)[:200]
        return reply

    emulator.reply_to = echo
    for secret in (SECRET, TOKEN, TOKEN[30:60], encoded):
        for command in EVERY_COMMAND:
            if secret != encoded or command[0] == "store":      # nobody else sends that
                answer = lib.call(*command)
                words += [answer.text, answer.aws, answer.request_id]
    said = fold("\n".join(words) + str(lib.logs) + lib.stderr())
    for secret in (SECRET, TOKEN, encoded):
        assert not [each for each in pieces(fold(secret), 8) if each in said]


def fold(text: str) -> str:
    return re.sub("[^a-z0-9]", "", re.sub(r"\\x..", "", text).lower())


def test_a_message_without_secrets_is_shown(emulator, driver):
    lib = driver()
    emulator.fault("Decrypt", "error", type="AccessDeniedException",
                   message="User: arn:aws:iam::111122223333:user/me\n\x1b[31m may not 'do' that")
    lib.ok("generate", "a", None, "AES", 32)
    answer = lib.call("fetch", "a", None)
    assert "User: arn:aws:iam::111122223333:user/me\\x0a\\x1b[31m may not 'do' that" in (
        answer.text)


def test_replies_are_not_shown(emulator, driver):
    """A reply that makes no sense may hold a key."""
    lib = driver()
    lib.ok("generate", "a", None, "AES", 32)
    key = lib.fetch("a")
    encoded = base64.b64encode(key).decode()
    for what, options in FETCH_FAULTS[3:]:
        lib.ok("use_timeouts", 0, 300)
        emulator.fault("Decrypt", what, times=0, **options)
        answer = lib.call("fetch", "a", None)
        emulator.clear_faults()
        said = answer.text + str(lib.logs)
        assert answer.status != "OK" and not [each for each in pieces(encoded) if each in said]


def test_bad_conf_files_are_not_shown(driver, conf):
    lib = driver()
    for text in (f"AKID\n{SECRET} {SECRET}\n", f"{SECRET}\n", f"AKID\n{SECRET}\n{TOKEN} x\n",
                 f"AKID\n{SECRET}\n\n{TOKEN}\n{TOKEN}", SECRET * 300, f"AK\x01ID\n{SECRET}\n",
                 f"AKID\n{SECRET}%", f'AKID\n"{SECRET}\n', f"AKID,{SECRET}\n",
                 f"AKID\nsecret={SECRET}\n", f"aws_access_key_id=AKID\n{SECRET}\n",
                 f"aws_access_key_id=AKID\naws_secret_access_key={SECRET}\n"
                 f"aws_secret_access_key={TOKEN}\n", f"aws_secret_acess_key={SECRET}\n",
                 f"[a]\naws_access_key_id=AKID\n[b]\naws_secret_access_key={SECRET}\n",
                 f'{{"AccessKeyId": "AKID", "SecretAccessKey": "{SECRET}"}}\n',
                 f"{SECRET}/\nAKID\n", f"ASIAIOSFODNN7EXAMPLE\n{SECRET}\n"):
        conf.write_text(text)
        answer = lib.call("reload_creds")
        assert answer.status == "CONFIG"
        said = answer.text + str(lib.logs)
        assert not [each for secret in (SECRET, TOKEN) for each in pieces(secret) if each in said]


# ---- files and surroundings ----------------------------------------------------------------------


@pytest.mark.parametrize("what, bits, words", [
    ("conf", 0o600, None), ("conf", 0o400, None),
    ("conf", 0o640, "may be read by others" if os.geteuid() else None),     # as containers mount it
    ("conf", 0o644, "may be read by others"), ("conf", 0o604, "may be read by others"),
    ("data", 0o644, "may be read by others"),
    ("data", 0o666, "may be written by others"), ("keyring", 0o755, None),
    ("keyring", 0o770, "may be written by others"),
    ("keyring", 0o1777, "may be written by others")])
def test_others_are_warned_of(driver, conf, settings, what, bits, words):
    driver().close()
    data = settings["data_file"]
    path = {"conf": conf, "data": data, "keyring": data.parent}[what]
    path.chmod(bits)
    said = driver().said(re.escape(str(path)) + ".*others", 1)
    assert bool(said) == bool(words) and (words or "") in str(said)


def test_sslkeylogfile_is_warned_of(driver, tmp_path):
    assert driver(env={"SSLKEYLOGFILE": str(tmp_path / "keys")}).said("SSLKEYLOGFILE.*unset it", 1)
    assert not driver().said("SSLKEYLOGFILE")


def test_the_file_holds_ciphertext_only(driver, settings):
    lib = driver()
    keys = [os.urandom(32) for _ in range(3)]
    for number, key in enumerate(keys):
        lib.ok("store", f"k{number}", None, "AES", key)
    lib.ok("rewrap")
    lib.close()
    whole = b"".join(each.read_bytes() for each in settings["data_file"].parent.iterdir())
    for secret in (*keys, SECRET.encode()):
        for name, form in forms(secret).items():
            assert not [at for at in range(0, len(form) - 15, 8) if form[at:at + 16] in whole], name
