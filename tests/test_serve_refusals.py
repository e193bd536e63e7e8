"""What the service refuses: bodies that lie, burst or hide code, and pages of other sites."""

from __future__ import annotations

import contextlib
import io
import logging
import pickle
import struct
import time
import tracemalloc

import httpx
import numpy as np
import pytest
import recordings
import soundfile
from patience import soon, within
from serving import CONFIG, HOP, N_MELS, RATE, WAIT, Running, mel, npy, recording, running, until

from wavernn_fast.audio import wav_header
from wavernn_fast.serve import Limits
from wavernn_fast.serve.bodies import read_input
from wavernn_fast.serve.problems import Problem

NPY, WAV = "application/x-npy", "audio/wav"
MAX_BODY, MAX_SECONDS = 200_000, 3.0


@pytest.fixture(scope="module")
def server():
    bounds = {"max_body": MAX_BODY, "max_seconds": MAX_SECONDS, "idle": 1.0, "max_streams": 2}
    with running(**bounds) as found:
        yield found


def told(reply: httpx.Response, status: int) -> str:
    """The sentence of a refusal, which must leak nothing."""
    assert reply.status_code == status, reply.text
    content = reply.json()
    assert set(content) == {"error", "id"}
    assert content["id"] == reply.headers["x-request-id"]
    for leak in (
        "Traceback",
        ".py",
        "site-packages",
        "/home",
        "/tmp",
        "0x",
        "BytesIO",
        "object at",
    ):
        assert leak not in reply.text
    assert content["error"].endswith(".")
    return content["error"]


# --- bodies ---------------------------------------------------------------------------------------


def npy_header(text: str, data: bytes = b"") -> bytes:
    head = text.encode() + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(head)) + head + data


class Payload:
    """What a pickle would run."""

    def __reduce__(self):
        return (print, ("this must never run",))


def pickled() -> bytes:
    target = io.BytesIO()
    np.save(target, np.array([Payload()], dtype=object), allow_pickle=True)
    return target.getvalue()


HUGE = "{'descr': '<f4', 'fortran_order': False, 'shape': (8, 4000000000000), }"
DEEP = "{'descr': " + "(" * 3000 + ")" * 3000 + ", }"
BODIES = {
    "empty": (b"", NPY, 400, "empty"),
    "text": (b"hello there, this is no audio", NPY, 415, "neither"),
    "promise broken": (recording(recordings.tone(0.1)), NPY, 415, "another"),
    "media type": (npy(mel(3)), "application/x-python-pickle", 415, "not taken"),
    "multipart": (npy(mel(3)), "multipart/form-data; boundary=x", 415, "not taken"),
    "plain pickle": (pickle.dumps(Payload()), NPY, 415, "neither"),
    "pickle in npy": (pickled(), NPY, 422, "pickled"),
    "npz": (b"PK\x03\x04" + bytes(100), NPY, 415, "neither"),
    "announces terabytes": (npy_header(HUGE, bytes(64)), NPY, 422, "shorter than"),
    "header of brackets": (npy_header(DEEP), NPY, 422, "damaged"),
    "header cut": (npy(mel(3))[:20], NPY, 422, "damaged"),
    "data cut": (npy(mel(3))[:-1], NPY, 422, "shorter than"),
    "version": (b"\x93NUMPY\x09\x09" + bytes(50), NPY, 422, "damaged"),
    "transposed": (npy(mel(3).T.copy()), NPY, 422, "transposed"),
    "bins": (npy(np.zeros((N_MELS + 1, 4), np.float32)), NPY, 422, "8 bins"),
    "integers": (npy(np.zeros((N_MELS, 4), np.int32)), NPY, 422, "dtype"),
    "one number": (npy(np.float32(1)), NPY, 422, "shape"),
    "batch": (npy(np.zeros((2, N_MELS, 4), np.float32)), NPY, 422, "batch"),
    "nan": (npy(mel(3) * np.float32("nan")), NPY, 422, "NaN"),
    "infinite": (npy(np.full((N_MELS, 3), 1e300)), NPY, 422, "infinite"),
    "long mel": (npy(mel(int(MAX_SECONDS * RATE / HOP) + 1)), NPY, 413, "3 s"),
    "long recording": (recording(np.zeros(int(3.1 * RATE))), WAV, 413, "3 s"),
    "no samples": (recording(np.zeros(0)), WAV, 422, "no samples"),
    "nan samples": (recording(np.full(99, np.nan), subtype="FLOAT"), WAV, 422, "NaN"),
    "slow rate": (recording(np.zeros(99), 1000), WAV, 422, "Hz"),
    "many channels": (recording(np.zeros((9, 9))), WAV, 422, "channels"),
    "wav cut": (recording(np.zeros(99))[:30], WAV, 422, "damaged"),
    "flac cut": (recording(np.zeros(9999), form="FLAC")[:60], "audio/flac", 422, ""),
    "flac of noise": (b"fLaC" + bytes(range(256)), "audio/flac", 422, "damaged"),
}  # fmt: skip


@pytest.mark.parametrize("name", BODIES)
def test_a_body_that_cannot_be_used_is_refused_in_a_sentence(
    server: Running, name: str, capfd: pytest.CaptureFixture[str]
):
    body, kind, status, words = BODIES[name]
    assert words in told(server.vocode(body, kind), status)
    assert "must never run" not in capfd.readouterr().out
    assert server.hall.inside == 0 or until(lambda: server.hall.inside == 0) < 1


@pytest.mark.parametrize("claimed", [0, 10, 2**31, 2**32 - 1])
def test_a_wav_header_that_lies_about_its_length_is_not_believed(server: Running, claimed: int):
    body = bytearray(recording(np.zeros(2 * HOP)))
    body[40:44] = struct.pack("<I", claimed)
    reply = server.vocode(bytes(body), WAV)
    assert reply.status_code in (200, 422)
    if reply.status_code == 200:  # never more than the bytes that are there
        assert int(reply.headers["x-samples"]) <= 3 * HOP


def test_a_recording_that_expands_is_given_up_when_it_is_too_long():
    """Ten minutes of silence in 91 kB: only the seconds that are allowed are decoded."""
    body = recording(np.zeros(48000 * 600, np.int16), 48000, form="FLAC")
    assert len(body) < 100_000
    tracemalloc.start()
    begun = time.perf_counter()
    with pytest.raises(Problem, match="longer than the 3 s"):
        read_input(body, "flac", CONFIG, Limits(max_seconds=MAX_SECONDS))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8e6  # ten minutes are 115 MB of floats
    assert time.perf_counter() - begun < 5


def test_a_header_of_terabytes_allocates_nothing():
    tracemalloc.start()
    with pytest.raises(Problem, match="shorter than"):
        read_input(npy_header(HUGE, bytes(64)), "npy", CONFIG, Limits())
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1e6


def test_mutated_bodies_give_only_sentences():
    random = np.random.default_rng(5)
    seeds = [
        npy(mel(3)),
        recording(recordings.tone(0.05)),
        recording(recordings.tone(0.05), form="FLAC"),
    ]
    refused = 0
    for i in range(1500):
        body = bytearray(seeds[i % 3])
        for _ in range(int(random.integers(1, 6))):
            at = int(random.integers(0, min(len(body), 128)))
            body[at] = int(random.integers(0, 256))
        if i % 5 == 0:
            del body[int(random.integers(0, len(body))) :]
        try:
            read_input(bytes(body), None, CONFIG, Limits(max_seconds=1.0))
        except Problem:
            refused += 1
    assert 100 < refused < 1500


# --- size and time of a body ----------------------------------------------------------------------


def test_a_body_that_says_it_is_too_large_is_not_read(server: Running):
    with server.raw() as client:
        client.sendall(post(f"Content-Length: {MAX_BODY + 1}"))
        assert client.recv(100).startswith(b"HTTP/1.1 413")


def test_a_body_without_a_length_is_cut_off_at_the_limit(server: Running):
    sent = 0
    with server.raw() as client:
        client.settimeout(WAIT)
        client.sendall(post("Transfer-Encoding: chunked"))
        reply = b""
        block = b"1000\r\n" + bytes(4096) + b"\r\n"
        try:
            while sent < 20 * MAX_BODY:
                client.sendall(block)
                sent += 4096
        except OSError:
            pass  # it hung up
        try:
            reply = client.recv(100)
        except OSError:
            reply = b"HTTP/1.1 413"  # its reply was dropped with the connection
    assert reply.startswith(b"HTTP/1.1 413")
    until(lambda: server.hall.inside == 0)
    codes = server.request("GET", "/metrics").text
    assert 'route="/v1/vocode",status="413"' in codes


def test_a_body_that_does_not_come_is_not_waited_for(server: Running):
    with server.raw() as client:
        client.sendall(post("Content-Length: 1000") + b"begun")
        until(lambda: server.hall.inside == 1)
        assert client.recv(4096).startswith(b"HTTP/1.1 408")
    until(lambda: server.hall.inside == 0)


def test_a_client_that_leaves_in_the_middle_of_its_body_is_forgotten(server: Running):
    with server.raw() as client:
        client.sendall(post("Content-Length: 1000") + b"begun")
        until(lambda: server.hall.inside == 1)
    assert until(lambda: server.hall.inside == 0) < 0.9


def post(header: str) -> bytes:
    """Head of a request."""
    lines = ("POST /v1/vocode HTTP/1.1", "Host: localhost", header, "", "")
    return "\r\n".join(lines).encode()


def test_a_header_that_does_not_end_is_not_kept(server: Running):
    with server.raw() as client:
        client.settimeout(WAIT)
        client.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\nX: ")
        with pytest.raises(ConnectionError):
            client.sendall(bytes(13_000_000))


@pytest.mark.parametrize("begun", [b"", b"GET /healthz HTTP/1.1\r\nHost: local"])
@soon
def test_a_connection_without_a_request_is_cut(server: Running, begun: bytes):
    with server.raw() as client:
        client.settimeout(WAIT)
        client.sendall(begun)
        opened = time.monotonic()
        with contextlib.suppress(ConnectionError):
            assert client.recv(100) == b""
        assert time.monotonic() - opened > 0.5
        within(8.0, opened)


# --- values ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("query", "name"),
    [
        ({"seed": -1}, "seed"),
        ({"seed": 2**64}, "seed"),
        ({"seed": "1e3"}, "seed"),
        ({"temperature": 0}, "temperature"),
        ({"temperature": "nan"}, "temperature"),
        ({"temperature": "inf"}, "temperature"),
        ({"temperature": 101}, "temperature"),
        ({"format": "mp3"}, "format"),
        ({"greedy": "perhaps"}, "greedy"),
        ({"stream": "<script>"}, "stream"),
    ],
)
def test_a_value_that_cannot_be_used_is_named_and_not_repeated(server: Running, query, name: str):
    sentence = told(server.vocode(npy(mel(3)), NPY, **query), 422)
    assert name in sentence
    assert "script" not in sentence


def test_what_fails_inside_is_told_by_its_id_only(
    server: Running, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    from wavernn_fast.serve import vocode

    def broken(*_: object) -> None:
        raise RuntimeError("secret of /home/me/model.pt")

    monkeypatch.setattr(vocode, "read_input", broken)
    with caplog.at_level(logging.ERROR):
        reply = server.vocode(npy(mel(3)), NPY)
    assert "secret" not in reply.text
    assert told(reply, 500) == "This request failed inside the service."
    [record] = [r for r in caplog.records if reply.json()["id"] in r.getMessage()]
    assert "secret" in str(record.exc_info)


def test_a_route_that_fails_is_told_by_its_id_only(
    server: Running, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    from wavernn_fast.serve.service import Service

    def broken(_: object) -> None:
        raise RuntimeError("secret of /home/me")

    monkeypatch.setattr(Service, "facts", broken)
    with caplog.at_level(logging.ERROR):
        reply = server.request("GET", "/v1/model")
    assert told(reply, 500) == "This request failed inside the service."
    assert any(reply.json()["id"] in record.getMessage() for record in caplog.records)


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/etc/passwd", 404),
        ("GET", "/%2e%2e/%2e%2e/etc/passwd", 404),
        ("GET", "/page.html", 404),
        ("GET", "/v1/vocode", 405),
        ("PUT", "/v1/model", 405),
        ("POST", "/metrics", 405),
    ],
)
def test_there_is_nothing_but_the_routes(server: Running, method: str, path: str, status: int):
    told(server.request(method, path), status)


def test_another_method_is_told_those_that_there_are(server: Running):
    for path, method in (("/v1/vocode", "POST"), ("/healthz", "GET")):
        reply = server.request("PUT", path)
        assert (reply.status_code, reply.headers["allow"]) == (405, method)


def test_a_streamed_header_is_the_length_that_is_promised(server: Running):
    reply = server.vocode(npy(mel(50)), NPY, stream=True)
    count = 50 * HOP
    assert reply.content[:44] == wav_header(count, RATE)
    assert len(reply.content) == 44 + 2 * count
    assert soundfile.info(io.BytesIO(reply.content)).frames == count
