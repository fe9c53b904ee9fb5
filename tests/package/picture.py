#!/usr/bin/python3
"""Draws dataflow.svg, the picture at the top of the README: what goes where, and where keys are in
the clear.

picture.py      writes dataflow.svg beside itself

A browser shows it in light or dark, as its user likes; the background is the picture's own, because
the page around it may be of the other kind.
"""

from pathlib import Path
from xml.sax.saxutils import escape

HERE = Path(__file__).resolve().parent
WIDTH, HEIGHT = 800, 476
TITLE = "keyring_aws: keys in the clear exist only in mysqld, while it uses them"
DESCRIPTION = """\
InnoDB, the binary log and SQL functions, in the MySQL server, get keys from keyring_aws.so, which
runs there, too. keyring_aws.so has AWS KMS make keys by GenerateDataKeyWithoutPlaintext, which
returns ciphertext, and open them by Decrypt, which returns the key, over TLS. The data file on disk
has ciphertext only. The credentials for KMS come from a role or from a file. The KMS key never
leaves AWS KMS."""

# What each class of shapes looks like: properties, each in light and in dark.
LOOKS = {
    "page": {"fill": ("#ffffff", "#0d1117")},
    "ink": {"fill": ("#1f2328", "#e6edf3")},
    "soft": {"fill": ("#59636e", "#9ea7b3")},
    "clear": {"fill": ("#9a4b00", "#ffb757")},
    "sealed": {"fill": ("#0a5cb8", "#79b8ff")},
    "memory": {"fill": ("#fff4e2", "#2b1f0c"), "stroke": ("#d98e2b", "#b9771c")},
    "aws": {"fill": ("#f3f5f8", "#161b22"), "stroke": ("#8b95a1", "#626c78")},
    "part": {"fill": ("#ffffff", "#0d1117"), "stroke": ("#8b95a1", "#626c78")},
    "ours": {"fill": ("#ffe2b5", "#4d3409"), "stroke": ("#c26f00", "#f0a030")},
    "file": {"fill": ("#e3f0ff", "#0c2745"), "stroke": ("#1f6fb2", "#58a6ff")},
    "clear-line": {"stroke": ("#c26f00", "#f0a030")},
    "sealed-line": {"stroke": ("#1f6fb2", "#58a6ff")},
    "soft-line": {"stroke": ("#6e7781", "#9ea7b3")},
    "clear-tip": {"fill": ("#c26f00", "#f0a030")},
    "sealed-tip": {"fill": ("#1f6fb2", "#58a6ff")},
    "soft-tip": {"fill": ("#6e7781", "#9ea7b3")},
}


def style() -> str:
    def rules(dark: bool) -> str:
        return "\n".join(f".{name} {{ " + "; ".join(
            f"{what}: {colours[dark]}" for what, colours in look.items()) + " }"
            for name, look in LOOKS.items())
    return ("text { font-family: system-ui, -apple-system, 'Segoe UI', 'DejaVu Sans', sans-serif;"
            " font-size: 17px }\n.big { font-size: 19px; font-weight: 600 }\n"
            ".code { font-family: ui-monospace, Menlo, Consolas, 'DejaVu Sans Mono', monospace;"
            " font-size: 15px }\n"
            + rules(False) + "\n@media (prefers-color-scheme: dark) {\n" + rules(True) + "\n}")


def box(look: str, x: int, y: int, width: int, height: int) -> str:
    return (f'<rect class="{look}" x="{x}" y="{y}" width="{width}" height="{height}" rx="9"'
            ' stroke-width="1.6"/>')


def text(look: str, x: int, y: int, words: str, anchor: str = "middle") -> str:
    return f'<text class="{look}" x="{x}" y="{y}" text-anchor="{anchor}">{escape(words)}</text>'


def arrow(kind: str, *points: tuple[int, int], both: bool = False, dashed: bool = False) -> str:
    """A line through points, with a tip at its end, or at both."""
    dashes = ' stroke-dasharray="7 5"' if dashed else ""
    start = f' marker-start="url(#{kind})"' if both else ""
    path = " L".join(f"{x},{y}" for x, y in points)
    return (f'<path class="{kind}-line" d="M{path}" fill="none" stroke-width="2.4"{dashes}{start}'
            f' marker-end="url(#{kind})"/>')


def tip(kind: str) -> str:
    return (f'<marker id="{kind}" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="5"'
            ' markerHeight="5" orient="auto-start-reverse">'
            f'<path class="{kind}-tip" d="M0,0 L10,5 L0,10 z"/></marker>')


def server() -> list[str]:
    users = ["InnoDB", "binary log", "SQL functions"]
    return [
        box("memory", 16, 16, 426, 262),
        text("ink big", 32, 46, "mysqld", "start"),
        text("clear", 426, 46, "keys in the clear, while used", "end"),
        *(shape for number, name in enumerate(users) for shape in (
            box("part", 32, 66 + 66 * number, 130, 50),
            text("ink", 97, 97 + 66 * number, name),
            arrow("clear", (166, 91 + 66 * number), (238, 91 + 66 * number), both=True))),
        text("clear", 202, 82, "key"),
        box("ours", 244, 66, 182, 182),
        text("ink big", 335, 143, "keyring_aws.so"),
        text("ink", 335, 169, "component"),
        text("ink", 335, 190, "or plugin"),
    ]


def kms() -> list[str]:
    return [
        box("aws", 610, 16, 174, 262),
        text("ink big", 697, 46, "AWS KMS"),
        box("part", 628, 112, 138, 90),
        text("ink big", 697, 144, "KMS key"),
        text("ink", 697, 168, "never leaves"),
        text("ink", 697, 188, "AWS KMS"),
        text("ink code", 526, 72, "GenerateDataKey"),
        text("ink code", 526, 90, "WithoutPlaintext"),
        arrow("sealed", (606, 104), (430, 104)),
        text("sealed", 526, 124, "ciphertext"),
        text("ink code", 526, 172, "Decrypt"),
        arrow("sealed", (428, 184), (604, 184)),
        arrow("clear", (606, 202), (430, 202), dashed=True),
        text("clear", 526, 224, "key, in TLS"),
    ]


def below() -> list[str]:
    return [
        box("file", 228, 342, 214, 76),
        text("ink big", 335, 374, "data file on disk"),
        text("sealed", 335, 400, "ciphertext only"),
        arrow("sealed", (335, 254), (335, 336), both=True),
        box("aws", 540, 342, 244, 76),
        text("ink big", 662, 374, "credentials"),
        text("ink", 662, 400, "a role (IMDS, STS) or a file"),
        arrow("soft", (536, 380), (490, 380), (490, 238), (430, 238)),
        arrow("clear", (32, 452), (78, 452)), text("soft", 90, 458, "key in the clear", "start"),
        arrow("clear", (298, 452), (344, 452), dashed=True),
        text("soft", 356, 458, "key inside TLS", "start"),
        arrow("sealed", (560, 452), (606, 452)), text("soft", 618, 458, "ciphertext", "start"),
    ]


def picture() -> str:
    parts = [f'<rect class="page" width="{WIDTH}" height="{HEIGHT}" rx="12"/>',
             *server(), *kms(), *below()]
    return "\n".join([
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}"'
        f' height="{HEIGHT}" role="img" aria-labelledby="title desc">',
        f'<title id="title">{escape(TITLE)}</title>',
        f'<desc id="desc">{escape(DESCRIPTION)}</desc>',
        f"<style>\n{style()}\n</style>",
        f"<defs>{''.join(map(tip, ('clear', 'sealed', 'soft')))}</defs>", *parts, "</svg>", ""])


if __name__ == "__main__":
    (HERE / "dataflow.svg").write_text(picture(), "utf-8")
