"""The service over WebSocket: frames in, audio out, and everything a client may do wrong."""

from __future__ import annotations

import json
import socket as sockets
import struct
import threading
import time

import numpy as np
import pytest
import recordings
from patience import soon, within
from serving import (
    CONFIG,
    END,
    HOP,
    LONG,
    N_MELS,
    RATE,
    WAIT,
    Running,
    ask,
    close_code,
    hello,
    mel,
    npy,
    pieces,
    recording,
    refused,
    rest,
    running,
    until,
    vocoder,
)

from wavernn_fast.audio import quantize
from wavernn_fast.features import log_mel


@pytest.fixture(scope="module")
def server():
    with running(max_seconds=3600, idle=2.5) as found:
        yield found


# --- audio ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 7, 100])
def test_frames_give_the_samples_of_generate(server: Running, size: int):
    frames = mel(61)
    wave = ask(server, frames, size, seed=2**64 - 1, temperature=0.8, format="f32le")
    expected = vocoder().generate(frames, seed=2**64 - 1, temperature=0.8)
    assert wave.astype(np.float32).tobytes() == expected.tobytes()


def test_sixteen_bits_are_the_default(server: Running):
    wave = ask(server, mel(20), seed=1, greedy=True)
    assert wave.tobytes() == quantize(vocoder().generate(mel(20), greedy=True), "PCM_16")


def test_no_frames_give_no_audio(server: Running):
    assert len(ask(server, mel(0))) == 0


def test_audio_comes_before_the_mel_has_ended(server: Running):
    with server.socket() as client:
        assert hello(client)["lookahead_frames"] == CONFIG.lookahead_frames
        client.send(next(pieces(mel(CONFIG.lookahead_frames + 1), 100)))
        assert len(client.recv(WAIT)) == 2 * HOP


@pytest.mark.parametrize("kind", ["npy", "wav"])
def test_one_file_takes_the_place_of_frames(server: Running, kind: str):
    wave = np.round(recordings.tone(0.3) * 32767) / 32768
    frames = log_mel(wave.astype(np.float32), CONFIG.mel)
    with server.socket() as client:
        assert hello(client, input="file", format="f32le", seed=4)["type"] == "ready"
        client.send(npy(frames) if kind == "npy" else recording(wave.astype(np.float32)))
        found, last = rest(client)
    assert found.tobytes() == vocoder().generate(frames, seed=4).tobytes()
    assert last["warning"] is None
    assert last["audio_seconds"] == pytest.approx(len(found) / RATE, abs=1e-5)
    assert last["real_time_factor"] > 0
    assert last["first_chunk_ms"] > 0


def test_frames_may_come_before_there_is_a_place():
    with running(max_streams=1, max_queue=1) as server, server.socket() as first:
        assert hello(first)["type"] == "ready"
        with server.socket() as second:
            second.send('{"format": "f32le"}')
            for piece in pieces(mel(30), 10):
                second.send(piece)
            second.send(END)
            until(lambda: server.hall.waiting == 1)
            first.close()
            assert json.loads(second.recv(WAIT))["type"] == "ready"
            found, _ = rest(second)
    assert found.tobytes() == vocoder().generate(mel(30)).tobytes()


# --- what a client may do wrong -------------------------------------------------------------------

HELLOS = {
    "no json": ("{seed: 1", "Invalid JSON"),
    "no object": ("[1, 2]", "object"),
    "other field": ('{"speed": 2}', "speed"),
    "long field": (f'{{"x{"ä" * 200}": 2}}', "Extra inputs"),  # a close reason has 123 bytes
    "path": ('{"model": "/etc/passwd"}', "model"),
    "seed": ('{"seed": -1}', "seed"),
    "seed of 2^64": ('{"seed": 18446744073709551616}', "seed"),
    "seed as text": ('{"seed": "1"}', "seed"),
    "temperature": ('{"temperature": 0}', "temperature"),
    "infinite": ('{"temperature": Infinity}', "temperature"),
    "format": ('{"format": "mp3"}', "format"),
    "input": ('{"input": "url"}', "input"),
    "brackets": ("[" * 4000, "JSON"),
}


@pytest.mark.parametrize("name", HELLOS)
def test_a_hello_that_cannot_be_used_is_refused(server: Running, name: str):
    text, words = HELLOS[name]
    with server.socket() as client:
        client.send(text)
        refused(client, 1007, words)


def test_a_hello_in_bytes_is_refused(server: Running):
    with server.socket() as client:
        client.send(b"\0\0\0\0")
        refused(client, 1007, "first message")


@pytest.mark.parametrize(
    ("message", "code", "words"),
    [
        (b"\0\0\0", 1007, "no whole frames"),
        (b"", 1007, "no whole frames"),
        (bytes(4 * N_MELS - 4), 1007, "32 bytes"),
        (np.full(N_MELS, np.nan, "<f4").tobytes(), 1007, "NaN"),
        ("hello", 1007, "only text"),
        ('{"end": false}', 1007, "only text"),
        ("x" * 5000, 1009, "text message"),
    ],
)
def test_a_message_that_cannot_be_used_ends_the_stream(server: Running, message, code, words):
    with server.socket() as client:
        hello(client)
        client.send(message)
        refused(client, code, words)
    until(lambda: server.hall.live == 0)


def test_input_after_the_end_is_refused(server: Running):
    with server.socket() as client:
        hello(client)
        client.send(next(pieces(mel(2000), 2000)))
        client.send(END)
        client.send(next(pieces(mel(5), 5)))
        refused(client, 1007, "after the end")


def test_more_audio_and_more_bytes_than_are_taken_are_refused():
    with running(max_seconds=1.0, max_body=7000) as server:
        with server.socket() as client:
            hello(client)
            for piece in pieces(mel(201), 100):  # 200 frames are a second
                client.send(piece)
            refused(client, 1009, "1 s of audio")
        with server.socket() as client:
            hello(client)
            client.send(bytes(7001))
            assert close_code(client) == 1009  # by the protocol, before it is in memory
        with server.socket() as client:
            hello(client, input="file")
            client.send(recording(np.zeros(3000)))
            assert rest(client, "<i2")[1]["type"] == "end"


@pytest.mark.slow
@soon
def test_a_silent_client_is_ended(server: Running):
    with server.socket() as client:
        refused(client, 1008, "No first message")
    with server.socket() as client:
        hello(client)
        client.send(next(pieces(mel(10), 10)))
        begun = time.monotonic()
        refused(client, 1008, "No message came for 2.5 s")
        ended = time.monotonic()
    until(lambda: server.hall.inside == 0)
    within(5.0, begun, ended)


@pytest.mark.slow
def test_a_client_that_takes_its_turn_may_be_slow(server: Running):
    with server.socket() as client:
        hello(client)
        for piece in pieces(mel(50), 10):
            client.send(piece)
            time.sleep(0.75)  # one and a half times `idle` in all
        client.send(END)
        assert rest(client, "<i2")[1]["samples"] == 50 * HOP


@pytest.mark.slow
def test_a_client_may_send_everything_at_once_and_be_far_ahead(server: Running):
    with server.socket() as client:
        hello(client, format="f32le")
        for piece in pieces(mel(LONG), 10_000):  # 100 s
            client.send(piece)
        client.send(END)
        wave, _ = rest(client)
    assert len(wave) == LONG * HOP


@pytest.mark.slow
def test_a_stream_that_takes_too_long_is_ended():
    with running(timeout=2.0) as server:
        with server.socket() as client:
            hello(client)
            refused(client, 1008, "took longer")
        until(lambda: server.hall.inside == 0)


# --- leaving --------------------------------------------------------------------------------------


def reset(client) -> None:
    """Leave as a killed program does: at once, with a reset."""
    raw = client.socket
    raw.setsockopt(sockets.SOL_SOCKET, sockets.SO_LINGER, struct.pack("ii", 1, 0))
    raw.shutdown(sockets.SHUT_RDWR)
    raw.close()


@pytest.mark.parametrize("way", ["close", "reset"])
@pytest.mark.parametrize("when", ["sounding", "silent", "waiting", "greeting"])
@soon
def test_a_client_that_leaves_frees_its_place_within_a_second(way: str, when: str):
    with running(max_streams=1, max_queue=2, max_seconds=3600) as server:
        pool = server.app.state.service.running._pool
        other = server.socket() if when == "waiting" else None
        if other:
            hello(other)
        client = server.socket()
        if when in ("sounding", "silent"):
            hello(client)
        if when == "sounding":
            client.send(next(pieces(mel(LONG), LONG)))
            client.recv(WAIT)
        if when == "waiting":
            client.send("{}")
        before = 1 if other else 0
        until(lambda: server.hall.inside == before + 1)
        if way == "close":
            threading.Thread(target=client.close, daemon=True).start()
        else:
            reset(client)
        began = time.monotonic()
        until(lambda: server.hall.inside == before)
        ended = time.monotonic()
        assert pool.stats()["streams"] == before
        if other:
            other.close()
    within(1.0, began, ended)


@pytest.mark.parametrize("stream", [True, False])
@soon
def test_an_http_client_that_leaves_frees_its_place_within_a_second(stream: bool):
    with running(max_streams=1, max_seconds=3600) as server:
        body = npy(mel(200_000))  # 1,000 s of audio
        client = server.raw()
        head = (
            f"POST /v1/vocode?stream={stream}&format=raw HTTP/1.1\r\nHost: localhost\r\n"
            f"Content-Type: application/x-npy\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        client.sendall(head.encode() + body)
        until(lambda: server.hall.live == 1)
        client.close()
        began = time.monotonic()
        until(lambda: server.hall.inside == 0)
        ended = time.monotonic()
        assert server.app.state.service.running._pool.stats()["streams"] == 0
    within(1.0, began, ended)
