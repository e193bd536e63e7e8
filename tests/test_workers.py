"""Threads that draw for several devices: what becomes of them where one cannot begin."""

from __future__ import annotations

import itertools
import threading
import time
from typing import Any

import pytest

from wavernn_fast.devices import Device
from wavernn_fast.workers import draw_on_devices


def test_a_thread_that_cannot_be_started_leaves_no_other_at_work(monkeypatch):
    """As under a limit of processes: the first would draw on to the end, for nobody."""
    threads: list[threading.Thread] = []
    start = threading.Thread.start

    def limited(thread: threading.Thread) -> None:
        if threads:
            raise RuntimeError("can't start new thread")
        threads.append(thread)
        start(thread)

    def draw(engine: Any, queue: Any, *, slots: int, interrupt: Any) -> Any:
        for _ in queue:
            interrupt()
            time.sleep(0.001)
        yield from ()

    monkeypatch.setattr(threading.Thread, "start", limited)
    devices = [Device(f"emu:{i}", None) for i in range(2)]  # type: ignore[arg-type]
    with pytest.raises(RuntimeError, match="can't start"):
        next(draw_on_devices(devices, itertools.count(), draw, slots=[1, 1]))
    assert not threads[0].is_alive()
