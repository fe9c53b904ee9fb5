#!/usr/bin/python3
"""man.py PAGE.md keyring_aws.h CHANGELOG   prints a man page, of section 7.

Its first line is `# name: what it is about`.  man.py knows the Markdown that the pages use:
headings, paragraphs, lists, indented and fenced blocks, tables, and within a line code, bold,
italics and links.  A table becomes a list, because a terminal is too narrow for a table.  A link
to another page becomes that page's name.
"""

import re
import sys
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Iterator

MARKER = re.compile(r"(\*|\d+\.) +")
INLINE = re.compile(r"`(?P<code>[^`]+)`|\*\*(?P<bold>.+?)\*\*"
                    r"|(?<![\w*])\*(?P<italics>[^*\s][^*]*)\*"
                    r"|\[(?P<link>[^]]+)\]\((?P<to>[^)]*)\)", re.S)
FONTS = {"code": "B", "bold": "B", "italics": "I", "link": "R"}
SPECIAL = {"\\": r"\e", "'": r"\(aq", '"': r"\(dq", "`": r"\(ga", "^": r"\(ha", "~": r"\(ti"}


def literal(text: str, special: str = "\\'\"`^~") -> str:
    """Text of which the formatter changes nothing."""
    text = "".join(SPECIAL[each] if each in special else each for each in text)
    text = re.sub(r"[^\x00-\x7f]", lambda each: rf"\[u{ord(each[0]):04X}]", text)
    return re.sub(r"(?m)^(?=[.'])", r"\\&", text)


def elsewhere(link: str, words: str, font: str) -> str:
    """Behind a link's words, the page that it leads to, unless that is what they say."""
    name = re.match(r"(?:[\w/.-]*/)?([\w.-]+)[.]md", link)
    if not name or name[1] in words:
        return ""
    if name[1] == "README":
        return " in the README"
    return rf" in \fB{literal(name[1])}\f{font}(7)".replace("-", r"\-")


def inline(text: str, font: str = "R") -> str:
    """A paragraph, within a font."""
    made, last = [], 0
    for found in INLINE.finditer(text):
        made.append(literal(text[last:found.start()]))
        kind = "link" if found["link"] else found.lastgroup
        inner = found[kind]
        own = font if kind == "link" else FONTS[kind]
        words = literal(" ".join(inner.split())).replace("-", r"\-") if kind == "code" \
            else inline(inner, own)
        made.append(rf"\f{own}{words}\f{font}" if own != font else words)
        made.append(elsewhere(found["to"] or "", inner, font))
        last = found.end()
    return re.sub(r"(?m)^(?=[.'])", r"\\&", "".join(made) + literal(text[last:]))


# ---- blocks: (kind, what it holds) ---------------------------------------------------------------


def take(lines: list[str], at: int, goes_on) -> list[str]:
    """The lines from one on, as long as they go on."""
    end = at
    while end < len(lines) and goes_on(lines[end]):
        end += 1
    return lines[at:end]


def indented(lines: list[str], at: int, width: int) -> list[str]:
    """The lines from one on that are indented so far, without that; blank lines between them."""
    taken = take(lines, at, lambda line: not line.strip() or line.startswith(" " * width))
    while taken and not taken[-1].strip():
        taken.pop()
    return [line[width:] for line in taken]


def plain(line: str) -> bool:
    """Whether a line goes on with the paragraph above it."""
    return bool(line.strip()) and not re.match(r"[#|]|```|\* |\d+\. ", line)


def blocks(lines: list[str]) -> Iterator[tuple[str, object]]:
    at = 0
    while at < len(lines):
        line, marker = lines[at], MARKER.match(lines[at])
        if not line.strip():
            used = 1
        elif line.startswith("#"):
            used = 1
            yield "heading", line
        elif line.startswith("```"):
            inner = take(lines, at + 1, lambda each: each != "```")
            used = len(inner) + 2
            yield "example", inner
        elif line.startswith("    "):
            inner = indented(lines, at, 4)
            used = len(inner)
            yield "example", inner
        elif line.startswith("|"):
            rows = take(lines, at, lambda each: each.startswith("|"))
            used = len(rows)
            yield "table", rows
        elif marker:
            rest = indented(lines, at + 1, marker.end())
            used = 1 + len(rest)
            yield "item", (marker[1], [line[marker.end():], *rest])
        else:
            words = take(lines, at, plain)
            used = max(1, len(words))
            yield "paragraph", "\n".join(words or [line])
        at += used


# ---- the page ------------------------------------------------------------------------------------


def table(rows: list[str]) -> Iterator[str]:
    """The first cell is the term; each other one is told, with its column's name where there are
    several."""
    cells = [[cell.strip().replace(r"\|", "|") for cell in re.split(r"(?<!\\)\|", row)[1:-1]]
             for row in rows]
    for term, *rest in cells[2:]:
        named = [cell if len(rest) == 1 else f"{name}: {cell}"
                 for name, cell in zip(cells[0][1:], rest) if cell]
        yield from (".TP", inline(term), inline("; ".join(named)))


def page(lines: list[str], nested: bool = False) -> Iterator[str]:
    """The formatter's lines."""
    first = nested                      # of an item or a chapter: a paragraph needs no macro
    for kind, what in blocks(lines):
        if kind == "heading":
            level, _, words = what.partition(" ")
            yield f'.S{"H" if level == "##" else "S"} "{literal(words)}"'
        elif kind == "paragraph":
            yield from ([] if first else [".IP" if nested else ".PP"])
            yield inline(what)
        elif kind == "example":
            code = [literal(line).replace("-", r"\-") for line in what]
            yield from (*([".RS 4", '.IP "" 4'] if nested else ['.IP "" 7']), ".EX", *code, ".EE",
                        *([".RE"] if nested else []))
        elif kind == "table":
            yield from table(what)
        elif kind == "item":
            mark, inner = what
            yield f'.IP "{mark}" 4' if mark != "*" else r".IP \(bu 3"
            yield from page(inner, True)
        first = kind == "heading"


def see_also(page: Path) -> str:
    names = sorted(path.stem for path in page.parent.glob("*.md") if path != page)
    return ",\n".join(rf"\fB{literal(name)}\fR(7)".replace("-", r"\-") for name in names)


def main(source: str, header: str, changelog: str) -> None:
    head, _, text = Path(source).read_text("utf-8").partition("\n")
    name, what = re.fullmatch(r"# (\S+): (.*)", head).groups()
    version = re.match(r"/\* keyring_aws\.h - v(\S+) ", Path(header).read_text("utf-8"))[1]
    dated = re.search(r"(?m)^ -- .*>  (.*)", Path(changelog).read_text("utf-8"))[1]
    date = parsedate_to_datetime(dated).date()
    print(rf'.\" made of {name}.md by tests/package/man.py',
          f'.TH {name.upper()} 7 {date} "keyring_aws {version}"', ".SH NAME",
          rf"{name} \- {literal(what)}", *page(["## DESCRIPTION", *text.splitlines()]),
          '.SH "SEE ALSO"', see_also(Path(source)), sep="\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
