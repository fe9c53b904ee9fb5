"""keyring_aws.h compiles in each language, with each compiler and switch, to a program that works.

The programs are in tests/build: story.c uses the library (in C and in C++), implementation.c is
the one C file with the implementation.
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
    """Compiles without any warning; returns the output file."""
    done = run(*command, f"-I{TOP}", "-o", out)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", ""), done.stderr
    return out


def works(program: Path) -> None:
    """The program story.c prints ok."""
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
def test_a_c_program_works(tmp_path, compiler, standard):
    works(build(tmp_path / "story", compiler, f"-std={standard}", *WARN_C,
                PARTS / "implementation.c", PARTS / "story.c", *CURL))


@BOTH
@pytest.mark.parametrize("standard", CPP)
def test_a_cpp_program_works_with_the_implementation_in_c(tmp_path, compiled, compiler, standard):
    cpp = {"gcc": "g++", "clang": "clang++"}[compiler]
    works(build(tmp_path / "story", cpp, f"-std={standard}", *WARN, "-x", "c++",
                PARTS / "story.c", "-x", "none", compiled(compiler), *CURL))


@BOTH
@pytest.mark.parametrize("standard", ["c++98", *CPP])
def test_the_declarations_bring_no_warning_in_cpp(tmp_path, compiler, standard):
    (tmp_path / "bare.cc").write_text('#include "keyring_aws.h"\n#include <string>\n'
                                      "std::string version() { return kaws_version(); }\n")
    build(tmp_path / "bare.o", {"gcc": "g++", "clang": "clang++"}[compiler], f"-std={standard}",
          *WARN, "-Wno-missing-declarations", "-Wold-style-cast", "-Wextra-semi", "-Weffc++",
          "-Wzero-as-null-pointer-constant", "-c", tmp_path / "bare.cc")


@BOTH
@pytest.mark.parametrize("standard", ["c99", "c11", "c17", "c2x"])
def test_the_plugin_compiles_in_each_standard(tmp_path, compiler, standard):
    so = build(tmp_path / "keyring_aws.so", compiler, f"-std={standard}", *WARN_C,
               "-Wno-missing-declarations", "-shared", "-fPIC", PLUGIN, *CURL)
    assert "_mysql_plugin_declarations_" in names(so, "-D")


@BOTH
def test_an_old_program_still_works(tmp_path, compiler):
    """Members that a struct has gained at its end are zero in it.  If it names no members, only the
    compiler can notice: in C by a warning of -Wextra, which the manual's section 3 mentions."""
    flags = ["-std=c99", *WARN_C, PARTS / "implementation.c", PARTS / "before.c"]
    works(build(tmp_path / "before", compiler, *flags, "-Wno-missing-field-initializers", *CURL))
    without = [*flags, "-Wno-missing-field-initializers", "-DKEYRING_AWS_NO_CURL", "-lbearssl"]
    works(build(tmp_path / "alone", compiler, *without))


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


# ---- in which order --------------------------------------------------------------------------

# Whole programs, each in one file that ends in story.c. A word that ends in .h is a header, P our
# header by itself, I the same with the implementation; any other word is defined. Then the flags.
ANY = "errno.h fcntl.h limits.h pthread.h signal.h stdio.h sys/mman.h sys/stat.h time.h unistd.h"
WORKS = [
    ("I stdio.h", "-std=c99"),
    ("I P I stdio.h P", "-std=c99"),
    ("stdio.h I", "-std=gnu99"),
    ("P stdio.h I", "-std=gnu11"),
    ("P I P I P", "-std=gnu99"),
    (f"{ANY} dlfcn.h P I", "-std=gnu99"),
    ("P stdio.h I", "-std=c99 -D_GNU_SOURCE -D_FILE_OFFSET_BITS=64"),
    ("stdio.h P I", "-std=c99 -D_DEFAULT_SOURCE"),
    ("curl/curl.h bearssl.h P I", "-std=gnu99"),
    ("KEYRING_AWS_STATIC P stdio.h I", "-std=gnu99"),
    ("P KEYRING_AWS_NO_CURL stdio.h I", "-std=gnu99"),
    ("KEYRING_AWS_NO_CURL KEYRING_AWS_STATIC stdio.h I", "-std=gnu99"),
    ("P KEYRING_AWS_NO_THREADS pthread.h I", "-std=gnu99"),
    ("KEYRING_AWS_NO_THREADS P KEYRING_AWS_NO_CURL I", "-std=gnu99"),
    ("linux/fs.h stdio.h I", "-std=gnu99"),
]
HIDES = "put KEYRING_AWS_IMPLEMENTATION and the include above all others"
TOLD = [
    ("stdio.h I", "-std=c99", HIDES, "-D_GNU_SOURCE"),
    ("P I", "-std=c99", HIDES, "-D_GNU_SOURCE"),
    ("P unistd.h I", "-std=c99 -D_POSIX_C_SOURCE=200809L", HIDES, "-D_GNU_SOURCE"),
    ("stdio.h I", "-std=gnu99 -D_XOPEN_SOURCE=700", HIDES, "-D_GNU_SOURCE"),
    ("P KEYRING_AWS_STATIC I", "-std=gnu99", "define KEYRING_AWS_STATIC above the first include",
     "-DKEYRING_AWS_STATIC"),
]
LARGE = "-D_FILE_OFFSET_BITS=64"
ELSEWHERE = {                                       # arch.py's, who asks for C99
    "64": [("stdio.h I", "-std=gnu99", ""), ("stdio.h I", "", HIDES)],
    "32": [("I stdio.h", "", ""), ("P stdio.h I", f"-std=gnu99 {LARGE}", ""),
           ("stdio.h I", "-std=gnu99", f"off_t has 32 bits here: {HIDES}, or compile with {LARGE}"),
           ("P I", f"-D_GNU_SOURCE {LARGE}", "")],
    "musl": [("I stdio.h", "", ""), ("stdio.h unistd.h dlfcn.h fcntl.h sys/stat.h P I", "", ""),
             (f"{ANY} P I", "-std=gnu99", ""), (f"{ANY} P I", "-D_GNU_SOURCE", ""),
             *((f"P {header} I", "", HIDES) for header in ("time.h", "signal.h", "sys/mman.h"))],
    "windows": [(order, "", "") for order in (
        "I stdio.h", "windows.h P I", "WIN32_LEAN_AND_MEAN NOMINMAX windows.h I",
        "P stdlib.h I winsock2.h windows.h", "NOMINMAX winsock2.h windows.h P I",
        "KEYRING_AWS_STATIC UNICODE _UNICODE windows.h stdio.h P I", "_CRT_RAND_S I",
        "KEYRING_AWS_NO_THREADS windows.h I")],
}


def program(order: str) -> str:
    """The source of a program with includes in that order."""
    lines = {"P": '#include "keyring_aws.h"', "I": "#undef KEYRING_AWS_IMPLEMENTATION\n"
             '#define KEYRING_AWS_IMPLEMENTATION\n#include "keyring_aws.h"'}
    return "\n".join([*(lines.get(word) or (f"#include <{word}>" if word.endswith(".h") else
                        f"#ifndef {word}\n#define {word}\n#endif") for word in order.split()),
                      '#include "story.c"', ""])


def in_order(tmp_path, order: str) -> list[object]:
    (tmp_path / "it.c").write_text(program(order))
    return ["-O0", f"-I{PARTS}", tmp_path / "it.c"]


@pytest.fixture(scope="session")
def asked(tmp_path_factory):
    """asked(compiler): what a program asks of the system if our header comes first."""
    made = {}

    def of(compiler: str) -> set[str]:
        if compiler not in made:
            folder = tmp_path_factory.mktemp(compiler)
            made[compiler] = imports(build(folder / "it", compiler, "-std=c99",
                                           *in_order(folder, "I"), *CURL))
        return made[compiler]
    return of


def imports(file: Path) -> set[str]:
    """open64 counts as open, because _FILE_OFFSET_BITS decides which of the two it is."""
    return {name.removesuffix("64") for name in names(file, "-D", "-u")}


@pytest.mark.parametrize("compiler", ["gcc", "clang", "tcc"])
@pytest.mark.parametrize("order, flags", WORKS)
def test_order_that_works(tmp_path, compiler, order, flags, asked):
    """The program imports the same functions as if our header came first."""
    warn = ["-Wall"] if compiler == "tcc" else WARN_C
    it = build(tmp_path / "it", compiler, *flags.split(), *warn, *in_order(tmp_path, order), *CURL)
    works(it)
    assert imports(it) == asked(compiler) or "_NO_" in order and imports(it) < asked(compiler)


@BOTH
@pytest.mark.parametrize("order, flags, words, remedy", TOLD)
def test_order_that_does_not_work_is_told(tmp_path, compiler, order, flags, words, remedy):
    """The compiler's message says what to do, and that helps."""
    command = [compiler, *flags.split(), *in_order(tmp_path, order)]
    done = run(*command, f"-I{TOP}", "-o", tmp_path / "it", *CURL)
    first = next(line for line in done.stderr.splitlines() if "error: " in line)
    assert done.returncode != 0 and words in first
    works(build(tmp_path / "it", *command, remedy, *CURL))


def test_implementation_in_cpp_is_told(tmp_path):
    done = run("g++", "-x", "c++", *in_order(tmp_path, "I"), f"-I{TOP}", "-o", tmp_path / "it")
    assert done.returncode and "compile the implementation of keyring_aws.h as C" in done.stderr


def test_implementation_in_two_files_is_the_linkers_to_tell(tmp_path):
    (tmp_path / "other.c").write_text('#define KEYRING_AWS_IMPLEMENTATION\n'
                                      '#include "keyring_aws.h"\n')
    done = run("gcc", *in_order(tmp_path, "I"), tmp_path / "other.c", f"-I{TOP}", "-o",
               tmp_path / "it", *CURL)
    assert done.returncode and re.search("multiple definition of [`']kaws_open'", done.stderr)


@BOTH
def test_no_macro_of_others_is_defined(tmp_path, compiler):
    """All our macros begin with our prefixes, so a program may include other headers after ours."""
    ours, theirs, file = [], {"_GNU_SOURCE", "_FILE_OFFSET_BITS"}, ""
    for line in run(compiler, "-std=c99", "-E", "-dD", f"-I{TOP}",
                    PARTS / "implementation.c").stdout.splitlines():
        mark = re.match(r'# \d+ "([^"]*)"', line)
        file = mark[1] if mark else file
        if line.startswith(("#define ", "#undef ")) and file.endswith("keyring_aws.h"):
            ours.append(re.match(r"#\w+ (\w+)", line)[1])
    assert len(ours) > 50
    assert {name for name in ours if not re.match(r"(KAWS|kaws|KEYRING_AWS)_", name)} == theirs


# ---- switches and options ----------------------------------------------------------------------


@BOTH
@pytest.mark.parametrize("name", OPTIONS)
def test_a_program_works_with_each_option(tmp_path, compiler, name):
    link = ["-fuse-ld=lld"] if (compiler, name) == ("clang", "lto") else []
    program = build(tmp_path / "story", compiler, "-std=c99", *WARN_C, *OPTIONS[name],
                    PARTS / "implementation.c", PARTS / "story.c", *link, *CURL)
    if name == "no-threads":
        assert not [each for each in names(program, "-u") if each.startswith("pthread")]
    works(program)


@BOTH
@pytest.mark.parametrize("threads", [[], ["-DKEYRING_AWS_NO_THREADS"]], ids=["threads", "none"])
def test_a_program_works_without_libcurl(tmp_path, compiler, threads):
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
    """Tests that pass, fail and skip in every way end the same with both."""
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
