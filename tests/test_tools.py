"""clang's static analyzer and cppcheck have nothing to say of the library and the plugin.

That they would is tried first, each on a fault of the kind it looks for.
"""

import subprocess
from pathlib import Path

import pytest
from conftest import LONG

TOP = Path(__file__).resolve().parent.parent
LIBRARY = f'#define KEYRING_AWS_IMPLEMENTATION\n#include "{TOP}/keyring_aws.h"\n'
PLUGIN = f'#include "{TOP}/keyring_aws_plugin.c"\n'
FAULT = """
int fault(int n);
int fault(int n)
{
    int there[2] = { 1, 2 }, *at = 0;

    n += there[2];
    return n > 9 ? *at : n;
}
"""


def analyze(source: Path) -> str:
    command = ["clang", "--analyze", "-Xclang", "-analyzer-output=text", "-Xclang",
               "-analyzer-opt-analyze-headers", "-std=c99", "-o", "/dev/null", source]
    return subprocess.run(command, capture_output=True, text=True, check=True).stderr


def cppcheck(source: Path) -> str:
    command = ["cppcheck", "-q", "--std=c99", "--library=posix", "--force",
               "--enable=warning,portability,performance", source]
    return subprocess.run(command, capture_output=True, text=True, check=True).stderr


@pytest.fixture(params=[analyze, cppcheck], ids=lambda tool: tool.__name__)
def look(request, tmp_path):
    def judge(text: str) -> str:
        source = tmp_path / "looked_at.c"
        source.write_text(text)
        return request.param(source)
    judge.tool = request.param
    return judge


def test_it_would_find_a_fault(look):
    assert "looked_at.c" in look(FAULT)


WHOLE = {"plugin": PLUGIN, "library without libcurl": "#define KEYRING_AWS_NO_CURL\n" + LIBRARY,
         "library": LIBRARY, "library, static": "#define KEYRING_AWS_STATIC\n" + LIBRARY}


@pytest.mark.parametrize("name", WHOLE)
def test_nothing_is_found(look, name):
    if look.tool is analyze and name.startswith("library") and "without" not in name and not LONG:
        pytest.skip("it is in the plugin, too; the analyzer takes its time")
    assert look(WHOLE[name]) == ""
