"""A short set of tests on a 32-bit and a big-endian machine; `make test-arch` runs all of them."""

import functools

import arch
import pytest

SHORT = [f"unit/test_{room}"
         for room in ("text", "json", "crypto", "sigv4", "pack", "file", "store", "ring")]
SHORT.append("orders")

prepared = functools.lru_cache(arch.prepare)


@pytest.mark.parametrize("test", SHORT)
@pytest.mark.parametrize("name", ["armhf", "s390x"])
def test_the_short_set_passes_on_each_machine(name, test, monkeypatch):
    prepared(name)
    monkeypatch.setenv("UNIT_TENTH", "1")
    passed, failed, text = arch.perform(name, test)
    print(f"{passed} passed, {failed} failed")
    assert failed == 0 and passed > 0, text


def test_each_machine_has_its_tests():
    for name in arch.MACHINES:
        found = arch.tests(name)
        assert len(found) >= 10 and "unit/test_store" in found
        assert ("host_57" in found) == bool(arch.machine(name).suite)
        assert all(arch.LEFT_OUT.get(name, {None: "why"}).values())
