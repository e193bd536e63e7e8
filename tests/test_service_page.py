"""docs/service.md: its examples run, it names every option, route and counter, its figures hold."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import soundfile
from cli_runner import run
from patience import Late, soon
from serving import Running, running

from wavernn_fast import voices
from wavernn_fast.serve.app import ROUTES
from wavernn_fast.vocoder import Vocoder

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "service.md").read_text(encoding="utf-8")
LOAD = "cpu_xeon_avx512_2cores_serve_load.json"


SHORT = 40  # frames of the sentence that are spoken here; tests/test_serve_page.py has them all


@cache
def voice() -> Vocoder:
    return Vocoder.from_pretrained(voices.DEFAULT, dtype="int8", cpu_threads=1)


@cache
def sentence() -> np.ndarray:
    """Begin of the voice's sentence: float32 [n_mels, SHORT]."""
    return np.ascontiguousarray(voices.mel(voices.DEFAULT)[:, :SHORT])


@pytest.fixture(scope="module")
def server():
    short = sentence()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(voices, "mel", lambda name: short)
        with running(voice(), voice=voices.DEFAULT) as found:
            yield found


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE, flags=re.S)


def test_the_commands_work(server: Running, tmp_path: Path):
    if not shutil.which("curl"):
        pytest.skip("curl is not installed")
    [text] = blocks("sh")
    for line in text.replace("8017", str(server.port)).splitlines():
        command = line.replace("curl ", "curl --fail --noproxy '*' ", 1)
        subprocess.run(
            command, shell=True, check=True, cwd=tmp_path, timeout=120, stdout=subprocess.DEVNULL
        )
    mel = np.load(tmp_path / "sentence.npy")
    assert np.array_equal(mel, sentence())
    expected = voice().generate(mel, temperature=0.8)
    wave, rate = soundfile.read(tmp_path / "speech.wav", dtype="float32")
    assert rate == voice().sample_rate
    assert np.abs(wave - expected).max() <= 1 / 32768
    again = soundfile.info(tmp_path / "again.flac").frames
    assert again == len(wave) + voice().config.hop_length  # centred framing adds a frame
    assert len((tmp_path / "streamed.raw").read_bytes()) == 2 * len(wave)


def test_the_program_works(server: Running, capsys: pytest.CaptureFixture[str]):
    [code] = blocks("python")
    exec(compile(code.replace("8017", str(server.port)), "service.md", "exec"), {})
    printed = capsys.readouterr().out
    count = voice().config.n_samples(SHORT)
    assert f"{voice().sample_rate} Hz, {count} samples" in printed
    assert f'"samples": {count}' in printed


def test_every_route_option_and_counter_is_on_the_page(server: Running):
    for route in ROUTES:
        assert f"`GET {route}`" in PAGE or route in PAGE
    text = run("serve", "--help").output
    for option in set(re.findall(r"--(?:max|allow)-\w+|--(?:timeout|idle|stall|drain)\b", text)):
        assert f"`{option}" in PAGE, option
    counters = server.request("GET", "/metrics").text
    for name in set(re.findall(r"# TYPE (wavernn_\w+?)(?:_created)? ", counters)):
        assert f"`{name}" in PAGE, name


def test_the_picture_is_there_and_small():
    data = (ROOT / "docs" / "service.png").read_bytes()
    assert data.startswith(b"\x89PNG")
    assert 20_000 < len(data) < 300_000


def test_what_was_measured_holds_what_is_promised():
    report = json.loads((ROOT / "benchmarks" / "results" / LOAD).read_text())
    for figures in (report["all"], *report["one_less"], *report["one_less_and_a_slow_one"]):
        assert figures["streams"] in (63, 64)
        assert figures["progress_looks"] > 20
        assert figures["progress_ratio_worst"] <= 1.5
        assert figures["rss_mib"]["growth"] < 64
    for shown in (
        report["all"]["progress_ratio_worst"],
        report["slow_client_costs"]["cpu_seconds"],
    ):
        assert f"{shown:.2f}" in PAGE
    told = report["overload"]
    assert told["full"] == {"status": 429, "retry_after": "1", "close_code": 1013}
    assert told["ending"] == {"status": 503, "close_code": 1012}
    assert told["exit_code"] == 0


@pytest.mark.slow
@soon
def test_the_load_program_runs_in_small(tmp_path: Path):
    command = [sys.executable, ROOT / "benchmarks" / "serve_load.py", "--streams", 4, "--queue", 2]
    # a slow machine needs seconds to make the audio after which a client is left out: until then it
    # must not be dropped
    options = ["--seconds", 1.2, "--threads", 1, "--dtype", "int8", "--stall", 8]
    options += ["--output", tmp_path / "load.json"]
    done = subprocess.run(
        [str(part) for part in (*command, *options)],
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "load.json").read_text())
    for figures in (report["all"], *report["one_less"], *report["one_less_and_a_slow_one"]):
        assert figures["rss_mib"]["growth"] < 32
    assert report["overload"]["full"]["close_code"] == 1013
    assert report["overload"]["exit_code"] == 0
    assert json.loads(done.stdout) == report
    for figures in (report["all"], *report["one_less"], *report["one_less_and_a_slow_one"]):
        if figures["progress_looks"] <= 2 or figures["progress_ratio_worst"] > 1.5:
            raise Late(f"unfair, or too busy to tell: {figures}")
