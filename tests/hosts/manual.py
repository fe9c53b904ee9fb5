"""The manual as one text: the README, and then the sources of the man pages.

    read(page)                  a page, in which fenced commands are indented, as all others are
    section("Backup")           the text below a heading, with its subsections
    blocks(text)                indented blocks of code, each with the heading that it stands below
    command("Backup", "cp ")    the words of the command that begins so, below a heading
"""

import re
import shlex
from pathlib import Path

TOP = Path(__file__).resolve().parents[2]
README = TOP / "README.md"
MAN = TOP / "tests" / "package" / "man"
PAGES = sorted(MAN.glob("*.md"))


def read(page: Path) -> str:
    return re.sub(r"(?ms)^```sh\n(.*?)^```\n", lambda block: re.sub(
        "(?m)^(?=.)", "    ", block[1]), page.read_text("utf-8"))


MANUAL = "\n".join(map(read, [README, *PAGES]))


def section(title: str, text: str = MANUAL) -> str:
    """What stands below a heading, up to the next one that is as high, or higher."""
    found = re.search(rf"(?ms)^(##+) {re.escape(title)}$\n(.*)", text)
    assert found, f"the manual has no heading '{title}'"
    return re.split(rf"(?m)^#{{1,{len(found[1])}}} ", found[2], maxsplit=1)[0]


def blocks(text: str = MANUAL) -> list[tuple[str, str]]:
    """The indented blocks, each with the heading that it stands below."""
    found = re.findall(r"^##+ (.*)$|((?:^    .*\n|^\n(?=    ))+)", text, re.M)
    head, made = "", []
    for title, lines in found:
        head = title or head
        if lines.strip():
            made.append((head, re.sub("(?m)^    ", "", lines).strip("\n")))
    return made


def command(title: str, start: str) -> list[str]:
    """The words of a command, in a block or within the text, as a shell reads them."""
    text = re.sub(r"\\\n *", "", section(title))
    lines = [line.strip() for line in text.splitlines() if line.startswith("    ")]
    spans = [" ".join(each.split()) for each in re.findall(r"`([^`]+)`", text)]
    (found,) = [each for each in lines + spans if each.startswith(start)]
    return shlex.split(found)
