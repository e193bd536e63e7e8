"""Several engines in one process, or groups of streams that take turns on one of them.

Each has a thread, and there is one queue of work for all. An engine takes the next piece of work (a
lane, or an utterance of a subscale model) when it has a place for it, so a faster device draws
more. Which device draws it does not show: a stream is a state on the host, and devices of one kind
compute the same.
"""

from __future__ import annotations

import dataclasses
import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, Protocol, TypeVar

from .devices import Device
from .errors import WaveRNNError
from .lanes import Tally, let_signals_in

if TYPE_CHECKING:
    from . import _C

_WAIT_SECONDS = 0.1  # at most between two looks at Ctrl-C, which may come to any thread


Work = TypeVar("Work")
_Work = TypeVar("_Work", contravariant=True)


class Draw(Protocol[_Work]):
    """Draws every piece of work of a queue to its end, such as `lanes.draw_lanes`."""

    def __call__(
        self,
        engine: _C.Engine,
        queue: Iterator[_Work],
        *,
        slots: int,
        interrupt: Callable[[], None] | None = ...,
    ) -> Iterator[Tally]:
        """See `lanes.draw_lanes`."""
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
        self.error: BaseException | None = None  # of the iterator, which is no device's fault

    def __next__(self) -> Work:
        with self._lock:
            if self.error is not None:
                raise _StoppedError
            try:
                return next(self._items)
            except StopIteration:
                raise
            except BaseException as error:
                self.error = error
                raise _StoppedError from error


def draw_on_devices(
    devices: Sequence[Device],
    items: Iterator[Work],
    draw: Draw[Work],
    *,
    slots: Sequence[int],
) -> Iterator[Tally]:
    """Draw all work to its end, on whichever device has a place for it.

    Parameters
    ----------
    devices : sequence of Device
        One or more; the same one again for another group of streams on it.
    items : iterator
        The longest first. It runs on the devices' threads, one at a time.
    draw : callable
        Does the work of a queue on one engine.
    slots : sequence of int
        Places of each device.

    Yields
    ------
    Tally
        Of every slice of every device, on this thread; their `engine_seconds` add up to the mean
        of the devices. What is given up half-way stops the devices.

    Raises
    ------
    WaveRNNError
        Of the kind that stopped a device, naming it where there are several. The others have been
        stopped then.
    """
    messages: queue.SimpleQueue[Tally | _Failure | None] = queue.SimpleQueue()
    stop, shared = threading.Event(), _Shared(items)

    def heed() -> None:
        let_signals_in()
        if stop.is_set():
            raise _StoppedError

    def work(device: Device, places: int) -> None:
        try:
            for part in draw(device.engine, shared, slots=places, interrupt=heed):
                messages.put(part)
        except BaseException as error:
            stop.set()
            messages.put(_Failure(device, error))
        else:
            messages.put(None)

    threads = [
        threading.Thread(target=work, args=pair, name=f"wavernn_fast {pair[0].name}", daemon=True)
        for pair in zip(devices, slots, strict=True)
    ]
    try:
        for thread in threads:
            thread.start()
        yield from _follow(messages, devices, shared)
    finally:  # on an error here, such as Ctrl-C, the devices stop too
        stop.set()
        for thread in threads:
            if thread.ident is not None:  # the system may have refused to start it
                thread.join()


def _follow(
    messages: queue.SimpleQueue[Tally | _Failure | None],
    devices: Sequence[Device],
    shared: _Shared[Any],
) -> Iterator[Tally]:
    """Follow the devices until all have ended; raises the first failure then."""
    failures, left = list[_Failure](), len(devices)
    several = len({device.name for device in devices}) > 1
    while left:
        try:
            message = messages.get(timeout=_WAIT_SECONDS)
        except queue.Empty:
            continue
        if isinstance(message, Tally):
            if not failures:
                yield dataclasses.replace(
                    message, engine_seconds=message.engine_seconds / len(devices)
                )
            continue
        left -= 1
        if message is not None:
            failures.append(message)
    if shared.error is not None:
        raise shared.error
    for device, error in failures:
        if isinstance(error, WaveRNNError) and several:
            raise type(error)(
                f"Device {device.name} ({device.engine.isa}) failed, and the batch was stopped on "
                f"all devices: {error}"
            ) from error
        if not isinstance(error, _StoppedError):
            raise error
