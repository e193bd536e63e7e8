"""The service when it has too many clients, slow ones, and when it ends."""

from __future__ import annotations

import json
import socket as sockets
import struct
import time

import numpy as np
import pytest
from patience import soon, within
from serving import (
    END,
    HOP,
    LONG,
    WAIT,
    ask,
    close_code,
    hello,
    mel,
    npy,
    pieces,
    refused,
    rest,
    running,
    until,
    vocoder,
)  # fmt: skip

from wavernn_fast import live_rounds
from wavernn_fast.errors import DeviceError, EngineError

# --- too many -------------------------------------------------------------------------------------


def test_overload_is_told_to_try_again():
    with running(max_streams=2, max_queue=1, timeout=60) as server:
        clients = [server.socket() for _ in range(3)]
        for client in clients[:2]:
            hello(client)
        clients[2].send("{}")
        until(lambda: server.hall.inside == 3)
        reply = server.vocode(npy(mel(3)))
        assert reply.status_code == 429
        assert reply.headers["retry-after"] == "1"
        assert "queue is full" in reply.json()["error"]
        with server.socket() as late:
            _, message = rest(late)
            assert message["retry_after"] == 1
            assert close_code(late) == 1013
        assert server.request("GET", "/healthz").status_code == 200
        assert server.metric('wavernn_requests_total{route="/v1/stream",status="1013"}') == 1
        clients[0].close()
        assert json.loads(clients[2].recv(WAIT))["type"] == "ready"  # who waited is next
        for client in clients:
            client.close()
        until(lambda: server.hall.inside == 0)
        assert server.vocode(npy(mel(3))).status_code == 200


def test_a_place_that_never_comes_is_not_waited_for_longer_than_allowed():
    with running(max_streams=1, max_queue=1, timeout=0.5) as server, server.socket() as client:
        hello(client)
        reply = server.vocode(npy(mel(3)))
        assert reply.status_code in (200, 504)  # 200: the stream before it ran out first
        until(lambda: server.hall.inside == 0)


@pytest.mark.slow
def test_a_slow_client_slows_nobody_and_is_dropped():
    """It reads nothing: its buffers fill, it is left out, others go on, its place is free again."""
    with running(max_streams=4, max_seconds=3600, stall=5.0) as server:
        pool = server.app.state.service.running._pool
        slow = server.socket()
        hello(slow, format="f32le")
        slow.protocol_mutex.acquire()  # its thread reads nothing more, as a program that hangs
        slow.socket.sendall(frame_of(mel(LONG)))
        made = standing_still(server, pool)
        assert made < LONG * HOP * 0.9  # it was not made for nobody
        wave = ask(server, mel(4000), 4000, format="f32le")
        assert wave.astype(np.float32).tobytes() == vocoder().generate(mel(4000)).tobytes()
        assert pool.stats()["samples"] == made + len(wave)  # the engine worked for the other alone
        until(lambda: server.hall.inside == 0)  # dropped
        assert pool.stats()["streams"] == 0
        assert server.metric('wavernn_requests_total{route="/v1/stream",status="1006"}') == 1
        slow.protocol_mutex.release()
        slow.close()


def standing_still(server, pool) -> int:
    """Samples made once no more are: a stream also stalls for a moment while the loop is busy."""
    made, since = -1, time.monotonic()

    def still() -> bool:
        nonlocal made, since
        if pool.stats()["samples"] != made or server.metric("wavernn_streams_stalled") != 1:
            made, since = pool.stats()["samples"], time.monotonic()
        return time.monotonic() - since > 0.5

    until(still)
    return made


def frame_of(frames: np.ndarray) -> bytes:
    """One masked binary WebSocket frame, for a client that writes by itself."""
    data = frames.T.astype("<f4").tobytes()
    return b"\x82\xff" + struct.pack(">Q", len(data)) + bytes(4) + data


@pytest.mark.slow
def test_a_slow_http_client_is_dropped():
    with running(max_streams=1, max_seconds=3600, stall=2.0) as server:
        body = npy(mel(LONG))
        client = server.raw()
        head = (
            "POST /v1/vocode?stream=true&format=f32le HTTP/1.1\r\nHost: localhost\r\n"
            f"Content-Length: {len(body)}\r\n\r\n"
        )
        client.sendall(head.encode() + body)
        until(lambda: server.hall.live == 1)
        until(lambda: server.hall.inside == 0)
        client.settimeout(WAIT)
        with pytest.raises(ConnectionError):  # cut, not ended as if it were whole
            take_all(client)
        client.close()


def take_all(client: sockets.socket) -> None:
    while client.recv(2**16):
        pass


# --- the end --------------------------------------------------------------------------------------


def test_a_draining_service_ends_its_streams_and_takes_no_more():
    with running(max_seconds=3600, drain=20) as server:
        client = server.socket()
        hello(client, format="f32le")
        client.send(next(pieces(mel(400), 400)))
        server.hall.draining = True
        health = server.request("GET", "/healthz")
        assert (health.status_code, health.json()) == (503, {"status": "draining"})
        reply = server.vocode(npy(mel(3)))
        assert reply.status_code == 503
        assert reply.headers["retry-after"] == "10"
        with server.socket() as late:
            refused(late, 1012, "ending")
        client.send(END)
        wave, last = rest(client)
        assert last["type"] == "end"
        assert len(wave) == 400 * HOP
        server.thread.join(WAIT)
        assert not server.thread.is_alive()
        client.close()


@soon
def test_streams_that_do_not_end_are_cut_after_the_drain():
    with running(max_seconds=3600, drain=0.5) as server:
        client = server.socket()
        hello(client)
        server.hall.draining = True
        begun = time.monotonic()
        server.thread.join(WAIT)
        took = time.monotonic() - begun
        assert took > 0.4
        assert close_code(client) == 1012
        within(6.0, begun, begun + took)


def test_a_lost_device_fails_everything_and_ends_the_service(monkeypatch: pytest.MonkeyPatch):
    with running(max_seconds=3600) as server:
        client = server.socket()
        hello(client)
        client.send(next(pieces(mel(50), 50)))
        client.recv(WAIT)

        def lost(*_: object, **__: object) -> None:
            raise DeviceError("CUDA error 700 at /secret/place")

        monkeypatch.setattr(live_rounds, "draw", lost)
        client.send(next(pieces(mel(50), 50)))
        _, message = rest(client, "<i2")
        assert message["error"] == "The engine of this service has failed."
        assert close_code(client) == 1011
        health = server.request("GET", "/healthz")
        assert (health.status_code, health.json()) == (503, {"status": "dead"})
        assert server.vocode(npy(mel(3))).status_code == 503
        server.thread.join(WAIT)
        assert not server.thread.is_alive()
        assert "700" in server.hall.dead


def test_a_stream_whose_model_gives_no_number_ends_alone(monkeypatch: pytest.MonkeyPatch):
    draw = live_rounds.draw

    def poisoned(engine, sounds, *rest, **options):
        if any(sound.poisoned for sound in sounds if hasattr(sound, "poisoned")):
            raise EngineError("Logit of stream 0 is nan at step 3.")
        return draw(engine, sounds, *rest, **options)

    monkeypatch.setattr(live_rounds, "draw", poisoned)
    with running(max_seconds=3600) as server:
        with server.socket() as bad, server.socket() as good:
            hello(bad)
            hello(good)
            channels = server.app.state.service.running._pool._rounds.channels
            next(iter(channels.values())).poisoned = True
            bad.send(next(pieces(mel(50), 50)))
            good.send(next(pieces(mel(50), 50)))
            _, message = rest(bad, "<i2")
            assert "no finite number" in message["error"]
            assert close_code(bad) == 1011
            good.send(END)
            assert rest(good, "<i2")[1]["samples"] == 50 * HOP
        assert server.request("GET", "/healthz").status_code == 200
