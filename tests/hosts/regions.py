"""Two regions that have one multi-region key, each an emulator in a process of its own.

    with two_regions(certs.good) as (home, other):
        ...endpoint=home.url, kms_key_id=home.arn...
        home.pause()

So each can fail while the other lives:

    pause(), resume()       SIGSTOP: connections are made, and nothing is answered
    stop(), start()         the port refuses, and is the same afterwards
    black_hole(), black_hole(False)         to connect hangs
    fault("*", "error", times=0, type="KMSInternalException"), clear_faults()    and all others

Each takes what kms_emulator's Emulator.CONTROLS names, as the method of that name does, while it is
not paused.  The two know nothing of each other: catch_up() tells the other what a rotation at home
has made, and add_user() has to be called for both.
"""

import contextlib
import functools
import http.client
import json
import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from kms_emulator import ACCOUNT, MULTI_REGION_ID, REGION, Emulator
from servers import (Pair, ServerError, _end, _remove_folder, _short_folder, _spawn, _wait_until,
                     clean_environment)

PROGRAM = Path(__file__).with_name("kms_emulator.py")
SECOND = "eu-central-1"


class Region:
    """A running emulator of one region.

    region, url, port, pid
    arn         of the multi-region key that two_regions() made
    code        the process's exit code, once it has ended
    """

    def __init__(self, region: str, tls: Pair | None = None) -> None:
        self.region, self.arn = region, ""
        self._log = _short_folder() / "region.log"
        pair = ["--cert", str(tls.cert), "--key", str(tls.key)] if tls else []
        self._process = _spawn([sys.executable, str(PROGRAM), "--region", region, *pair],
                               clean_environment(), self._log)
        self.pid = self._process.pid
        try:
            _wait_until(lambda: self.said().startswith("{") and "\n" in self.said(), self._process,
                        60, f"the emulator of {region}", self.said)
            about = json.loads(self.said().split("\n")[0])
        except BaseException:
            self.end()
            raise
        self.url, self.port, self._control = about["url"], about["port"], about["control"]

    def __enter__(self) -> "Region":
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def said(self) -> str:
        return self._log.read_text("utf-8", "replace")

    def order(self, name: str, *args, **named):
        """Has the emulator do one of its CONTROLS; returns what that returns."""
        link = http.client.HTTPConnection("127.0.0.1", self._control, timeout=30)
        with contextlib.closing(link):
            link.request("POST", "/", json.dumps({"do": name, "args": args, **named}))
            reply = json.loads(link.getresponse().read())
        if "error" in reply:
            raise ServerError(f"{self.region}: {name}: {reply['error']}")
        return reply["result"]

    def __getattr__(self, name: str):
        if name not in Emulator.CONTROLS:
            raise AttributeError(name)
        return functools.partial(self.order, name)

    def pause(self) -> None:
        """Its process stands still when this returns."""
        os.kill(self.pid, signal.SIGSTOP)
        stat = Path(f"/proc/{self.pid}/stat")
        while stat.read_text("ascii").rpartition(") ")[2][0] != "T":
            time.sleep(0.001)

    def resume(self) -> None:
        os.kill(self.pid, signal.SIGCONT)

    def end(self) -> None:
        if self._process.poll() is None:
            self.resume()
        self.code = _end(self._process, 5)
        _remove_folder(self._log.parent)


def catch_up(home: Region, other: Region) -> None:
    """Brings the other region's replica what home's key has got by a rotation."""
    other.import_key(other.region, home.export_key(home.arn))


@contextlib.contextmanager
def two_regions(tls: Pair | None = None, names: tuple[str, str] = (REGION, SECOND),
                **attributes) -> Iterator[tuple[Region, Region]]:
    """Home, which has the primary key, and the region of its replica, which has the attributes."""
    with Region(names[0], tls) as home, Region(names[1], tls) as other:
        home.arn = home.add_key(home.region, ACCOUNT, MULTI_REGION_ID)
        other.arn = other.import_key(other.region, home.export_key(home.arn), **attributes)
        home.import_key(home.region, other.export_key(other.arn))       # that there is a replica
        yield home, other
