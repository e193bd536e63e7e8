"""The command `stream`: sound as it is made, and what it tells about it."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from cli_runner import refused, run
from patience import soon, within
from voices import preset_mel, save_voice

from wavernn_fast.audio import quantize, read_wav, wav_header
from wavernn_fast.cli import stream as command
from wavernn_fast.vocoder import Vocoder

RATE, HOP = 22050, 275


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_voice(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def voc(model):
    return Vocoder.from_pretrained(model)


@pytest.fixture
def mel(tmp_path):
    """A mel of 8 frames as .npy and, frame by frame, as .f32."""
    frames = preset_mel(8, 5)
    np.save(tmp_path / "mel.npy", frames)
    frames.T.astype("<f4").tofile(tmp_path / "mel.f32")
    return frames


def start(model, *arguments):
    """The command in a process of its own, with pipes that Python buffers as it does by itself."""
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONUNBUFFERED"}
    return subprocess.Popen(
        [sys.executable, "-m", "wavernn_fast", "stream", *arguments, "-m", str(model)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        env=environment,
    )


def write_for_ever(file, data):
    """Write, a bit at a time, for some seconds at least."""
    for _ in range(2000):
        file.write(data)
        file.flush()
        time.sleep(0.005)


@pytest.mark.parametrize(
    "how", [["mel.npy"], ["mel.f32", "--raw-mel"], ["mel.npy", "--realtime", "--chunk-frames", "3"]]
)
def test_a_file_is_that_of_vocode(model, mel, tmp_path, how):
    out, expected = tmp_path / "out.wav", tmp_path / "expected.wav"
    done = run("stream", tmp_path / how[0], *how[1:], "-m", model, "-o", out, "--seed", 4)
    assert done.exit_code == 0, done.stderr
    assert (
        run("vocode", tmp_path / "mel.npy", "-m", model, "-o", expected, "--seed", 4).exit_code == 0
    )
    assert out.read_bytes() == expected.read_bytes()
    assert "lookahead     2 frames (25 ms)" in done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize("subtype", ["PCM_16", "PCM_24", "FLOAT"])
def test_stdin_to_stdout(model, voc, mel, tmp_path, subtype):
    given = (tmp_path / "mel.f32").read_bytes()
    done = run(
        "stream", "-", "--raw-mel", "-m", model, "-o", "-", "--subtype", subtype, input=given
    )
    assert done.exit_code == 0, done.stderr
    (tmp_path / "out.wav").write_bytes(done.stdout_bytes)
    wave, rate = read_wav(tmp_path / "out.wav")
    assert rate == RATE
    assert done.stdout_bytes.endswith(quantize(voc.generate(mel), subtype))
    assert len(wave) == 7 * HOP  # the preset cuts the last frame


@pytest.mark.parametrize(("name", "subtype"), [("s16le", "PCM_16"), ("f32le", "FLOAT")])
def test_samples_without_a_header(model, voc, mel, tmp_path, name, subtype):
    done = run("stream", tmp_path / "mel.npy", "-m", model, "--raw", name, "-o", "-", "--greedy")
    assert done.stdout_bytes == quantize(voc.generate(mel, greedy=True), subtype)
    out = tmp_path / "samples"
    assert (
        run(
            "stream", tmp_path / "mel.npy", "-m", model, "--raw", name, "-o", out, "--greedy"
        ).exit_code
        == 0
    )
    assert out.read_bytes() == done.stdout_bytes


def test_sound_comes_while_frames_are_still_awaited(model, voc):
    frames = preset_mel(40, 1)
    process = start(model, "-", "--raw-mel", "--raw", "f32le", "-o", "-", "--chunk-frames", "1")
    heard, late = b"", voc.stream_facts().first_frames - 1
    assert late < 30
    for number, frame in enumerate(frames.T, start=1):
        process.stdin.write(frame.astype("<f4").tobytes())
        process.stdin.flush()
        while len(heard) < 4 * HOP * (number - late):
            ready, _, _ = select.select([process.stdout], [], [], 10.0)
            assert ready, number
            heard += os.read(process.stdout.fileno(), 2**16)
    rest, errors = process.communicate()
    assert heard + rest == quantize(voc.generate(frames), "FLOAT")
    assert process.returncode == 0, errors


def test_a_named_pipe_gets_the_sound_at_once(model, voc, mel, tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    heard = []
    reader = threading.Thread(target=lambda: heard.append(pipe.read_bytes()))
    reader.start()
    done = run("stream", tmp_path / "mel.npy", "-m", model, "-o", pipe, "--raw", "f32le")
    reader.join(20)
    assert done.exit_code == 0, done.stderr
    assert heard == [quantize(voc.generate(mel), "FLOAT")]


def test_a_reader_that_goes_away_ends_it_quietly(model):
    process = start(model, "-", "--raw-mel", "-o", "-")
    frame = preset_mel(1).T.astype("<f4").tobytes()
    process.stdin.write(frame * 50)
    process.stdin.flush()
    process.stdout.read(100)
    process.stdout.close()
    with pytest.raises(BrokenPipeError):  # it takes no more frames
        write_for_ever(process.stdin, frame * 10)
    errors = process.stderr.read().decode()
    assert process.wait(120) == 0, errors
    assert "whoever read the sound has gone" in errors
    assert "Error" not in errors
    assert "Traceback" not in errors
    process.stderr.close()


@pytest.mark.parametrize(
    ("waiting", "number"),
    [(True, signal.SIGINT), (False, signal.SIGINT), (False, signal.SIGTERM)],
    ids=["for frames", "in the engine", "terminated"],
)
@soon
def test_an_interrupt_ends_it_within_a_second_and_leaves_no_file(model, tmp_path, waiting, number):
    out = tmp_path / "out.wav"
    source = "-"
    if not waiting:
        source = str(tmp_path / "long.npy")
        np.save(source, preset_mel(30_000))
    process = start(model, source, *(["--raw-mel"] if waiting else []), "-o", str(out))
    if waiting:
        process.stdin.write(preset_mel(60).T.astype("<f4").tobytes())
        process.stdin.flush()
    end = time.monotonic() + 120
    while not any(part.stat().st_size > 2000 for part in tmp_path.glob(".*part*")):
        assert time.monotonic() < end
        time.sleep(0.01)
    began = time.monotonic()
    process.send_signal(number)
    assert process.wait(60) == 130
    ended = time.monotonic()
    assert "interrupted" in process.stderr.read().decode()
    assert not [path for path in tmp_path.iterdir() if path.name != "long.npy"]
    process.communicate()
    within(1.0, began, ended)


def test_the_report_as_json(model, mel, tmp_path):
    arguments = ["stream", tmp_path / "mel.npy", "-m", model, "--json", "--chunk-ms", "40"]
    told = json.loads(run(*arguments, "-o", tmp_path / "out.wav").stdout)
    assert told["samples"] == 7 * HOP
    assert told["audio_seconds"] == pytest.approx(7 * HOP / RATE)
    assert 0 < told["first_chunk_seconds"] <= told["wall_seconds"]
    assert told["rtf"] > 0
    assert told["facts"]["chunk_frames"] == 3  # of 12.5 ms
    assert told["facts"]["lookahead_ms"] == pytest.approx(1000 * 2 * HOP / RATE)
    done = run(*arguments, "-o", "-")
    assert json.loads(done.stderr)["samples"] == 7 * HOP
    assert done.stdout_bytes.startswith(b"RIFF")
    assert run("stream", tmp_path / "mel.npy", "-m", model, "-o", "-", "-q").stderr == ""


def test_what_a_player_would_have_heard(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(command.time, "perf_counter", lambda: now[0])
    clock = command.Clock(1000)
    for at, samples in [
        (100.5, 100),  # first; played until 100.6
        (100.55, 100),  # in time; until 100.7
        (100.9, 100),  # 0.2 s late; until 101.0
        (101.0, 100),  # just in time; until 101.1
        (101.15, 100),  # 0.05 s late
    ]:
        clock.begin() if at == 100.5 else None
        now[0] = at
        clock.chunk(samples)
    told = clock.report()
    assert told["first_chunk_seconds"] == pytest.approx(0.5)
    assert told["underruns"] == 2
    assert told["silence_seconds"] == pytest.approx(0.25)
    assert told["player_delay_seconds"] == pytest.approx(0.25)
    assert told["wall_seconds"] == pytest.approx(1.15)
    assert told["rtf"] == pytest.approx(1.15 / 0.5)


def test_a_reader_that_lets_the_writer_wait_is_no_underrun(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(command.time, "perf_counter", lambda: now[0])

    def write(chunk):
        now[0] += 5.0  # a paused player

    def chunks():
        clock.begin()
        for _ in range(4):
            now[0] += 0.05
            yield np.zeros(100, np.float32)

    clock = command.Clock(1000)
    command._play(chunks(), write, clock)
    assert (clock.underruns, clock.report()["rtf"]) == (0, pytest.approx(0.5))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--chunk-frames", "2", "--chunk-ms", "20"], ["give one of them"]),
        (["-o", "out/x.mp3"], ["give a .wav file"]),
        (["-o", "folder.wav"], ["which is a folder"]),  # not after hours of sound
    ],
)
def test_what_makes_no_sense_is_refused(model, mel, tmp_path, monkeypatch, arguments, words):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder.wav").mkdir()
    refused(run("stream", "mel.npy", "-m", model, "-o", "out/x.wav", *arguments), tmp_path, *words)


def test_a_torn_frame_is_named_and_leaves_no_file(model, mel, tmp_path):
    torn = tmp_path / "torn.f32"
    torn.write_bytes((tmp_path / "mel.f32").read_bytes()[:-10])
    done = run("stream", torn, "--raw-mel", "-m", model, "-o", tmp_path / "x.wav")
    assert done.exit_code == 2
    assert "in the middle of frame 7: 310 bytes of 320" in done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mel.f32", "mel.npy", "torn.f32"]


def test_a_wav_that_is_too_long_for_its_header_is_kept(model, mel, tmp_path, monkeypatch):
    """As one of 27 hours is: the sizes of a WAV file have 32 bits."""
    arguments = ("stream", tmp_path / "mel.npy", "-m", model, "-o", tmp_path / "out.wav")
    assert run(*arguments).exit_code == 0
    whole = (tmp_path / "out.wav").read_bytes()
    monkeypatch.setattr("wavernn_fast.encoding._MAX_WAV_BYTES", 1000)
    assert run(*arguments).exit_code == 0
    assert (tmp_path / "out.wav").read_bytes() == wav_header(None, RATE) + whole[44:]
    assert len(read_wav(tmp_path / "out.wav")[0]) == 7 * HOP


@pytest.mark.parametrize("name", ["missing.npy", "missing.f32"])
def test_a_missing_mel_is_named(model, tmp_path, name):
    how = ["--raw-mel"] if name.endswith("f32") else []
    done = run("stream", tmp_path / name, *how, "-m", model, "-o", tmp_path / "x.wav")
    assert done.exit_code == 2
    assert name in done.stderr


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_is_named(model, mel, tmp_path):
    done = run("stream", tmp_path / "mel.npy", "-m", model, "-o", "/dev/full")
    assert done.exit_code == 2
    assert "'/dev/full' cannot be written (No space left on device)" in done.stderr
