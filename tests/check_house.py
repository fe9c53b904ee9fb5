#!/usr/bin/env python3
"""`make check`: the rules of the house that a program can check.

    check_house.py              checks this checkout: prints a line for each violation, the lengths
                                of the functions, and `N passed, N failed` (a check is one rule on
                                one file)
    check_house.py --self-test  breaks each rule once, and checks that this is noticed

LINE_RULES are patterns; each function marked @rule yields (line, what is wrong, what to do).
All that no rule forbids is left to taste.
"""

import argparse
import functools
import pathlib
import re
import statistics
import subprocess
import sys
import tempfile
import typing

ROOT = pathlib.Path(__file__).resolve().parents[1]
HEADER, PLUGIN = "keyring_aws.h", "keyring_aws_plugin.c"
OS_ROOMS = "lobby sys thread disk child".split()      # where #if may choose between systems
MUST = {HEADER, PLUGIN, "amalgamate.py", "tests", "Makefile", "README.md", "LICENSE"}
MAY = {"fuzz", ".ci", ".clang-format", ".gitignore"}
PLUGIN_SYMBOLS = {
    "_mysql_plugin_interface_version_", "_mysql_sizeof_struct_st_plugin_",
    "_mysql_plugin_declarations_", "my_plugin_log_service", "mysql_malloc_service",
    "thd_alloc_service", "mysql_parser_service", "security_context_service", "list_components",
    *(f"keyring_aws_{what}{step}" for what in ("rotate_cmk", "rotate_keys", "rotate_cms", "refresh")
      for step in ("", "_init", "_deinit"))}
LENGTH, MOSTLY = 60, 50     # lines of a function: every one, and nine of ten
ROOM_MAX, CODE_MAX = 1000, 13172     # lines of a room; lines of the header that are code
WORDS = (                   # not to be used in the product's prose, and the word to use instead
    (r"aim(?!s at)\w*", "KMS key"),
    (r"(un)?(?<!trust[-_ ])anchor\w*", "trusted account"),
    (r"grant\w*", "answer, success"), (r"rins\w*", "wipe"), (r"wish\w*", "wanted setting"),
    ("ticks?", "milliseconds, or the clock's resolution"), ("spell(s|ed)?", "write, form"),
    ("cells?", "committed length"), ("former li(fe|ves)", "earlier process"),
    ("whoever", "a process that, anyone who"), ("noted", "logged"), ("anew", "again"),
    ("(is|are|was|were|has|have) (another|others)", "differs, different"),
    (", for (it|they|we|that|this|there|no|nobody)", "because"), ("out of reach", "unreachable"),
    ("as ever", "as always"), ("lets? go", "release"), ("taken for", "counts as"),
    ("CMKs?", "KMS key"),
)

C_FILES = "keyring_aws.*|(tests|fuzz)/.*[.][ch]"
PRODUCT = "keyring_aws[.]h|keyring_aws_plugin[.]c"
PAGES = r"README[.]md|tests/package/man/.*[.]md"
PROSE = rf"{PRODUCT}|{PAGES}|Makefile"
BANNED = "strcpy|strcat|strncpy|strncat|strtok|sprintf|vsprintf|gets|atoi|atol|atoll|atof"
LINE_RULES = (  # name, files, in code only (no comments, no strings), pattern, what, what to do
    ("columns", C_FILES, False, r".{81,}", "more than 80 columns", "break the line"),
    ("columns", rf".*[.]py|{PAGES}", False, r".{101,}", "more than 100 columns",
     "break the line"),
    ("tabs", C_FILES, False, r"\t", "a tab", "use spaces"),
    ("blanks", C_FILES, False, r"[ \r]$", "blanks or a carriage return at the end", "remove them"),
    ("ascii", C_FILES, False, r"[^\x00-\x7f]", "a byte that is not ASCII", "write plain letters"),
    ("banned", C_FILES, True, rf"\b({BANNED})\s*\(", "a banned function",
     "use one that is told the length: memcpy, snprintf, strtol"),
    ("goto", C_FILES, True, r"\bgoto\s+(?!done\b)", "a goto to another place than done",
     "goto is for the one exit that wipes, called done"),
    ("paths", ".*", False, r"(?<![\w.])/(home|root|Users|work)/\w", "a path of some machine",
     "name the file from the checkout's top"),
    ("hosts", ".*", False,
     r"(?<![\w.@-])(?!www[.])[\w.-]+[.](debian|ubuntu|npmjs|pypi|pythonhosted)[.](org|com)\b",
     "an archive's host", "ask where this machine's own packages come from"),
)
RULES = []                  # name, files ("" is the whole tree), function


def rule(files: str):
    def remember(function):
        RULES.append((function.__name__, files, function))
        return function
    return remember


# ---- reading C -----------------------------------------------------------------------------


class Item(typing.NamedTuple):
    """A declaration at file scope; a function, if it has a name. Lines count from 1."""
    name: str
    first: int              # line of its first word
    named: int              # line of a function's name
    opened: int             # line of a function's brace
    last: int
    text: str               # of a function, what stands before the brace


class Room(typing.NamedTuple):
    name: str
    first: int              # line of the door's first rule
    last: int
    uses: list[str]
    gives: list[str]


def blank(found: re.Match) -> str:
    return re.sub(r'[^\n"]' if found[0][0] == '"' else r"[^\n]", " ", found[0])


TOKEN = re.compile(r'/\*.*?\*/|//[^\n]*|"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])*\'', re.S)
NOT_C = re.compile(r"^[ \t]*#(?:[^\n]*\\\n)*[^\n]*|^[A-Z][A-Z0-9_]*\([^()\n]*\)$", re.M)


class Source:
    """A file's lines; and for C: the code without comments and strings, its items and rooms."""

    def __init__(self, name: str, text: str) -> None:
        self.name, self.text, self.lines = name, text, text.split("\n")
        self.private = "kaws__" if name == HEADER else "plug__"

    @functools.cached_property
    def code(self) -> list[str]:
        return TOKEN.sub(blank, self.text).split("\n")

    def line_of(self, place: int) -> int:
        return self.text.count("\n", 0, place) + 1

    @functools.cached_property
    def items(self) -> list[Item]:
        code, items = NOT_C.sub(blank, "\n".join(self.code)), []
        start = depth = opened = 0
        for found in re.finditer(r"[{};]", code):
            if found[0] == "{" and depth == 0:
                opened = found.start()
                if re.search(r'extern\s*" *"\s*$', code[start:opened]):
                    start, depth = found.end(), -1      # its braces count for nothing
            depth += {"{": 1, "}": -1, ";": 0}[found[0]]
            if depth < 0:
                start, depth = found.end(), 0
            if depth == 0 and found.end() > start:
                head = code[start:opened] if opened > start else ""
                function = head.rstrip().endswith(")") and "=" not in head
                if function or found[0] == ";":
                    items.append(self.item(code, start, opened, found.end(), function))
                    start = found.end()
        return items

    def item(self, code: str, start: int, opened: int, end: int, function: bool) -> Item:
        text = code[start:opened if function else end]
        start += len(text) - len(text.lstrip())
        name = function and (re.search(r"(?m)^(?!__attribute__)[a-z_]\w*(?=\()", text.lstrip())
                             or re.search(r"(?!__attribute__)\b[a-z_]\w*(?=\s*\()", text.lstrip()))
        return Item(name[0] if name else "", self.line_of(start),
                    self.line_of(start + name.start()) if name else 0,
                    self.line_of(opened), self.line_of(end - 1), text)

    @property
    def functions(self) -> list[Item]:
        return [item for item in self.items if item.name]

    @functools.cached_property
    def rooms(self) -> list[Room]:
        boxes = [i for i, line in enumerate(self.lines, 1) if re.match(r"/\* ={60,}$", line)]
        rooms = []
        for box, following in zip(boxes, [*boxes[1:], len(self.lines) + 1]):
            title = re.match(r" \* ROOM  (\w+)  +\S.*\n \* ={60,}\n",
                             "\n".join(self.lines[box:box + 2]) + "\n")
            if title:
                door = "\n".join(self.lines[box + 2:box + 30])
                lists = [re.match(rf"(?: \*.*\n)*? \* {label}:(.*(?:\n \*        .*)*)", door)
                         for label in ("Uses", "Gives")]
                rooms.append(Room(title[1], box, following - 1, *(
                    re.sub(r"\n \*|[|,]|\(\)", " ", found[1]).split() if found else ["(no line)"]
                    for found in lists)))
        return rooms

    def code_lines(self, first: int, last: int) -> int:
        """Lines that are neither blank nor comment."""
        bare = re.sub(r"/\*.*?\*/", lambda found: "\n" * found[0].count("\n"), self.text,
                      flags=re.S).split("\n")
        return sum(bool(line.strip()) for line in bare[first - 1:last])

    @functools.cached_property
    def prose(self) -> str:
        """The text with all blanked that is not written for people: of C only comments and strings
        stay, of a Makefile only comments."""
        said = {".h": TOKEN, ".c": TOKEN, "": re.compile(r"#.*|@echo.*"), ".md": re.compile(".+")}
        prose, last = "", 0
        for found in said[pathlib.PurePath(self.name).suffix].finditer(self.text):
            prose += re.sub(r"[^\n]", " ", self.text[last:found.start()]) + found[0]
            last = found.end()
        return re.sub(r"(?m)^ \*", "  ", prose)

    @functools.cached_property
    def calls(self) -> dict[str, set[str]]:
        """What each function names of our functions: calls, mostly."""
        ours = {item.name for item in self.functions}
        return {item.name: ours & set(re.findall(
            r"\w+", "\n".join(self.code[item.opened - 1:item.last]))) for item in self.functions}

    @functools.cached_property
    def between(self) -> list[tuple[int, str, str, str]]:
        """Line, room, name and its room, of each function of another room that is used."""
        functions = {item.name for item in self.functions}
        return [(line, room.name, name, self.owners[name]) for room in self.rooms
                for line in range(room.first, room.last + 1)
                for name in re.findall(r"\w+", self.code[line - 1])
                if name in functions and self.owners.get(name, room.name) != room.name]

    def code_of(self, room: Room) -> str:
        return "\n".join(self.code[room.first - 1:room.last])

    def room_at(self, line: int) -> str:
        return next((room.name for room in self.rooms if room.first <= line <= room.last), "")

    @functools.cached_property
    def declared(self) -> dict[str, Item]:
        """The public functions of Part II, which ends where the implementation begins."""
        end = max((i for i, line in enumerate(self.code, 1)
                   if re.match(r"#\s*if.*\bKEYRING_AWS_IMPLEMENTATION", line)), default=0)
        found = [(re.search(r"\b(kaws_[a-z]\w*)\s*\(", item.text), item) for item in self.items
                 if item.first < end and not item.name and "typedef" not in item.text]
        return {name[1]: item for name, item in found if name}

    @functools.cached_property
    def owners(self) -> dict[str, str]:
        """The room of each name of ours: the one that it says, or that has it first."""
        owners = {item.name: self.room_at(item.first) for item in self.functions
                  if self.room_at(item.first)}
        for room in self.rooms:
            for name in re.findall(rf"\b{self.private}\w+", self.code_of(room), re.I):
                said = name.lower().removeprefix(self.private).split("_")[0]
                known = said in {other.name for other in self.rooms}
                owners.setdefault(name, said if known else room.name)
        return owners


# ---- functions -----------------------------------------------------------------------------


@rule(C_FILES)
def comments(source):
    for found in TOKEN.finditer(source.text):
        if found[0].startswith("//"):
            yield source.line_of(found.start()), "a // comment", "use /* */"


@rule(C_FILES)
def length(source):
    lines = {item.name: (item.last - item.first + 1, item.first) for item in source.functions}
    for name, (count, first) in lines.items():
        if count > LENGTH:
            yield first, f"{name} has {count} lines", f"split it: {LENGTH} at most, 40 is the aim"
    short = sum(count < MOSTLY for count, _ in lines.values())
    if short < 0.9 * len(lines):
        yield (1, f"only {short} of {len(lines)} functions are under {MOSTLY} lines",
               "split the longest until nine of ten are")


@rule(C_FILES)
def layout(source):
    for item in source.functions:
        if item.first == item.named or not source.lines[item.named - 1].startswith(item.name):
            yield (item.named, f"the name of {item.name} does not begin a line",
                   "put the return type on a line of its own")
        if source.code[item.opened - 1].rstrip() != "{":
            yield item.opened, f"the brace of {item.name} is not alone", "put it on its own line"


@rule(PRODUCT)
def forward(source):
    for item in source.items:
        if not item.name and re.match(
                r"[^={]*\bstatic\b[^={]*\w\s*\((?!\*)[^{=]*\)\s*;", item.text):
            yield item.first, "a static function declared ahead", "define it before its first use"


@rule(PRODUCT)
def spacing(source):
    for item in source.functions:
        after = source.lines[item.last:]
        gap = next((i for i, line in enumerate(after) if line), len(after))
        if gap != 2 and gap < len(after) and not re.match(r"#|\}", after[gap]):
            yield item.last, f"{gap} blank lines after {item.name}", "leave two"


# ---- rooms ---------------------------------------------------------------------------------


@rule(PRODUCT)
def doors(source):
    for line, text in enumerate(source.lines, 1):
        if text.startswith(" * ROOM ") and line - 1 not in [room.first for room in source.rooms]:
            yield line, "a door of another form", "make it like the others"
    names = [room.name for room in source.rooms]
    for room in source.rooms:
        if names.count(room.name) > 1:
            yield room.first + 1, f"a second room {room.name}", "one name, one room"


@rule(PRODUCT)
def calls_go_up(source):
    order = [room.name for room in source.rooms]
    for room in source.rooms:
        for line in range(room.first, room.last + 1):
            for name in re.findall(r"\w+", source.code[line - 1]):
                owner = source.owners.get(name, room.name)
                if order.index(owner) > order.index(room.name):
                    yield (line, f"room {room.name} uses {name} of room {owner}, below it",
                           "move one of them, or hand it in as a pointer")


MANY = ("clock is %ld seconds", "(%d attempts", "name of %d bytes", "more than %d seconds",
        "has %lu names", "1 to %lu bytes", "1 to %zu bytes", "at most %d bytes",
        "than the %d characters")       # these are never 1


@rule(PRODUCT)
def counts(source):
    """No "1 keys": a number that may be 1 stands before a word that may lose its s."""
    joined = re.sub(r'"[\s\\]*"', lambda found: "\0" * len(found[0]), source.text)
    for found in re.finditer(r"%l*(?:zu|[ud])[ \0]+(?:\w+ )?(?:bytes|keys|names|seconds|entries|"
                             r"attempts|requests|characters|files)\b", joined):
        text = joined[max(0, found.start() - 40):found.end()].replace("\0", "")
        if not text.endswith(MANY):
            yield (source.line_of(found.start()), "a number and a plural",
                   "write %lu key%s, and KAWS__COUNT(number)")


@rule(PRODUCT)
def room_size(source):
    for room in source.rooms:
        lines = room.last - room.first + 1
        if lines > ROOM_MAX:
            yield (room.first, f"room {room.name} has {lines} lines",
                   f"split it: {ROOM_MAX} at most")


@rule(HEADER)
def code_size(source):
    lines = source.code_lines(1, len(source.lines))
    if lines > CODE_MAX:
        yield 1, f"{lines} lines of code", f"remove what is said twice: {CODE_MAX} at most"


@rule(PRODUCT)
def uses(source):
    for room in source.rooms:
        owners = {source.owners.get(name) for name in re.findall(r"\w+", source.code_of(room))}
        used = [other.name for other in source.rooms[1:]
                if other.name in owners - {room.name}] or ["nothing"]
        if room.uses != used:
            yield (room.first, f"room {room.name} does not use exactly {' '.join(room.uses)}",
                   f"say ` * Uses: {' '.join(used)}`")


@rule(PRODUCT)
def gives(source):
    for room in source.rooms:
        has = {name for name, owner in source.owners.items() if owner == room.name} | (
            PLUGIN_SYMBOLS & set(re.findall(r"\w+", source.code_of(room))))
        wrong = [word for word in room.gives
                 if word != "nothing" and not {word, source.private + word} & has]
        if wrong:
            yield (room.first, f"room {room.name} gives {' '.join(wrong)}, but has no such name",
                   f"give names (without {source.private}), and put prose below")
        used = {name for other in source.rooms if other is not room
                for name in re.findall(r"\w+", source.code_of(other))
                if source.owners.get(name) == room.name and name.startswith(source.private)}
        functions = {item.name for item in source.functions}
        secret = sorted(used & functions - {source.private + word for word in room.gives})
        if secret:
            yield (room.first, f"room {room.name} does not give {' '.join(secret)}, but others "
                   "use it", "give it, too")


@rule(HEADER)
def maps(source):
    """The manual's order of locks and Part III's map of the rooms are those of the code."""
    locks = [re.findall(pattern, source.text, re.M) for pattern in (
        r"^ \*     ([A-Z]+)   +(\w+)   +\w", r"^    X\(([A-Z]+)\) +/\* (\w+): ")]
    if locks[0] != locks[1]:
        yield 1, f"the manual's locks are {locks[0]}, the code's {locks[1]}", "make them the same"
    part = source.text.partition("PART III    IMPLEMENTATION")[2].partition("####")[0]
    rooms = " ".join(re.findall(r"^ \*      [\w ]+?   +(\w.*)$", part, re.M)).split()
    if rooms != [room.name for room in source.rooms]:
        yield 1, f"Part III's map of the rooms is {' '.join(rooms)}", "list them in order"


@rule(PRODUCT)
def names(source):
    for item in source.functions:
        room = source.room_at(item.first)
        if room and not item.name.startswith(f"{source.private}{room}_") and (
                item.name not in {*source.declared, *PLUGIN_SYMBOLS}):
            yield (item.named, f"{item.name} is in room {room}",
                   f"call it {source.private}{room}_..., or declare it in Part II")


@rule(PRODUCT)
def bearssl(source):
    for line, code in enumerate(source.code, 1):
        if re.search(r"\b(br_|BR_|bearssl)", code) and source.room_at(line) != "crypto":
            yield line, "BearSSL outside the room crypto", "give crypto a function for it"


@rule(PRODUCT)
def conditions(source):
    sender = [line for line, text in enumerate(source.lines, 1)
              if re.search(r"/\* built-in sender: (begin|end)\b", text)]
    frame = (r"\b(KEYRING_AWS_\w+|KAWS_\w+|__cplusplus|__GNUC__|_GNU_SOURCE|_FILE_OFFSET_BITS)\b")
    for line, code in enumerate(source.code, 1):
        room = source.room_at(line)
        if re.match(r"\s*#\s*(if|elif)", code) and not (
                room in OS_ROOMS or not room and re.search(frame, code)
                or len(sender) == 2 and sender[0] < line < sender[1]):
            yield (line, f"`{code.strip()}` here", f"choose in {' '.join(OS_ROOMS)}, or (curl "
                   "only) between `/* built-in sender: begin */` and `end`")


# ---- prose ---------------------------------------------------------------------------------


@rule(PROSE)
def words(source):
    for pattern, instead in WORDS:
        spaced = pattern.replace(" ", r"\s+")
        for word in re.finditer(rf"(?:\b|(?=,)){spaced}\b", source.prose, re.I):
            said = re.sub(r"\s+", " ", word[0])
            yield source.line_of(word.start()), f"the word `{said}`", f"say: {instead}"


def steps(source):
    """The walks of the manual: for each, its line, and (line, function, room) of each step."""
    walks, inside = [], False
    for line, text in enumerate(source.lines, 1):
        step = re.match(r" \* +(?:\d+ +)?(kaws_\w+) +\((\w+)\): \S", text)
        if re.match(r"(/| )\* .*\bWALK\b", text):
            walks.append((line, []))
            inside = True
        elif inside and (step or re.match(r" \* +(\d+ +\w|kaws_)", text)):
            walks[-1][1].append((line, *(step.groups() if step else ("", ""))))
        elif inside and walks[-1][1] and text in (" *", " */"):
            inside = False
    return walks


@rule(HEADER)
def walks(source):
    """A walk's first line has the word WALK, and each step says `function (room): what it does`,
    perhaps after a number; a step's text may go on in lines indented by more. Each step is
    reached from those above it through no room that they do not name. A room may be come back to,
    which leaves all rooms entered since; it may not be entered a second time."""
    rooms = {item.name: source.room_at(item.first) for item in source.functions}
    for line, walk in steps(source):
        entered, left, known = [], set(), set()
        if not walk:
            yield line, "a walk without steps", "write ` *     function (room): what it does`"
        for line, name, room in walk:
            if not name:
                yield line, "a step of another form", "write `function (room): what it does`"
                return
            reached = set(known)
            while more := {to for one in reached for to in source.calls.get(one, ())
                           if rooms[to] in {rooms.get(each) for each in known}} - reached:
                reached |= more
            if rooms.get(name) != room:
                yield line, f"{name} is in room {rooms.get(name, '(none)')}", "name that"
            elif known and name not in reached | {to for one in reached
                                                  for to in source.calls[one]}:
                yield line, f"no step above this one leads to {name}", "name what calls it"
            if room in left:
                yield line, f"room {room} is entered a second time", "leave one of them out"
            while room in entered[:-1]:
                left.add(entered.pop())
            entered += [room] if room not in entered else []
            known.add(name)


# ---- what is public ------------------------------------------------------------------------


@rule(HEADER)
def contracts(source):
    for name, item in source.declared.items():
        above = source.lines[item.first - 2].rstrip()
        if not above.endswith("*/") or above.endswith("--- */"):
            yield item.first, f"{name} has no contract", "say right above it what it does"


@rule("")
def tested(tree):
    tests = "".join(source.text for name, source in tree.sources.items()
                    if re.fullmatch(r"tests/.*\.c", name))
    for name, item in tree.sources[HEADER].declared.items():
        if not re.search(rf"\b{name}\b", tests):
            yield HEADER, item.first, f"{name} is in no test", "test it under tests/"


def exported(file: pathlib.Path, *options: str) -> set[str]:
    lines = subprocess.run(["nm", "-g", "--defined-only", *options, file], text=True,
                           stdout=subprocess.PIPE, check=True).stdout.splitlines()
    return {line.split()[2].partition("@")[0] for line in lines}


@rule("")
def symbols(tree):
    """The header, compiled, exports what Part II declares; and nothing, if all is static."""
    for define, wanted in (("KEYRING_AWS_IMPLEMENTATION", set(tree.sources[HEADER].declared)),
                           ("KEYRING_AWS_STATIC", set())):
        with tempfile.TemporaryDirectory() as folder:
            done = subprocess.run(
                ["cc", "-std=c99", "-w", "-DKEYRING_AWS_IMPLEMENTATION=", f"-D{define}=",
                 "-x", "c", "-c", "-o", f"{folder}/o", "-"], text=True, capture_output=True,
                input=tree.sources[HEADER].text, check=False)
            if done.returncode:
                yield HEADER, 1, f"does not compile: {done.stderr.strip()[:300]}", "mend it"
                return
            for name in sorted(exported(pathlib.Path(folder, "o")) ^ wanted):
                yield (HEADER, 1, f"{name} is exported or declared in Part II, but not both "
                       f"({define})", "declare what is public, make the rest static")


@rule("")
def plugin_symbols(tree):
    if tree.plugin:
        for name in sorted(exported(tree.plugin, "-D") ^ PLUGIN_SYMBOLS):
            yield (tree.plugin.name, 0, f"{name} is exported or in PLUGIN_SYMBOLS, but not both",
                   "export those and hide the rest")
        needed = subprocess.run(["readelf", "-d", tree.plugin], text=True,
                                stdout=subprocess.PIPE, check=True).stdout
        for name in re.findall(r"\(NEEDED\).*\[(.*)\]", needed):
            if not re.match(r"(libc|libcurl|ld-linux[^.]*)\.so", name):
                yield tree.plugin.name, 0, f"needs {name}", "link libc, libcurl, BearSSL's archive"


# ---- everything else -----------------------------------------------------------------------


@rule(".*[.]py")
def python(source):
    try:
        compile(source.text, source.name, "exec")
    except SyntaxError as error:
        yield error.lineno, f"does not compile: {error.msg}", "mend it"


@rule("")
def top_level(tree):
    top = {name.split("/")[0] for name in tree.sources}
    for name in sorted(top - MUST - MAY):
        yield name, 0, "is at the top, where only the named things are", "move or remove it"
    for name in sorted(MUST - top):
        yield name, 0, "is missing", "put it back"


@rule("Makefile")
def makefile(source):
    if len(source.lines) > 130:
        yield 131, f"{len(source.lines) - 1} lines", "keep it under 130"


@rule("README[.]md")
def readme(source):
    if len(source.lines) - 1 > 500:
        yield 501, f"{len(source.lines) - 1} lines", "move what can wait to a page"


@rule("")
def two_commands(tree):
    for target in ("demo", "test"):
        if not re.search(rf"^{target}\b.*:", tree.sources["Makefile"].text, re.M):
            yield "Makefile", 1, f"no target {target}", "README promises it"
        if f"make {target}" not in tree.sources["README.md"].text:
            yield "README.md", 1, f"does not say `make {target}`", "it is one of the two commands"


# ---- running -------------------------------------------------------------------------------


class Tree:
    """The files of a checkout, by name, and the plugin that was built from it."""

    def __init__(self, files: dict[str, str], plugin: pathlib.Path | None = None) -> None:
        missing = {name: "" for name in (HEADER, "Makefile", "README.md") if name not in files}
        self.sources = {name: Source(name, text) for name, text in (files | missing).items()}
        self.plugin = plugin

    def checks(self, only: str = "") -> dict[tuple[str, str], list[str]]:
        """For each rule (or one) on each file, its violations; the whole tree's file is ""."""
        found = {}
        for name, source in self.sources.items():
            for which, files, in_code, pattern, what, todo in LINE_RULES:
                if only in ("", which) and re.fullmatch(files, name):
                    lines = enumerate(source.code if in_code else source.lines, 1)
                    found[which, name] = [f"{name}:{line}: {what}; {todo}"
                                          for line, text in lines if re.search(pattern, text)]
            for which, files, function in RULES:
                if only in ("", which) and files and re.fullmatch(files, name):
                    found[which, name] = [f"{name}:{line}: {what}; {todo}"
                                          for line, what, todo in function(source)]
        for which, files, function in RULES:
            if only in ("", which) and not files:
                found[which, ""] = [f"{name}:{line}: {what}; {todo}"
                                    for name, line, what, todo in function(self)]
        return found

    def rooms(self) -> str:
        """A line a room: how long it is, how much of that is code, its functions, the longest."""
        table = [f"{'room':12}{'lines':>7}{'code':>7}{'functions':>11}{'longest':>9}"]
        for source in (self.sources[name] for name in (HEADER, PLUGIN) if name in self.sources):
            for room in source.rooms:
                lines = [item.last - item.first + 1 for item in source.functions
                         if source.room_at(item.first) == room.name]
                table.append(f"{room.name:12}{room.last - room.first + 1:7}"
                             f"{source.code_lines(room.first, room.last):7}{len(lines):11}"
                             f"{max(lines, default=0):9}")
            order = {room.name: at for at, room in enumerate(source.rooms)}
            back = sum(order[to] > order[room] for _, room, _, to in source.between)
            table.append(f"{source.name}: {source.code_lines(1, len(source.lines))} lines of code, "
                         f"{len(source.between)} calls between rooms, {back} back up")
        return "\n".join(table)

    def figures(self) -> str:
        lines = {item.name: item.last - item.first + 1 for name, source in self.sources.items()
                 if re.fullmatch(PRODUCT, name) for item in source.functions} or {"none": 0}
        within = [sum(n <= limit for n in lines.values()) / len(lines) for limit in (40, 49)]
        return (f"{len(lines)} functions in the product: median {statistics.median(lines.values())}"
                f" lines, {within[0]:.1%} at most 40, {within[1]:.1%} under 50, the longest "
                f"{max(lines.values())} ({max(lines, key=lines.get)})")


def checkout(root: pathlib.Path) -> dict[str, str]:
    """The text of each file that git has or would add; of binary files, nothing."""
    listed = subprocess.run(["git", "ls-files", "-zco", "--exclude-standard", "-xbuild/"],
                            cwd=root, text=True, stdout=subprocess.PIPE, check=True).stdout
    data = {name: (root / name).read_bytes() for name in sorted(set(listed.split("\0")))
            if name and (root / name).is_file()}
    return {name: "" if b"\0" in text else text.decode("latin-1") for name, text in data.items()}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--self-test", action="store_true")
    if parser.parse_args().self_test:
        import test_house
        return test_house.main()
    plugin = ROOT / "build" / "keyring_aws.so"
    tree = Tree(checkout(ROOT), plugin if plugin.exists() else None)
    found = tree.checks()
    failed = sum(map(bool, found.values()))
    print(*sum(found.values(), []), tree.rooms(), tree.figures(),
          f"{len(found) - failed} passed, {failed} failed", sep="\n")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
