"""Sending and receiving under a clock: a client that is slow or gone keeps nothing for itself."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from typing import Any, TypeVar

import anyio
import numpy as np
from numpy.typing import NDArray
from starlette.types import Message, Receive, Scope

from .. import audio
from .limits import Limits
from .problems import Gone, Problem

T = TypeVar("T")

ABORT = "wavernn_fast.abort"  # key of a scope: ends the connection without flushing
BLOCK = 2**16  # bytes of a body handed to the transport at once


async def beside(work: Coroutine[Any, Any, T], watch: Coroutine[Any, Any, Any]) -> T:
    """Run `work`; `watch`, which ends only by an error, ends it with that error.

    Whatever happens, both have ended when this returns.
    """
    worker, watcher = asyncio.ensure_future(work), asyncio.ensure_future(watch)
    both: set[asyncio.Future[Any]] = {worker, watcher}
    try:
        await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        if worker.done():  # also where both end together: the work is whole
            return worker.result()
        watcher.result()
        raise Gone
    finally:
        for task in both:
            task.cancel()
        await asyncio.gather(*both, return_exceptions=True)


async def give(sending: Awaitable[None], limits: Limits, abort: Callable[[], None]) -> None:
    """Await a send; a client that takes nothing for `limits.stall` seconds is dropped.

    Raises
    ------
    Gone
        After the connection was cut.
    """
    with anyio.move_on_after(limits.stall) as clock:
        await sending
    if clock.cancelled_caught:
        await cut(abort)
        raise Gone


async def cut(abort: Callable[[], None]) -> None:
    """End a connection and let the server notice."""
    abort()
    await asyncio.sleep(0)


async def read_body(scope: Scope, receive: Receive, limits: Limits) -> bytes:
    """Receive a whole body, never more than `limits.max_body` bytes of it.

    Raises
    ------
    Problem
        413 as soon as it is too large, by its header or by what came; 408 where nothing comes.
    Gone
        If the client leaves.
    """
    declared = header(scope, b"content-length")
    if declared.isdigit() and int(declared) > limits.max_body:
        raise _too_large(limits)
    data = bytearray()
    more = True
    while more:
        message = await _within(receive, limits)
        if message["type"] == "http.disconnect":
            raise Gone
        data += message.get("body", b"")
        if len(data) > limits.max_body:
            raise _too_large(limits)
        more = message.get("more_body", False)
    return bytes(data)


async def until_disconnect(receive: Receive) -> None:
    """Wait for the client to leave.

    Raises
    ------
    Gone
        When it has.
    """
    while (await receive())["type"] != "http.disconnect":
        pass
    raise Gone


def aborter(scope: Scope) -> Callable[[], None]:
    """Function that cuts the connection of a scope; does nothing where the server has none."""
    found: Callable[[], None] = scope.get(ABORT, lambda: None)
    return found


def header(scope: Scope, name: bytes) -> str:
    """Value of a header, or "" where it is missing or given more than once."""
    values = [value for key, value in scope["headers"] if key == name]
    return values[0].decode("latin-1") if len(values) == 1 else ""


def pcm(chunk: NDArray[np.float32], encoding: str) -> bytes:
    """Samples of a chunk: "f32le", or 16 bits for every other name."""
    return audio.quantize(chunk, "FLOAT" if encoding == "f32le" else "PCM_16")


def blocks(data: bytes) -> Iterator[bytes]:
    """Pieces of a body that a slow client is waited for after each."""
    for first in range(0, len(data), BLOCK):
        yield data[first : first + BLOCK]


async def _within(receive: Receive, limits: Limits) -> Message:
    with anyio.move_on_after(limits.idle):
        return await receive()
    raise Problem(408, f"No byte of the body came for {limits.idle:g} s.")


def _too_large(limits: Limits) -> Problem:
    return Problem(413, f"The body is larger than the {limits.max_body} bytes that are taken.")
