"""keyring_aws.h drops in: each language, compiler and switch gives a program that works.

The programs are in tests/build: story.c uses the library (in C and in C++), implementation.c is
the one C file that has it.
"""

import re
import subprocess
from pathlib import Path

import pytest
from conftest import write_conf

TOP = Path(__file__).resolve().parent.parent
PARTS = TOP / "tests" / "build"
HEADER, PLUGIN = TOP / "keyring_aws.h", TOP / "keyring_aws_plugin.c"
WARN = ["-Wall", "-Wextra", "-Wpedantic", "-Wshadow", "-Wconversion", "-Wsign-conversion",
        "-Wcast-qual", "-Wcast-align", "-Wundef", "-Wvla", "-Wformat=2", "-Wwrite-strings",
        "-Wpointer-arith", "-Wswitch-enum", "-Wredundant-decls",
        "-Wmissing-declarations", "-Werror"]
WARN_C = [*WARN, "-Wstrict-prototypes"]
CURL = ["-lbearssl", "-lcurl"]
C = ["c99", "c11", "c17", "c2x", "gnu99", "gnu11", "gnu17", "gnu2x"]
CPP = ["c++11", "c++14", "c++17", "c++20", "gnu++20"]
OPTIONS = {
    "Os": ["-Os"],
    "O3": ["-O3"],
    "lto": ["-O2", "-flto=auto"],
    "hidden": ["-O2", "-fvisibility=hidden"],
    "hardened": ["-O2", "-D_FORTIFY_SOURCE=2", "-fstack-protector-strong", "-fPIE", "-pie"],
    "signed-char": ["-O1", "-fsigned-char"],
    "unsigned-char": ["-O1", "-funsigned-char"],
    "sections": ["-O1", "-ffunction-sections", "-fdata-sections", "-Wl,--gc-sections"],
    "features-set": ["-O1", "-D_GNU_SOURCE=1", "-D_FILE_OFFSET_BITS=64"],
    "no-threads": ["-O1", "-DKEYRING_AWS_NO_THREADS"],
}
BOTH = pytest.mark.parametrize("compiler", ["gcc", "clang"])


def run(*command: object) -> subprocess.CompletedProcess:
    return subprocess.run(list(map(str, command)), text=True, capture_output=True, check=False)


def build(out: Path, *command: object) -> Path:
    """What a compiler makes, without a word of warning."""
    done = run(*command, f"-I{TOP}", "-o", out)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", ""), done.stderr
    return out


def works(program: Path) -> None:
    """The story comes to its good end."""
    conf, data = (program.with_name(program.name + end) for end in (".conf", ".data"))
    write_conf(conf, "AKIDEXAMPLE", "secret")
    done = run(program, data, conf)
    assert (done.returncode, done.stdout, done.stderr) == (0, "ok\n", "")
    assert data.read_bytes().startswith(b"KAWSRING")


def names(file: Path, *options: str) -> set[str]:
    """Symbols, by nm."""
    return {line.split()[-1].partition("@")[0]
            for line in run("nm", *options, file).stdout.splitlines() if line.split()}


@pytest.fixture(scope="session")
def compiled(tmp_path_factory):
    """compiled(compiler): the implementation's object, strictly C99."""
    made = {}

    def of(compiler: str) -> Path:
        if compiler not in made:
            made[compiler] = build(tmp_path_factory.mktemp(compiler) / "keyring_aws.o", compiler,
                                   "-std=c99", "-O2", *WARN_C, "-c", PARTS / "implementation.c")
        return made[compiler]
    return of


# ---- languages -----------------------------------------------------------------------------


@BOTH
@pytest.mark.parametrize("standard", C)
def test_c(tmp_path, compiler, standard):
    works(build(tmp_path / "story", compiler, f"-std={standard}", *WARN_C,
                PARTS / "implementation.c", PARTS / "story.c", *CURL))


@BOTH
@pytest.mark.parametrize("standard", CPP)
def test_cpp_program_with_the_implementation_in_c(tmp_path, compiled, compiler, standard):
    cpp = {"gcc": "g++", "clang": "clang++"}[compiler]
    works(build(tmp_path / "story", cpp, f"-std={standard}", *WARN, "-x", "c++",
                PARTS / "story.c", "-x", "none", compiled(compiler), *CURL))
    (tmp_path / "bare.cc").write_text('#include "keyring_aws.h"\n')
    build(tmp_path / "bare.o", cpp, f"-std={standard}", *WARN, "-Wold-style-cast", "-Wextra-semi",
          "-c", tmp_path / "bare.cc")


@BOTH
@pytest.mark.parametrize("standard", ["c99", "c11", "c17", "c2x"])
def test_plugin(tmp_path, compiler, standard):
    so = build(tmp_path / "keyring_aws.so", compiler, f"-std={standard}", *WARN_C,
               "-Wno-missing-declarations", "-shared", "-fPIC", PLUGIN, *CURL)
    assert "_mysql_plugin_declarations_" in names(so, "-D")


# ---- ways to include it ----------------------------------------------------------------------


@BOTH
def test_private_to_one_file(tmp_path, compiler):
    program = build(tmp_path / "one", compiler, "-std=c99", *WARN_C, PARTS / "one.c", *CURL)
    assert not [name for name in names(program, "-g") if name.startswith("kaws")]
    works(program)


@BOTH
@pytest.mark.parametrize("shared", [False, True])
def test_private_twice_or_beside_a_shared_one(tmp_path, compiler, compiled, shared):
    other = [PARTS / "story.c", compiled(compiler)] if shared else [PARTS / "one.c"]
    works(build(tmp_path / "both", compiler, "-std=c99", *WARN_C, *other, PARTS / "twice.c",
                *CURL))


@pytest.mark.parametrize("compiler, first, words", [
    ("gcc", "#include <stdio.h>", "include keyring_aws.h before all else"),
    ("g++", "", "compile the implementation of keyring_aws.h as C; include it in C++")])
def test_a_wrong_include_is_told(tmp_path, compiler, first, words):
    source = tmp_path / ("it.cc" if compiler == "g++" else "it.c")
    source.write_text(f'{first}\n#define KEYRING_AWS_IMPLEMENTATION\n#include "keyring_aws.h"\n')
    done = run(compiler, "-c", f"-I{TOP}", source, "-o", tmp_path / "x.o")
    assert done.returncode != 0 and words in done.stderr


# ---- switches and options ----------------------------------------------------------------------


@BOTH
@pytest.mark.parametrize("name", OPTIONS)
def test_option(tmp_path, compiler, name):
    link = ["-fuse-ld=lld"] if (compiler, name) == ("clang", "lto") else []
    program = build(tmp_path / "story", compiler, "-std=c99", *WARN_C, *OPTIONS[name],
                    PARTS / "implementation.c", PARTS / "story.c", *link, *CURL)
    if name == "no-threads":
        assert not [each for each in names(program, "-u") if each.startswith("pthread")]
    works(program)


@BOTH
@pytest.mark.parametrize("threads", [[], ["-DKEYRING_AWS_NO_THREADS"]], ids=["threads", "none"])
def test_without_libcurl(tmp_path, compiler, threads):
    flags = ["-std=c99", "-O2", *WARN_C, "-DKEYRING_AWS_NO_CURL", *threads]
    program = build(tmp_path / "story", compiler, *flags, PARTS / "implementation.c",
                    PARTS / "story.c", "-lbearssl")
    assert "curl" not in run("ldd", program).stdout
    works(program)
    works(build(tmp_path / "one", compiler, *flags, PARTS / "one.c", "-lbearssl"))


@BOTH
@pytest.mark.parametrize("source", [PARTS / "implementation.c", PLUGIN], ids=lambda p: p.name)
def test_banned_functions_are_not_used(tmp_path, compiler, source):
    extra = ["-Wno-missing-declarations"] if source == PLUGIN else ["-DPOISON_REALLOC"]
    poison = [compiler, "-std=c99", *WARN_C, *extra, "-c", f"-I{PARTS}",
              "-include", "poison.h"]
    build(tmp_path / "clean.o", *poison, source)
    bad = tmp_path / "bad.c"
    bad.write_text(f'#include "{source.relative_to(TOP)}"\nvoid bad(char *, const char *);\n'
                   "void bad(char *to, const char *from) { strcpy(to, from); }\n")
    assert "poisoned" in run(*poison, f"-I{TOP}", bad, "-o", tmp_path / "bad.o").stderr


# ---- the runner that stands in for cmocka --------------------------------------------------------


STANDIN = TOP / "tests" / "unit" / "standin"


@BOTH
def test_the_standin_judges_as_cmocka_does(tmp_path, compiler):
    """A program of tests that pass, fail and skip, in all the ways there are, with either."""
    from run import count
    said = {}
    for name, flags in (("cmocka", ["-lcmocka"]), ("standin", ["-isystem", STANDIN])):
        program = build(tmp_path / name, compiler, "-std=c99", *WARN_C, PARTS / "runner.c", *flags)
        done = run(program)
        text = done.stdout + done.stderr
        said[name] = (done.returncode, count(text), sorted(set(re.findall(
            r"^\[( +OK|  FAILED  |  SKIPPED |  ERROR   )\] (test_\w+)$", text, re.M))))
    assert said["standin"] == said["cmocka"]
    assert said["cmocka"][0] > 0 and min(said["cmocka"][1]) > 5
