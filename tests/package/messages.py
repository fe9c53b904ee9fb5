#!/usr/bin/python3
"""messages.py   brings keyring_aws-messages.md up to date with the messages in the sources.

Each message there has a heading, and below it its level and its words, which this program writes:
they are those of the list.  What stands below that is written by hand, and is kept.  The messages
are in the order of their numbers.
"""

import re
import textwrap
from pathlib import Path
from typing import NamedTuple

TOP = Path(__file__).resolve().parents[2]
PAGE = TOP / "tests/package/man/keyring_aws-messages.md"
SOURCES = TOP / "keyring_aws.h", TOP / "keyring_aws_plugin.c"
FIRST, LAST = "\n## Messages by number\n", "\n## What the end of a line says\n"
LINE = re.compile(r"#define (?:KAWS|PLUG)__LOG_(\w+)\s+(\d+), (?:KAWS|PLUG)__(\w+)"
                  r"((?:.*\\\n)*.*)")


class Message(NamedTuple):
    name: str
    number: int
    level: str              # ERROR, WARNING, NOTE
    format: str             # of printf, in one line


def words(text: str) -> str:
    """Of a C string in pieces, or of text in lines: in one line."""
    return re.sub(r"\s+", " ", re.sub(r'"\s*\\?\s*"', "", text))


def listed(source: str) -> list[Message]:
    """The messages in a source's list."""
    return [Message(name, int(number), level, words(text))
            for name, number, level, text in LINE.findall(source)]


def shown(message: Message, source: str) -> str:
    """A message as the log has it, with ... for what changes."""
    text = message.format[message.format.index('"'):]
    for macro in re.findall(r'" (?:\\ )?([A-Z]\w+)', text):
        value = re.search(rf'(?m)^#define {macro} +(?:\\\n)?((?:.*\\\n)*.*)', source)[1]
        text = re.sub(rf'" (?:\\ )?{macro}\b(?: ")?', words(value).strip('" '), text)
    text = re.sub(r'(?<=[a-z])%s|^"|"$', "", text)
    return re.sub(r"(?:%l?[sd])+", "...", text)


def entries(text: str) -> dict[int, str]:
    """What is written by hand of each message."""
    found = re.split(r"(?m)^### KAWS-(\d+)\n", text)[1:]
    return {int(number): rest.strip().partition("\n\n")[2]
            for number, rest in zip(found[::2], found[1::2])}


def renewed(page: str) -> str:
    """The page with the heads of all messages, in their order."""
    before, _, rest = page.partition(FIRST)
    middle, _, after = rest.partition(LAST)
    advice, made = entries(middle), []
    for source in (path.read_text("utf-8") for path in SOURCES):
        for each in listed(source):
            head = f"{each.level.capitalize()}: `{shown(each, source)}`"
            lines = textwrap.fill(head, 100, break_on_hyphens=False, break_long_words=False)
            made.append(f"### KAWS-{each.number}\n\n{lines}\n\n{advice.get(each.number, '')}\n")
    return before + FIRST + "\n" + "\n".join(made) + LAST + after


if __name__ == "__main__":
    PAGE.write_text(renewed(PAGE.read_text("utf-8")), "utf-8")
