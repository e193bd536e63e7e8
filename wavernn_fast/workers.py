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
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, Protocol, TypeVar

from .devices import Device
from .errors import WaveRNNError
from .lanes import Tally, let_signals_in

if TYPE_CHECKING:
    from . import _C

_WAIT_SECONDS = 0.1  # at most between two looks at Ctrl-C, which may come to any thread
_ITERATOR_SECONDS = 0.5  # that an iterator at work is waited for by who gives up

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
    """What an iterator yields, each to one of several threads, until `stop`."""

    def __init__(self, items: Iterator[Work], stop: threading.Event) -> None:
        self._items, self._stop, self._lock = items, stop, threading.Lock()
        self._asking: threading.Thread | None = None
        self.error: BaseException | None = None  # of the iterator, which is no device's fault

    def asked_by(self, threads: Iterable[threading.Thread]) -> bool:
        """Whether the iterator is at work for one of these threads, or waits for something."""
        asking = self._asking
        return asking is not None and asking in threads

    def __next__(self) -> Work:
        while not self._lock.acquire(timeout=_WAIT_SECONDS):  # by who may wait for the iterator
            self._heed()
        try:
            self._heed()
            self._asking = threading.current_thread()
            try:
                item = next(self._items)
            except StopIteration:
                raise
            except BaseException as error:
                self.error = error
                raise _StoppedError from error
            finally:
                self._asking = None
            self._heed()
            return item
        finally:
            self._lock.release()

    def _heed(self) -> None:
        if self.error is not None or self._stop.is_set():
            raise _StoppedError


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
        The longest first. It runs on the devices' threads, one at a time. Who gives up does not
        wait for it, where it waits for something itself; its thread ends when it yields.
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
    stop = threading.Event()
    shared = _Shared(items, stop)

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
        yield from _follow(messages, devices, shared, threads)
    finally:  # on an error here, such as Ctrl-C, the devices stop too
        stop.set()
        _wait_for([one for one in threads if one.ident is not None], shared)


def _wait_for(threads: Sequence[threading.Thread], shared: _Shared[Any]) -> None:
    """Wait until threads that were told to stop have ended; `threads` have been started.

    Not for one that waits in the iterator, which may have nothing to give for ever: it ends when
    the iterator yields, and takes nothing then.
    """
    left, patience = list(threads), _ITERATOR_SECONDS
    while left:
        left[0].join(_WAIT_SECONDS)
        left = [one for one in left if one.is_alive()]
        if len(left) == 1 and shared.asked_by(left):
            patience -= _WAIT_SECONDS
            if patience <= 0:
                return


def _follow(
    messages: queue.SimpleQueue[Tally | _Failure | None],
    devices: Sequence[Device],
    shared: _Shared[Any],
    threads: Sequence[threading.Thread],
) -> Iterator[Tally]:
    """Follow the devices until all have ended; raises the first failure then.

    After a failure not until the iterator gives something to the last of them.
    """
    failures, left = list[_Failure](), len(devices)
    several = len({device.name for device in devices}) > 1
    while left:
        try:
            message = messages.get(timeout=_WAIT_SECONDS)
        except queue.Empty:
            if failures and left == 1 and shared.asked_by(threads):
                break
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
