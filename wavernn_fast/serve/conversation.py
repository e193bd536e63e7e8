"""WebSocket ``/v1/stream``: frames in as they are made, audio out as it is made.

The client says hello with one JSON text; the server answers "ready" when a place is free. Then the
client sends binary messages, float32 little-endian [n, n_mels], and the text ``{"end": true}``; or,
where the hello has ``"input": "file"``, one binary message with a .npy mel or a recording. Audio
comes back in binary messages, last a JSON text of type "end" with figures, and close code 1000.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Awaitable
from typing import Any, Literal

import anyio
import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, StrictBool, ValidationError
from starlette.types import Message
from starlette.websockets import WebSocket, WebSocketDisconnect

from .bodies import checked, frames_of, read_input
from .engine import Utterance, Wish
from .problems import Gone, Problem, as_problem, sentence_of
from .service import Service
from .wire import aborter, beside, give, pcm

_MAX_TEXT = 4096  # bytes of a text message
_MAX_REASON = 123  # bytes of a close reason, as a control frame has room for


class Hello(BaseModel):
    """First message of a client."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    seed: int = Field(default=0, ge=0, le=2**64 - 1, strict=True)
    temperature: float = Field(default=1.0, gt=0.0, le=100.0)
    greedy: StrictBool = False
    format: Literal["s16le", "f32le"] = "s16le"
    input: Literal["frames", "file"] = "frames"


class Conversation:
    """One WebSocket.

    Parameters
    ----------
    service : Service
    socket : WebSocket
        Not accepted yet.
    request_id : str
    """

    def __init__(self, service: Service, socket: WebSocket, request_id: str) -> None:
        self._service, self._socket, self._id = service, socket, request_id
        self._abort = aborter(socket.scope)
        self._hello = Hello()
        self._utterance: Utterance | None = None
        self._early: list[NDArray[np.float32]] = []  # frames that came before there was a place
        self._complete = False  # no more input comes
        self._bytes = self._frames = 0  # of all input
        self._heard = 0.0  # when the client last did, or could not do, something
        self._warning = ""

    async def run(self) -> int:
        """Hold the conversation; returns its close code."""
        try:
            await self._socket.accept()
            with self._service.hall.enter(), anyio.fail_after(self._service.limits.timeout):
                self._hello = await self._greeting()
                await beside(self._work(), self._listen())
            return await self._close(1000, "")
        except (Gone, WebSocketDisconnect):
            return 1006
        except TimeoutError:
            return await self._fail(Problem(504, "This stream took longer than one may take."))
        except Exception as error:
            return await self._fail(as_problem(error, self._id))

    # --- out ---

    async def _work(self) -> None:
        wish = Wish(self._hello.seed, self._hello.temperature, self._hello.greedy)
        async with self._service.hall.place():
            with self._service.sounding(wish) as utterance:
                await self._say({"type": "ready", **self._facts()})
                self._begin(utterance)
                async for chunk in utterance.chunks():
                    self._heard = anyio.current_time()
                    await self._give(self._socket.send_bytes(pcm(chunk, self._hello.format)))
        figures = self._service.summary(utterance)
        await self._say({"type": "end", **figures, "warning": self._warning or None})

    def _begin(self, utterance: Utterance) -> None:
        """From now on frames go to the engine; those that came early do first."""
        self._utterance, self._heard = utterance, anyio.current_time()
        for frames in self._early:
            utterance.push(frames)
        self._early.clear()
        if self._complete:
            utterance.finish()

    def _facts(self) -> dict[str, Any]:
        config = self._service.config
        return {
            "id": self._id,
            "format": self._hello.format,
            **{
                name: getattr(config, name)
                for name in ("sample_rate", "hop_length", "n_mels", "lookahead_frames")
            },
        }

    async def _say(self, content: dict[str, Any]) -> None:
        await self._give(self._socket.send_text(json.dumps(content)))

    async def _give(self, sending: Awaitable[None]) -> None:
        await give(sending, self._service.limits, self._abort)

    async def _fail(self, problem: Problem) -> int:
        content: dict[str, Any] = {"type": "error", "error": problem.sentence, "id": self._id}
        if problem.retry_after is not None:
            content["retry_after"] = problem.retry_after
        code = problem.close_code
        if problem.status == 503 and self._service.hall.dead:
            code = 1011  # it will not come back by itself
        with contextlib.suppress(Gone, WebSocketDisconnect, RuntimeError):
            await self._say(content)
            return await self._close(code, problem.sentence)
        return code

    async def _close(self, code: int, reason: str) -> int:
        short = reason.encode()[:_MAX_REASON].decode(errors="ignore")
        with contextlib.suppress(Gone, WebSocketDisconnect, RuntimeError):
            await self._give(self._socket.close(code, short))
        return code

    # --- in ---

    async def _greeting(self) -> Hello:
        with anyio.move_on_after(self._service.limits.idle):
            message = await self._socket.receive()
            text = self._text(message)
            if text is None:
                raise Problem(422, "The first message must be a JSON text; see the documentation.")
            try:
                return Hello.model_validate_json(text)
            except ValidationError as error:
                raise Problem(422, sentence_of(error.errors())) from error
        raise Problem(408, f"No first message came for {self._service.limits.idle:g} s.")

    async def _listen(self) -> None:
        """Take messages until the client leaves or breaks a rule; ends by raising only."""
        while True:
            message = await self._next()
            text = self._text(message)
            if text is None:
                await self._take(message.get("bytes") or b"")
            else:
                self._end(text)
            await asyncio.sleep(0)  # many messages may be there: others have their turn as well

    async def _next(self) -> Message:
        idle = self._service.limits.idle
        while True:
            with anyio.move_on_after(min(1.0, idle / 4)):
                message = await self._socket.receive()
                self._heard = anyio.current_time()
                return message
            if self._is_awaited() and anyio.current_time() - self._heard > idle:
                raise Problem(408, f"No message came for {idle:g} s; the stream has been ended.")

    def _is_awaited(self) -> bool:
        """Whether it is the client's turn: it has a place, and has not said that this is all."""
        utterance = self._utterance
        return utterance is not None and not self._complete and not utterance.backlog

    def _text(self, message: Message) -> str | None:
        """Text of a message, None for bytes."""
        if message["type"] == "websocket.disconnect":
            raise Gone
        text: str | None = message.get("text")
        if text is not None and len(text) > _MAX_TEXT:
            raise Problem(413, f"A text message is longer than {_MAX_TEXT} characters.")
        return text

    def _end(self, text: str) -> None:
        try:
            is_end = json.loads(text) == {"end": True}
        except (ValueError, RecursionError):
            is_end = False
        if not is_end:
            raise Problem(422, 'The only text message after the first is {"end": true}.')
        self._finish()

    def _finish(self) -> None:
        self._complete = True
        if self._utterance is not None:
            self._utterance.finish()

    async def _take(self, data: bytes) -> None:
        service = self._service
        if self._complete:
            raise Problem(422, "More input came after the end.")
        self._bytes += len(data)
        if self._bytes > service.limits.max_body:
            raise Problem(413, f"More than the {service.limits.max_body} bytes that are taken.")
        if self._hello.input == "file":
            given = await service.running.decode(
                read_input, data, None, service.config, service.limits
            )
            self._warning = given.warning
            self._push(given.mel)
            self._finish()
            return
        before = self._frames * service.config.hop_length / service.config.sample_rate
        frames = frames_of(data, service.config.n_mels)
        self._push(checked(frames, service.config, service.limits, before).mel)

    def _push(self, mel: NDArray[np.float32]) -> None:
        self._frames += mel.shape[1]
        if self._utterance is None:
            self._early.append(mel)
        else:
            self._utterance.push(mel)
