"""check_house.py notices each violation: each rule is broken once, in a small tree that is good.

pytest runs this file, and so does `check_house.py --self-test`.
"""

import pathlib
import subprocess
import sys
import tempfile

import check_house as house

house.CODE_MAX = 400        # of the small house

ROOMS = ("lobby plat err mem buf text json crypto sigv4 http creds kms store file save table "
         "ring").split()


def door(prefix: str, number: int, name: str, uses: str, code: str) -> str:
    rule = "=" * 74
    return f"""
/* {rule}
 * ROOM  {name}     one line
 * {rule}
 * Uses: {uses}
 * Gives: {"nothing" if name == "lobby" else name + "_work"}
 */

{code or f'''static int
{prefix}{name}_work(void)
{{
    return {number};
}}
'''}"""


CODE = {
    "lobby": '#include <stddef.h>\n#if 0\n#endif\n',
    "text": """static int
kaws__text_work(void)
{
    return kaws__mem_work();
}
""",
    "crypto": """#include <bearssl.h>

static int
kaws__crypto_work(void)
{
    return (int)br_sha256_SIZE;
}
""",
    "ring": """static int
kaws__ring_work(void)
{
    int n = kaws__plat_work();

    if (n == 0)
        goto done;
    n += kaws__text_work();     /* comments may say sprintf(x) or br_x */
done:
    return n;
}


int
kaws_open(void)
{
    return kaws__ring_work();
}
"""}
USES = {"ring": "plat text", "text": "mem"}
HEADER = """/* keyring_aws.h */
#ifndef KEYRING_AWS_H
#define KEYRING_AWS_H

#ifdef KEYRING_AWS_STATIC
#define KAWS_API static
#else
#define KAWS_API extern
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* Opens. */
KAWS_API int kaws_open(void);

#ifdef __cplusplus
}
#endif

#endif

#ifdef KEYRING_AWS_IMPLEMENTATION
/* PART III    IMPLEMENTATION
 *
 *      most of it     """ + "  ".join(ROOMS[:9]) + """
 *      the rest       """ + "  ".join(ROOMS[9:]) + """
 *
 *     RING     ring      what it guards
 */
#define LOCKS(X) \\
    X(RING) /* ring: what it guards */
""" + "\n".join(door("kaws__", number, name, USES.get(name, "nothing"),
                     CODE.get(name, "")) for number, name in enumerate(ROOMS)) + """
#endif
"""
PLUGIN = door("plug__", 0, "lobby", "nothing", "#include <stddef.h>\n") + \
    door("plug__", 1, "life", "nothing", "")
GOOD = {
    "keyring_aws.h": HEADER, "keyring_aws_plugin.c": PLUGIN, "LICENSE": "", "amalgamate.py": "",
    "tests/test_ring.c": "static int\ntest_open(void)\n{\n    return kaws_open();\n}\n",
    "Makefile": "demo:\n\ntest: all\n", "README.md": "Run `make demo` and `make test`.\n"}
RING, TEST = "    int n = kaws__plat_work();\n", "    return kaws_open();\n"
PLUG = "    return 1;\n"

WALK = ("keyring_aws.h", "/* keyring_aws.h */\n", "/* WALK  how it opens\n */\n")
STEPS = ("1  kaws_open (ring): begins\n *         and goes on", "2  kaws__plat_work (plat): works",
         "   kaws__ring_work (ring): was on the way to 2", "4  kaws__text_work (text): adds")


def walk(*steps: str) -> str:
    return "".join(["/* WALK  how it opens\n *\n", *(f" *  {step}\n" for step in steps), " */\n"])


BAD = (  # rule, file, what is there, what is put in its place
    ("columns", "keyring_aws.h", RING, f"{RING}    /* {'x' * 80} */\n"),
    ("columns", "tests/test_ring.c", TEST, f"    /* {'x' * 80} */\n{TEST}"),
    ("columns", "amalgamate.py", "", f"# {'x' * 100}\n"),
    ("columns", "README.md", "Run", f"{'x' * 101}\nRun"),
    ("tabs", "keyring_aws.h", RING, "\tint n = kaws__plat_work();\n"),
    ("blanks", "keyring_aws.h", RING, RING.replace("\n", " \n")),
    ("blanks", "keyring_aws_plugin.c", PLUG, "    return 1;\r\n"),
    ("ascii", "keyring_aws.h", "/* Opens. */", "/* \u00d6ffnet. */"),
    ("comments", "keyring_aws.h", "/* Opens. */", "/* Opens. */\n// Really."),
    ("banned", "keyring_aws_plugin.c", PLUG, "    return atoi(\"1\");\n"),
    ("banned", "tests/test_ring.c", TEST, "    return sprintf (s, \"\");\n"),
    ("goto", "keyring_aws.h", "goto done;", "goto fail;"),
    ("length", "keyring_aws.h", RING, RING + "    n++;\n" * 60),
    ("length", "tests/test_ring.c", TEST, "    n++;\n" * 50 + TEST),
    ("layout", "keyring_aws_plugin.c", "static int\nplug__life_work", "static int plug__life_work"),
    ("layout", "tests/test_ring.c", "test_open(void)\n{", "test_open(void) {"),
    ("forward", "keyring_aws.h", "\nint\nkaws_open", "\nstatic int kaws__ring_x(int a);\n\n"
     "int\nkaws_open"),
    ("forward", "keyring_aws_plugin.c", "static int\nplug", "static int *plug__life_a(int b,\n"
     "    int c);\nstatic int\nplug"),
    ("forward", "keyring_aws.h", "static int\nkaws__plat", "NOTED(1) static int kaws__plat_a();\n"
     "static int\nkaws__plat"),
    ("spacing", "keyring_aws.h", "}\n\n\nint\n", "}\n\nint\n"),
    ("doors", "keyring_aws.h", "ROOM  json ", "ROOM json "),
    ("doors", "keyring_aws.h", "ROOM  json ", "ROOM  text "),
    ("doors", "keyring_aws_plugin.c", "ROOM  life", "ROOM 1  life"),
    ("calls_go_up", "keyring_aws.h", "    return 8;", "    return kaws__http_work();"),
    ("calls_go_up", "keyring_aws.h", "    return 8;", "    return kaws_open();"),
    ("calls_go_up", "keyring_aws_plugin.c", "#include <stddef.h>", "#define A plug__life_work"),
    ("uses", "keyring_aws.h", "Uses: plat text", "Uses: plat"),
    ("uses", "keyring_aws.h", "Uses: plat text", "Uses: text plat"),
    ("uses", "keyring_aws.h", "Uses: plat text", "Uses: plat buf text"),
    ("uses", "keyring_aws.h", " * Uses: plat text\n", ""),
    ("uses", "keyring_aws.h", RING, "    struct kaws__buf *b;\n" + RING),
    ("gives", "keyring_aws.h", "Gives: ring_work", "Gives: ring_work kaws_shut"),
    ("gives", "keyring_aws.h", "Gives: ring_work", "Gives: ring_work\n *        what it can"),
    ("maps", "keyring_aws.h", "text  json", "json  text"),
    ("maps", "keyring_aws.h", "     RING     ring", "     RING     file"),
    ("maps", "keyring_aws.h", "    X(RING)", "    X(FILE) /* file: more */ \\\n    X(RING)"),
    ("names", "keyring_aws.h", "kaws__json_work(", "kaws__text_parse("),
    ("names", "keyring_aws.h", "kaws__json_work(", "json_work("),
    ("names", "keyring_aws_plugin.c", "plug__life_work(", "plug__other("),
    ("bearssl", "keyring_aws.h", "    return 6;", "    return br_sha256_ID;"),
    ("bearssl", "keyring_aws_plugin.c", "<stddef.h>", "<bearssl.h>"),
    ("conditions", "keyring_aws.h", RING, f"#ifdef KEYRING_AWS_STATIC\n#endif\n{RING}"),
    ("conditions", "keyring_aws.h", "    return 9;", "#if FAST\n    return 9;\n#endif"),
    ("conditions", "keyring_aws.h", "/* Opens. */", "#ifdef _WIN32\n#endif\n/* Opens. */"),
    ("conditions", "keyring_aws_plugin.c", PLUG, "#if 1\n    return 1;\n#endif\n"),
    ("room_size", "keyring_aws.h", RING, RING + "\n" * 1000),
    ("room_size", "keyring_aws_plugin.c", PLUG, "\n" * 1000 + PLUG),
    ("code_size", "keyring_aws.h", RING, RING + "    n++;\n" * 400),
    ("counts", "keyring_aws.h", RING, '    puts("%lu keys");\n' + RING),
    ("counts", "keyring_aws_plugin.c", PLUG, '    puts("%d "\n         "bytes");\n' + PLUG),
    ("words", "keyring_aws.h", "/* Opens. */", "/* Opens the Cell. */"),
    ("words", "keyring_aws.h", "/* Opens. */", "/* Its size is\n * another. */"),
    ("words", "keyring_aws_plugin.c", PLUG, "    puts(\"KMS is out of reach\");\n" + PLUG),
    ("words", "README.md", "Run", "Wait, for it takes long. Run"),
    ("words", "Makefile", "demo:", "# Whoever wants a demo\ndemo:"),
    ("walks", *WALK),
    ("walks", *WALK[:2], walk("1  kaws_open: begins")),
    ("walks", *WALK[:2], walk("1  kaws_shut (ring): ends")),
    ("walks", *WALK[:2], walk("1  kaws_open (json): begins")),
    ("walks", *WALK[:2], walk("1  kaws_open (ring): begins", "2  kaws__err_work (err): works")),
    ("walks", *WALK[:2], walk("1  kaws__plat_work (plat): works", "2  kaws_open (ring): no")),
    ("walks", *WALK[:2], walk(*STEPS, "5  kaws__plat_work (plat): a second time")),
    ("walks", *WALK[:2], walk(*STEPS[:3], "4  kaws__mem_work (mem): through text")),
    ("contracts", "keyring_aws.h", "/* Opens. */\n", "/* Opens. */\n\n"),
    ("contracts", "keyring_aws.h", "/* Opens. */\n", "/* ---- opening --------- */\n"),
    ("contracts", "keyring_aws.h", "KAWS_API int", "KAWS_API int kaws_b(int a);\nKAWS_API int"),
    ("tested", "tests/test_ring.c", "kaws_open", "kaws_open_not"),
    ("symbols", "keyring_aws.h", "static int\nkaws__err_work", "int\nkaws__err_work"),
    ("symbols", "keyring_aws.h", "\nint\nkaws_open", "\nstatic int\nkaws_open"),
    ("symbols", "keyring_aws.h", "    return 3;", "    return nonsense;"),
    ("python", "amalgamate.py", "", "def f(:\n"),
    ("paths", "README.md", "Run", "Run /ho" + "me/me/x, then"),
    ("hosts", "Makefile", "demo:", "# htt" + "p://deb.debi" + "an.org/debian\ndemo:"),
    ("top_level", "amalgamate.py", None, None),
    ("top_level", "extra/file", "", "x"),
    ("makefile", "Makefile", "demo:", "#\n" * 130 + "demo:"),
    ("readme", "README.md", "Run", "more\n" * 500 + "Run"),
    ("two_commands", "Makefile", "demo:", "domo:"),
    ("two_commands", "README.md", "make test", "make tes"),
)
FINE = (  # what is no violation
    (*WALK[:2], walk(*STEPS)),
    (*WALK[:2], walk(*STEPS[:2]) + walk(STEPS[0], STEPS[3])),
    ("keyring_aws.h", RING, RING + "    int cell = 1;  /* of a cellar; it aims at 40 */\n"),
    ("Makefile", "demo:", "anew: whoever\ndemo:"),
    ("Makefile", "demo:", "# http://www.debi" + "an.org/doc, a@packages.debi" + "an.org\ndemo:"),
    ("keyring_aws.h", "    return 9;", "/* built-in sender: begin */\n#if FAST\n    return 9;\n"
     "#endif\n/* built-in sender: end */"),
    ("keyring_aws.h", RING, RING + '    puts("// strcpy(a, b) br_x kaws__ring_x");\n'),
    ("keyring_aws.h", "static int\nkaws__plat", "static int (*kaws__plat_f)(void);\n"
     "static const int kaws__plat_t[] = { sizeof(int), 2 };\n\nstatic int\nkaws__plat"),
    ("keyring_aws_plugin.c", "static int\nplug", "#define X(a) \\\n    void a(void) { }\nX(b)\n"
     "struct plug__life_s { int a; };\n\nstatic int\nplug"),
    ("keyring_aws.h", "/* Opens. */", "/* \"Opens\" { } ; */"),
    ("keyring_aws.h", "    return 9;", "    return sizeof(\"'\\\"{\") + '\"' + '{';"),
)


def fired(files: dict[str, str], plugin: pathlib.Path | None = None,
          only: str = "") -> dict[str, list[str]]:
    found = {}
    for (rule, _), lines in house.Tree(files, plugin).checks(only).items():
        found.setdefault(rule, []).extend(lines)
    return {rule: lines for rule, lines in found.items() if lines}


def changed(file: str, old: str | None, new: str | None) -> dict[str, str]:
    files = dict(GOOD)
    if old is None:
        del files[file]
    else:
        assert old in files.get(file, ""), (file, old)
        files[file] = files.get(file, "").replace(old, new, 1)
    return files


def test_a_good_house_passes():
    assert fired(GOOD) == {}


def test_every_rule_is_broken_once():
    rules = {name for name, *_ in house.LINE_RULES} | {name for name, *_ in house.RULES}
    assert rules == {rule for rule, *_ in BAD} | {"plugin_symbols"}


def bad(rule: str, *change) -> None:
    lines = fired(changed(*change), only=rule).get(rule)
    assert lines, f"{rule} did not notice {change}"
    assert all(line.count("; ") and ":" in line for line in lines), lines


def fine(*change) -> None:
    assert fired(changed(*change)) == {}, change


def test_the_table_of_rooms():
    files = changed("keyring_aws.h", "    return 1;", "    return kaws_open();")
    table = house.Tree(files).rooms()
    assert "ring 28 16 2 11" in " ".join(table.split()), table
    assert "4 calls between rooms, 1 back up" in table, table


def test_symbols_of_a_plugin():
    wanted = [f"__attribute__((visibility(\"default\"))) int {name};\n"
              for name in sorted(house.PLUGIN_SYMBOLS)]
    with tempfile.TemporaryDirectory() as folder:
        plugin = pathlib.Path(folder, "keyring_aws.so")
        for code, options, words in (
                (wanted, [], []), (wanted[1:], [], ["not both"]),
                (wanted + ["int more;\n"], [], ["more is exported"]),
                (wanted, ["-Wl,--no-as-needed", "-lm"], ["needs libm.so.6"])):
            subprocess.run(["cc", "-shared", "-fPIC", "-x", "c", "-o", plugin, "-", *options],
                           input="".join(code), text=True, check=True)
            lines = fired(GOOD, plugin, "plugin_symbols").get("plugin_symbols", [])
            assert len(lines) == len(words) and all(map(str.__contains__, lines, words)), lines


TESTS = [(test, ()) for name, test in list(globals().items()) if name.startswith("test_")]
TESTS += [(bad, row) for row in BAD] + [(fine, row) for row in FINE]


def pytest_generate_tests(metafunc):
    if "case" in metafunc.fixturenames:
        cases = TESTS[-len(BAD + FINE):]
        metafunc.parametrize("case", cases, ids=[f"{n}-{c[1][0]}" for n, c in enumerate(cases)])


def test_each_rule_notices_its_violation(case):
    case[0](*case[1])


def main() -> int:
    failed = 0
    for test, row in TESTS:
        try:
            test(*row)
        except AssertionError as error:
            failed += 1
            print(f"self-test: {error}")
    print(f"{len(TESTS) - failed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
