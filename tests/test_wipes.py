"""Every function that holds a secret wipes it before it ends.

tests/fault/wipes.c runs whole operations with a copy of the header that records each wipe, and
searches the frame of each function that ends.  tests/fault/wipes.txt says what must be wiped: a
row has a function, what it wipes, and how many bytes in all; the lines below the row have the
operations and how often each wipes it.  A function may wipe more, but not less, and nothing that
the file does not name.

    test_wipes.py --write       writes the file again; read what changed
    test_wipes.py --remove      removes each wipe of the header in turn; says what notices it
"""

import collections
import re
import subprocess
import sys
import tempfile
import textwrap
from pathlib import Path

TOP = Path(__file__).resolve().parent.parent
HEADER, LIST = TOP / "keyring_aws.h", TOP / "tests" / "fault" / "wipes.txt"
CALL = re.compile(r"(?m)^( {4,}(?![ *]).*?)\bkaws_wipe\(")     # not its declaration
FLAGS = ["-std=gnu99", "-O0", "-g", "-w", "-no-pie", "-fno-omit-frame-pointer",
         "-finstrument-functions", "-finstrument-functions-exclude-file-list=wipes.c,fakes.h"]
CALLS = len(CALL.findall(HEADER.read_text()))


def build(folder: Path, *removed: int) -> Path:
    """The recorder; some of the header's calls of kaws_wipe may do nothing in it."""
    text, numbers = HEADER.read_text(), iter(range(CALLS))
    copy = CALL.sub(lambda found: found[1] + ("(void)(" if next(numbers) in removed else "WIPE("),
                    text)
    (folder / "recorded.h").write_text(copy)
    program = folder / "wipes"
    subprocess.run(["gcc", *FLAGS, f'-DWIPES_HEADER="{folder}/recorded.h"', "-o", program,
                    TOP / "tests" / "fault" / "wipes.c", "-l:libbearssl.a", "-lcurl"], check=True)
    return program


def record(program: Path, emulator) -> tuple[dict, list[str]]:
    """For each (function, what) its bytes and how often each operation wiped it; what was left."""
    from kms_emulator import KEY_ARN
    from servers import clean_environment
    said = ""
    for words in ((), (emulator.url, KEY_ARN)):
        done = subprocess.run([program, *words], text=True, stdout=subprocess.PIPE, timeout=300,
                              env={**clean_environment(), "LD_BIND_NOW": "1"}, check=False)
        if done.returncode != 0:
            return {}, [f"the recorder ended with {done.returncode}: {done.stdout[-200:]}"]
        said += done.stdout
    names = {int(line.split()[0], 16): line.split()[2] for line in subprocess.run(
        ["nm", "--defined-only", program], text=True, stdout=subprocess.PIPE,
        check=True).stdout.splitlines()}
    wipes, left = {}, []
    for kind, operation, function, rest in re.findall(r"(?m)^(\w+) (\S+) (\S+) (.*)$", said):
        if kind == "left":
            left.append(f"{operation}: {names.get(int(function, 16), '')} left {rest}")
        elif not function.endswith("mem_resize"):       # which the fake memory looks after
            size, _, what = rest.partition(" ")
            row = wipes.setdefault((function, what), [0, collections.Counter()])
            row[0] += int(size)
            row[1][operation] += 1
    return wipes, left


def emulate():
    """A KMS without TLS, which knows the recorder's creds."""
    from kms_emulator import ACCOUNT, Emulator
    fakes = (TOP / "tests" / "unit" / "fakes.h").read_text() + (
        TOP / "tests" / "fault" / "wipes.c").read_text()
    user = [re.search(rf'#define {name} +"(.*)"', fakes)[1]
            for name in ("FAKE_ID", "FAKE_SECRET", "TOKEN")]
    emulator = Emulator()
    emulator.add_user(*user[:2], ACCOUNT, token=user[2])
    return emulator


def written(wipes: dict) -> str:
    text = ""
    for (function, what), (size, often) in sorted(wipes.items()):
        text += f"{function}: {what}: {size} bytes\n" + textwrap.fill(
            ", ".join(f"{name} {count}" for name, count in sorted(often.items())), 98,
            initial_indent="    ", subsequent_indent="    ", break_on_hyphens=False) + "\n"
    return text


def listed() -> dict:
    rows = re.findall(r"(?m)^(\S+): (.*): (\d+) bytes\n((?:    .*\n)+)", LIST.read_text())
    return {(function, what): (int(size), {name: int(count) for name, count in
                                           re.findall(r"([\w-]+) (\d+)", often)})
            for function, what, size, often in rows}


def faults(wipes: dict, left: list[str]) -> list[str]:
    """What is wrong, a line each."""
    found, known = list(left), listed()
    for key, (size, often) in known.items():
        has_size, has = wipes.get(key, (0, {}))
        found += [f"{name}: {key[0]} wipes {key[1]} {has.get(name, 0)} times, not {count}"
                  for name, count in often.items() if has.get(name, 0) < count]
        if has_size < size:
            found.append(f"{key[0]} wipes {has_size} bytes of {key[1]} in all, not {size}")
    return found + [f"{function} wipes {what}, which {LIST.name} does not have: --write it"
                    for function, what in wipes.keys() - known.keys()]


def without(emulator, *numbers: int) -> list[str]:
    with tempfile.TemporaryDirectory() as folder:
        return faults(*record(build(Path(folder), *numbers), emulator))


def test_each_function_wipes_what_it_must(tmp_path):
    with emulate() as emulator:
        assert faults(*record(build(tmp_path), emulator)) == []


def test_less_is_not_allowed_and_more_is():
    known = {key: [size, dict(often)] for key, (size, often) in listed().items()}
    key = next(iter(known))
    operation, count = next(iter(known[key][1].items()))
    assert faults(known, []) == [] and faults(known, ["left"]) == ["left"]
    for size, often, wrong in ((-1, 0, True), (0, -1, True), (8, 1, False)):
        row = [known[key][0] + size, {**known[key][1], operation: count + often}]
        assert bool(faults({**known, key: row}, [])) == wrong
    assert faults({**known, ("f", "new"): [8, {operation: 1}]}, [])


def test_without_any_wipe_all_kinds_of_secrets_are_left():
    """The search of the frames finds them, whatever the list says."""
    with emulate() as emulator:
        said = "\n".join(without(emulator, *range(CALLS)))
    for secret in ("a key", "the secret access key", "the session token",
                   "a derived key", "an HMAC key's state", "a signature"):
        assert re.search(rf" left {secret}$", said, re.M), secret


def pytest_generate_tests(metafunc):
    """Removes each wipe once; the short run removes a few of them."""
    from conftest import LONG
    if "number" in metafunc.fixturenames:
        metafunc.parametrize("number", range(0, CALLS, 1 if LONG else 8))


def test_a_wipe_that_is_removed_is_missed(number):
    with emulate() as emulator:
        assert without(emulator, number) != []


def main(argv: list[str]) -> int:
    sys.path.insert(0, str(TOP / "tests" / "hosts"))
    from servers import tree
    tree()
    if argv not in (["--write"], ["--remove"]):
        print(__doc__)
        return 2
    with emulate() as emulator:
        if argv == ["--write"]:
            with tempfile.TemporaryDirectory() as folder:
                wipes, left = record(build(Path(folder)), emulator)
            LIST.write_text(written(wipes))
            print(f"{len(wipes)} rows", *left, sep="\n")
            return 1 if left else 0
        unseen = 0
        for number, call in enumerate(CALL.finditer(HEADER.read_text())):
            line = HEADER.read_text().count("\n", 0, call.end()) + 1
            found = without(emulator, number)
            in_frames = sum(" left " in each for each in found)
            print(f"keyring_aws.h:{line}: {len(found)} complaints, {in_frames} of what was left",
                  *found[:1], sep="; ", flush=True)
            unseen += not found
        print(f"{CALLS} wipes, {CALLS - unseen} of them missed when removed, {unseen} not")
        return 1 if unseen else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
