#!/usr/bin/python3
"""Runs the C tests for other machines: compiles them here, and runs them by qemu or wine.

    tests/arch.py MACHINE [WORD ...]    all tests there, or those whose names contain a word

arm64, armhf (32 bits), s390x (big-endian) and riscv64 use Debian's cross compilers and qemu, with
that architecture's libcurl, BearSSL and cmocka in build/arch/MACHINE, so nothing is added to this
machine's own libraries.  On these four, undefined behaviour ends a test.  musl and windows have
neither libcurl nor cmocka: there the standalone header is compiled with KEYRING_AWS_NO_CURL, and
tests/unit/standin replaces cmocka.  unit/test_store proves with golden files that the data file is
the same on all machines, byte for byte.  The last line is "N passed, N failed".
"""

import concurrent.futures
import contextlib
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Iterator, NamedTuple

from run import count

sys.path.insert(0, str(Path(__file__).resolve().parent / "hosts"))
import debian                                                       # noqa: E402
import servers                                                      # noqa: E402

TOP = Path(__file__).resolve().parent.parent
STANDALONE = TOP / "build" / "standalone"       # the header with BearSSL in it, and the tests
STRICT = ["-std=c99", "-Wall", "-Wextra", "-Wpedantic", "-Wshadow", "-Wconversion", "-Werror"]
UBSAN = ["-O1", "-g", "-fsanitize=undefined", "-fno-sanitize-recover=all"]
LIBRARIES = ("libcmocka-dev", "libcurl4-openssl-dev", "libbearssl-dev")
BEARSSL = ["-l:libbearssl.a", "-Wl,--exclude-libs,ALL"]


class Machine(NamedTuple):
    """How to compile for it, how to run there, and what Debian packages that takes."""
    compiler: str
    runner: str = ""
    packages: tuple[str, ...] = ()
    suite: str = ""                 # of Debian, for its libraries; none: standalone
    flags: tuple[str, ...] = ()


def cross(triplet: str, qemu: str, debian: str, suite: str = "bookworm",
          flags: tuple[str, ...] = ("-static-libubsan",)) -> Machine:
    return Machine(f"{triplet}-gcc", f"qemu-{qemu}",
                   (f"gcc-{triplet}", f"libc6-dev-{debian}-cross", "qemu-user"), suite, flags)


MACHINES = {
    "arm64": cross("aarch64-linux-gnu", "aarch64", "arm64"),
    "armhf": cross("arm-linux-gnueabihf", "arm", "armhf"),
    "s390x": cross("s390x-linux-gnu", "s390x", "s390x"),
    # Debian 12's gcc has no libubsan there: the program traps.  sid's libraries want sid's libc,
    # which they have when the program runs, and sid's cmocka has newer names.
    "riscv64": cross("riscv64-linux-gnu", "riscv64", "riscv64", "sid",
                     ("-fsanitize-undefined-trap-on-error", "-Wl,--allow-shlib-undefined",
                      "-Wno-deprecated-declarations")),
    "musl": Machine("musl-gcc", "", ("musl-tools",)),
    "windows": Machine("x86_64-w64-mingw32-gcc", "/usr/lib/wine/wine64",
                       ("gcc-mingw-w64-x86-64-win32", "wine64")),
}

# Programs that a machine cannot have.  Single tests that need what Windows lacks (fork, pipes in
# folders, links, owners and modes, calls that a signal cuts short) are taken out by their sources,
# which say why; test_disk has others in their place, among them locks of two processes.
NO_CURL = "there is no libcurl for it here"
POSIX_DISK = "disk.h is a disk for POSIX's calls; unit/test_file fails Windows' own calls instead"
LEFT_OUT = {
    "musl": {test: NO_CURL for test in ("unit/test_curl", "unit/test_url", "host_57", "host_80",
                                        "host_unknown")},
    "windows": {
        **{f"unit/test_{room}": NO_CURL for room in ("curl", "url")},
        **{host: "the plugin is not proved there" for host in ("host_57", "host_80",
                                                               "host_unknown")},
        **{f"fault/test_{part}": POSIX_DISK for part in ("crash", "disk_errors", "hostile")},
        "fault/test_two_names": "a second name has a lock of its own there"},
}

# Tests of what qemu does not pass on.
NOT_UNDER_QEMU = {
    "test_pages_are_locked_and_not_dumped": "qemu does not pass on madvise()",
    "test_secret_stays_in_its_pages": "for 32 bits, qemu's /proc/self/mem is not the program's",
    "test_it_cannot_be_started": "qemu's vfork() shares no memory, and so no errno of a program",
    "test_it_cannot_be_run": "for the same reason",
}


class Failed(Exception):
    """Something could not be prepared; the text says what."""


def machine(name: str) -> Machine:
    if name not in MACHINES:
        raise Failed(f"no machine named '{name}': choose one of {', '.join(MACHINES)}")
    return MACHINES[name]


# ---- what there has to be --------------------------------------------------------------------


def prepare(name: str) -> None:
    """The compiler, the emulator and the libraries."""
    one = machine(name)
    if subprocess.run([TOP / "tests" / "need.sh", *one.packages], check=False).returncode:
        raise Failed(f"{name} needs these packages: {' '.join(one.packages)}")
    (TOP / "build" / "arch" / "wine").mkdir(parents=True, exist_ok=True)
    if one.suite:
        libraries(name)
    elif subprocess.run(["make", "-s", "build/standalone/ready"], cwd=TOP,
                        check=False).returncode:
        raise Failed("the standalone header could not be made")


def libraries(name: str) -> Path:
    """That architecture's libraries, unpacked."""
    root = TOP / "build" / "arch" / name

    def make(new: Path) -> None:
        print(f"fetching {name}'s libraries from Debian {machine(name).suite} ...",
              file=sys.stderr, flush=True)
        packages = debian.fetch(new / "apt", list(LIBRARIES), machine(name).suite, name)
        debian.unpack(new, [deb for deb in packages if not deb.name.startswith("libc6-dev")
                              and not deb.name.startswith("linux-libc-dev")])

    return servers._once(root, (root / "usr").exists, make)


# ---- compiling and running ---------------------------------------------------------------------


def compiled(name: str, source: str, *flags: str, out: str = "") -> Path:
    """The program of a source in tests/, made if anything that it may include is newer."""
    one, tree = machine(name), TOP if machine(name).suite else STANDALONE
    program = TOP / "build" / "tests" / "arch" / name / (out or source.removesuffix(".c"))
    sources = [Path(__file__), TOP / "keyring_aws.h", TOP / source, TOP / "tests" / source,
               *(TOP / "tests").rglob("*.h")]
    newest = max(path.stat().st_mtime for path in sources if path.exists())
    if program.exists() and program.stat().st_mtime > newest:
        return program
    program.parent.mkdir(parents=True, exist_ok=True)
    path = source if source == "keyring_aws_plugin.c" else f"tests/{source}"
    command = [one.compiler, *STRICT, *options(name), "-o", f"{program}.new", path, *flags,
               *links(name)]
    done = subprocess.run(command, cwd=tree, text=True, capture_output=True, check=False)
    if done.returncode:
        raise Failed(f"{' '.join(command)}\n{done.stderr}")
    os.replace(f"{program}.new", program)
    return program


def options(name: str, shim: bool = True) -> list[str]:
    """`shim`: with what our tests use of POSIX and Windows lacks."""
    one = machine(name)
    if one.suite:
        root = libraries(name)
        triplet = one.compiler.removesuffix("-gcc")
        return [*UBSAN, *one.flags, "-isystem", f"{root}/usr/include", "-isystem",
                f"{root}/usr/include/{triplet}"]
    posix = ["-include", "tests/unit/standin/windows/posix.h"]
    return ["-O1", "-g", "-DKEYRING_AWS_NO_CURL", "-isystem", "tests/unit/standin",
            "-isystem", "without/bearssl", "-isystem", "without/curl",
            *(posix if shim and name == "windows" else [])]


def links(name: str) -> list[str]:
    one = machine(name)
    if not one.suite:
        return ["-static", "-lpthread"] if name == "windows" else []
    libs = f"{libraries(name)}/usr/lib/{one.compiler.removesuffix('-gcc')}"
    return [f"-L{libs}", f"-Wl,-rpath-link={libs}", *BEARSSL, "-lcurl", "-lcmocka", "-ldl",
            "-lpthread"]


def command(name: str, program: Path, *words: object) -> list[str]:
    one = machine(name)
    root = ["-L", str(libraries(name))] if one.suite else []
    return [*filter(None, [one.runner]), *root, str(program), *map(str, words)]


def environment() -> dict[str, str]:
    return servers.clean_environment({"WINEDEBUG": "-all",
                                      "WINEPREFIX": str(TOP / "build" / "arch" / "wine")})


def run(name: str, program: Path, *words: object, timeout: float = 1200) -> tuple[int, int, str]:
    """How many checks passed and failed, and what was printed."""
    tree = TOP if machine(name).suite else STANDALONE
    try:
        done = subprocess.run(command(name, program, *words), cwd=tree, env=environment(),
                              timeout=timeout, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, check=False)
        text, code = done.stdout.decode(errors="replace"), done.returncode
    except subprocess.TimeoutExpired as late:
        text, code = (late.stdout or b"").decode(errors="replace"), "too late"
    passed, failed = count(text)
    if machine(name).suite:
        names = set(re.findall(r"^\[  FAILED  \] (test_\w+)$", text, re.M))
        if names and names <= set(NOT_UNDER_QEMU) and code == len(names):
            return passed, 0, text + "".join(f"left out: {each}\n" for each in sorted(names))
    if (code != 0 or passed == 0) and failed == 0:
        text += f"\n{program.name} ended with {code}\n"
        failed = 1
    return passed, failed, text


# ---- the tests -----------------------------------------------------------------------------------


def tests(name: str) -> list[str]:
    """unit/test_text, fault/test_crash, ... host_57, ... story: what can run there."""
    found = [path.removeprefix(f"{TOP}/tests/").removesuffix(".c") for path in sorted(
        map(str, TOP.glob("tests/[uf][na][iu]*t/test_*.c")))]
    found += ["host_57", "host_80", "host_unknown", "story", "orders"]
    return [each for each in found if each not in LEFT_OUT.get(name, ())]


def perform(name: str, test: str) -> tuple[int, int, str]:
    """One test, compiled and run."""
    try:
        if test.startswith("host_"):
            return host(name, test)
        if test == "story":
            return story(name)
        if test == "orders":
            return orders(name)
        return run(name, compiled(name, f"{test}.c"))
    except Failed as failed:
        return 0, 1, str(failed)


@contextlib.contextmanager
def kms() -> Iterator[tuple[str, int]]:
    """The emulator's URL and control port."""
    servers.tree()               # has the botocore that the emulator takes its operations from
    from kms_emulator import Emulator, serve_control
    with Emulator() as emulator:
        control = serve_control(emulator)
        try:
            yield emulator.url, control.server_port
        finally:
            control.shutdown()


def host(name: str, test: str) -> tuple[int, int, str]:
    """The plugin, loaded as MySQL does it."""
    plugin = compiled(name, "keyring_aws_plugin.c", "-shared", "-fPIC", "-fvisibility=hidden",
                      out="keyring_aws.so")
    program = compiled(name, "hosts/plugin_host.c", f"-D{test.upper()}", "-rdynamic", out=test)
    with kms() as (url, control), tempfile.TemporaryDirectory() as work:
        return run(name, program, plugin, work, f"endpoint={url}", f"control={control}",
                   "threads=8", "rounds=10")


def story(name: str) -> tuple[int, int, str]:
    """The small program of the tests of building; it needs no libcurl to run."""
    text = tell(name, compiled(name, "build/story.c", "tests/build/implementation.c", "-I."))
    good = text.startswith("ok")
    return int(good), int(not good), text


def tell(name: str, program: Path) -> str:
    """wine forgets the volume of a file that was renamed while it was open; the second time the
    keyring is there."""
    with tempfile.TemporaryDirectory() as work:
        conf = Path(work, "conf")
        conf.touch(mode=0o600)
        conf.write_text("AKIDEXAMPLE\nsecret\n")
        for _ in range(2 if name == "windows" else 1):
            _, _, text = run(name, program, Path(work, "data"), conf)
    return text


def orders(name: str) -> tuple[int, int, str]:
    """That program with its includes in each order: it works, or is told why it does not."""
    from test_build import ELSEWHERE, program
    one, good, said = machine(name), 0, ""
    rows = ELSEWHERE["32" if name == "armhf" else name if not one.suite else "64"]
    for order, flags, words in rows:
        with tempfile.TemporaryDirectory() as work:
            source, out = Path(work, "it.c"), Path(work, "it.exe")
            source.write_text(program(order))
            done = subprocess.run([one.compiler, *STRICT, *options(name, shim=False),
                                   *flags.split(), "-I.", "-Itests/build", source, "-o", out,
                                   *links(name)], cwd=TOP if one.suite else STANDALONE, text=True,
                                  capture_output=True, check=False)
            text = done.stderr if done.returncode else tell(name, out)
        fine = text.startswith("ok") if not words else done.returncode and words in text
        good += bool(fine)
        said += "" if fine else f"{order} {flags}: {text}\n"
    return good, len(rows) - good, said


def main(argv: list[str]) -> int:
    name, words = (argv or [""])[0], argv[1:]
    start = time.monotonic()
    try:
        prepare(name)
    except (Failed, servers.ServerError) as failed:
        print(f"arch.py: {failed}", file=sys.stderr)
        return 2
    chosen = [test for test in tests(name) if not words or any(word in test for word in words)]
    left_out = dict(LEFT_OUT.get(name, {}))
    total = [0, 0]
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        running = {pool.submit(perform, name, test): test for test in chosen}
        for done in concurrent.futures.as_completed(running):
            test, (passed, failed, text) = running[done], done.result()
            total = [total[0] + passed, total[1] + failed]
            print(f"{name + ' ' + test:36} {passed:6} passed {failed:4} failed", flush=True)
            if failed:
                print("\n".join(text.splitlines()[-60:]), flush=True)
            for each in re.findall(r"^left out: (\w+)$", text, re.M):
                left_out[f"{test}: {each}"] = NOT_UNDER_QEMU[each]
    for each, why in left_out.items():
        print(f"left out: {each}: {why}")
    print(f"{name}: {len(chosen)} programs in {time.monotonic() - start:.0f} s")
    print(f"{total[0]} passed, {total[1]} failed")
    return 1 if total[1] else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
