"""Room json against Python's json module.

Each question follows from its seed, which a failure prints.  KAWS_SEED=n asks other questions,
KAWS_LONG=1 asks 20 times as many.
"""

import json
import random

import pytest

from oracle import LONG, SEED, Oracle, unfield

ROUNDS = 60000 if LONG else 3000
DEPTH = 64                                  # that many levels a member's value may have
CHARS = "ab \"\\/\b\f\n\r\t\0\x1f\x7f\u0080\u07ff\u0800\ud7ff\ue000\ufeff\uffff\U00010000\U0010ffff"


@pytest.fixture(scope="module")
def oracle():
    oracle = Oracle()
    yield oracle
    oracle.close()


def chances(name: str, rounds: int = ROUNDS):
    for number in range(rounds):
        seed = f"{name} {SEED} {number}"
        yield seed, random.Random(seed)


def text(r: random.Random, most: int = 8) -> str:
    return "".join(r.choices(CHARS, k=r.randint(0, most)))


def anything(r: random.Random, depth: int = 0):
    kind = r.randrange(9 if depth < 4 else 6)
    if kind == 6:
        return [anything(r, depth + 1) for _ in range(r.randrange(4))]
    if kind > 6:
        return {text(r, 3): anything(r, depth + 1) for _ in range(r.randrange(4))}
    return [None, True, False, r.randint(-10**20, 10**20), r.random() * 10**r.randint(-9, 9),
            text(r)][kind]


def reply(r: random.Random) -> bytes:
    """An object as KMS might write it, the two wanted members among others."""
    members = [("c" + text(r, 3), anything(r)) for _ in range(r.randrange(4))]
    members += [(name, text(r)) for name in "ab" if r.randrange(5)]
    r.shuffle(members)
    blanks = ["", "", " ", "\n\t", "\r\n"]
    parts = [r.choice(blanks) + json.dumps(name, ensure_ascii=bool(r.randrange(2)))
             + r.choice(blanks) + ":" + r.choice(blanks)
             + json.dumps(value, ensure_ascii=bool(r.randrange(2)), indent=r.choice([None, 1]))
             + r.choice(blanks) for name, value in members]
    return (r.choice(blanks) + "{" + ",".join(parts) + "}" + r.choice(blanks)).encode()


def spoilt(r: random.Random, document: bytes) -> bytes:
    """With one to three bytes, or short pieces, changed, doubled or lost."""
    data = bytearray(document)
    pieces = [b'"', b"\\", b"{", b"}", b"[", b"]", b":", b",", b"0", b"1", b"-", b".", b"e+", b"u",
              b"\\u00e9", b"\\ud83d", b"\\udd11", b"\\ud83d\\udd11", b'"a":"x",', b'"b":1,',
              b"null", b"true", b"[[", b"]]", b"\x00", b"\x1f", b"\x7f", b"\x80", b"\xc3",
              b"\xed\xa0\x80", b"\xf0\x9f\x94\x91", b" ", b"\t", b"\x0c", b"NaN", b"Infinity"]
    for _ in range(r.randint(1, 3)):
        start = r.randrange(len(data) + 1)
        end = min(len(data), start + r.choice([0, 0, 1, 1, 2, 5]))
        data[start:end] = r.choice([b"", bytes(data[start:end]) * 2, *r.choices(pieces, k=3)])
    return bytes(data)


class Twice(list):
    """An object's members as they came."""


def levels(value) -> int:
    if isinstance(value, Twice):
        return 1 + max((levels(inner) for _, inner in value), default=0)
    if isinstance(value, list):
        return 1 + max(map(levels, value), default=0)
    return 0


def strings(value):
    if isinstance(value, str):
        yield value
    for inner in value if isinstance(value, list) else ():
        yield from [inner[0], *strings(inner[1])] if isinstance(value, Twice) else strings(inner)


def refuse(constant: str):
    raise ValueError(constant)


def by_python(document: bytes) -> dict[str, bytes] | None:
    """The wanted members; or None, for what is no JSON or not as strict as we are."""
    try:
        members = json.loads(document.decode(), object_pairs_hook=Twice, parse_constant=refuse,
                             parse_int=lambda digits: 0, parse_float=lambda digits: 0)
        if not isinstance(members, Twice) or levels(members) > DEPTH + 1:
            return None
        for found in strings(members):
            found.encode()                  # raises for half a surrogate pair
        wanted = [(name, value.encode()) for name, value in members if name in ("a", "b")]
    except (ValueError, AttributeError):
        return None
    return dict(wanted) if len(dict(wanted)) == len(wanted) else None


def by_kaws(oracle: Oracle, document: bytes) -> dict[str, bytes] | None:
    offset, wrong, a, b = oracle("json", document)
    assert 0 <= int(offset) <= len(document)
    if wrong != "-":
        return None
    return {name: unfield(value) for name, value in (("a", a), ("b", b)) if value != "-"}


def test_objects_are_read_as_python_reads_them(oracle: Oracle) -> None:
    for seed, r in chances("json"):
        document = reply(r)
        expected = by_python(document)
        assert expected is not None, seed
        assert by_kaws(oracle, document) == expected, f"seed {seed!r}: {document}"


def test_spoilt_objects_are_judged_as_python_judges_them(oracle: Oracle) -> None:
    taken = 0
    for seed, r in chances("spoilt", ROUNDS * 4):
        document = spoilt(r, reply(r))
        expected = by_python(document)
        taken += expected is not None
        assert by_kaws(oracle, document) == expected, f"seed {seed!r}: {document}"
    assert ROUNDS * 4 // 20 < taken < ROUNDS * 4 // 2


def test_numbers_are_judged_as_python_judges_them(oracle: Oracle) -> None:
    for seed, r in chances("numbers", ROUNDS * 2):
        number = "".join(r.choices("0012-+.eE", k=r.randint(1, 7)))
        document = f'{{"c":{number}}}'.encode()
        assert by_kaws(oracle, document) == by_python(document), f"seed {seed!r}: {number}"
