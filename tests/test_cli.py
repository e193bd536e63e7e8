"""The command: files, folders and pipes in and out, failures listed, exit codes kept."""

from __future__ import annotations

import contextlib
import fcntl
import io
import json
import os
import struct
import subprocess
import sys
import termios
from pathlib import Path

import cases
import numpy as np
import pytest
import soundfile
from cli_runner import refused, run
from voices import DTYPES, preset_mel, save_mels, save_speech, save_voice

from wavernn_fast import Folding, voices, weights
from wavernn_fast.audio import quantize
from wavernn_fast.cli import _COMMANDS
from wavernn_fast.metrics import mel_correlation
from wavernn_fast.vocoder import Vocoder

ONE_FRAME = 275  # samples


def spawn(*arguments: object, **options: object) -> subprocess.CompletedProcess[bytes]:
    """Run the command as a user does."""
    return subprocess.run(
        [sys.executable, "-m", "wavernn_fast", *map(str, arguments)], capture_output=True, **options
    )  # type: ignore[call-overload,no-any-return]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_voice(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def voc(model: Path) -> Vocoder:
    return Vocoder.from_pretrained(model)


@pytest.fixture
def mels(tmp_path: Path) -> Path:
    return save_mels(tmp_path / "mels")


@pytest.fixture
def speech(tmp_path: Path) -> Path:
    return save_speech(tmp_path)


def pcm(path: Path) -> bytes:
    """16-bit samples of a file."""
    samples, _ = soundfile.read(path, dtype="int16")
    return samples.tobytes()


# --- vocode ---------------------------------------------------------------------------------------


def test_vocode_writes_what_generate_gives(model, voc, mels, tmp_path):
    result = run("vocode", mels, "-m", model, "-o", tmp_path / "out", "--seed", 5, "--streams", 2)
    assert result.exit_code == 0, result.stderr
    written = sorted(p.relative_to(tmp_path / "out") for p in (tmp_path / "out").rglob("*.wav"))
    assert [str(p) for p in written] == ["a.wav", "b/c.wav", "d.wav"]
    for name, frames in (
        ("a", preset_mel(3, 1)),
        ("b/c", preset_mel(5, 2)),
        ("d", preset_mel(2, 3)),
    ):
        expected = quantize(voc.generate(frames, seed=5), "PCM_16")
        assert pcm(tmp_path / "out" / f"{name}.wav") == expected
    assert result.stdout == ""


def test_json_tells_how_full_the_places_were(model, mels, tmp_path):
    """Mels of 3, 5 and 2 frames sound 2, 4 and 1; in two places, 4 beside 2 + 1."""
    arguments = ("vocode", mels, "-m", model, "-o", tmp_path / "out", "--json")
    two = ("--streams", 2, "--overwrite")
    for options, slots, occupancy in (((), 3, 7 / 12), (two, 2, 7 / 8)):
        batch = json.loads(run(*arguments, *options).stdout)["batch"]
        assert (batch["slots"], batch["samples"]) == (slots, 7 * 275)
        assert batch["occupancy"] == pytest.approx(occupancy)
        assert batch["rtf"] == pytest.approx(batch["seconds"] * 22050 / batch["samples"])
    nothing = json.loads(run(*arguments, "--skip-existing").stdout)
    assert nothing["batch"] is None


def test_vocode_writes_one_file_and_the_options_reach_the_engine(model, voc, mels, tmp_path):
    frames = preset_mel(5, 2)
    cases = {
        (): {},
        ("--greedy",): {"greedy": True},
        ("--temperature", "0.5"): {"temperature": 0.5},
        ("--fold", "300,60"): {"fold": (300, 60)},
        ("--fold", "400/80"): {"fold": (400, 80)},
        ("--fold", "yes"): {"fold": True},
        ("--fold", "300/60", "--crossfade", "legacy", "--decode", "after"): {
            "fold": Folding(
                target=300, overlap=60, crossfade="legacy", decode_before_crossfade=False
            )
        },
        ("--fold", "yes", "--decode", "before"): {"fold": Folding(decode_before_crossfade=True)},
        ("--threads", "1"): {},
    }
    for options, arguments in cases.items():
        out = tmp_path / "one.wav"
        result = run("vocode", mels / "b" / "c.npz", "-m", model, "-o", out, *options)
        assert result.exit_code == 0, result.stderr
        assert pcm(out) == quantize(voc.generate(frames, seed=0, **arguments), "PCM_16")
    for dtype in DTYPES[1:]:
        out = tmp_path / f"{dtype}.flac"
        result = run("vocode", mels / "a.npy", "-m", model, "-o", out, "--dtype", dtype)
        assert result.exit_code == 0, result.stderr
        expected = Vocoder.from_pretrained(model, dtype=dtype).generate(preset_mel(3, 1))
        assert pcm(out) == quantize(expected, "PCM_16")


@pytest.mark.parametrize("subtype", ["PCM_16", "PCM_24", "FLOAT"])
def test_vocode_writes_the_subtype_asked_for(subtype, model, mels, tmp_path):
    out = tmp_path / "one.wav"
    assert (
        run("vocode", mels / "a.npy", "-m", model, "-o", out, "--subtype", subtype).exit_code == 0
    )
    info = soundfile.info(out)
    assert (info.subtype, info.samplerate, info.frames) == (subtype, 22050, 2 * ONE_FRAME)


def test_one_bad_file_is_listed_and_the_others_are_done(model, mels, tmp_path):
    np.save(mels / "bad_shape.npy", np.zeros((40, 3), np.float32))
    (mels / "damaged.npy").write_bytes(b"\x93NUMPY garbage")
    bad = preset_mel(2)
    bad[3, 1] = np.nan
    np.save(mels / "nan.npy", bad)
    out = tmp_path / "out"
    result = run("vocode", mels, "-m", model, "-o", out, "--json")
    assert result.exit_code == 1
    report = json.loads(result.stdout)
    assert {Path(e["source"]).name for e in report["failed"]} == {
        "bad_shape.npy",
        "damaged.npy",
        "nan.npy",
    }
    assert {Path(e["target"]).name for e in report["done"]} == {"a.wav", "c.wav", "d.wav"}
    assert len(list(out.rglob("*.wav"))) == 3
    assert "3 of 6 items failed" in result.stderr
    assert "40" in result.stderr


def test_the_report_counts_audio_and_time(model, mels, tmp_path):
    result = run("vocode", mels, "-m", model, "-o", tmp_path / "out", "--json")
    report = json.loads(result.stdout)
    seconds = (2 + 4 + 1) * ONE_FRAME / 22050
    assert report["audio_seconds"] == pytest.approx(seconds)
    assert sum(e["seconds"] for e in report["done"]) == pytest.approx(seconds)
    assert report["x_realtime"] == pytest.approx(seconds / report["wall_seconds"])


def test_empty_and_short_mels_give_empty_and_short_files(model, tmp_path):
    np.save(tmp_path / "none.npy", preset_mel(0))
    np.save(tmp_path / "one.npy", preset_mel(1))
    np.save(tmp_path / "two.npy", preset_mel(2))
    inputs = [tmp_path / f"{n}.npy" for n in ("none", "one", "two")]
    assert run("vocode", *inputs, "-m", model, "-o", tmp_path / "out").exit_code == 0
    lengths = [soundfile.info(tmp_path / "out" / f"{p.stem}.wav").frames for p in inputs]
    assert lengths == [0, 0, ONE_FRAME]


def test_finished_outputs_can_be_left_alone(model, mels, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "a.wav").write_bytes(b"mine")
    result = run("vocode", mels, "-m", model, "-o", out, "--skip-existing", "--json")
    assert result.exit_code == 0
    assert [Path(p).name for p in json.loads(result.stdout)["skipped"]] == ["a.wav"]
    assert (out / "a.wav").read_bytes() == b"mine"
    assert (out / "d.wav").exists()


def test_a_mel_of_another_preset_is_warned_about_by_file(model, tmp_path):
    np.save(tmp_path / "loud.npy", preset_mel(30) * 8 - 4)
    result = run("vocode", tmp_path / "loud.npy", "-m", model, "-o", tmp_path / "out")
    assert result.exit_code == 0
    assert result.stderr.count("loud.npy") == 1
    assert "geneing" in result.stderr


def test_vocode_pipes_from_stdin_to_stdout(model, voc):
    source = io.BytesIO()
    np.save(source, preset_mel(3, 1))
    result = spawn("vocode", "-", "-m", model, "-o", "-", input=source.getvalue())
    assert result.returncode == 0, result.stderr
    samples, rate = soundfile.read(io.BytesIO(result.stdout), dtype="int16")
    assert rate == 22050
    assert samples.tobytes() == quantize(voc.generate(preset_mel(3, 1)), "PCM_16")
    assert result.stderr == b""


def test_on_a_terminal_progress_is_shown(model, tmp_path):
    np.save(tmp_path / "long.npy", preset_mel(300))
    shown, terminal = os.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 120, 0, 0))
    command = [sys.executable, "-m", "wavernn_fast", "vocode", str(tmp_path / "long.npy")]
    with subprocess.Popen(
        [*command, "-m", str(model), "-o", str(tmp_path / "out")], stderr=terminal
    ) as process:
        os.close(terminal)
        text = b""
        with contextlib.suppress(OSError):  # what a terminal without a writer answers
            while part := os.read(shown, 65536):
                text += part
        os.close(shown)
    assert process.returncode == 0
    for word in (b"1/1", b"audio s/s", b"RTF"):
        assert word in text


# --- demo -----------------------------------------------------------------------------------------


def test_demo_speaks_without_model_file_and_torch_and_says_what_speaks(tmp_path):
    code = (
        "import sys\nsys.modules['torch'] = None\n"
        "from wavernn_fast.cli import main\nmain(sys.argv[1:])\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", code, "demo", "-o", "demo.wav", "--seconds", "0.5"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[1])},
    )
    assert result.returncode == 0, result.stderr
    info = soundfile.info(tmp_path / "demo.wav")
    assert (info.samplerate, info.channels, info.subtype) == (22050, 1, "PCM_16")
    assert info.duration == pytest.approx(0.5, abs=0.01)
    assert result.stderr == ""
    voice = voices.facts(voices.DEFAULT)
    for word in (
        voice["kind"],
        voice["about"],
        "device cpu",
        "isa ",
        "thread",
        "samples/s",
        "real-time factor",
        "vocode",
    ):
        assert word in result.stdout


def test_demo_repeats_with_its_seed_and_reports_as_json(tmp_path):
    files, voice = {}, voices.facts(voices.DEFAULT)
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        out = tmp_path / f"{name}.wav"
        options = ("--seconds", 0.1, "--seed", seed, "--threads", 1, "--dtype", "fp16", "--json")
        result = run("demo", "-o", out, *options)
        assert result.exit_code == 0, result.stderr
        facts = json.loads(result.stdout)
        assert (facts["voice"], facts["kind"]) == (voices.DEFAULT, voice["kind"])
        assert (facts["dtype"], facts["threads"], facts["seed"]) == ("fp16", 1, seed)
        rate = facts["samples"] / facts["wall_seconds"]
        assert facts["samples_per_s"] == pytest.approx(rate)
        assert facts["real_time_factor"] == pytest.approx(22050 / rate)
        files[name] = pcm(out)
        assert len(files[name]) == 2 * facts["samples"]
    assert files["a"] == files["b"] != files["c"]


def test_demo_refuses_what_it_cannot_write(tmp_path):
    refused(run("demo", "-o", tmp_path / "out.mp3"), tmp_path, ".wav")
    refused(run("demo"), tmp_path, "-o")
    refused(run("demo", "-o", "-", "--json"), tmp_path, "stdout")


# --- mel, resynth ---------------------------------------------------------------------------------


def test_mel_and_resynth_agree_with_the_library(speech, model, voc, tmp_path):
    from wavernn_fast.audio import read_wav
    from wavernn_fast.features import log_mel

    wave, _ = read_wav(speech)
    expected = log_mel(wave, voc.config.mel)
    for name in (("--preset", "fatchord-raw9"), ("-m", model)):
        assert run("mel", speech, "-o", tmp_path / "speech.npy", *name).exit_code == 0
        assert np.array_equal(np.load(tmp_path / "speech.npy"), expected)
    out = tmp_path / "again.wav"
    result = run("resynth", speech, "-m", model, "-o", out, "--json", "--report", "--seed", 3)
    assert result.exit_code == 0, result.stderr
    again = voc.generate(expected, seed=3)
    assert pcm(out) == quantize(again, "PCM_16")
    [entry] = json.loads(result.stdout)["done"]
    found = entry["mel_correlation"]
    assert found == pytest.approx(mel_correlation(expected, log_mel(again, voc.config.mel)))
    assert f"{found:.3f}" in result.stderr


def test_mel_refuses_what_it_cannot_do(speech, tmp_path):
    out = ("-o", tmp_path / "out")
    refused(run("mel", speech, *out), tmp_path, "--preset")
    refused(run("mel", speech, *out, "--preset", "deepmind"), tmp_path, "no mel convention")
    refused(run("mel", speech, *out, "--preset", "nope"), tmp_path, "nope")
    (tmp_path / "text.wav").write_text("no audio")
    result = run("mel", speech, tmp_path / "text.wav", *out, "--preset", "rtvc")
    assert result.exit_code == 1  # the other one is done, resampled
    assert "text.wav" in result.stderr
    assert np.load(tmp_path / "out" / "speech.npy").shape[0] == 80


# --- the group ------------------------------------------------------------------------------------


def test_help_and_version_print_to_stdout():
    assert run("--help").exit_code == 0
    assert "0.1.0" in run("--version").stdout
    shown = run("--help").stdout
    for command in _COMMANDS:
        assert command in shown


@pytest.mark.parametrize("command", _COMMANDS)
def test_every_command_has_help_with_an_example(command):
    result = run(command, "--help")
    assert result.exit_code == 0
    assert "Examples:" in result.stdout
    assert f"  wavernn-fast {command}" in result.stdout


def test_quiet_and_verbose_set_what_is_logged(model, mels, tmp_path):
    arguments = ("vocode", mels, "-m", model, "-o", tmp_path / "out", "--overwrite")
    assert "CPU" not in run(*arguments).stderr
    assert "CPU" in run("-v", *arguments).stderr
    assert run("-q", *arguments).stderr == ""
    assert run(*arguments, "-q").stderr == ""


def test_a_speaker_comes_from_a_file_and_is_asked_for_once(tmp_path: Path) -> None:
    config = cases.residual_config(
        16, 16, bits=8, speaker_size=5, aux_size=2, aux_channels=4, aux_blocks=1, aux_kernel=3
    )
    tensors, speaker = cases.random_tensors(config), np.linspace(-1, 1, 5).astype(np.float32)
    weights.write(tmp_path / "m.safetensors", config, tensors)
    np.save(tmp_path / "a.npy", frames := cases.random_mel(config, 12))
    np.save(tmp_path / "who.npy", speaker)
    arguments = ("vocode", tmp_path / "a.npy", "-m", tmp_path / "m.safetensors", "-o")
    run(*arguments, tmp_path / "a.wav", "--speaker", tmp_path / "who.npy")
    expected = Vocoder(config, tensors).generate(frames, speaker=speaker)
    assert pcm(tmp_path / "a.wav") == quantize(expected, "PCM_16")
    missing = run(*arguments, tmp_path / "out")
    refused(missing, tmp_path, "a vector of 5 numbers")
    wrong = run(*arguments, tmp_path / "out", "--speaker", tmp_path / "a.npy")
    refused(wrong, tmp_path, "expected [5]")
