"""``POST /v1/vocode``: a mel or a recording in the body, speech in the reply."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Any, Literal

import anyio
import numpy as np
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from .. import audio
from .bodies import Input, media_kind, read_input
from .engine import Wave, Wish
from .problems import Gone, Problem, as_problem
from .service import Service
from .wire import aborter, beside, blocks, cut, give, header, pcm, read_body, until_disconnect

Format = Literal["wav", "flac", "raw", "f32le"]
MEDIA_TYPES = {
    "wav": "audio/wav",
    "flac": "audio/flac",
    "raw": "application/octet-stream",
    "f32le": "application/octet-stream",
}


@dataclass(frozen=True)
class Order:
    """What a request asks for.

    Parameters
    ----------
    wish : Wish
    format : {"wav", "flac", "raw", "f32le"}
        Raw is 16-bit little-endian without a header.
    stream : bool
        Send the audio while it is being made.
    """

    wish: Wish
    format: Format
    stream: bool


def error_reply(problem: Problem, request_id: str) -> JSONResponse:
    """Reply of a request that failed."""
    headers = {"Connection": "close"}  # the rest of a body that nobody reads is not waited for
    if problem.retry_after is not None:
        headers["Retry-After"] = str(problem.retry_after)
    content = {"error": problem.sentence, "id": request_id}
    return JSONResponse(content, problem.status, headers)


class VocodeReply(Response):
    """Reads the body and replies; one object a request.

    A response by itself, because the place at the engine must be kept until the last byte is sent.
    """

    def __init__(self, service: Service, order: Order, request_id: str) -> None:
        self._service, self._order, self._id = service, order, request_id
        self._started = False
        self.background = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run the exchange; errors become replies, or cut a reply that has begun."""
        try:
            with self._service.hall.enter(), anyio.fail_after(self._service.limits.timeout):
                await self._exchange(scope, receive, send)
        except Gone:
            pass
        except TimeoutError:
            late = Problem(504, "This request took longer than a request may take.")
            await self._fail(late, scope, receive, send)
        except Exception as error:
            await self._fail(as_problem(error, self._id), scope, receive, send)

    async def _fail(self, problem: Problem, scope: Scope, receive: Receive, send: Send) -> None:
        if self._started:  # a client must not take half an utterance for a whole one
            await cut(aborter(scope))
            return
        with anyio.move_on_after(self._service.limits.stall):
            await error_reply(problem, self._id)(scope, receive, send)

    async def _exchange(self, scope: Scope, receive: Receive, send: Send) -> None:
        service = self._service
        kind = media_kind(header(scope, b"content-type"))
        data = await read_body(scope, receive, service.limits)
        given: Input = await service.running.decode(
            read_input, data, kind, service.config, service.limits
        )
        del data
        reply = self._stream if self._order.stream else self._whole
        await beside(reply(given, scope, send), until_disconnect(receive))

    # --- the two ways to reply ---

    async def _whole(self, given: Input, scope: Scope, send: Send) -> None:
        parts: list[Wave] = []
        async with self._service.hall.place():
            with self._service.sounding(self._order.wish) as utterance:
                utterance.push(given.mel)
                utterance.finish()
                async for chunk in utterance.chunks():
                    parts.append(chunk)
        wave = np.concatenate(parts) if parts else np.zeros(0, np.float32)
        body = await self._service.running.decode(self._encode, wave)
        headers = self._facts(given) | {
            "content-length": str(len(body)),
            **{
                f"x-{name.replace('_', '-')}": str(value)
                for name, value in self._service.summary(utterance).items()
                if value is not None
            },
        }
        await self._start(headers, send)
        for block in blocks(body):
            await self._send(block, scope, send)
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _stream(self, given: Input, scope: Scope, send: Send) -> None:
        config = self._service.config
        async with self._service.hall.place():
            with self._service.sounding(self._order.wish) as utterance:
                utterance.push(given.mel)
                utterance.finish()
                await self._start(self._facts(given), send)
                if self._order.format == "wav":
                    total = config.n_samples(given.mel.shape[1])
                    await self._send(audio.wav_header(total, config.sample_rate), scope, send)
                async for chunk in utterance.chunks():
                    await self._send(pcm(chunk, self._order.format), scope, send)
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    # --- bytes ---

    def _facts(self, given: Input) -> dict[str, str]:
        config = self._service.config
        samples = config.n_samples(given.mel.shape[1])
        headers = {
            "content-type": MEDIA_TYPES[self._order.format],
            "x-sample-rate": str(config.sample_rate),
            "x-samples": str(samples),
            "x-audio-seconds": str(round(samples / config.sample_rate, 6)),
        }
        if given.warning:
            headers["x-warning"] = given.warning.encode("ascii", "replace").decode()
        return headers

    def _encode(self, wave: Wave) -> bytes:
        """Body of a whole reply; runs in a thread."""
        rate, form = self._service.config.sample_rate, self._order.format
        body = pcm(wave, form)
        if form == "flac":
            return _flac(body, rate)
        return audio.wav_header(wave.size, rate) + body if form == "wav" else body

    async def _start(self, headers: dict[str, Any], send: Send) -> None:
        self._started = True
        pairs = [(name.encode(), value.encode("latin-1")) for name, value in headers.items()]
        await send({"type": "http.response.start", "status": 200, "headers": pairs})

    async def _send(self, body: bytes, scope: Scope, send: Send) -> None:
        message = {"type": "http.response.body", "body": body, "more_body": True}
        await give(send(message), self._service.limits, aborter(scope))


def _flac(samples: bytes, sample_rate: int) -> bytes:
    """16-bit little-endian samples as a FLAC file."""
    import soundfile

    target = io.BytesIO()
    values = np.frombuffer(samples, "<i2")
    soundfile.write(target, values, sample_rate, format="FLAC", subtype="PCM_16")
    return target.getvalue()
