"""What the log says of TLS: once for each host, as the TLS library tells it; and nothing of ours
chooses the key exchange, so that OpenSSL 3.5 and later take the hybrid one by themselves."""

import json
import ssl
import subprocess
from pathlib import Path

import pytest

import kms_emulator as emu
from conftest import write_conf
from driver import Driver
from kms_emulator import ACCESS_KEY_ID, ACCOUNT, ALIAS, KEY_ARN, SECRET, Emulator
from mysql_fixtures import NO_SCHEMA, Stage
from servers import mysqld, run_in_tree

HOSTS = Path(__file__).resolve().parent / "hosts"
HYBRID = "X25519MLKEM768"


def told(lib: Driver) -> list[str]:
    """The lines about TLS; all are notes."""
    lines = [(level, line) for level, line in lib.logs if "KAWS-168" in line]
    assert all(level == 2 for level, _ in lines)
    return [line.removeprefix("[KAWS-168] ") for _, line in lines]


def line(url: str, version: str, group: str) -> str:
    return f"{url.removeprefix('https://')} answers over {version}, with the key exchange {group}"


# ---- the library, with this machine's OpenSSL ---------------------------------------------------

@pytest.fixture
def ring(conf, certs, driver_program):
    """Opens rings without a data file."""
    made = []

    def make(url, program=driver_program, **more):
        made.append(Driver(program))
        settings = {"endpoint": url, "kms_key_id": ALIAS, "conf_file": conf, "ca_file": certs.ca}
        answer = made[-1].open(**settings | more)
        assert answer.status == "OK", answer
        return made[-1]

    yield make
    for each in made:
        each.stop()


@pytest.mark.parametrize("tls_max, version", [("TLSv1_2", "TLSv1.2"), ("TLSv1_3", "TLSv1.3")])
@pytest.mark.parametrize("curve, group", [("prime256v1", "secp256r1"), ("secp521r1", "secp521r1")])
def test_version_and_group_are_those_of_the_server(ring, certs, monkeypatch, tls_max, version,
                                                   curve, group):
    contexts = emu.tls_context

    def only_that_curve(*of):
        context = contexts(*of)
        context.set_ecdh_curve(curve)
        return context

    monkeypatch.setattr(emu, "tls_context", only_that_curve)
    with Emulator(*certs.good, tls_max=tls_max) as kms:
        lib = ring(kms.url)
        lib.ok("check")
        assert told(lib) == [line(kms.url, version, group)]


def test_a_key_exchange_without_a_group(ring, tmp_path, monkeypatch):
    """In TLS 1.2 the client may encrypt a secret with the certificate's RSA key: no group."""
    contexts, cert, key = emu.tls_context, tmp_path / "cert", tmp_path / "key"
    subprocess.run(["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=x",
                    "-addext", "subjectAltName=IP:127.0.0.1", "-out", cert, "-keyout", key],
                   capture_output=True, check=True)

    def rsa_alone(*of):
        context = contexts(*of)
        context.set_ciphers("AES128-GCM-SHA256:@SECLEVEL=0")
        return context

    monkeypatch.setattr(emu, "tls_context", rsa_alone)
    with Emulator(cert, key, tls_max="TLSv1_2") as kms:
        lib = ring(kms.url, ca_file=cert)
        lib.ok("check")
        assert told(lib) == [f"{kms.url.removeprefix('https://')} answers over TLSv1.2"]


def test_each_host_is_told_once_by_each_ring(ring, emulator):
    """However many calls and connections there are; STS is a host of its own."""
    role, hosts = f"arn:aws:iam::{ACCOUNT}:role/app", ("localhost", "127.0.0.1")
    emulator.add_role(role)
    sts = emulator.url.replace("127.0.0.1", "localhost")
    lib = ring(emulator.url, role_arn=role, sts_endpoint=sts)
    assert [each.split(":")[0] for each in told(lib)] == ["localhost"]      # as it opened
    for _ in range(3):
        lib.ok("check")
    lib.many([("check",)] * 32)
    lib.ok("reload_creds")
    assert [each.split()[0] for each in told(lib)] == [f"{host}:{emulator.port}" for host in hosts]
    again = ring(emulator.url)
    again.ok("check")
    assert len(told(again)) == 1


def test_a_host_that_answers_late_is_told_then(ring, emulator):
    emulator.stop()
    lib = ring(emulator.url, max_attempts=1)
    assert lib.call("check").status == "NETWORK" and not told(lib)
    emulator.start()
    while (answer := lib.call("check")).status == "NETWORK":
        pass
    assert answer.status == "OK" and len(told(lib)) == 1


def test_a_refusal_is_an_answer(ring, emulator):
    emulator.fault("GenerateDataKeyWithoutPlaintext", "error", type="AccessDeniedException")
    lib = ring(emulator.url)
    assert lib.call("check").status == "DENIED" and len(told(lib)) == 1


def test_a_certificate_that_is_not_accepted_is_told_nothing_of(ring, certs):
    with Emulator(*certs.unknown_ca) as kms:
        lib = ring(kms.url, max_attempts=1)
        assert lib.call("check").status == "NETWORK" and not told(lib)


@pytest.mark.parametrize("other", ["gnutls", "nss"])
def test_another_tls_library_is_not_asked(ring, emulator, tmp_path, other):
    """It may not be OpenSSL at all; then the line has less."""
    library = f"libcurl-{other}.so.4"
    program = tmp_path / "driver"
    made = subprocess.run(["cc", "-std=c99", "-O1", "-g", "-o", program, HOSTS / "driver.c",
                           "-l:libbearssl.a", f"-l:{library}", "-lpthread", "-ldl", "-Wl,-z,now"],
                          capture_output=True, text=True, check=False)
    if f"cannot find -l:{library}" in made.stderr:
        pytest.skip(f"{library} is not installed")
    assert made.returncode == 0, made.stderr
    lib = ring(emulator.url, program)
    lib.ok("check")
    assert told(lib) == [f"{emulator.url.removeprefix('https://')} answers over TLS"]


# ---- a real server, with Debian sid's OpenSSL on both sides -------------------------------------

@pytest.fixture
def sid(certs):
    """The URL of an emulator that the tree's Python runs, and so its OpenSSL."""
    argv, env = run_in_tree("python3", "-c", "import ssl; print(*ssl.OPENSSL_VERSION_INFO[:2])")
    version = subprocess.run(argv, env=env, capture_output=True, text=True, check=True).stdout
    assert tuple(map(int, version.split())) >= (3, 5)
    argv, env = run_in_tree("python3", str(HOSTS / "kms_emulator.py"), "--cert",
                            str(certs.good.cert), "--key", str(certs.good.key))
    with subprocess.Popen(argv, env=env, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield json.loads(process.stdout.readline())["url"]
        finally:
            process.terminate()


def test_a_server_with_sids_openssl_takes_the_hybrid_key_exchange(sid):
    """Nothing is set for it; and the same server takes what another machine's OpenSSL can do."""
    if mysqld().program:
        pytest.skip("MYSQLD names a server with an OpenSSL of its own")
    with Stage(endpoint=sid) as stage:
        stage.start(NO_SCHEMA)
        assert stage.tagged("KAWS-168") == [line(sid, "TLSv1.3", HYBRID)]
        stage.install_functions()
        assert stage.generate("a") == 1 and len(stage.fetch("a")) == 32
        assert len(stage.tagged("KAWS-168")) == 1
        if ssl.OPENSSL_VERSION_INFO < (3, 5):
            stage.restart(NO_SCHEMA, endpoint=stage.kms.url)
            (said,) = stage.tagged("KAWS-168")
            assert said.casefold() == line(stage.kms.url, "TLSv1.3", "x25519").casefold()
