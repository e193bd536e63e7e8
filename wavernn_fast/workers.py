"""Several engines in one process: a thread each, and one queue of lanes for all.

An engine takes the next lane when it has a place for it, so a faster device draws more. Which
device draws a lane does not show: a stream is a state on the host, and devices of one kind compute
the same.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from .devices import Device
from .errors import WaveRNNError
from .lanes import Lane, Tally, let_signals_in, run_lanes

_WAIT_SECONDS = 0.1  # at most between two looks at Ctrl-C, which may come to any thread


class _StoppedError(Exception):
    """Another device has failed, or the caller gives up."""


class _Failure(NamedTuple):
    device: Device
    error: BaseException


class _Shared(Iterator[Lane]):
    """The lanes of an iterator, each to one of several threads."""

    def __init__(self, lanes: Iterator[Lane]) -> None:
        self._lanes, self._lock = lanes, threading.Lock()

    def __next__(self) -> Lane:
        with self._lock:
            return next(self._lanes)


def run_on_devices(
    devices: Sequence[Device],
    lanes: Iterator[Lane],
    *,
    hop_length: int,
    slots: Sequence[int],
    on_samples: Callable[[int], None],
) -> Tally:
    """Draw every lane to its end, on whichever device has a place for it.

    Parameters
    ----------
    devices : sequence of Device
        One or more.
    lanes : iterator of Lane
        The longest first.
    slots : sequence of int
        Places of each device.
    on_samples : callable
        Called on this thread with the number of samples of every slice of every device.

    Returns
    -------
    Tally
        Of all devices together; `engine_seconds` is the mean of the devices.

    Raises
    ------
    WaveRNNError
        Of the kind that stopped a device, naming it. The others have been stopped then.
    """
    messages: queue.SimpleQueue[int | Tally | _Failure] = queue.SimpleQueue()
    stop, shared = threading.Event(), _Shared(lanes)

    def heed() -> None:
        let_signals_in()
        if stop.is_set():
            raise _StoppedError

    def work(device: Device, places: int) -> None:
        try:
            tally = run_lanes(
                device.engine,
                shared,
                hop_length=hop_length,
                slots=places,
                on_samples=messages.put,
                interrupt=heed,
            )
        except BaseException as error:
            stop.set()
            messages.put(_Failure(device, error))
        else:
            messages.put(tally)

    threads = [
        threading.Thread(target=work, args=pair, name=f"wavernn_fast {pair[0].name}", daemon=True)
        for pair in zip(devices, slots, strict=True)
    ]
    for thread in threads:
        thread.start()
    try:
        return _collect(messages, len(threads), on_samples)
    finally:  # on an error here, such as Ctrl-C, the devices stop too
        stop.set()
        for thread in threads:
            thread.join()


def _collect(
    messages: queue.SimpleQueue[int | Tally | _Failure],
    devices: int,
    on_samples: Callable[[int], None],
) -> Tally:
    """Follow the devices until all have ended; their sum, or the first failure."""
    total, failures, left = Tally(), list[_Failure](), devices
    while left:
        try:
            message = messages.get(timeout=_WAIT_SECONDS)
        except queue.Empty:
            continue
        if isinstance(message, int):
            if not failures:
                on_samples(message)
            continue
        left -= 1
        if isinstance(message, _Failure):
            failures.append(message)
            continue
        total.samples += message.samples
        total.place_steps += message.place_steps
        total.engine_seconds += message.engine_seconds / devices
    for device, error in failures:
        if isinstance(error, WaveRNNError):
            raise type(error)(
                f"Device {device.name} ({device.engine.isa}) failed, and the batch was stopped on "
                f"all devices: {error}"
            ) from error
        if not isinstance(error, _StoppedError):
            raise error
    return total
