"""A real server on the loopback interface, in a thread, and small clients for it."""

from __future__ import annotations

import io
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any

import httpx
import numpy as np
import recordings
import soundfile
from cases import random_tensors
from websockets.sync.client import ClientConnection, connect

from wavernn_fast.serve import Limits, create_app
from wavernn_fast.serve.admission import Hall
from wavernn_fast.serve.run import listen, server_of
from wavernn_fast.vocoder import Vocoder

CONFIG = recordings.config(32)  # 8 kHz, 8 bins, 40 samples a frame
RATE, HOP, N_MELS = CONFIG.sample_rate, CONFIG.hop_length, CONFIG.n_mels
WAIT = 120.0  # seconds that anything may take; many, for a busy machine
END = '{"end": true}'
LONG = 20_000  # frames: 100 s of audio, which no buffer between the engine and a client holds


@cache
def vocoder() -> Vocoder:
    """A small vocoder of random weights with a mel convention."""
    return Vocoder(CONFIG, random_tensors(CONFIG), cpu_threads=1)


def mel(n_frames: int, seed: int = 0) -> np.ndarray:
    """Frames within the convention: float32 [8, n_frames]."""
    return np.random.default_rng(seed).uniform(0.1, 0.8, (N_MELS, n_frames)).astype(np.float32)


def npy(array: np.ndarray) -> bytes:
    target = io.BytesIO()
    np.save(target, array)
    return target.getvalue()


def recording(wave: np.ndarray, rate: int = RATE, form: str = "WAV", subtype: str = "PCM_16"):
    target = io.BytesIO()
    soundfile.write(target, wave, rate, format=form, subtype=subtype)
    return target.getvalue()


def until(condition: Callable[[], Any], seconds: float = WAIT) -> float:
    """Wait for something; returns how long it took."""
    begun = time.monotonic()
    while not condition():
        assert time.monotonic() - begun < seconds, "it never came"
        time.sleep(0.005)
    return time.monotonic() - begun


@dataclass
class Running:
    """A server that runs."""

    app: Any
    port: int
    server: Any
    thread: threading.Thread

    @property
    def hall(self) -> Hall:
        return self.app.state.hall

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def request(self, method: str, path: str, **options: Any) -> httpx.Response:
        with httpx.Client(trust_env=False, timeout=WAIT) as client:
            return client.request(method, self.url + path, **options)

    def vocode(self, body: bytes, kind: str = "application/octet-stream", **query: Any):
        headers = {"Content-Type": kind}
        return self.request("POST", "/v1/vocode", content=body, params=query, headers=headers)

    def socket(self, **options: Any) -> ClientConnection:
        address = f"ws://127.0.0.1:{self.port}/v1/stream"
        options = {"open_timeout": WAIT, "close_timeout": WAIT, "max_size": 2**26} | options
        return connect(address, proxy=None, **options).__enter__()

    def raw(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), WAIT)

    def metric(self, name: str) -> float:
        """Value of a metric, 0 where it does not exist yet."""
        lines = self.request("GET", "/metrics").text.splitlines()
        values = [float(line.rpartition(" ")[2]) for line in lines if line.startswith(name + " ")]
        return values[0] if values else 0.0


@contextmanager
def running(
    voc: Vocoder | None = None, *, pool: Any = None, voice: str | None = None, **limits: Any
) -> Iterator[Running]:
    """Serve until the end of the block."""
    bounds = Limits(**limits)
    app = create_app(voc or vocoder(), bounds, voice=voice, pool=pool)
    listener = listen("127.0.0.1", 0, bounds.stall)
    port = listener.getsockname()[1]
    started = threading.Event()
    server = server_of(app, started.set)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    try:
        assert started.wait(WAIT)
        yield Running(app, port, server, thread)
    finally:
        server.should_exit = True
        thread.join(WAIT)
        assert not thread.is_alive(), "the server does not end"


def hello(socket: ClientConnection, **fields: Any) -> dict[str, Any]:
    """Begin a stream; returns the answer, whatever it is."""
    socket.send(json.dumps(fields))
    return json.loads(socket.recv(WAIT))


def pieces(frames: np.ndarray, size: int) -> Iterator[bytes]:
    """Messages of at most `size` frames of a mel [n_mels, n]."""
    for first in range(0, frames.shape[1], size):
        yield frames[:, first : first + size].T.astype("<f4").tobytes()


def rest(socket: ClientConnection, dtype: str = "<f4") -> tuple[np.ndarray, dict[str, Any]]:
    """Audio up to the next text, and that text."""
    chunks = []
    while not isinstance(message := socket.recv(WAIT), str):
        chunks.append(np.frombuffer(message, dtype))
    return np.concatenate([np.zeros(0, dtype), *chunks]), json.loads(message)


def close_code(socket: ClientConnection) -> int | None:
    """Close code, once whatever comes before it has come."""
    from websockets.exceptions import ConnectionClosed

    try:
        while True:
            socket.recv(WAIT)
    except ConnectionClosed:
        return socket.close_code


def ask(server: Running, frames: np.ndarray, size: int = 1000, **fields) -> np.ndarray:
    """A whole conversation; returns the audio."""
    dtype = "<f4" if fields.get("format") == "f32le" else "<i2"
    with server.socket() as client:
        assert hello(client, **fields)["type"] == "ready"
        for piece in pieces(frames, size):
            client.send(piece)
        client.send(END)
        wave, last = rest(client, dtype)
        assert last["type"] == "end", last
        assert last["samples"] == len(wave)
        assert close_code(client) == 1000
    return wave


def refused(client, code: int, words: str = "") -> None:
    """An error message and its close code, with the same sentence."""
    _, message = rest(client)
    assert message["type"] == "error"
    assert words in message["error"]
    assert "Traceback" not in message["error"]
    assert close_code(client) == code
    # as much of it as a close frame has room for
    assert client.close_reason == message["error"].encode()[:123].decode(errors="ignore")
