"""amalgamate.py: its output has our sources and BearSSL's, nothing else, and compiles."""

import importlib.util
import os
import pathlib
import random
import re
import shutil
import subprocess

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]
SOURCES = ("amalgamate.py", "keyring_aws.h", "keyring_aws_plugin.c")
PLUGIN, STANDALONE_PLUGIN, STANDALONE = (
    "keyring_aws_plugin.c", "keyring_aws_plugin_standalone.c", "keyring_aws_standalone.h")
OUTPUTS = (PLUGIN, STANDALONE_PLUGIN, STANDALONE)
STRICT = ("-std=c99", "-Wall", "-Wextra", "-Wpedantic", "-Wshadow", "-Wconversion", "-Werror")
ABC = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
RFC4231_CASE_2 = "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"


@pytest.fixture(scope="session")
def bearssl() -> pathlib.Path:
    """BearSSL's source, from Debian."""
    tree = pathlib.Path(os.environ.get("BEARSSL_SOURCE", ROOT / "build" / "bearssl-0.6"))
    if not tree.exists():
        subprocess.run(["make", "-s", "build/bearssl-0.6"], cwd=ROOT, check=True)
    return tree


def copy_to(folder: pathlib.Path) -> pathlib.Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name in SOURCES:
        shutil.copy(ROOT / name, folder)
    return folder


def amalgamate(folder: pathlib.Path, *arguments, **environment) -> subprocess.CompletedProcess:
    return subprocess.run(["/usr/bin/python3", folder / "amalgamate.py", *arguments], text=True,
                          capture_output=True, env=os.environ | environment, check=False)


@pytest.fixture(scope="session")
def made(tmp_path_factory, bearssl) -> pathlib.Path:
    """A folder in which everything was made."""
    folder = copy_to(tmp_path_factory.mktemp("made"))
    done = amalgamate(folder, "--bearssl", bearssl)
    assert done.returncode == 0, done.stderr
    return folder


def build(*command) -> None:
    done = subprocess.run(list(map(str, command)), text=True, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr


def symbols(file: pathlib.Path, *options) -> set[str]:
    lines = subprocess.run(["nm", "-g", "--defined-only", *options, file], text=True,
                           stdout=subprocess.PIPE, check=True).stdout.splitlines()
    return {line.split()[2] for line in lines}


# ---- the same everywhere, and nothing added ------------------------------------------------


def test_same_bytes_in_other_places_locales_and_zones(tmp_path, made, bearssl):
    for name, environment in {
            "a": {"LC_ALL": "C", "TZ": "UTC", "PYTHONHASHSEED": "1"},
            "b c": {"LC_ALL": "C.UTF-8", "TZ": "Asia/Kathmandu", "PYTHONHASHSEED": "2"}}.items():
        folder = copy_to(tmp_path / name)
        assert amalgamate(folder, "--bearssl", bearssl, **environment).returncode == 0
        for output in OUTPUTS:
            assert (folder / "build" / output).read_bytes() == \
                (made / "build" / output).read_bytes()


def test_without_bearssl_only_the_plugin_is_made(tmp_path, made):
    folder = copy_to(tmp_path)
    assert amalgamate(folder).returncode == 0
    assert os.listdir(folder / "build") == [PLUGIN]
    assert (folder / "build" / PLUGIN).read_bytes() == (made / "build" / PLUGIN).read_bytes()


def load(folder: pathlib.Path):
    spec = importlib.util.spec_from_file_location("amalgamate", folder / "amalgamate.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("output", OUTPUTS)
def test_check_refuses_any_changed_byte(made, output):
    """A byte is changed in each mark and each part; bytes are changed, lost or added at random."""
    module = load(made)
    text = (made / "build" / output).read_text(encoding="ascii")
    own = {name: (made / name).read_text(encoding="ascii") for name in SOURCES[1:]}
    module.check(output, text, own)
    places = [place for found in re.finditer(r"^/\* (begin|end) .*\n", text, re.M)
              for place in (found.start(), found.end()) if place < len(text)]
    bad = [(place, place + 1, chr(ord(text[place]) ^ 1)) for place in places]
    for place in random.Random(5).sample(range(len(text)), 10):
        bad += [(place, place + 1, chr(ord(text[place]) ^ 1)), (place, place, "\n"),
                (place, place + 1, "")]
    for start, end, new in bad:
        with pytest.raises(module.Refused):
            module.check(output, text[:start] + new + text[end:], own)


def test_check_names_the_part_that_differs(made, tmp_path):
    for old, new, words in (("br_hmac_init(br_hmac_context *ctx,", "br_hmac_init(void *ctx,",
                             "BearSSL in it is not BearSSL's"),
                            ("typedef struct kaws_error", "typedef union kaws_error",
                             "keyring_aws.h in it is not the one here"),
                            ("#define KAWS__BR static", "#define KAWS__BR extern", "the marks")):
        text = (made / "build" / STANDALONE).read_text(encoding="ascii")
        assert old in text
        (tmp_path / STANDALONE).write_text(text.replace(old, new), encoding="ascii")
        done = amalgamate(made, "--check", tmp_path / STANDALONE)
        assert done.returncode == 1 and words in done.stderr
        assert "write the file again" in done.stderr


# ---- what is not expected is refused with a sentence ---------------------------------------


@pytest.mark.parametrize("name, old, new, words", [
    ("keyring_aws.h", "#include <bearssl.h>\n", "", "must be there"),
    ("keyring_aws.h", "#include <bearssl.h>\n", '#include "mine.h"\n', 'mine.h"` is not known'),
    ("keyring_aws.h", "#include <stddef.h>\n", "#include <stddef.h>\r\n", "no plain ASCII text"),
    ("keyring_aws.h", "#include <stddef.h>\n", "/* caf\u00e9 */\n", "no plain ASCII text"),
    ("keyring_aws.h", "#include <stddef.h>\n", "/* end keyring_aws.h */\n", "looks like a mark"),
    ("keyring_aws.h", "#include <stddef.h>\n", "/* inlined: #include <a> */\n", "looks like"),
    ("keyring_aws_plugin.c", '#include "keyring_aws.h"\n', "", "must be there"),
    ("keyring_aws_plugin.c", '#include "keyring_aws.h"\n', '#include "../k.h"\n', "not known"),
])
def test_refuses_surprising_sources(tmp_path, bearssl, name, old, new, words):
    folder = copy_to(tmp_path)
    text = (folder / name).read_text(encoding="ascii")
    assert old in text
    (folder / name).write_bytes(text.replace(old, new, 1).encode())
    done = amalgamate(folder, "--bearssl", bearssl)
    assert done.returncode == 1 and done.stderr.startswith(f"amalgamate.py: {name}")
    assert words in done.stderr and "Traceback" not in done.stderr and "; " in done.stderr
    assert not (folder / "build" / STANDALONE).exists()


ROOMS = {  # old, new: rooms may be split, moved and be the last one
    "two rooms": (r"(?s)(#include <bearssl.h>.*?)\n\n\n",
                  rf"\1\n\n\n/* {'=' * 70} */\n#include <bearssl.h>\n"),
    "the last room": (r"(?s)(#include <bearssl.h>.*?)\n/\* =====.*(?=\n#endif /\* KEYRING)",
                      r"\1"),
}


@pytest.mark.parametrize("name", ROOMS)
def test_rooms_may_change(tmp_path, bearssl, name):
    """BearSSL's names are undefined after their last use, wherever the rooms stand."""
    folder = copy_to(tmp_path)
    text, count = re.subn(*ROOMS[name], (folder / "keyring_aws.h").read_text(), count=1)
    assert count == 1
    (folder / "keyring_aws.h").write_text(text)
    done = amalgamate(folder, "--bearssl", bearssl)
    assert (done.returncode, done.stderr) == (0, "")
    made = (folder / "build" / STANDALONE).read_text()
    undone = made.index("/* begin renames undone")
    assert not re.search(r"\b(br_|BR_)\w+", made[made.index("/* end renames undone"):])
    assert made.rindex("br_", 0, undone) > made.rindex("#include <bearssl.h>")


def test_refuses_an_implementation_that_never_ends(tmp_path, bearssl):
    folder = copy_to(tmp_path)
    before, include, after = (folder / "keyring_aws.h").read_text().partition("<bearssl.h>\n")
    (folder / "keyring_aws.h").write_text(
        before + include + re.sub(r"\n(/\* ====|#endif /\* KEYRING_AWS_IMPL)", "\n/* --", after))
    done = amalgamate(folder, "--bearssl", bearssl)
    assert done.returncode == 1 and "put a box there" in done.stderr


def test_refuses_another_bearssl(tmp_path, made, bearssl):
    other = tmp_path / "bearssl"
    shutil.copytree(bearssl, other)
    with (other / "src/mac/hmac.c").open("a", encoding="ascii") as file:
        file.write("\n")
    done = amalgamate(made, "--bearssl", other)
    assert done.returncode == 1 and "src/mac/hmac.c: is not BearSSL 0.6's" in done.stderr
    done = amalgamate(made, "--bearssl", tmp_path)
    assert done.returncode == 1 and "make standalone" in done.stderr
    (made / "keyring_aws_plugin.c").rename(tmp_path / "away")
    try:
        done = amalgamate(made)
        assert done.returncode == 1 and "No such file" in done.stderr
    finally:
        (tmp_path / "away").rename(made / "keyring_aws_plugin.c")


def test_checks_what_it_writes_and_nothing_else(made):
    done = amalgamate(made, "--check", made / "keyring_aws.h")
    assert done.returncode == 1 and "not one of" in done.stderr
    for output in OUTPUTS:
        done = amalgamate(made, "--check", made / "build" / output)
        assert (done.returncode, done.stderr) == (0, "")


# ---- it compiles, and lives beside others --------------------------------------------------


@pytest.mark.parametrize("cc", ["gcc", "clang"])
def test_standalone_plugin_needs_libcurl_only(made, tmp_path, cc):
    library = tmp_path / "keyring_aws.so"
    build(cc, *STRICT, "-O2", "-shared", "-fPIC", "-Wl,-z,defs", "-o", library,
          made / "build" / STANDALONE_PLUGIN, "-lcurl")
    needed = subprocess.run(["readelf", "-d", library], text=True, stdout=subprocess.PIPE,
                            check=True).stdout
    assert "libcurl" in needed and "bearssl" not in needed
    assert not [name for name in symbols(library, "-D") if name.startswith(("br_", "kaws"))]


@pytest.mark.parametrize("cc", ["gcc", "clang"])
def test_one_file_plugin_by_the_command_in_the_readme(made, tmp_path, cc):
    build(cc, "-shared", "-fPIC", "-O2", "-Wl,-z,defs", "-o", tmp_path / "keyring_aws.so",
          made / "build" / PLUGIN, "-lbearssl", "-lcurl")


USER = r"""
#define KEYRING_AWS_IMPLEMENTATION
#include "keyring_aws_standalone.h"
#include <stdio.h>

static void
show(const unsigned char *bytes)
{
    int i;

    for (i = 0; i < 32; i++)
        printf("%02x", (unsigned)bytes[i]);
    putchar('\n');
}


void user(void);
void
user(void)
{
    kaws__br_sha256_context hash;
    kaws__br_hmac_key_context key;
    kaws__br_hmac_context mac;
    unsigned char out[32];

    kaws__br_sha256_init(&hash);
    kaws__br_sha224_update(&hash, "abc", 3);
    kaws__br_sha256_out(&hash, out);
    show(out);
    kaws__br_hmac_key_init(&key, &kaws__br_sha256_vtable, "Jefe", 4);
    kaws__br_hmac_init(&mac, &key, 0);
    kaws__br_hmac_update(&mac, "what do ya want for nothing?", 28);
    kaws__br_hmac_out(&mac, out);
    show(out);
}
"""
NEIGHBOUR = r"""
#include <bearssl.h>
#include <stdio.h>

int
main(void)
{
    br_sha256_context hash;
    unsigned char out[32];
    int i;

    user();
    br_sha256_init(&hash);
    br_sha256_update(&hash, "abc", 3);
    br_sha256_out(&hash, out);
    for (i = 0; i < 32; i++)
        printf("%02x", (unsigned)out[i]);
    putchar('\n');
    return 0;
}
"""


@pytest.mark.parametrize("cc", ["gcc", "clang"])
@pytest.mark.parametrize("files", [1, 2])
def test_lives_beside_libbearssl(made, tmp_path, cc, files):
    """The two are in one program, and even in one file, and both compute the right hash."""
    if files == 1:
        sources = {"one.c": USER + NEIGHBOUR}
    else:
        sources = {"user.c": USER, "neighbour.c": "void user(void);\n" + NEIGHBOUR}
    for name, text in sources.items():
        (tmp_path / name).write_text(text, encoding="ascii")
    build(cc, *STRICT, "-D_POSIX_C_SOURCE=200809L", "-I", made / "build", "-o", tmp_path / "both",
          *(tmp_path / name for name in sources), "-lbearssl", "-lcurl", "-lpthread")
    output = subprocess.run([tmp_path / "both"], text=True, stdout=subprocess.PIPE, check=True)
    assert output.stdout.split() == [ABC, RFC4231_CASE_2, ABC]


def test_the_wrong_order_of_includes_is_explained(made, tmp_path):
    (tmp_path / "wrong.c").write_text("#include <bearssl.h>\n" + USER, encoding="ascii")
    done = subprocess.run(["gcc", "-I", made / "build", "-c", tmp_path / "wrong.c"], text=True,
                          capture_output=True, cwd=tmp_path, check=False)
    assert done.returncode and "put the implementation of keyring_aws above" in done.stderr


def test_cplusplus_sees_declarations_only(made, tmp_path):
    (tmp_path / "use.cpp").write_text('#include "keyring_aws_standalone.h"\n'
                                      "const char *version = kaws_version();\n", encoding="ascii")
    build("g++", "-std=c++11", "-Wall", "-Wextra", "-Wpedantic", "-Werror", "-I", made / "build",
          "-c", "-o", tmp_path / "use.o", tmp_path / "use.cpp")
