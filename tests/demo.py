#!/usr/bin/python3
"""`make demo`: keyring_aws guards a real MySQL server's tables through KMS, step by step.

Each step shows its SQL, the server's answer, and whether the answer was as promised.  The server is
the one that MYSQLD names, or else Debian sid's.  KMS is the tests' emulator, which verifies every
signature.  Nothing is left running.  The exit status is 0 only if every promise was kept.
"""

import contextlib
import hashlib
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


def show_kms(show: Show, kms) -> None:
    show.title("What KMS saw")
    calls = kms.log()["requests"]
    counted = sorted({call["action"] for call in calls})
    show.tell(table(["action", "requests"], [(name, kms.count(name)) for name in counted]))
    show.promise(calls and all(call["signed"] == "OK" for call in calls),
                 f"the signatures of all {len(calls)} requests hold")


def tell_story(kms, db, certs) -> Show:
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

    def restart() -> None:
        if db.stop() != 0:
            raise RuntimeError(f"the server does not end well:\n{db.log()}")
        db.start(*options, "--keyring-aws-create=OFF")          # from the second start on

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
        with Emulator(certs.good.cert, certs.good.key) as kms, MySQL() as db:
            show = tell_story(kms, db, certs)
    except ServerError as error:
        print(f"demo: {error}", file=sys.stderr)
        return 1
    broken = f"{show.broken} of {show.promises} promises BROKEN"
    result = broken if show.broken else "All as promised"
    print(f"\n{result}, in {time.monotonic() - began:.0f} s.  Nothing is left running.")
    return 1 if show.broken else 0


if __name__ == "__main__":
    sys.exit(main())
