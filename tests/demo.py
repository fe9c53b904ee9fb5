#!/usr/bin/python3
"""`make demo`: keyring_aws guards a real MySQL server's tables through KMS, step by step.

Each step shows its SQL, the server's answer, and whether the answer was as promised.  The server is
the one that MYSQLD names, or else Debian sid's.  KMS is the tests' emulator, which verifies every
signature.  Nothing is left running.  The exit status is 0 only if every promise was kept.
"""

import contextlib
import hashlib
import json
import re
import signal
import struct
import sys
import time
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote_from_bytes

sys.path.insert(0, str(Path(__file__).resolve().parent / "hosts"))

# ---- the data file, read as the manual of keyring_aws.h describes it ----------------------------


class Entry(NamedTuple):
    """One key of a data file; its names are Latin-1, a character a byte."""
    key_id: str
    user_id: str
    key_type: str
    size: int                           # of the key, in bytes
    arn: str                            # of the KMS key that sealed it
    material: str                       # of that KMS key, by its id
    created: int
    blob: bytes                         # the key, sealed

    def context(self, file_id: str) -> dict[str, str]:
        """The encryption context that the blob is bound to."""
        def spell(name: str) -> str:
            return quote_from_bytes(name.encode("latin-1"), safe=PRINTABLE)

        context = {"app": "keyring_aws", "file": file_id, "key_id": spell(self.key_id),
                   "key_type": self.key_type}
        return {**context, "user_id": spell(self.user_id)} if self.user_id else context


class DataFile(NamedTuple):
    file_id: str
    committed: int                      # so many bytes were once acknowledged
    entries: list[Entry]


PRINTABLE = "".join(chr(c) for c in range(0x20, 0x7f) if chr(c) != "%")
HEADER = struct.Struct("<8sII16sQ8s32s")        # magic, version, 0, id, the cell, digest
FIXED = struct.Struct("<IIBBBBHHHHIQ")          # lengths and their checks, before an entry's texts


def read_data_file(path: Path) -> DataFile:
    """All of a data file; ValueError if it does not add up to the last byte."""
    data = path.read_bytes()
    magic, version, _, file_id, committed, _, digest = HEADER.unpack_from(data)
    if (magic, version) != (b"KAWSRING", 1):
        raise ValueError(f"{path} is no data file of keyring_aws")
    running = hashlib.sha256(data[:32] + bytes(16))     # each digest is of all bytes before it
    entries, at = [], HEADER.size
    while running.digest() == digest and at < len(data):
        running.update(digest)
        entry, size = read_entry(data, at)
        running.update(data[at:at + size])
        entries.append(entry)
        at += size + 32
        digest = data[at - 32:at]
    if running.digest() != digest:
        raise ValueError(f"{path} is damaged before byte {at}")
    return DataFile(file_id.hex(), committed, entries)


def read_entry(data: bytes, at: int) -> tuple[Entry, int]:
    """The entry at an offset, and its length without its digest."""
    (size, check, _, kind, key, user, plain, arn, blob, material, _,
     created) = FIXED.unpack_from(data, at)
    if size ^ check != 0xffffffff or size != FIXED.size + kind + key + user + arn + blob + material:
        raise ValueError(f"the entry at byte {at} has an odd length")
    texts, start = [], at + FIXED.size
    for length in (key, user, kind, arn, material, blob):
        texts.append(data[start:start + length])
        start += length
    key_id, user_id, key_type, arn, material = (text.decode("latin-1") for text in texts[:5])
    return Entry(key_id, user_id, key_type, plain, arn, material, created, texts[5]), size


# ---- showing ------------------------------------------------------------------------------------

TEXT = "Attack the castle at dawn"


class Show:
    """Runs SQL on the server, and shows it and what comes of it."""

    def __init__(self, db) -> None:
        self.db, self.step, self.promises, self.broken = db, 0, 0, 0

    def title(self, text: str) -> None:
        self.step += 1
        print(f"\n== {self.step}. {text}\n", flush=True)

    def tell(self, text: str) -> None:
        print(text, flush=True)

    def sql(self, query: str) -> list[tuple]:
        print(f"mysql> {query};", flush=True)
        from pymysql.err import MySQLError
        try:
            with contextlib.closing(self.db.connect()) as connection:
                with connection.cursor() as cursor:
                    cursor.execute(query)
                    rows, columns = cursor.fetchall(), cursor.description
        except MySQLError as error:
            sys.exit(f"ERROR {': '.join(map(str, error.args))}")
        rows = [tuple(map(readable, row)) for row in rows]
        print(table([column[0] for column in columns], rows) if columns else "Query OK",
              flush=True)
        return rows

    def one(self, query: str) -> object:
        ((value,),) = self.sql(query)
        return value

    def promise(self, kept: object, text: str) -> None:
        print(f"{'  kept' if kept else 'BROKEN'}: {text}", flush=True)
        self.promises += 1
        self.broken += not kept


def readable(value: object) -> object:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value


def table(names: list[str], rows: list[tuple]) -> str:
    """Rows as the mysql client draws them; a single value just as it is."""
    cells = [["NULL" if cell is None else str(cell) for cell in row] for row in rows]
    if len(rows) == len(names) == 1:
        return f"    -> {cells[0][0]}"
    widths = [max(map(len, column)) for column in zip(names, *cells)]
    line = "+" + "+".join("-" * (width + 2) for width in widths) + "+"
    drawn = ["|" + "|".join(f" {cell:<{width}} " for cell, width in zip(row, widths)) + "|"
             for row in (names, *cells)]
    return "\n".join([line, drawn[0], line, *drawn[1:], line] if rows else ["Empty set"])


# ---- the story ----------------------------------------------------------------------------------

def show_variables(show: Show, settings: dict[str, object]) -> None:
    show.title("The server has loaded the plugin before all else; these are its variables")
    has = dict(show.sql("SHOW VARIABLES LIKE 'keyring\\_aws%'"))
    wanted = {f"keyring_aws_{name}": str(value) for name, value in settings.items()}
    show.promise(wanted.items() <= has.items(), "they are what the command line said")


def show_functions(show: Show) -> None:
    show.title("The plugin's two SQL functions, and MySQL's own for general use of a keyring")
    for name in ("rotate_cmk", "rotate_keys"):
        show.sql(f"CREATE FUNCTION keyring_aws_{name} RETURNS INTEGER SONAME 'keyring_aws.so'")
    show.db.install_keyring_udf()
    rows = show.sql("SELECT name, dl FROM mysql.func ORDER BY name")
    show.promise(len(rows) == 8, "all eight functions are there")


def show_keys(show: Show) -> None:
    show.title("A key of one's own: KMS makes it and seals it")
    made = show.one("SELECT keyring_key_generate('MyKey', 'AES', 32)")
    key = show.one("SELECT HEX(keyring_key_fetch('MyKey'))")
    again = show.one("SELECT HEX(keyring_key_fetch('MyKey'))")
    show.promise(made == 1 and len(key or "") == 64 and again == key,
                 "it has 32 bytes, and is the same each time")
    show.promise(show.one("SELECT keyring_key_length_fetch('MyKey')") == 32, "its length is 32")
    show.promise(show.one("SELECT keyring_key_type_fetch('MyKey')") == "AES", "its type is AES")
    removed = show.one("SELECT keyring_key_remove('MyKey')")
    show.promise(removed == 1 and show.one("SELECT keyring_key_fetch('MyKey')") is None,
                 "once removed it is gone")
    show.promise(show.one(f"SELECT keyring_key_store('MySecret', 'SECRET', '{TEXT}')") == 1,
                 "what one already has can be stored, too")


def show_tables(show: Show, restart) -> None:
    show.title("A table, encrypted; and one that is not, to compare")
    show.sql("CREATE DATABASE demo")
    for name, clause in (("sealed", " ENCRYPTION = 'Y'"), ("open", "")):
        show.sql(f"CREATE TABLE demo.{name} (id INT PRIMARY KEY, plan VARCHAR(99)){clause}")
        show.sql(f"INSERT INTO demo.{name} VALUES (1, '{TEXT}'), (2, '{TEXT}')")
    show.tell("\n(the server is shut down in good order, and started again)\n")
    restart()
    rows = show.sql("SELECT * FROM demo.sealed")
    show.promise(rows == [(1, TEXT), (2, TEXT)], "the encrypted table is read back")
    search_files(show)


def search_files(show: Show) -> None:
    """MySQL has written all its pages, for it has been shut down since."""
    for name in ("open", "sealed"):
        path = show.db.data / "demo" / f"{name}.ibd"
        found = path.read_bytes().count(TEXT.encode())
        show.tell(f"\n'{TEXT}' stands in {path.relative_to(show.db.data)}: {found} x")
        show.promise((found > 0) == (name == "open"),
                     f"the text is{'' if name == 'open' else ' not'} in the {name} table's file")


def show_rotation(show: Show, data: Path) -> None:
    show.title("A new InnoDB master key")
    show.sql("ALTER INSTANCE ROTATE INNODB MASTER KEY")
    from versions import Expect
    if Expect(show.db.version).keyring_keys:
        rows = show.sql("SELECT key_id, key_owner FROM performance_schema.keyring_keys")
    else:
        rows = [(each.key_id, each.user_id) for each in read_data_file(data).entries]
    masters = [name for name, owner in rows if name.startswith("INNODBKey-") and not owner]
    show.promise(len(masters) == 2, "the keyring has the old one and the new one")
    show.promise(len(show.sql("SELECT * FROM demo.sealed")) == 2, "the table can still be read")


def show_functions_run(show: Show, kms, arn: str, data: Path) -> None:
    show.title("New key material for the KMS key, and every key re-encrypted under it")
    before = read_data_file(data).entries
    material = kms.key(arn).materials
    show.promise(show.one("SELECT keyring_aws_rotate_cmk()") == 1, "keyring_aws_rotate_cmk() is 1")
    show.promise(material.settle().current_id not in [each.material for each in before],
                 "KMS has rotated its key")
    show.promise(show.one("SELECT keyring_aws_rotate_keys()") == 1,
                 "keyring_aws_rotate_keys() is 1")
    after = read_data_file(data).entries
    show.promise({each.material for each in after} == {material.current_id}
                 and not {each.blob for each in after} & {each.blob for each in before},
                 "every blob is a new one, of the new material")
    show.promise(show.one("SELECT keyring_key_fetch('MySecret')") == TEXT, "the keys are the same")


def show_data_file(show: Show, kms, data: Path) -> None:
    show.title("What the data file holds: names, and ciphertext of KMS")
    content, file = data.read_bytes(), read_data_file(data)
    for each in file.entries:
        show.tell(f"  {each.key_id}\n"
                  f"    user id  {each.user_id or '(none: the server itself)'}\n"
                  f"    type     {each.key_type}, {each.size} bytes\n"
                  f"    KMS key  {each.arn}\n"
                  f"    blob     {len(each.blob)} bytes: {each.blob[:8].hex()}..."
                  f"{each.blob[-24:].hex()}")
    show.tell(f"  checksum (SHA-256)  {content[-32:].hex()}\n")
    show.promise(data.stat().st_mode & 0o777 == 0o600, "only its owner may read it")
    show.promise(len(file.entries) == 3, "it adds up to its last byte, and has three keys")
    plains = opened(kms, file)
    show.promise(TEXT.encode() in plains and not any(
        form in content for plain in plains for form in (plain, plain.hex().encode())),
                 "KMS opens each blob, and none of what is in them stands in the file")


def opened(kms, file: DataFile) -> list[bytes]:
    """The keys in the clear, by courtesy of the emulator."""
    from kms_emulator import unseal
    return [unseal(kms.key(each.arn), each.context(file.file_id), each.blob)[0]
            for each in file.entries]


def show_role(show: Show, kms, cloud, conf: Path, restart) -> None:
    from kms_emulator import ACCESS_KEY_ID, SECRET
    show.title("A role instead of the conf file: the credentials of an EC2 instance")
    conf.unlink()
    kms.remove_user(ACCESS_KEY_ID)
    show.tell("(the conf file is deleted, and KMS refuses what was in it; the server is shut down,"
              " and started\n again on an emulated EC2 instance with a role: keyring_aws_auth ="
              " native)\n")
    before = kms.count()
    restart()
    show.promise(len(show.sql("SELECT * FROM demo.sealed")) == 2, "the encrypted table is read")
    said = re.search(r"\[KAWS-165\] (.*)'", show.db.log())
    show.tell(f"\nThe error log says: {said and said[0][:-1]}")
    show.promise(said and "come from the instance (EC2);" in said[1] and " app-role," in said[1]
                 and f"ends in {cloud.given[0][-4:]}," in said[1], "it names the role")
    first = kms.users[cloud.given[-1]]
    time.sleep(max(0, first.token_expires - time.time()))
    show.tell("\n(now these credentials have expired)\n")
    show.promise(show.one("SELECT keyring_key_fetch('MySecret')") == TEXT,
                 "a key is fetched all the same")
    asked = kms.log()["requests"][before:]
    show.promise(asked[-1]["access_key_id"] == cloud.given[-1] != first.access_key_id
                 and {each["access_key_id"] for each in asked} <= {*cloud.given},
                 "the plugin had new ones from the instance by then, and used no others")
    secrets = [SECRET, *(each for user in map(kms.users.get, cloud.given)
                         for each in (user.secret, user.token))]
    files = [path.read_bytes() for path in show.db.folder.rglob("*") if path.is_file()]
    show.promise(not any(secret.encode() in file for file in files for secret in secrets),
                 f"no secret of theirs stands in any of the server's {len(files)} files")


def show_second_region(show: Show, kms, other, restart) -> str:
    """The ARN of the KMS key that the keys are sealed with from then on."""
    from kms_emulator import ACCOUNT, MULTI_REGION_ID, REGION
    show.title("A second region, while the KMS key's own is down")
    arn = kms.add_key(REGION, ACCOUNT, MULTI_REGION_ID)
    kms.replicate(arn, other.region)
    show.tell(f"(KMS has a new multi-region key in {REGION}, and its replica in {other.region})\n")
    show.sql(f"SET GLOBAL keyring_aws_cmk_id = '{arn}'")
    show.promise(show.one("SELECT keyring_aws_rotate_keys()") == 1,
                 "all keys are re-encrypted under the new KMS key")
    show.tell("\n(the server is started again with keyring_aws_failover_regions ="
              f" {other.region}; then KMS in {REGION} is stopped)\n")
    restart(f"--keyring-aws-cmk-id={arn}",
            f"--keyring-aws-failover-regions={other.region}={other.url}")
    kms.stop()
    show.promise(show.one("SELECT keyring_key_fetch('MySecret')") == TEXT, "a key is fetched")
    show.sql("CREATE TABLE demo.away (id INT) ENCRYPTION = 'Y'")
    rows = dict(show.sql("SHOW STATUS LIKE 'Keyring\\_aws\\_failovers'"))
    show.promise(0 < int(rows["Keyring_aws_failovers"]) <= other.count("Decrypt"),
                 "the second region has answered")
    kms.start()
    asked, end = kms.count("Decrypt"), time.monotonic() + 8
    while kms.count("Decrypt") == asked and time.monotonic() < end:
        time.sleep(0.2)
        show.db.sql("SELECT keyring_key_fetch('MySecret')")
    said = re.findall(r"\[KAWS-17[01]\] (.*)'", show.db.log())
    show.tell(f"\n(KMS in {REGION} is there again.) The error log says:\n"
              + "\n".join(f"  {line.split(', which does')[0]}" for line in said))
    show.promise(kms.count("Decrypt") > asked and len(said) == 2,
                 "the plugin has gone back to it by itself")
    return arn


def show_component(show: Show, settings: dict[str, object], start, restart) -> None:
    from versions import Expect
    if not Expect(show.db.version).components or show.db.mysqld.script:
        return                          # or nobody knows where a script's server looks
    name = "component_keyring_aws"
    show.title("The other door: the same file as a keyring component, with the same keys")
    show.sql("INSERT INTO demo.away VALUES (1)")
    show.tell("\n(the server is shut down, and started without early-plugin-load: its manifest"
              f" mysqld.my names\n {name} now, and {name}.cnf has these settings)\n")
    show.tell(json.dumps(settings, indent=2) + "\n")
    start({name: settings})
    rows = dict(show.sql("SELECT * FROM performance_schema.keyring_component_status"
                         " WHERE status_key IN ('Component_status', 'Data_file', 'Keys')"))
    entries = read_data_file(Path(settings["data_file"])).entries
    show.promise((rows["Component_status"], rows["Keys"]) == ("Active", str(len(entries))),
                 "the component is there, and has all keys of the plugin")
    show.promise(show.sql("SELECT * FROM demo.sealed") == [(1, TEXT), (2, TEXT)]
                 and show.sql("SELECT * FROM demo.away") == [(1,)], "the same tables can be read")
    show.promise(show.one("SELECT keyring_key_fetch('MySecret')") == TEXT, "the key is the same")
    show.promise(show.one("SELECT keyring_aws_rotate_keys()") == 1, "the functions work as before")
    show.sql("CREATE TABLE demo.later (id INT) ENCRYPTION = 'Y'")
    show.sql("INSERT INTO demo.later VALUES (7)")
    show.tell("\n(and back: the manifest is taken away, and early-plugin-load is there again)\n")
    restart()
    show.promise(show.sql("SELECT * FROM demo.later") == [(7,)]
                 and show.one("SELECT keyring_key_fetch('MySecret')") == TEXT,
                 "the plugin reads what was written by the component")


def show_kms(show: Show, kms) -> None:
    show.title("What KMS saw")
    calls = kms.log()["requests"]
    counted = sorted({call["action"] for call in calls})
    show.tell(table(["action", "requests"], [(name, kms.count(name)) for name in counted]))
    show.promise(calls and all(call["signed"] == "OK" for call in calls),
                 f"the signatures of all {len(calls)} requests hold")


def tell_story(kms, other, cloud, db, certs) -> Show:
    """Shows it all."""
    from kms_emulator import ACCESS_KEY_ID, KEY_ARN, SECRET
    conf, data = db.folder / "keyring_aws_conf", db.folder / "keyring" / "keyring_aws_data"
    conf.touch(0o600)
    conf.write_text(f"{ACCESS_KEY_ID}\n{SECRET}\n")
    settings = {"cmk_id": KEY_ARN, "region": "us-east-1", "conf_file": conf, "data_file": data,
                "endpoint": kms.url, "ca_file": certs.ca}
    options = ["--early-plugin-load=keyring_aws=keyring_aws.so", *(
        f"--keyring-aws-{name.replace('_', '-')}={value}" for name, value in settings.items())]
    show = Show(db)

    def restart(*more: str, env: dict[str, str] | None = None) -> None:
        if db.stop() != 0:
            raise RuntimeError(f"the server does not end well:\n{db.log()}")
        db.start(*options, "--keyring-aws-create=OFF", *more, env=env)      # from the second on

    instance = {"AWS_EC2_METADATA_SERVICE_ENDPOINT": cloud.url}
    last: list[str] = []

    def restart_on_ec2(*more: str) -> None:
        db.components(None)
        last[:] = more or last          # the settings that were changed since
        restart("--keyring-aws-auth=native", "--log-error-verbosity=3", *last, env=instance)

    def start_component(settings: dict[str, dict]) -> None:
        if db.stop() != 0:
            raise RuntimeError(f"the server does not end well:\n{db.log()}")
        db.components(settings)
        db.start(env=instance)

    version = ".".join(map(str, db.version))
    show.tell(f"MySQL {version} in {db.folder}, KMS (emulated) at {kms.url}; starting both ...")
    db.start(*options)
    show_variables(show, settings)
    show_functions(show)
    show_keys(show)
    show_tables(show, restart)
    show_rotation(show, data)
    show_functions_run(show, kms, KEY_ARN, data)
    show_data_file(show, kms, data)
    show_role(show, kms, cloud, conf, restart_on_ec2)
    arn = show_second_region(show, kms, other, restart_on_ec2)
    show_component(show, {
        "cmk_id": arn, "data_file": str(data),
        "aws_authentication": {"mode": "native", "region": "us-east-1"},
        "keyring_aws": {"endpoint": kms.url, "ca_file": str(certs.ca), "create": False}},
        start_component, restart_on_ec2)
    show_kms(show, kms)
    if db.stop() != 0:
        raise RuntimeError(f"the server does not end well:\n{db.log()}")
    return show


def main() -> int:
    began = time.monotonic()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))     # so that all is tidied up
    from servers import BUILD, MySQL, ServerError, certificates, tree
    if not (BUILD / "keyring_aws.so").exists():
        print("build/keyring_aws.so is not there: run `make demo`", file=sys.stderr)
        return 1
    try:
        tree()                          # before botocore is looked for, which may come from there
        from kms_emulator import Emulator
        certs = certificates()
        with (Emulator(certs.good.cert, certs.good.key) as kms, kms.sister("eu-central-1") as other,
              Emulator() as cloud, MySQL() as db):
            cloud.users, cloud.life = kms.users, 3      # an instance: KMS knows what it gives
            other.users = kms.users
            show = tell_story(kms, other, cloud, db, certs)
    except ServerError as error:
        print(f"demo: {error}", file=sys.stderr)
        return 1
    broken = f"{show.broken} of {show.promises} promises BROKEN"
    result = broken if show.broken else "All as promised"
    print(f"\n{result}, in {time.monotonic() - began:.0f} s.  Nothing is left running.")
    return 1 if show.broken else 0


if __name__ == "__main__":
    sys.exit(main())
