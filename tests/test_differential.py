"""Rooms text and json against Python: json, base64, dates, percent-encoding, UTF-8, numbers.

Each question follows from its seed, which a failure prints; KAWS_SEED=n asks for others,
KAWS_LONG=1 for 20 times as many.
"""

import base64
import binascii
import calendar
import email.utils
import json
import random
import re
import string
import time
import urllib.parse

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


# ---- JSON ---------------------------------------------------------------------------------------


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


def test_json(oracle: Oracle) -> None:
    for seed, r in chances("json"):
        document = reply(r)
        expected = by_python(document)
        assert expected is not None, seed
        assert by_kaws(oracle, document) == expected, f"seed {seed!r}: {document}"


def test_json_spoilt(oracle: Oracle) -> None:
    taken = 0
    for seed, r in chances("spoilt", ROUNDS * 4):
        document = spoilt(r, reply(r))
        expected = by_python(document)
        taken += expected is not None
        assert by_kaws(oracle, document) == expected, f"seed {seed!r}: {document}"
    assert ROUNDS * 4 // 20 < taken < ROUNDS * 4 // 2


def test_json_numbers(oracle: Oracle) -> None:
    for seed, r in chances("numbers", ROUNDS * 2):
        number = "".join(r.choices("0012-+.eE", k=r.randint(1, 7)))
        document = f'{{"c":{number}}}'.encode()
        assert by_kaws(oracle, document) == by_python(document), f"seed {seed!r}: {number}"


def test_json_depth(oracle: Oracle) -> None:
    for opening, closing, each in (("[", "]", 1), ('{"c":', "}", 1), ('[{"c":', "}]", 2)):
        for times in (1, 31, 32, 33, 63, 64, 65, 66, 1000):
            document = f'{{"c":{opening * times}1{closing * times}}}'.encode()
            assert (by_kaws(oracle, document) is None) == (each * times > DEPTH), document


def test_json_string(oracle: Oracle) -> None:
    for seed, r in chances("string"):
        original = text(r, 30)
        written = unfield(oracle("string", original)[0])
        assert json.loads(written) == original, f"seed {seed!r}: {written}"


# ---- base64 -------------------------------------------------------------------------------------


def canonical(digits: bytes) -> bytes | None:
    """What it encodes, if encoding that gives the same again."""
    try:
        data = base64.b64decode(digits, validate=True)
    except (ValueError, binascii.Error):
        return None
    return data if base64.b64encode(data) == digits else None


def test_base64(oracle: Oracle) -> None:
    for seed, r in chances("base64"):
        data = r.randbytes(r.choice([r.randrange(70), r.randrange(70), r.randrange(7000)]))
        digits = base64.b64encode(data)
        assert unfield(oracle("base64", data)[0]) == digits, f"seed {seed!r}"
        assert unfield(oracle("unbase64", digits)[0]) == data, f"seed {seed!r}"


def test_base64_spoilt(oracle: Oracle) -> None:
    for seed, r in chances("unbase64", ROUNDS * 2):
        digits = bytearray(base64.b64encode(r.randbytes(r.randrange(40))))
        for _ in range(r.randint(1, 3)):
            place = r.randrange(len(digits) + 1)
            digits[place:place + r.randrange(3)] = r.choice(
                [b"", b"=", b"==", b"A", b"B", b"/", b"-", b"_", b"\n", b" ", r.randbytes(1)])
        found = unfield(oracle("unbase64", bytes(digits))[0])
        assert found == canonical(bytes(digits)), f"seed {seed!r}: {bytes(digits)}"


# ---- dates --------------------------------------------------------------------------------------


def moments(r: random.Random) -> int:
    return r.choice([r.randrange(253402300800), r.randrange(4133980800), r.randrange(86400 * 400),
                     951782400 + r.randrange(-90000, 180000)])


def test_dates(oracle: Oracle) -> None:
    for seed, r in chances("date"):
        when = moments(r)
        stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(when))
        assert oracle("amz_date", when) == [stamp], f"seed {seed!r}"
        header = email.utils.formatdate(when, usegmt=True)
        assert oracle("http_date", header) == [str(when)], f"seed {seed!r}: {header}"


def http_date(header: str) -> int:
    """By the book: the one form, a day of the calendar, its own day of the week; else 0."""
    if not re.fullmatch("[A-Z][a-z]{2}, [0-9]{2} [A-Z][a-z]{2} [0-9]{4} "
                        "[0-9]{2}:[0-9]{2}:[0-9]{2} GMT", header):
        return 0
    leap = header[23:25] == "60"
    if leap:
        header = header[:23] + "59" + header[25:]
    try:
        when = calendar.timegm(time.strptime(header, "%a, %d %b %Y %H:%M:%S GMT"))
    except ValueError:
        return 0
    return when + leap if when >= 0 and email.utils.formatdate(when, usegmt=True) == header else 0


def test_http_date_spoilt(oracle: Oracle) -> None:
    dates = 0
    for seed, r in chances("http date", ROUNDS * 2):
        header = email.utils.formatdate(moments(r), usegmt=True)
        for _ in range(r.randint(1, 2)):
            place = r.choice([0, 5, 6, 8, 9, 12, 13, 14, 15, 17, 18, 20, 23, 24,
                              r.randrange(len(header))])
            new = r.choice([r.choice(string.digits), r.choice("0123 SMTWFJanuGMT:,"), "", "00",
                            r.choice(["Feb", "Jun", "Sun", "60"])])
            header = header[:place] + new + header[place + len(new):]
        expected = http_date(header)
        dates += expected > 0
        assert oracle("http_date", header) == [str(expected)], f"seed {seed!r}: {header!r}"
    assert ROUNDS // 50 < dates < ROUNDS


def test_leap_second(oracle: Oracle) -> None:
    assert oracle("http_date", "Sat, 31 Dec 2016 23:59:60 GMT") == ["1483228800"]
    assert http_date("Sat, 31 Dec 2016 23:59:60 GMT") == 1483228800


# ---- the rest -----------------------------------------------------------------------------------


def test_percent(oracle: Oracle) -> None:
    for seed, r in chances("percent"):
        data = r.choice([r.randbytes(r.randrange(60)), text(r, 20).encode()])
        expected = urllib.parse.quote(data, safe="").encode()
        assert (unfield(oracle("percent", data)[0]) or b"") == expected, f"seed {seed!r}: {data}"


def is_utf8(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def test_utf8(oracle: Oracle) -> None:
    for seed, r in chances("utf8", ROUNDS * 2):
        data = bytearray(text(r, 6).encode())
        for _ in range(r.randrange(3)):
            place = r.randrange(len(data) + 1)
            data[place:place + r.randrange(2)] = r.choice([b"", b"\x80", b"\xbf", r.randbytes(1)])
        assert oracle("utf8", bytes(data)) == [str(int(is_utf8(data)))], f"seed {seed!r}: {data}"


def test_numbers(oracle: Oracle) -> None:
    for seed, r in chances("number"):
        digits = "".join(r.choices("00123456789", k=r.randint(0, 12)))
        if r.randrange(8) == 0:
            digits = r.choice(["-", "+", " ", "", "0x"]) + digits + r.choice(["", " ", "\0", "."])
        most = r.choice([0, 9, 3600000, 2**31, 2**32 - 1, r.randrange(2**32)])
        good = re.fullmatch("[0-9]{1,10}", digits) and int(digits) <= most
        expected = str(int(digits)) if good else "-"
        assert oracle("number", digits, most) == [expected], f"seed {seed!r}: {digits!r}, {most}"
