"""Library and plugin against moto, a KMS that others wrote, over TLS and with signature checks."""

import pytest

from conftest import write_conf
from driver import Driver
from mysql_fixtures import Stage
from servers import Moto
from test_library import EU, story

OTHER, FAR = 1, 2                       # of Moto.key_arns


@pytest.fixture(scope="module")
def moto(certs):
    with Moto("us-east-1", "us-east-1", EU, tls=certs.good) as kms:
        yield kms


@pytest.fixture
def ring(moto, certs, tmp_path, driver_program):
    """Opens rings on one data file: ring(kms_key_id=...)."""
    conf = write_conf(tmp_path / "conf", moto.access_key_id, moto.secret)
    settings = {"data_file": tmp_path / "keyring" / "data", "conf_file": conf, "ca_file": certs.ca,
                "endpoint": moto.url, "kms_key_id": moto.key_arn, "timeout_ms": 30000}
    made = []

    def make(**changes):
        made.append(Driver(driver_program))
        answer = made[-1].open(**{**settings, **changes})
        assert answer.status == "OK", answer
        return made[-1]

    make.conf, make.data = conf, settings["data_file"]
    yield make
    for each in made:
        each.stop()


def test_story(moto, ring):
    story(ring(), ring, moto.key_arns[OTHER], moto.key_arns[FAR], ring.data)


def test_keys_by_id_and_alias(moto, ring):
    lib = ring(kms_key_id=moto.key_arn.rsplit("/", 1)[1])
    lib.ok("check")
    lib.ok("generate", "a", None, "AES", 32)
    assert len(lib.fetch("a")) == 32 and lib.walk()[0].arn == moto.key_arn
    lib.ok("use_kms_key", moto.key_arns[FAR])
    lib.ok("generate", "b", None, "AES", 32)
    assert len(lib.fetch("b")) == len(lib.fetch("a")) == 32


def test_the_context_is_enforced(moto, ring):
    lib = ring()
    sealed = lib.ok("kms_encrypt", b"hello", "app", "mine")
    assert lib.ok("kms_decrypt", *sealed[:2], 5, "app", "mine") == [b"hello"]
    answer = lib.call("kms_decrypt", *sealed[:2], 5, "app", "yours")
    assert (answer.status, answer.aws) == ("MISMATCH", "InvalidCiphertextException")


def test_a_wrong_secret_is_refused(moto, ring):
    """moto answers 403 with XML, which only its HTTP status explains."""
    lib = ring()
    lib.ok("generate", "a", None, "AES", 32)
    key, before = lib.fetch("a"), ring.data.read_bytes()
    write_conf(ring.conf, moto.access_key_id, moto.secret[::-1])
    lib.ok("reload_creds")
    for command in (("check",), ("generate", "b", None, "AES", 32), ("fetch", "a", None),
                    ("store", "b", None, "AES", b"x"), ("rewrap",), ("rotate",)):
        answer = lib.call(*command)
        assert (answer.status, answer.http) == ("DENIED", 403) and "credentials" in answer.text
        assert moto.secret not in answer.text
    assert ring.data.read_bytes() == before
    write_conf(ring.conf, "AKIANOBODY", moto.secret)
    lib.ok("reload_creds")
    assert lib.call("fetch", "a", None).http == 403
    write_conf(ring.conf, moto.access_key_id, moto.secret)
    assert lib.fetch("a") == key, "the good ones are found in the conf file again"


def test_the_plugin_in_a_real_server(moto):
    """Keys, an encrypted table, both functions and a restart, the same as with our emulator."""
    stage = Stage(cmk_id=moto.key_arn, endpoint=moto.url, timeout=30000)
    with stage:
        stage.write_conf(moto.access_key_id, moto.secret)
        stage.start().install_functions()
        assert stage.generate("made") == 1 and stage.store("mine", "SECRET", b"correct horse") == 1
        made = stage.fetch("made")
        assert len(made) == 32 and stage.fetch("mine") == b"correct horse"
        stage.sql("CREATE DATABASE d")
        stage.sql("CREATE TABLE d.t (a INT PRIMARY KEY) ENCRYPTION = 'Y'")
        stage.sql("INSERT INTO d.t VALUES (42)")
        stage.sql("ALTER INSTANCE ROTATE INNODB MASTER KEY")
        assert stage.one("SELECT keyring_aws_rotate_cmk()") == 1
        before = stage.entries()
        assert stage.one("SELECT keyring_aws_rotate_keys()") == 1
        assert all(entry.blob != before[name].blob for name, entry in stage.entries().items())
        stage.restart()
        assert stage.one("SELECT a FROM d.t") == 42 and stage.fetch("made") == made
        assert stage.remove("mine") == 1 and stage.fetch("mine") is None
