#!/usr/bin/env python3
"""Write keyring_aws as one file, for people who want to compile just that.

    amalgamate.py                 build/keyring_aws_plugin.c: the plugin with the
                                  header inlined; link with -lbearssl -lcurl
    amalgamate.py --bearssl DIR   also build/keyring_aws_plugin_standalone.c and
                                  build/keyring_aws_standalone.h: BearSSL's SHA-256,
                                  HMAC and ChaCha20-Poly1305 inlined too; link with
                                  -lcurl
    amalgamate.py --check FILE    undo one of these, and compare each part with its
                                  source and every byte with what would be written

The output is a nest of parts, each between `/* begin NAME sha256:... */` and
`/* end NAME */`. Inside a part two kinds of line are changed, in a way that can be
undone: an #include of what is inlined is commented out, and what BearSSL declares
globally is made static. No dates, no paths: the same input gives the same bytes.
"""

import argparse
import hashlib
import pathlib
import re
import sys

HERE = pathlib.Path(__file__).resolve().parent
HEADER, PLUGIN = "keyring_aws.h", "keyring_aws_plugin.c"
HEADER_LINE, BEARSSL_LINE = f'#include "{HEADER}"', "#include <bearssl.h>"
OUTPUTS = {  # name: is BearSSL in it
    "keyring_aws_plugin.c": False,
    "keyring_aws_plugin_standalone.c": True,
    "keyring_aws_standalone.h": True,
}

# BearSSL 0.6 in the order of inlining: file, lines kept, SHA-256 of the whole file; and the
# SHA-256 of all lines kept. Another BearSSL is a reviewed change of these.
BEARSSL = (
    ("inc/bearssl_hash.h", "1-35 211-301 316-351 383-400 478-495 558-760 776-793 886-886 "
     "989-1007 1071-1087 1342-1346",
     "adfe3039fe48962c7fd74a1031f6d9dde951fb12a6acdae65a39f4d8537d2ef9"),
    ("inc/bearssl_hmac.h", "1-241",
     "a40c14a7a71d5b4fa21f8485d7ad3975d3a37b9cd8b9f72cd0fa032af8105614"),
    ("inc/bearssl_block.h", "1-34 2419-2457 2492-2534 2613-2618",
     "a00b4a48c42c824f2ec4ee775672df9cec86ad455b08cb8ae7eb8c89e63d082a"),
    ("src/inner.h", "1-33 429-665 733-762 774-797 1591-1598 2532-2532",
     "05a4c5b30599a00deda2648fbb842c07eb783bc5a62589ba90c3fada36ad732a"),
    ("src/codec/dec32be.c", "1-38",
     "ebd7bf469655a9e4de4b3d1d01d4c54f19117def3e3b918242629c150979bd9c"),
    ("src/codec/enc32be.c", "1-38",
     "8090b5bd6959586e769814e9d3698ac1c454e31ee4dfd5a2b2eb95a805063ae4"),
    ("src/hash/sha2small.c", "1-341",
     "9e54f88610a5cc3adc92ab5a91cd21989695566d792a439c84ff176e5c6c0b0f"),
    ("src/mac/hmac.c", "1-122",
     "2c10c0e19dbfc168acd8493e555b0fdbcca37491cde049007d62bdae6f9ef4ee"),
    ("src/symcipher/chacha20_ct.c", "1-106",
     "ec2c50c90741f565b75a9d24c2eb0ce2e41a65c5c67258f294942e6592d1b1bc"),
    ("src/symcipher/poly1305_ctmul.c", "1-260",
     "f0b18538c97cda02b68d6eab02368e0a3be57e0c8ec642805013be498c22ee28"),
)
BEARSSL_KEPT = "4af1d840c0f390aab6b58be9912a66a6100ee07f4c1cb37a4591b469899d15bf"
BEARSSL_NOTE = """
 * BearSSL, by Thomas Pornin, is under the MIT licence at the head of its parts; of
 * bearssl_hash.h, bearssl_block.h and inner.h there is only what SHA-256, HMAC and
 * ChaCha20-Poly1305 need."""
BEARSSL_STATICS = {"K", "block_size", "process_key", "sha2small_out", "sha2small_update",
                   "EQ", "GT", "MUX", "NOT", "poly1305_inner"}


class Refused(Exception):
    """A sentence: what is not as expected, and what to do about it."""


def digest(text: str) -> str:
    return hashlib.sha256(text.encode("latin-1")).hexdigest()


def read(path: pathlib.Path, advice: str) -> str:
    try:
        return path.read_bytes().decode("latin-1")
    except OSError as error:
        raise Refused(f"{path.name}: {error.strerror}; {advice}") from None


def read_own(name: str) -> str:
    """The header or the plugin, refused where it could not be inlined and undone."""
    text = read(HERE / name, "amalgamate.py works on the sources that lie beside it")
    for number, line in enumerate(text.split("\n"), 1):
        if not line.isascii() or "\r" in line:
            raise Refused(f"{name}:{number}: a byte that is no plain ASCII text; replace it")
        if line != restored(line) or re.match(r"/\* (begin|end) ", line):
            raise Refused(f"{name}:{number}: looks like a mark of amalgamate.py; reword it")
        if re.match(r'\s*#\s*include\s+"', line) and (name, line) != (PLUGIN, HEADER_LINE):
            raise Refused(f"{name}:{number}: `{line}` is not known here; move the text of that "
                          "file, or teach amalgamate.py to inline it")
    return text


def read_bearssl(tree: pathlib.Path) -> dict[str, str]:
    texts = {}
    for name, kept, sha256 in BEARSSL:
        text = read(tree / name, "--bearssl needs the top folder of BearSSL 0.6's source; "
                    "`make standalone` gets it from Debian")
        if digest(text) != sha256:
            raise Refused(f"{name}: is not BearSSL 0.6's (its SHA-256 is {digest(text)}); get "
                          "that version, or review this one and change the table")
        lines = text.splitlines(keepends=True)
        spans = (map(int, span.split("-")) for span in kept.split())
        texts[f"bearssl/{name}"] = "".join("".join(lines[a - 1:b]) for a, b in spans)
    return texts


def made_static(text: str, names: set[str]) -> str:
    """BearSSL's text, with all declarations of `names` made static, and no includes."""
    lines = text.split("\n")
    for i, line in enumerate(lines):
        if line.startswith('#include "'):
            lines[i] = f"/* inlined: {line} */"
        elif re.match(r"(extern|const|void|size_t|uint)", line):
            if names & {*re.findall(r"\w+", line), lines[i + 1].partition("(")[0]}:
                lines[i] = "KAWS__BR " + re.sub(r"^extern ", "/*extern*/ ", line)
    return "\n".join(lines)


def restored(line: str) -> str:
    line = re.sub(r"^/\* inlined: (#include .*) \*/$", r"\1", line)
    return re.sub(r"^KAWS__BR (/\*(extern)\*/ )?", lambda m: "extern " if m[2] else "", line)


def part(name: str, text: str, inlined: str = "") -> str:
    """`inlined` is the text as it stands in the output, where that is not the text itself."""
    return f"/* begin {name} sha256:{digest(text)} */\n{inlined or text}/* end {name} */\n"


def replace_include(name: str, text: str, line: str, inlined: str) -> str:
    """The first include of a file becomes its text, and any later one a comment."""
    if line not in text.split("\n"):
        raise Refused(f"{name}: the line `{line}` must be there; put it back")
    text = re.sub(rf"(?m)^({re.escape(line)})$", r"/* inlined: \1 */", text)
    return text.replace(f"/* inlined: {line} */\n", f"/* inlined: {line} */\n{inlined}", 1)


def bearssl_inlined(texts: dict[str, str]) -> tuple[str, str]:
    """What stands in place of the include, and what follows the room that uses it."""
    code = re.sub(r"/\*.*?\*/", "", "".join(texts.values()), flags=re.S)
    macros = set(re.findall(r"^#define\s+(\w+)", code, re.M))
    functions = re.findall(r"^(?!static)\w+\n(br_\w+)\(", code, re.M)
    tables = re.findall(r"^const \w+ (br_\w+)(?:\[\d+\])? = \{", code, re.M)
    renamed = set(re.findall(r"\bbr_\w+", code)) - macros | BEARSSL_STATICS
    before = f"""\
/* Static, and renamed until our room ends, to live beside a libbearssl. */
#ifdef BR_BEARSSL_HASH_H__
#error "put the implementation of keyring_aws above #include <bearssl.h>"
#endif
#include <limits.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#define KAWS__BR static
{"".join(f"#define {name} kaws__br_{name.removeprefix('br_')}{chr(10)}"
         for name in sorted(renamed))}"""
    undone = "".join(f"#undef {name}\n" for name in sorted(renamed | macros | {"KAWS__BR"}))
    return ("".join([part("renames", before + WARNINGS_OFF),
                     *(part(name, text, made_static(text, {*functions, *tables}))
                       for name, text in texts.items()),
                     part("warnings", WARNINGS_ON)]),
            part("renames undone", undone))


WARNINGS_OFF = "#ifdef __GNUC__\n#pragma GCC diagnostic push\n" + "".join(
    f'#pragma GCC diagnostic ignored "-W{name}"\n' for name in (
        "pragmas unknown-warning-option unused-function unused-macros undef conversion "
        "sign-conversion sign-compare shadow cast-align cast-qual cast-function-type c++-compat "
        "declaration-after-statement redundant-decls missing-prototypes padded reserved-identifier"
        ).split()) + "#endif\n"
WARNINGS_ON = "#ifdef __GNUC__\n#pragma GCC diagnostic pop\n#endif\n"


def header_inlined(header: str, texts: dict[str, str] | None) -> str:
    if texts is None:
        return part(HEADER, header)
    inlined, undone = bearssl_inlined(texts)
    body = replace_include(HEADER, header, BEARSSL_LINE, inlined)
    last_use = max(use.end() for use in re.finditer(r"\b(br_|BR_)\w+|/\* end warnings", body))
    end = re.compile(r"^(/\* =====|#endif /\* KEYRING_AWS_IMPL)", re.M).search(body, last_use)
    if not end:
        raise Refused(f"{HEADER}: neither a room's box nor the end of the implementation follows "
                      "what uses BearSSL, so there is no place to give its names back; put a box "
                      "there")
    return part(HEADER, header, body[:end.start()] + undone + body[end.start():])


def built(output: str, own: dict[str, str], texts: dict[str, str] | None) -> str:
    bearssl = BEARSSL_NOTE if texts else ""
    note = f"""\
/* {output}, written by amalgamate.py.
 * Edit the files named at the marks, not this one; `amalgamate.py --check` proves
 * that nothing was added. keyring_aws is under the BSD-2-Clause licence.{bearssl}
 * Link with {"" if texts else "-lbearssl "}-lcurl. */
"""
    body = header_inlined(own[HEADER], texts)
    if output.endswith(".c"):
        text = own[PLUGIN]
        body = part(PLUGIN, text, replace_include(PLUGIN, text, HEADER_LINE, body))
    return part("note", note) + body


def parts_of(text: str) -> dict[str, str]:
    """Each part's text as its source has it, by name; "" is what lies outside all parts."""
    parts, stack = {}, [("", [])]
    for line in text.splitlines(keepends=True):
        begin = re.match(r"/\* begin (.*) sha256:[0-9a-f]{64} \*/$", line)
        if begin:
            stack.append((begin[1], []))
        elif line == f"/* end {stack[-1][0]} */\n":
            name, lines = stack.pop()
            parts[name] = "".join(lines)
        else:
            stack[-1][1].append(restored(line.removesuffix("\n")) + "\n" * line.endswith("\n"))
    return parts


def check(output: str, text: str, own: dict[str, str]) -> None:
    """Refuse a text that is not exactly our sources, BearSSL's, and the marks."""
    if output not in OUTPUTS:
        raise Refused(f"{output}: not one of {', '.join(OUTPUTS)}; name one of these")
    parts = parts_of(text)
    for name in own:
        if parts.get(name, own[name]) != own[name]:
            raise Refused(f"{output}: {name} in it is not the one here; write the file again")
    texts = None
    if OUTPUTS[output]:
        texts = {f"bearssl/{name}": parts.get(f"bearssl/{name}", "") for name, *_ in BEARSSL}
        if digest("".join(texts.values())) != BEARSSL_KEPT:
            raise Refused(f"{output}: BearSSL in it is not BearSSL's; write the file again")
    if text != built(output, own, texts):
        raise Refused(f"{output}: the marks, or what is between them, are not as amalgamate.py "
                      "makes them; write the file again")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--bearssl", metavar="DIR", type=pathlib.Path)
    parser.add_argument("--check", metavar="FILE", type=pathlib.Path)
    args = parser.parse_args()
    own = {name: read_own(name) for name in (HEADER, PLUGIN)}
    if args.check:
        return check(args.check.name, read(args.check, "name a file that is there"), own)
    texts = read_bearssl(args.bearssl) if args.bearssl else None
    (HERE / "build").mkdir(exist_ok=True)
    for output, with_bearssl in OUTPUTS.items():
        if texts or not with_bearssl:
            text = built(output, own, texts if with_bearssl else None)
            check(output, text, own)
            (HERE / "build" / output).write_bytes(text.encode("latin-1"))


if __name__ == "__main__":
    try:
        main()
    except Refused as problem:
        sys.exit(f"amalgamate.py: {problem}")
