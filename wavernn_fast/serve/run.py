"""Runs the application: one socket, signals that let streams end, an end with a dead engine."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import TYPE_CHECKING, Any

import uvicorn
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from ..errors import InputError
from .problems import logger
from .service import Service
from .wire import ABORT

if TYPE_CHECKING:
    from fastapi import FastAPI

_LOOK = 0.1  # seconds between looks at the hall
_LAST_WORDS = 1.0  # seconds in which a dead service still answers, so that who watches it sees why
_CUT = 1  # seconds that connections get to close after that
_KEEP_ALIVE = 5  # seconds that an idle connection is kept
_PING = 20.0  # seconds between pings of a WebSocket, and until one that is not answered is dropped
_SEND_BUFFER = 2**16  # bytes that the system keeps for a client that takes nothing, or twice that
_BACKLOG = 128  # connections that the system queues before they are accepted
_SPARE = 64  # connections beside those in the hall: health checks, pages, refusals


def listen(host: str, port: int, stall: float) -> socket.socket:
    """Bind a TCP socket; port 0 takes a free one.

    Connections on which sent data stays untaken for twice `stall` seconds are ended by the system,
    whatever this process does.

    Raises
    ------
    InputError
        If the address cannot be bound.
    """
    try:
        [family, kind, protocol, _, address], *_ = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        server = socket.socket(family, kind, protocol)
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        server.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER)  # else it grows
        if hasattr(socket, "TCP_USER_TIMEOUT"):
            server.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(2000 * stall))
        server.bind(address)
        server.listen(_BACKLOG)
    except OSError as error:
        raise InputError(
            f"The address {host!r} port {port} cannot be used ({error.strerror or error}); choose"
            " others with --host and --port."
        ) from error
    return server


def run(app: FastAPI, server: socket.socket, ready: Callable[[], None] | None = None) -> str:
    """Serve until SIGTERM, Ctrl-C or the death of the engine; blocks.

    Parameters
    ----------
    app : FastAPI
        From `create_app`.
    server : socket
        From `listen`.
    ready : callable, optional
        Called once requests are answered.

    Returns
    -------
    str
        Why the engine is dead; "" after a signal.

    Raises
    ------
    KeyboardInterrupt
        After a second Ctrl-C, which waits for nobody.
    """
    runner = server_of(app, ready)
    runner.run(sockets=[server])
    if runner.force_exit:
        raise KeyboardInterrupt
    dead: str = app.state.hall.dead
    return dead


def server_of(app: FastAPI, ready: Callable[[], None] | None = None) -> uvicorn.Server:
    """The server of an application, with everything set that its limits need."""
    service: Service = app.state.service
    limits = service.limits
    config = uvicorn.Config(
        _Cuttable(app),
        http=_http(limits.idle),
        ws="websockets-sansio",
        loop="asyncio",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        ws_max_size=limits.max_body,
        ws_per_message_deflate=False,  # a message that expands is no message
        ws_ping_interval=_PING,
        ws_ping_timeout=max(_PING, 2 * limits.stall),
        timeout_keep_alive=_KEEP_ALIVE,
        timeout_graceful_shutdown=_CUT,
        limit_concurrency=limits.max_streams + limits.max_queue + _SPARE,
    )
    return _Server(config, service, ready)


class _Server(uvicorn.Server):
    """uvicorn, but a signal first lets running streams end, and a dead engine ends it."""

    def __init__(
        self, config: uvicorn.Config, service: Service, ready: Callable[[], None] | None
    ) -> None:
        super().__init__(config)
        self._service, self._ready = service, ready
        self._signals = 0
        self._deadline: float | None = None  # on the clock of the loop

    async def main_loop(self) -> None:
        """Look after the hall until it is time to go."""
        if self._ready is not None:
            self._ready()
        watch = asyncio.ensure_future(self._watch())
        try:
            await super().main_loop()
        finally:
            watch.cancel()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin to drain; a second Ctrl-C ends at once."""
        self._signals += 1
        self._service.hall.draining = True
        if self._signals > 1 and sig == signal.SIGINT:
            self.should_exit = self.force_exit = True

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Handle signals here, and do not raise them again at the end: it was asked for."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {s: signal.signal(s, self.handle_exit) for s in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """End connections, and the application also where nobody is waited for."""
        await super().shutdown(sockets)
        if self.force_exit:
            await self.lifespan.shutdown()

    async def _watch(self) -> None:
        hall, clock = self._service.hall, asyncio.get_running_loop().time
        while not self.should_exit:
            patience = self._patience()
            if patience is not None:
                if self._deadline is None:
                    logger.warning(
                        "ending; %d requests are inside, %g s for them", hall.inside, patience
                    )
                    self._deadline = clock() + patience
                emptied = not hall.dead and not hall.inside
                self.should_exit = emptied or clock() >= self._deadline
            await asyncio.sleep(_LOOK)

    def _patience(self) -> float | None:
        """Seconds to go on for, or None as long as nothing is to end."""
        if not self._service.running.alive():
            return _LAST_WORDS
        return self._service.limits.drain if self._service.hall.draining else None


def _http(idle: float) -> type[H11Protocol]:
    """The protocol of uvicorn, but a connection that makes no request for `idle` seconds is cut.

    The server waits for a first request, and for the rest of a header, without end.
    """

    class Http(H11Protocol):
        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            self._look_again(None)

        def _look_again(self, seen: object) -> None:
            self.loop.call_later(idle, self._look, seen)

        def _look(self, seen: object) -> None:
            transport, cycle = self.transport, self.cycle
            if transport.is_closing() or transport.get_protocol() is not self:
                return  # gone, or a WebSocket by now
            if cycle is seen and (cycle is None or cycle.response_complete):
                transport.abort()
            else:
                self._look_again(cycle)

    return Http


class _Cuttable:
    """Tells the application how to cut a connection, which is no call of ASGI.

    Closing would wait for a client that takes nothing; this drops what it has not taken.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        transport = getattr(getattr(send, "__self__", None), "transport", None)  # uvicorn's

        def abort() -> None:
            if transport is not None:
                found = transport.get_extra_info("socket")
                if found is not None:  # with a reset the system drops what it holds as well
                    found.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                transport.abort()

        await self._app({**scope, ABORT: abort}, receive, send)
