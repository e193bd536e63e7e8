"""Several engines in one process: a thread each, and one queue of work for all.

An engine takes the next piece of work (a lane, or an utterance of a subscale model) when it has a
place for it, so a faster device draws more. Which device draws it does not show: a stream is a
state on the host, and devices of one kind compute the same.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Generic, NamedTuple, Protocol, TypeVar

from .devices import Device
from .errors import WaveRNNError
from .lanes import Tally, let_signals_in

if TYPE_CHECKING:
    from . import _C

_WAIT_SECONDS = 0.1  # at most between two looks at Ctrl-C, which may come to any thread


Work = TypeVar("Work")
_Work = TypeVar("_Work", contravariant=True)


class Draw(Protocol[_Work]):
    """Draws every piece of work of a queue to its end, such as `lanes.run_lanes`."""

    def __call__(
        self,
        engine: _C.Engine,
        queue: Iterator[_Work],
        *,
        slots: int,
        on_samples: Callable[[int], None] | None = ...,
        interrupt: Callable[[], None] | None = ...,
    ) -> Tally:
        """See `lanes.run_lanes`."""
        ...


class _StoppedError(Exception):
    """Another device has failed, or the caller gives up."""


class _Failure(NamedTuple):
    device: Device
    error: BaseException


class _Shared(Iterator[Work], Generic[Work]):
    """What an iterator yields, each to one of several threads."""

    def __init__(self, items: Iterator[Work]) -> None:
        self._items, self._lock = items, threading.Lock()

    def __next__(self) -> Work:
        with self._lock:
            return next(self._items)


def run_on_devices(
    devices: Sequence[Device],
    items: Iterator[Work],
    draw: Draw[Work],
    *,
    slots: Sequence[int],
    on_samples: Callable[[int], None],
) -> Tally:
    """Draw all work to its end, on whichever device has a place for it.

    Parameters
    ----------
    devices : sequence of Device
        One or more.
    items : iterator
        The longest first.
    draw : callable
        Does the work of a queue on one engine.
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
    stop, shared = threading.Event(), _Shared(items)

    def heed() -> None:
        let_signals_in()
        if stop.is_set():
            raise _StoppedError

    def work(device: Device, places: int) -> None:
        try:
            tally = draw(
                device.engine, shared, slots=places, on_samples=messages.put, interrupt=heed
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
