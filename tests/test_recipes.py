"""The recipes of keyring_aws.h's manual work: each is cut out of it, compiled, and run."""

import itertools
import os
import re
import subprocess
import time
from pathlib import Path

import pytest
from conftest import write_conf
from kms_emulator import ACCOUNT, OTHER_ACCOUNT, Emulator
from patience import calm, in_time, within

TOP = Path(__file__).resolve().parent.parent
RECIPES = TOP / "tests" / "recipes"
REGION = "eu-west-1"
STRICT = ["-Wall", "-Wextra", "-Wpedantic", "-Wshadow", "-Wconversion", "-Werror"]
KINDS = {
    "clang": ["clang", "-O1"],
    "asan": ["gcc", "-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"],
    "tsan": ["gcc", "-O1", "-fsanitize=thread"],
}
SWITCHES = {"10.4": ["-DKEYRING_AWS_NO_CURL"], "10.5": ["-DKEYRING_AWS_NO_THREADS"]}
PROGRAMS = {"envelope": "10.1", "rotation": "10.2", "seals": "10.3", "no_curl": "10.4",
            "loop": "10.5"}
WRAPS = {"rotation": ["kaws_rewrap_all"],
         "envelope": ["kaws_kms_generate_data_key", "kaws_kms_decrypt", "kaws_wipe"]}


def recipes() -> dict[str, str]:
    """The code of each recipe by its number, as a reader would copy it."""
    manual = (TOP / "keyring_aws.h").read_text().partition("*/")[0]
    page = re.search(r"^ \* 10  RECIPES$.*?(?=^ \* 11  )", manual, re.M | re.S)[0]
    parts = re.split(r"^ \* (10[.]\d)  .*\n", page, flags=re.M)
    return {number: "".join(line[7:] + "\n" for line in text.split("\n")
                            if line.startswith(" *     ") or line == " *")
            for number, text in zip(parts[1::2], parts[2::2])}


@pytest.fixture(scope="session")
def build(tmp_path_factory):
    """build(program, kind): a program of tests/recipes, with its recipe as it is in the manual."""
    made, implementations = {}, {}

    def compiled(folder: Path, kind: str, switches: list[str]) -> Path:
        key = (kind, *switches)
        if key not in implementations:
            implementations[key] = folder / "keyring_aws.o"
            subprocess.run([*KINDS[kind], "-g", *STRICT, "-std=c99", *switches, f"-I{TOP}", "-c",
                            TOP / "tests" / "build" / "implementation.c", "-o",
                            implementations[key]], check=True)
        return implementations[key]

    def of(program: str, kind: str) -> Path:
        if (program, kind) not in made:
            folder = tmp_path_factory.mktemp(f"{program}-{kind}")
            number = PROGRAMS[program]
            (folder / "recipe.c").write_text(recipes()[number])
            link = [f"-Wl,--wrap={name}" for name in ["kaws_open", *WRAPS.get(program, [])]]
            link += ["-lbearssl", "-lpthread", *([] if number == "10.4" else ["-lcurl"])]
            subprocess.run([*KINDS[kind], "-g", *STRICT, "-std=gnu99", "-D_GNU_SOURCE",
                            f"-I{TOP}", f"-I{folder}",
                            RECIPES / f"{program}.c",
                            compiled(folder, kind, SWITCHES.get(number, [])),
                            *link, "-o", folder / program], check=True)
            made[program, kind] = folder / program
        return made[program, kind]
    return of


@pytest.fixture
def kms(certs):
    with Emulator(certs.good.cert, certs.good.key) as emulator:
        emulator.url_of_name = emulator.url.replace("127.0.0.1", "localhost")
        emulator.environment = {**os.environ, "RECIPE_URL": emulator.url_of_name,
                                "RECIPE_CA": str(certs.ca)}
        for name in ("app", "one", "two", "mail"):
            setattr(emulator, name, emulator.add_key(REGION, ACCOUNT, alias=f"alias/{name}"))
        yield emulator
    assert emulator.crashes == []


@pytest.fixture
def conf(tmp_path, kms):
    """conf(file, action...): credentials of a user who may do that, and nothing else."""
    numbers = itertools.count()

    def of(name: str, *actions: str, account: str = ACCOUNT, **condition) -> None:
        user = f"AKIDRECIPE{next(numbers)}"
        statement = {"Effect": "Allow", "Action": [f"kms:{each}" for each in actions],
                     "Resource": "*", **condition}
        kms.add_user(user, "a-secret", account, policy={"Version": "2012-10-17",
                                                        "Statement": [statement]})
        write_conf(tmp_path / name, user, "a-secret")
    return of


@pytest.fixture
def run(tmp_path, kms, build):
    """run(kind, program, word...): the finished process."""
    def of(kind: str, program: str, *words, stdin: bytes = b"", code: int = 0):
        done = subprocess.run([*map(str, (build(program, kind), *words))], cwd=tmp_path,
                              input=stdin, capture_output=True, env=kms.environment, timeout=300)
        assert done.returncode == code and done.stderr == b"", (done.returncode, done.stdout,
                                                                done.stderr)
        return done.stdout
    return of


BOTH = pytest.mark.parametrize("kind", ["clang", "asan"])


@pytest.mark.parametrize("compiler", ["gcc", "clang"])
def test_every_recipe_is_plain_c99_and_complete(tmp_path, compiler):
    """With the headers that the page names, and no other."""
    found = recipes()
    page = (TOP / "keyring_aws.h").read_text().partition("*/")[0].partition("10  RECIPES")[2]
    headers = re.findall(r"<(\w+[.]h)>", page.partition("10.1")[0])
    assert headers == ["stdio.h", "stdlib.h", "string.h"]
    assert sorted(found) == sorted(PROGRAMS.values())
    for number, code in found.items():
        part = page.partition(f"\n * {number}  ")[2].partition("\n *\n *\n")[0]
        named = headers + re.findall(r"include <(\w+[.]h)> as well", part)
        assert len(named) == 3 + (number == "10.1")
        assert 15 < len(code.split("\n")) < 90, number
        (tmp_path / "recipe.c").write_text(
            '#include "keyring_aws.h"\n' + "".join(f"#include <{each}>\n" for each in named)
            + code)
        subprocess.run([compiler, *STRICT, "-Wno-unused-function", "-Wno-unused-const-variable",
                        "-std=c99", f"-I{TOP}", "-c", "recipe.c"], cwd=tmp_path, check=True)


# ---- 10.1 ---------------------------------------------------------------------------------------


DEFINITE = ("the data file is damaged", "bad argument", "AWS KMS does not allow it",
            "the blob was sealed for something else", "AWS KMS does not know or cannot use that "
            "KMS key", "the KMS key belongs to an account that is not trusted")


@BOTH
def test_an_encrypted_file_comes_back_and_nothing_else_does(tmp_path, kms, conf, run, kind):
    """A file with a flipped bit, another name or another length is refused."""
    conf("keys.conf", "GenerateDataKey", "Decrypt")
    plain, sealed, back = (tmp_path / name for name in ("plain", "sealed", "back"))
    for size in (0, 1, 63, 64, 65, 100000):
        plain.write_bytes(os.urandom(size))
        run(kind, "envelope", "encrypt", "a", plain, sealed)
        run(kind, "envelope", "decrypt", "a", sealed, back)
        assert back.read_bytes() == plain.read_bytes()
        assert size < 63 or plain.read_bytes()[:63] not in sealed.read_bytes()
        assert sealed.stat().st_size < size + 1024
    assert kms.count("GenerateDataKey") == kms.count("Decrypt") == kms.count() // 2 == 6
    plain.write_bytes(b"an example of a text")
    run(kind, "envelope", "encrypt", "a", plain, sealed)
    good = sealed.read_bytes()
    back.unlink()

    def refuse(data: bytes, name: str = "a") -> str:
        sealed.write_bytes(data)
        said = run(kind, "envelope", "decrypt", name, sealed, back, code=1).decode()
        assert not back.exists()
        return said.partition(":")[0]
    head = 2 + int.from_bytes(good[:2], "little")
    places = {*range(14), *range(16, head, 23), *range(head, len(good), 3), len(good) - 1}
    for place in sorted(places):
        damaged = bytearray(good)
        damaged[place] ^= 1 << place % 8
        said = refuse(bytes(damaged))
        assert said in (DEFINITE if place < head else DEFINITE[:1]), (place, said)
    for size in (0, 1, 2, 17, 18, 19, head - 1, head, head + 15, head + 16, len(good) - 1):
        assert refuse(good[:size]) in DEFINITE[:2], size
    assert refuse(good + b"\0") == "the data file is damaged"
    assert refuse(good, "b") == "the blob was sealed for something else"
    sealed.write_bytes(good)
    run(kind, "envelope", "decrypt", "a", sealed, back)
    assert back.read_bytes() == b"an example of a text"


def test_envelope_binds_what_is_in_front(tmp_path, kms, conf, run):
    """The key material id is not protected by KMS: the tag protects it."""
    conf("keys.conf", "GenerateDataKey", "Decrypt")
    (tmp_path / "plain").write_bytes(b"text")
    run("clang", "envelope", "encrypt", "a", "plain", "sealed")
    good = (tmp_path / "sealed").read_bytes()
    material = kms.materials_id_of(kms.app) if hasattr(kms, "materials_id_of") else re.search(
        rb"[0-9a-f]{64}", good)[0].decode()
    other = material[:-1] + ("0" if material[-1] != "0" else "1")
    (tmp_path / "sealed").write_bytes(good.replace(material.encode(), other.encode()))
    said = run("clang", "envelope", "decrypt", "a", "sealed", "back", code=1)
    assert said == b"the data file is damaged: the encrypted file is damaged\n"


def test_envelopes_of_one_text_have_nothing_in_common(tmp_path, conf, run):
    """All nonces are zero, so no two files may share a data key."""
    conf("keys.conf", "GenerateDataKey")
    (tmp_path / "plain").write_bytes(bytes(1000))
    ends = set()
    for _ in range(5):
        run("clang", "envelope", "encrypt", "a", "plain", "sealed")
        ends.add((tmp_path / "sealed").read_bytes()[-1000:])
    assert len(ends) == 5


def test_envelope_of_a_kms_that_refuses(tmp_path, conf, run):
    conf("keys.conf", "Encrypt")
    (tmp_path / "plain").write_bytes(b"text")
    assert b"AWS KMS does not allow it" in run("asan", "envelope", "encrypt", "a", "plain",
                                               "sealed", code=1)
    assert not (tmp_path / "sealed").exists()


# ---- 10.2 ---------------------------------------------------------------------------------------


class Service:
    """The service of the recipe, at work."""

    def __init__(self, program: Path, folder: Path, environment: dict):
        self.process = subprocess.Popen([program, "4"], cwd=folder, env=environment, text=True,
                                        stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def ask(self, *words: str) -> str:
        self.process.stdin.write(" ".join(words) + "\n")
        self.process.stdin.flush()
        return self.process.stdout.readline().rstrip()

    def fetches_go_on(self) -> None:
        before, until = int(self.ask("fetches")), time.monotonic() + 20
        while int(self.ask("fetches")) < before + 20:
            assert time.monotonic() < until
            time.sleep(0.02)

    def end(self) -> None:
        self.process.stdin.close()
        assert self.process.wait(30) == 0


@pytest.fixture
def service(tmp_path, kms, conf, build):
    made = []

    def of(kind: str) -> Service:
        conf("keys.conf", "GenerateDataKeyWithoutPlaintext", "Decrypt", "ReEncryptFrom",
             "ReEncryptTo")
        made.append(Service(build("rotation", kind), tmp_path, kms.environment))
        return made[-1]
    yield of
    for each in made:
        each.process.kill()
        each.process.wait()


@pytest.mark.parametrize("kind", ["asan", "tsan"])
def test_no_fetch_fails_during_a_rotation(tmp_path, kms, conf, service, kind):
    """No fetch fails while keys, KMS keys and credentials change, and while KMS fails or throttles
    what a rotation asks for."""
    it = service(kind)
    it.fetches_go_on()
    assert it.ask("rotate", "alias/two", "orders-2") == "DONE"
    it.fetches_go_on()
    data = (tmp_path / "keys.kaws").read_bytes()
    assert kms.two.encode() in data and kms.one.encode() not in data
    for what, words in (
            # so slow that other replies come meanwhile: then no host counts as unreachable
            ({"type": "KMSInternalException", "ms": 400}, "InternalException"),
            ({"type": "ThrottlingException", "retry_after": 5000}, "hrottl")):
        for action in ("GenerateDataKeyWithoutPlaintext", "ReEncrypt"):
            kms.fault(action, "error", times=0, **what)
            said = it.ask("rotate", "alias/one", "orders-3")
            assert said.startswith("LATER ") and words in said, said
            it.fetches_go_on()
            kms.clear_faults()
    for action in ("GenerateDataKeyWithoutPlaintext", "ReEncrypt", "Decrypt"):
        kms.fault(action, "error", type="KMSInternalException")
        assert it.ask("rotate", "alias/one", "orders-3") == "DONE", "one error: it asks again"
        it.fetches_go_on()
    conf("keys.conf", "Decrypt")        # new credentials, with less rights
    said = it.ask("rotate", "alias/two", "orders-4")
    assert said.startswith("ASK ") and "GenerateDataKeyWithoutPlaintext" in said
    it.fetches_go_on()
    conf("keys.conf", "GenerateDataKeyWithoutPlaintext", "Decrypt", "ReEncryptFrom", "ReEncryptTo")
    assert it.ask("rotate", "alias/two", "orders-4") == "DONE"
    it.fetches_go_on()
    assert it.ask("rotate", "alias/none", "orders-5").startswith("ASK ")
    it.fetches_go_on()
    it.end()


def test_rotation_when_another_changed_the_file(tmp_path, service):
    it = service("asan")
    data = tmp_path / "keys.kaws"
    it.fetches_go_on()
    before = data.read_bytes()
    assert it.ask("rotate", "alias/one", "orders-2") == "DONE"
    after = data.read_bytes()
    data.write_bytes(before)            # somebody plays a backup back ...
    said = it.ask("rotate", "alias/one", "orders-3")
    assert said.startswith("REFRESH "), said
    it.fetches_go_on()
    assert it.ask("rotate", "alias/one", "orders-3").startswith("REFRESH ")
    data.write_bytes(after)             # ... and takes that back
    assert it.ask("refresh") == "fresh"
    it.fetches_go_on()
    assert it.ask("rotate", "alias/two", "orders-3") == "DONE"
    it.fetches_go_on()
    it.end()


VERDICTS = {"DONE": "OK", "LATER": "NETWORK THROTTLED SERVICE REPLY LOCKED RUNNING",
            "REFRESH": "CHANGED UNCERTAIN"}


def test_rotation_has_a_verdict_on_each_status(service):
    """Only what may pass is tried again, as kaws_check's contract says."""
    header = (TOP / "keyring_aws.h").read_text()
    names = re.findall(r"^    X[(](\w+), +\"", header.partition("#define KAWS_STATUSES(X)")[2]
                       .partition("#define KAWS__STATUS_NAME")[0], re.M)
    assert names[:3] == ["OK", "NOT_FOUND", "EXISTS"] and len(names) > 20
    it = service("asan")
    it.fetches_go_on()
    assert it.ask("rotate", "alias/one", "orders-2") == "DONE"
    for number, name in enumerate(names):
        assert it.ask("pretend", str(number)) == "yes"
        assert it.ask("rotate", "alias/one", "orders-2") == next(
            (verdict for verdict, which in VERDICTS.items() if name in which.split()), "ASK"), name
    it.end()


# ---- 10.3 ---------------------------------------------------------------------------------------


@BOTH
def test_client_that_only_seals(tmp_path, kms, conf, run, kind):
    """One request each; a client cannot open, a server cannot seal."""
    conf("client.conf", "Encrypt")
    conf("server.conf", "Decrypt")
    for secret in (b"x", b"attack at dawn", os.urandom(4096)):
        kms.reset_log()
        packed = run(kind, "seals", "client", "anna", stdin=secret)
        assert kms.count() == kms.count("Encrypt") == 1
        assert packed.startswith(b"KAWSSEAL") and secret[:9] not in packed[:300] or secret == b"x"
        assert run(kind, "seals", "server", "anna", stdin=packed) == secret
        assert kms.count() == 2 and kms.count("Decrypt") == 1

    def refused(who: str, name: str, stdin: bytes) -> str:
        return run(kind, "seals", who, name, stdin=stdin, code=1).decode()
    assert "sealed for something else" in refused("server", "berta", packed)
    assert refused("client", "anna", bytes(4097)).startswith("bad argument")
    for damaged in (b"", packed[:-1], packed + b"\0", bytes(100), packed[:100]):
        assert refused("server", "anna", damaged).startswith(
            "bad argument: cannot unpack the sealed value: ")
    flipped = packed[:-1] + bytes([packed[-1] ^ 1])
    assert "sealed for something else" in refused("server", "anna", flipped)
    conf("server.conf", "Encrypt")      # what the client may do is not enough to open
    assert "AWS KMS does not allow it" in refused("server", "anna", packed)
    conf("client.conf", "Decrypt")
    assert "AWS KMS does not allow it" in refused("client", "anna", b"x")


def test_server_obeys_no_stranger(tmp_path, kms, conf, run):
    """If the bytes name another account's KMS key, nothing is sent, even if we may use that key."""
    theirs = kms.add_key(REGION, OTHER_ACCOUNT)
    conf("client.conf", "Encrypt")
    conf("server.conf", "Decrypt")
    packed = run("clang", "seals", "client", "anna", stdin=b"x")
    assert len(theirs) == len(kms.mail)
    kms.reset_log()
    said = run("clang", "seals", "server", "anna", code=1,
               stdin=packed.replace(kms.mail.encode(), theirs.encode(), 1))
    assert b"not trusted" in said and kms.count() == 0


def test_client_that_may_write_its_own_name_only(kms, conf, run):
    """As the page says: a policy with the condition on the context."""
    conf("client.conf", "Encrypt", Condition={
        "StringEquals": {"kms:EncryptionContext:from": "anna"}})
    run("clang", "seals", "client", "anna", stdin=b"x")
    assert b"does not allow" in run("clang", "seals", "client", "berta", stdin=b"x", code=1)


# ---- 10.4 ---------------------------------------------------------------------------------------


@BOTH
def test_the_recipe_without_libcurl_works(tmp_path, kms, conf, run, build, kind):
    conf("keys.conf", "GenerateDataKeyWithoutPlaintext", "Decrypt", "ReEncryptFrom", "ReEncryptTo")
    assert "curl" not in subprocess.run(["ldd", build("no_curl", kind)], capture_output=True,
                                        text=True, check=True).stdout
    said = run(kind, "no_curl", "check", "generate", "fetch", "rewrap", "fetch", "generate")
    assert [line.partition(" after")[0] for line in said.decode().splitlines()] == [
        *["ok"] * 5, "a key of that name is already there"]
    assert kms.log()["connections"] == kms.count() == 8

    def fetch(what: str = "fetch") -> tuple[str, int, str]:
        line = run(kind, "no_curl", what).decode().rstrip()
        return re.fullmatch(r"(.*) after (\d+) ms: ?(.*)", line).groups()

    def faulty(*fault, **options) -> tuple[str, int, str]:
        kms.clear_faults()
        kms.fault("*", *fault, **options)
        return fetch()
    for status, fault, options in (
            ("AWS KMS could not be reached", "cut", {"where": "body", "times": 0}),
            ("AWS KMS could not be reached", "cut", {"where": "headers", "times": 0}),
            ("the reply from AWS KMS makes no sense", "reply", {"size": 60000, "times": 0}),
            ("AWS KMS throttled every attempt", "throttle", {"times": 0, "retry_after": 5000})):
        assert faulty(fault, **options)[0] == status, (fault, options)
    calm(faulty("throttle", times=1, retry_after=300)[0] == "ok", "of its 2 s too few were left")
    status, after, why = faulty("black_hole", times=0)
    assert (status, why.count("took too long")) == ("AWS KMS could not be reached", 1)
    assert 1900 <= int(after)
    in_time(int(after), 4000)
    status, after, _ = fetch("cancel-fetch")
    assert status == "the caller cancelled it" and 300 <= int(after)
    in_time(int(after), 1500)
    kms.clear_faults()
    kms.set(clock_offset=4000)          # the Date header tells by how much our clock is wrong
    kms.reset_log()
    assert fetch()[0] == "ok" and kms.count() == 2


def test_without_libcurl_a_pause_is_as_long_as_kms_wants(kms, conf, run):
    conf("keys.conf", "GenerateDataKeyWithoutPlaintext", "Decrypt")
    run("clang", "no_curl", "generate")
    kms.fault("*", "throttle", times=1, retry_after=500)
    said = run("clang", "no_curl", "fetch").decode()        # after up to 1 s more, at random
    calm(said.startswith("ok after "), said)                # of its 2 s
    assert int(said.split()[2]) >= 500, said


def test_without_libcurl_a_repeated_reply_is_refused(kms, conf, run):
    conf("keys.conf", "GenerateDataKeyWithoutPlaintext", "Decrypt")
    run("clang", "no_curl", "generate")
    kms.fault("*", "headers", times=0, set={"x-amzn-RequestId": "the-same"})
    assert run("clang", "no_curl", "fetch", "fetch").decode().split("\n")[1].startswith(
        "the reply from AWS KMS makes no sense")


def test_the_client_of_the_test_verifies_certificates(tmp_path, kms, certs, conf, run):
    """It must keep the manual's rules, or the tests above prove nothing."""
    conf("keys.conf", "GenerateDataKeyWithoutPlaintext", "Decrypt")
    kms.environment["RECIPE_CA"] = str(certs.unknown_ca.cert)
    assert run("clang", "no_curl", "check").startswith(b"AWS KMS could not be reached")


# ---- 10.5 ---------------------------------------------------------------------------------------


@BOTH
def test_the_recipe_without_threads_works(tmp_path, kms, conf, build, kind):
    """The loop turns while a fetch waits for KMS, and what ends the loop ends the fetch."""
    conf("keys.conf", "GenerateDataKeyWithoutPlaintext", "Decrypt")
    program = build("loop", kind)
    used = subprocess.run(["nm", "-u", program.with_name("keyring_aws.o")], capture_output=True,
                          text=True, check=True).stdout
    assert "curl_easy_init" in used and "pthread" not in used
    with subprocess.Popen([program, "a", "b"], cwd=tmp_path, env=kms.environment, text=True,
                          stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        def say(line: str) -> None:
            process.stdin.write(line + "\n")
            process.stdin.flush()

        def hear() -> str:
            return process.stdout.readline().rstrip()

        def ping() -> None:
            with within(0.8):
                say("ping")
                assert hear() == "pong"

        def cpu() -> int:
            return sum(map(int, Path(f"/proc/{process.pid}/stat").read_text().split()[13:15]))
        try:
            ping()
            used = cpu()
            time.sleep(0.5)
            assert cpu() - used < 20    # hundredths of a second: it waits, and does not spin
            kms.latency_ms = 1500
            say("fetch a")
            for _ in range(5):
                ping()
            say("fetch no such key")
            assert (hear(), hear()) == ("a: ok", "no such key: no key of that name")
            say("fetch b")
            while kms.count("Decrypt") < 2:
                ping()
            with within(1.2):
                say("quit")
                assert hear() == "b: the caller cancelled it"
                assert process.wait(5) == 0
        finally:
            process.kill()
