"""Time, for tests on a machine that may stand still now and then, or has too much to do.

    wait_for(lambda: lib.said("back"), 5)       # a stall does not count against the 5 s
    in_time(answer.ms, 200)                     # if it is late, the test runs again
    with within(2):                             # the same, in seconds
        ...
    calm(condition, "why")                      # what only a stall can make untrue

A machine that stands still for a second makes any call late, and that says nothing about the call.
So a test that is late runs again, from the start, and fails if it is late three times.  Any other
failure counts at once.  What the tests of its file share (a server, for example) is made anew for
that: else it would remember the run before.  conftest.py takes the hooks from here.
"""

import contextlib
import time
from typing import Callable, Iterator

import pytest
from _pytest.runner import CallInfo, runtestprotocol

TRIES = 3
LATER = 3                               # so many times the limit: then it will never come
PAUSE_S = 0.02
NO_STALL_S = 0.1                        # so much later may a pause end on a calm machine


class Late(AssertionError):
    """Something took too long."""


def calm(condition: object, why: str) -> None:
    """What is true unless the machine has stood still."""
    if not condition:
        raise Late(why)


def in_time(took: float, limit: float, *shown: object) -> None:
    """Both in the same unit."""
    calm(took < limit, " ".join(map(str, (f"it took {took:.6g}, and may take {limit:.6g}",
                                          *shown))))


@contextlib.contextmanager
def within(seconds: float) -> Iterator[None]:
    begun = time.monotonic()
    yield
    in_time(time.monotonic() - begun, seconds)


def wait_for(done: Callable[[], object], seconds: float = 10) -> None:
    """Until it is done; at least one look at it is later than a stall.  What comes at last, but not
    in time, is late."""
    start, late = time.monotonic(), False
    end, last = start + seconds, start + LATER * seconds
    while True:
        begun = time.monotonic()
        if done():
            calm(not late, f"it came after {begun - start:.3g} s, and may take {seconds:g} s")
            return
        late = begun >= end
        assert begun < last, "waited in vain"
        asleep = time.monotonic()
        time.sleep(PAUSE_S)
        stood = time.monotonic() - asleep - PAUSE_S
        if stood > NO_STALL_S:
            end, last = end + stood, last + stood


# ---- pytest's hooks -----------------------------------------------------------------------------

_late: list[str] = []


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo):
    outcome = yield
    outcome.get_result().late = bool(call.excinfo and call.excinfo.errisinstance(Late))


def pytest_runtest_protocol(item: pytest.Item, nextitem: pytest.Item | None) -> bool:
    """Runs a test; and again, if nothing is wrong but that it was late."""
    item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
    for left in reversed(range(TRIES)):
        reports = runtestprotocol(item, log=False, nextitem=nextitem)
        failed = [each for each in reports if each.failed]
        if not left or not failed or not all(each.late for each in failed):
            break
        reports.append(end_of_the_file(item))
        if reports[-1].failed:
            break
        _late.append(f"{item.nodeid}: {failed[0].longrepr.reprcrash.message}")
        item._initrequest()
    for report in reports:
        item.ihook.pytest_runtest_logreport(report=report)
    item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
    return True


def end_of_the_file(item: pytest.Item) -> pytest.TestReport:
    """Ends what the tests of a file share; the next test that needs it makes it."""
    call = CallInfo.from_call(
        lambda: item.session._setupstate.teardown_exact(item.session), "teardown")
    return item.ihook.pytest_runtest_makereport(item=item, call=call)


def pytest_terminal_summary(terminalreporter) -> None:
    for line in _late:
        terminalreporter.write_line(f"late, and run again: {line}")
