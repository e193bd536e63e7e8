"""The service over HTTP: the samples of `generate`, whole and streamed, and facts about itself."""

from __future__ import annotations

import asyncio
import enum
import hashlib
import io
import re
import socket
import threading
import time
import warnings
from base64 import b64encode
from http import HTTPStatus

import numpy as np
import pytest
import recordings
import soundfile
from patience import soon, within
from serving import (
    CONFIG,
    HOP,
    RATE,
    Running,
    hello,
    mel,
    npy,
    recording,
    rest,
    running,
    until,
    vocoder,
)

import wavernn_fast
from wavernn_fast.audio import quantize, resample
from wavernn_fast.errors import InputError, MissingDependencyError
from wavernn_fast.features import log_mel
from wavernn_fast.serve import Limits, create_app
from wavernn_fast.serve.engine import Engine, Wish
from wavernn_fast.serve.problems import Gone
from wavernn_fast.serve.wire import give

NPY = "application/x-npy"


@pytest.fixture(scope="module")
def server():
    with running() as found:
        yield found


def floats(content: bytes) -> np.ndarray:
    return np.frombuffer(content, "<f4")


# --- speech ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("n_frames", [1, 7, 150])
def test_a_mel_gives_the_samples_of_generate(server: Running, stream: bool, n_frames: int):
    frames = mel(n_frames)
    options = {"seed": 2**64 - 1, "temperature": 0.7}
    reply = server.vocode(npy(frames), NPY, format="f32le", stream=stream, **options)
    assert reply.status_code == 200, reply.text
    expected = vocoder().generate(frames, **options)
    assert floats(reply.content).tobytes() == expected.tobytes()
    assert reply.headers["x-sample-rate"] == str(RATE)
    assert reply.headers["x-samples"] == str(len(expected))
    assert ("content-length" in reply.headers) != stream


def test_greedy_needs_no_seed(server: Running):
    frames = mel(20)
    reply = server.vocode(npy(frames), NPY, format="f32le", greedy=True, seed=5)
    assert floats(reply.content).tobytes() == vocoder().generate(frames, greedy=True).tobytes()


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("form", ["wav", "flac", "raw"])
def test_every_format_holds_the_same_16_bits(server: Running, form: str, stream: bool):
    frames = mel(40)
    reply = server.vocode(npy(frames), NPY, format=form, stream=stream)
    expected = quantize(vocoder().generate(frames), "PCM_16")
    if form == "flac" and stream:
        assert reply.status_code == 422
        return
    if form != "raw":
        assert reply.headers["content-type"] == f"audio/{form}"
        wave, rate = soundfile.read(io.BytesIO(reply.content), dtype="int16")
        assert rate == RATE
        assert wave.astype("<i2").tobytes() == expected
    else:
        assert reply.content == expected


def test_an_empty_mel_gives_empty_audio(server: Running):
    reply = server.vocode(npy(mel(0)), NPY)
    assert reply.status_code == 200
    assert len(soundfile.read(io.BytesIO(reply.content))[0]) == 0


@pytest.mark.parametrize(
    ("form", "subtype", "kind"),
    [
        ("WAV", "PCM_16", "audio/wav"),
        ("WAV", "FLOAT", "audio/x-wav"),
        ("FLAC", "PCM_16", "audio/flac"),
        ("WAV", "PCM_24", "application/octet-stream"),
        ("WAV", "PCM_16", ""),
    ],
)
def test_a_recording_is_spoken_again(server: Running, form: str, subtype: str, kind: str):
    body = recording(recordings.tone(0.5), form=form, subtype=subtype)
    wave = soundfile.read(io.BytesIO(body), dtype="float32")[0]
    reply = server.vocode(body, kind, format="f32le", seed=3)
    expected = vocoder().generate(log_mel(wave, CONFIG.mel), seed=3)
    assert floats(reply.content).tobytes() == expected.tobytes()


def test_two_channels_of_another_rate_become_one_of_the_model(server: Running):
    pytest.importorskip("soxr")
    wave = recordings.tone(0.4, rate=11025)
    body = recording(np.stack([wave, 0.5 * wave], axis=1), 11025)
    mono = soundfile.read(io.BytesIO(body), dtype="float32", always_2d=True)[0].mean(
        axis=1, dtype=np.float32
    )
    expected = vocoder().generate(log_mel(resample(mono, 11025, RATE), CONFIG.mel))
    reply = server.vocode(body, "audio/wav", format="f32le")
    assert floats(reply.content).tobytes() == expected.tobytes()


def test_many_at_once_each_get_their_own(server: Running):
    found: dict[int, bytes] = {}

    def ask(seed: int) -> None:
        reply = server.vocode(npy(mel(30, seed)), NPY, format="f32le", seed=seed)
        found[seed] = reply.content

    threads = [threading.Thread(target=ask, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for seed in range(8):
        assert found[seed] == vocoder().generate(mel(30, seed), seed=seed).tobytes()


def test_audio_comes_while_it_is_made():
    with running(max_seconds=3600) as server:
        # 16 MB of audio: what systems let a connection hold between two programs is a few, here
        # least of all, where the reader says how much it takes.
        body = npy(mel(200_000))
        import httpx

        small = [(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)]
        with (
            httpx.Client(
                transport=httpx.HTTPTransport(socket_options=small), trust_env=False, timeout=120
            ) as client,
            client.stream(
                "POST", f"{server.url}/v1/vocode?format=raw&stream=true", content=body
            ) as reply,
        ):
            chunks = reply.iter_raw(1024)  # kept: an iterator that is let go closes the connection
            next(chunks)
            assert server.hall.live == 1  # it still sounds
        until(lambda: server.hall.inside == 0)


def test_a_whole_reply_says_how_fast_it_was(server: Running):
    reply = server.vocode(npy(mel(60)), NPY)
    seconds = 60 * HOP / RATE
    assert float(reply.headers["x-audio-seconds"]) == pytest.approx(seconds)
    wall, factor = (float(reply.headers[f"x-{n}"]) for n in ("wall-seconds", "real-time-factor"))
    assert factor == pytest.approx(wall / seconds, rel=0.02, abs=2e-4)
    assert 0 < float(reply.headers["x-first-chunk-ms"]) <= 1e3 * wall + 1


def test_values_of_another_convention_are_warned_of(server: Running):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        reply = server.vocode(npy(mel(30) * 40 - 30), NPY)
    assert reply.status_code == 200
    assert "convention" in reply.headers["x-warning"]


# --- facts ----------------------------------------------------------------------------------------


def test_facts_of_the_model_name_no_file(server: Running):
    facts = server.request("GET", "/v1/model").json()
    assert facts["version"] == wavernn_fast.__version__
    assert facts["model"]["sample_rate"] == RATE
    assert facts["model"]["mel"]["n_fft"] == CONFIG.mel.n_fft
    assert facts["engine"]["device"] == "cpu"
    assert facts["voice"] is None
    assert "/" not in server.request("GET", "/v1/model").text
    assert server.request("GET", "/v1/sentence").status_code == 404


def test_health_and_metrics_count(server: Running):
    assert server.request("GET", "/healthz").json() == {"status": "ok"}
    audio, first = "wavernn_audio_seconds_total", "wavernn_first_chunk_seconds_count"
    before = [server.metric(name) for name in (audio, first)]
    done = 'wavernn_requests_total{route="/v1/vocode",status="200"}'
    count = server.metric(done)
    server.vocode(npy(mel(100)), NPY)
    server.vocode(b"nonsense", NPY)
    server.request("GET", "/no/such/path")
    assert server.metric(done) == count + 1
    assert server.metric(audio) - before[0] == pytest.approx(100 * HOP / RATE)
    assert server.metric(first) == before[1] + 1
    assert server.metric('wavernn_requests_total{route="/v1/vocode",status="415"}') >= 1
    assert server.metric('wavernn_requests_total{route="other",status="404"}') >= 1
    assert server.metric("wavernn_streams_live") == 0
    assert server.metric("wavernn_queue") == 0


def test_requests_are_counted_by_number_where_a_status_is_written_by_name(
    server: Running, monkeypatch
):
    """As Python 3.10 does: the metrics had status="HTTPStatus.UNSUPPORTED_MEDIA_TYPE"."""
    monkeypatch.setattr(HTTPStatus, "__str__", enum.Enum.__str__)
    assert str(HTTPStatus.NOT_FOUND) == "HTTPStatus.NOT_FOUND"
    before = server.metric('wavernn_requests_total{route="/v1/vocode",status="415"}')
    server.vocode(b"nonsense", NPY)
    assert server.metric('wavernn_requests_total{route="/v1/vocode",status="415"}') == before + 1
    assert "HTTPStatus" not in server.request("GET", "/metrics").text


def test_live_streams_are_counted_while_they_are(server: Running):
    with server.socket() as socket:
        hello(socket, format="f32le")
        assert server.metric("wavernn_streams_live") == 1
        socket.send('{"end": true}')
        rest(socket)
    until(lambda: server.metric("wavernn_streams_live") == 0)
    until(lambda: server.metric('wavernn_requests_total{route="/v1/stream",status="1000"}') == 1)


@pytest.mark.parametrize("path", ["/", "/healthz", "/metrics", "/v1/model", "/v1/sentence"])
def test_head_is_get_without_the_body(server: Running, path: str):
    """Health checks and monitors ask so."""
    head, get = (server.request(method, path) for method in ("HEAD", "GET"))
    assert head.status_code == get.status_code
    assert head.content == b""
    ours = {"x-request-id", "date"} | ({"content-length"} if path == "/metrics" else set())
    assert {k: v for k, v in head.headers.items() if k not in ours} == {
        k: v for k, v in get.headers.items() if k not in ours
    }
    assert server.request("GET", path).status_code == get.status_code  # the connection goes on


def test_the_description_names_every_route_and_reply(server: Running):
    schema = server.request("GET", "/openapi.json").json()
    assert set(schema["paths"]) == {
        "/v1/model",
        "/v1/sentence",
        "/v1/vocode",
        "/healthz",
        "/metrics",
    }
    replies = schema["paths"]["/v1/vocode"]["post"]["responses"]
    assert {"200", "408", "413", "415", "422", "429", "503", "504"} <= set(replies)


@pytest.mark.parametrize("path", ["/", "/docs"])
def test_pages_are_whole_in_themselves_and_name_their_code_by_hash(server: Running, path: str):
    reply = server.request("GET", path)
    text, policy = reply.text, reply.headers["content-security-policy"]
    assert not re.findall(r"(?:src|href)\s*=\s*[\"']?(?:https?:)?//", text)
    assert not re.findall(r"url\(|@import|\sstyle=|\son\w+=", text)
    rules = dict(rule.strip().partition(" ")[::2] for rule in policy.split(";"))
    assert rules["default-src"] == rules["base-uri"] == rules["frame-ancestors"] == "'none'"
    assert "unsafe" not in policy
    assert "http" not in policy
    for tag in re.findall(r"<(style|script)>", text):
        [code] = re.findall(rf"<{tag}>(.*?)</{tag}>", text, flags=re.S)
        digest = b64encode(hashlib.sha256(code.encode()).digest()).decode()
        assert rules[f"{tag}-src"] == f"'sha256-{digest}'"


def test_every_reply_carries_an_id_and_may_not_be_kept_or_guessed(server: Running):
    for path, status in (("/", 200), ("/healthz", 200), ("/nothing", 404)):
        reply = server.request("GET", path)
        assert reply.status_code == status
        assert re.fullmatch(r"[0-9a-f]{12}", reply.headers["x-request-id"])
        assert reply.headers["x-content-type-options"] == "nosniff"
        assert reply.headers["cache-control"] == "no-store"
        assert "content-security-policy" in reply.headers
        assert "server" not in reply.headers


# --- what is refused before it runs ---------------------------------------------------------------


def test_models_that_a_service_cannot_serve_are_refused():
    import cases
    from voices import UNCONDITIONED, voice

    with pytest.raises(InputError, match="takes no mel"):
        create_app(voice(UNCONDITIONED))
    speaking = cases.residual_config(16, 16, bits=8, aux_size=3, aux_channels=8, aux_blocks=1,
                                     aux_kernel=5, speaker_size=4)  # fmt: skip
    with pytest.raises(InputError, match="speaker"):
        create_app(voice(speaking))


def test_all_unusable_limits_are_listed():
    with pytest.raises(InputError, match=r"max_streams.*idle.*allow_origins"):
        Limits(max_streams=0, idle=float("nan"), allow_origins=("*",))


def test_a_missing_extra_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch):
    import sys

    monkeypatch.setitem(sys.modules, "uvicorn", None)
    with pytest.raises(
        MissingDependencyError, match=r'uvicorn: pip install "wavernn-fast\[serve\]'
    ):
        create_app(vocoder())


# --- threads for bodies ---------------------------------------------------------------------------


def test_work_on_bodies_of_clients_that_left_does_not_pile_up():
    """Two at a time; a client that leaves gives its turn back when its work has ended."""
    begun: list[int] = []
    gate = threading.Event()

    def work(number: int) -> int:
        begun.append(number)
        gate.wait(120)
        return number

    async def scene() -> None:
        engine = Engine(None, None)  # type: ignore[arg-type]
        tasks = [asyncio.ensure_future(engine.decode(work, i)) for i in range(4)]
        while len(begun) < 2:
            await asyncio.sleep(0.01)
        for task in tasks[:3]:
            task.cancel()
        await asyncio.sleep(0.1)
        assert begun == [0, 1]
        assert engine._decoders._work_queue.qsize() == 0  # the fourth waits outside
        gate.set()
        assert await asyncio.wait_for(tasks[3], 120) == 3
        assert begun == [0, 1, 3]  # the third left before its turn

    asyncio.run(scene())


@soon
def test_a_client_that_takes_nothing_is_cut_by_the_service_itself():
    """Not only by the system, which has a bound of its own on the sockets of `serve.run`."""
    cuts: list[float] = []

    async def scene() -> None:
        with pytest.raises(Gone):
            await give(
                asyncio.sleep(60), Limits(stall=0.2), lambda: cuts.append(time.monotonic() - begun)
            )
        await give(asyncio.sleep(0), Limits(stall=0.2), lambda: cuts.append(0.0))

    begun = time.monotonic()
    asyncio.run(scene())
    [after] = cuts
    assert after > 0.15
    within(5.0, 0.0, after)


class Eager:
    """A pool, and its stream, that always has audio."""

    failure, left, wanted = None, 2000, 1000

    def open(self, **_: object) -> Eager:
        return self

    def read(self, timeout: float | None = None) -> np.ndarray | None:
        self.left -= 1
        return np.zeros(8192, np.float32) if self.left >= 0 else None


def test_a_stream_that_always_has_audio_leaves_the_others_their_turns():
    async def scene() -> None:
        utterance = Engine(Eager(), None).open(Wish())  # type: ignore[arg-type]
        turns = 0

        async def other() -> None:
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0)

        task = asyncio.ensure_future(other())
        chunks = [len(chunk) async for chunk in utterance.chunks()]
        task.cancel()
        assert len(chunks) == 2000
        assert turns >= 1999

    asyncio.run(scene())
