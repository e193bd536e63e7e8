"""`wavernn-fast eval`: likelihoods, copies beside originals, reports and pictures."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path

import cases
import checkpoint_builders
import numpy as np
import pytest
import soundfile
import voices
from cli_runner import refused, run
from click.testing import Result
from matplotlib.image import imread
from picture_colours import count_colours

from wavernn_fast import (
    audio,
    checkpoints,
    evaluation,
    evaluation_report,
    features,
    metrics,
    weights,
)
from wavernn_fast.config import MelConfig
from wavernn_fast.errors import InputError
from wavernn_fast.evaluation import Evaluator, Settings
from wavernn_fast.synthetic import random_model, random_speaker

RATE = 22050
ALONE = Settings(threads=1)


def tones(seconds: float, seed: int = 0, rate: int = RATE) -> np.ndarray:
    """Syllables of a gliding tone in a little noise, float32."""
    random = np.random.default_rng(seed)
    t = np.arange(int(seconds * rate)) / rate
    wave = np.sin(2 * np.pi * (200 + 150 * t + 50 * seed) * t) * (0.5 - 0.5 * np.cos(30 * t))
    return (0.3 * wave + 0.01 * random.normal(size=len(t))).astype(np.float32)


def small_mel(rate: int) -> MelConfig:
    """A convention of 5 bins and hops of 3, as `voices.DUAL` hears."""
    return MelConfig(
        sample_rate=rate, n_fft=16, hop_length=3, win_length=12, n_mels=5, f_min=0.0, f_max=rate / 2
    )


# --- likelihoods ----------------------------------------------------------------------------------


@pytest.mark.parametrize("spec", ["dual-mel:64", "residual:32", "residual-mol:32", "dual:32"])
def test_engine_and_torch_agree_on_the_likelihood(spec):
    config, tensors = random_model(spec)
    wave = tones(0.3, rate=config.sample_rate)
    evaluator = Evaluator(config, tensors, Settings(dtypes=("fp32", "fp16", "int8"), threads=1))
    found = evaluator.evaluate(wave)
    mel = features.log_mel(wave, config.mel) if config.n_mels else None
    assert found.nll["fp32"] == evaluator.voc.score(mel, wave)
    assert list(found.nll) == ["fp32", "fp16", "int8"]
    assert abs(found.nll["fp32"] - found.nll_torch) == found.torch_difference <= 1e-4
    assert 0 < abs(found.nll["fp32"] - found.nll["int8"]) < 0.1
    assert found.seconds == pytest.approx(0.3, abs=1e-4)


def test_torch_hears_the_first_seconds_only_and_is_compared_on_those(monkeypatch):
    config, tensors = random_model("residual:32")
    wave = tones(0.3)
    monkeypatch.setattr(evaluation, "TORCH_SECONDS", 0.1)
    found = Evaluator(config, tensors, ALONE).evaluate(wave)
    assert found.torch_difference <= 1e-4
    assert abs(found.nll_torch - found.nll["fp32"]) > 1e-4  # the rest is not as likely


def hearing_all_frames(kind: str):
    """A model in which what a frame hears depends on all others, or on their number."""
    if kind == "gru":
        config, tensors = random_model("embedded:64")
        louder = ("network.", "gru.w_conditioning")
        return config, {n: 3 * v if n.startswith(louder) else v for n, v in tensors.items()}
    config, tensors = random_model("residual:32")
    sizes = {"upsample_left": 1, "upsample_right": 1, "upsample_pad": 2}
    del tensors["upsample.kernel"]
    return dataclasses.replace(config, upsample="linear", **sizes), tensors


@pytest.mark.parametrize("kind", ["gru", "linear"])
def test_torch_and_engine_are_compared_on_the_same_frames(kind, monkeypatch):
    config, tensors = hearing_all_frames(kind)
    wave = tones(0.6, rate=config.sample_rate)
    monkeypatch.setattr(evaluation, "TORCH_SECONDS", 0.1)
    found = Evaluator(config, tensors, ALONE).evaluate(wave)
    assert found.torch_difference <= 1e-6
    whole = Evaluator(config, tensors, ALONE)
    monkeypatch.setattr(Evaluator, "_nll_of_first", lambda self, ours, targets, heard: ours)
    assert whole.evaluate(wave).torch_difference > 1e-5  # the rest of the recording is heard


def test_a_model_that_drops_the_first_frames_is_compared_with_what_follows():
    config = dataclasses.replace(voices.DUAL, mel=small_mel(voices.DUAL.sample_rate))
    assert (config.pad, config.lookback_frames) == ("none", 1)
    tensors = cases.random_tensors(config)
    wave = tones(0.05, rate=config.sample_rate)
    found = Evaluator(config, tensors, ALONE).evaluate(wave)
    assert found.torch_difference <= 1e-4
    assert len(found.copy) == len(found.original)
    assert np.array_equal(found.original, wave[3 : 3 + len(found.original)])
    mel = features.log_mel(wave, config.mel)
    assert len(found.copy) == min(len(wave) - 3, config.n_samples(mel.shape[1]))


# --- copies ---------------------------------------------------------------------------------------


def test_the_copy_is_what_the_vocoder_makes_and_its_figures_those_of_metrics():
    config, tensors = random_model("residual:32")
    wave, drawn = tones(0.6), []
    evaluator = Evaluator(
        config, tensors, Settings(seed=3, fold=(4000, 200), dtype="int8", threads=1)
    )
    found = evaluator.evaluate(wave, drawn.append)
    assert evaluator.voc.dtype == "int8"
    mel = features.log_mel(wave, config.mel)
    copy = evaluator.voc.generate(mel, seed=3, fold=(4000, 200), fade_out=False)
    n = min(len(copy), len(wave))
    assert voices.same_bits(found.copy, copy[:n])
    assert np.array_equal(found.original, wave[:n])
    assert drawn[-1] >= n
    assert found.lsd_db == metrics.log_spectral_distance(wave[:n], copy[:n])
    assert found.mcd_db == metrics.mel_cepstral_distortion(wave[:n], copy[:n], RATE)
    assert found.stoi == metrics.stoi(wave[:n], copy[:n], RATE)
    assert -1 <= found.mel_correlation <= 1
    assert found.rtf * found.samples_per_s == pytest.approx(RATE)


def test_an_unconditioned_model_is_scored_only():
    evaluator = Evaluator(*random_model("dual:32"), ALONE)
    found = evaluator.evaluate(tones(0.1))
    assert found.copy is None
    assert found.lsd_db is found.mcd_db is found.stoi is found.rtf is None
    assert any("unconditioned" in note for note in evaluator.notes)
    with pytest.raises(InputError, match="empty"):
        evaluator.evaluate(tones(0.0))


def test_silence_has_the_figures_that_exist():
    found = Evaluator(*random_model("residual:32"), ALONE).evaluate(np.zeros(RATE // 4, np.float32))
    assert found.mel_correlation is None
    assert found.stoi is None
    assert found.lsd_db > 0
    assert "| 0.25 |" in evaluation_report.to_table([{"source": "a|b", **found.to_dict()}])


def test_too_short_recordings_and_missing_conventions_are_refused():
    config, tensors = random_model("residual:32")
    evaluator = Evaluator(config, tensors, ALONE)
    for n in (0, 1, 200):
        with pytest.raises(InputError, match="too short"):
            evaluator.evaluate(np.zeros(n, np.float32))
    with pytest.raises(InputError, match="--preset"):
        Evaluator(dataclasses.replace(config, mel=None), tensors)


# --- the table ------------------------------------------------------------------------------------


def test_means_are_over_the_recordings_that_have_the_figure():
    row = {"source": "a", "seconds": 1.0, "nll": {"fp32": 2.0}}
    empty = dict.fromkeys(evaluation.FIGURES)
    rows = [{**empty, **row, "lsd_db": 4.0}, {**empty, **row, "source": "b|c", "seconds": 3.0}]
    mean = evaluation_report.mean_row(rows)
    assert (mean["seconds"], mean["nll"], mean["lsd_db"]) == (2.0, {"fp32": 2.0}, 4.0)
    assert mean["stoi"] is None
    lines = evaluation_report.to_table(rows).splitlines()
    assert lines[0] == "| recording | seconds | NLL fp32 | LSD, dB |"
    assert lines[2:] == [
        "| a | 1.00 | 2.0000 | 4.00 |",
        "| b\\|c | 3.00 | 2.0000 |  |",
        "| mean of 2 | 2.00 | 2.0000 | 4.00 |",
    ]
    assert evaluation_report.largest_difference(rows) is None


# --- the command ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "voice.safetensors"
    weights.write(path, *random_model("dual-mel:64"))
    return path


def evaluate(*arguments: object) -> Result:
    """Run the command with one thread: these models are too small for more."""
    return run("eval", *arguments, "--threads", 1)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two good recordings, the second of another rate, stereo and in a folder below."""
    found = tmp_path / "recordings"
    (found / "b").mkdir(parents=True)
    audio.write_wav(found / "a.wav", tones(0.3), RATE)
    stereo = np.stack([tones(0.2, 1, 16000), tones(0.2, 2, 16000)], axis=1)
    soundfile.write(found / "b" / "c.flac", stereo, 16000)
    return found


def of_speakers(folder: Path, state):
    """A checkpoint's model with a mel convention, which no preset has for its small sizes."""
    config, tensors = checkpoints.load(checkpoint_builders.save(folder / "voice.pt", state))
    mel = MelConfig(
        sample_rate=config.sample_rate, n_fft=4 * config.hop_length, hop_length=config.hop_length,
        win_length=4 * config.hop_length, n_mels=config.n_mels, f_min=0.0,
        f_max=config.sample_rate / 2,
    )  # fmt: skip
    return dataclasses.replace(config, mel=mel), tensors


def test_a_model_that_hears_a_speaker_is_judged_as_that_speaker(folder, tmp_path):
    config, tensors = of_speakers(tmp_path, checkpoint_builders.scwavernn(hidden=32))
    weights.write(voice := tmp_path / "voice.safetensors", config, tensors)
    np.save(who := tmp_path / "who.npy", random_speaker(config))
    command = (folder / "a.wav", "-m", voice, "--limit-seconds", 0.1, "--json")
    found = evaluate(*command, "--speaker", who)
    assert found.exit_code == 0, found.stderr
    (row,) = json.loads(found.stdout)["done"]
    assert row["torch_difference"] <= 1e-5
    assert row["rtf"] > 0
    np.save(who, random_speaker(config, 1))
    (other,) = json.loads(evaluate(*command, "--speaker", who).stdout)["done"]
    assert abs(other["nll"]["fp32"] - row["nll"]["fp32"]) > 1e-5
    refused(evaluate(*command), tmp_path, f"a vector of {config.speaker_size} numbers")


def test_a_number_is_enough_for_a_speaker_of_the_model(tmp_path):
    config, tensors = of_speakers(tmp_path, checkpoint_builders.yukarin(speakers=3))
    wave, table = tones(0.1, rate=config.sample_rate), tensors["speakers.weight"]
    named, vector = (
        Evaluator(config, tensors, Settings(threads=1, speaker=who)).evaluate(wave)
        for who in (2, table[2])
    )
    assert named.nll == vector.nll
    assert named.nll_torch == vector.nll_torch
    assert named.torch_difference <= 1e-5


@pytest.mark.slow
def test_eval_writes_reports_copies_and_pictures(folder, model, tmp_path):
    out = tmp_path / "report"
    result = evaluate(folder, "-m", model, "-o", out, "--dtypes", "fp32,int8", "--json")
    assert result.exit_code == 0, result.stderr
    report = json.loads(result.stdout)
    assert json.loads((out / "report.json").read_text()).keys() == report.keys()
    names = {str(p.relative_to(out)) for p in out.rglob("*") if p.is_file()}
    files = {"a.wav", "a.png", "b/c.wav", "b/c.png"}
    assert names == {"report.json", "report.md", *files}
    assert [Path(row["source"]).name for row in report["done"]] == ["a.wav", "c.flac"]
    assert 0 <= report["largest_torch_difference"] <= 1e-4
    for row, seconds in zip(report["done"], (0.3, 0.2), strict=True):
        assert row["seconds"] == pytest.approx(seconds, abs=1e-3)
        copy, rate = audio.read_wav(row["target"])
        assert rate == RATE
        assert len(copy) == pytest.approx(seconds * RATE, abs=1)
        assert row["picture"] == str(Path(row["target"]).with_suffix(".png"))
        pixels = imread(row["picture"])[..., :3]
        assert len(pixels) > 1200  # with the mels, and what they differ by, below
        for half in np.array_split(pixels, 2, axis=1):
            assert count_colours(half) > 10
        for key in ("mel_correlation", "lsd_db", "mcd_db", "rtf", "samples_per_s"):
            assert np.isfinite(row[key])
    mean = np.mean([row["nll"]["int8"] for row in report["done"]])
    assert report["mean"]["nll"]["int8"] == pytest.approx(mean)
    text = (out / "report.md").read_text()
    heads = (
        "| recording | seconds | NLL fp32 | NLL int8 | NLL PyTorch | mel correlation | LSD, dB |"
    )
    assert heads in text
    assert "mean of 2" in text
    assert "within the tolerance" in text


def test_eval_prints_a_table_and_writes_nothing_without_a_folder(folder, model, monkeypatch):
    monkeypatch.chdir(folder)
    before = sorted(folder.rglob("*"))
    result = evaluate("a.wav", "-m", model, "--limit-seconds", 0.25)
    assert result.exit_code == 0, result.stderr
    assert sorted(folder.rglob("*")) == before
    without = evaluate("a.wav", "-m", model, "--limit-seconds", 0.1, "--no-torch")
    assert without.exit_code == 0, without.stderr
    assert "PyTorch" not in without.stdout + without.stderr
    assert "mean of 1" in without.stdout
    lines = result.stdout.splitlines()
    assert lines[0].startswith("| recording |")
    assert "| 0.25 |" in lines[2]
    assert lines[-1].startswith("Largest difference between engine (fp32) and PyTorch")


@pytest.mark.slow
def test_bad_recordings_are_listed_and_the_others_done(folder, tmp_path):
    model = voices.save_voice(tmp_path)
    soundfile.write(folder / "nan.wav", np.full(9000, np.nan), RATE, subtype="FLOAT")
    soundfile.write(folder / "none.wav", np.zeros(0), RATE)
    soundfile.write(folder / "short.wav", tones(0.005), RATE)
    (folder / "text.wav").write_text("no audio")
    (folder / "empty.wav").write_bytes(b"")
    result = evaluate(folder, "-m", model, "-o", tmp_path / "out", "--json")
    assert result.exit_code == 1
    report = json.loads(result.stdout)
    assert len(report["done"]) == 2
    reasons = {Path(e["source"]).name: e["error"] for e in report["failed"]}
    assert set(reasons) == {"nan.wav", "none.wav", "short.wav", "text.wav", "empty.wav"}
    assert "NaN" in reasons["nan.wav"]
    assert "no samples" in reasons["none.wav"]
    assert "too short" in reasons["short.wav"]
    assert "5 of 7 items failed" in result.stderr
    assert "too short" in (tmp_path / "out" / "report.md").read_text()
    alone = evaluate(folder / "text.wav", "-m", model)
    assert alone.exit_code == 1
    assert "No recording" in alone.stdout


def test_eval_refuses_before_any_work(folder, model, tmp_path):
    base = (folder, "-m", model)
    (tmp_path / "file").write_text("in the way")
    refused(evaluate(*base, "-o", tmp_path / "file" / "out"), tmp_path, "folder")
    refused(evaluate(*base, "-o", tmp_path / "file"), tmp_path, "folder")
    refused(evaluate(*base, "-o", "-"), tmp_path, "folder")
    refused(evaluate(*base, "-o", folder), tmp_path, "also an input")
    refused(evaluate(*base, "--dtypes", "fp8"), tmp_path, "fp8")
    refused(evaluate(*base, "--limit-seconds", 0), tmp_path, "--limit-seconds")
    refused(evaluate(*base, "--fold", "x"), tmp_path, "--fold")
    refused(evaluate(tmp_path / "none.wav", "-m", model), tmp_path, "none.wav")
    refused(evaluate(folder, "-m", tmp_path / "none.pt"), tmp_path, "none.pt")
    without = tmp_path / "without.safetensors"
    config, tensors = random_model("dual-mel:64")
    weights.write(without, dataclasses.replace(config, mel=None), tensors)
    refused(evaluate(folder, "-m", without, "-o", tmp_path / "out"), tmp_path, "--preset")


def test_a_difference_beyond_the_tolerance_is_exit_code_1(folder, model, monkeypatch):
    monkeypatch.setattr(evaluation, "TORCH_TOLERANCE", -1.0)
    result = evaluate(folder / "a.wav", "-m", model, "--limit-seconds", 0.1)
    assert result.exit_code == 1
    assert "BEYOND" in result.stdout


def test_what_is_not_installed_is_left_out_with_a_line(folder, model, tmp_path, monkeypatch):
    for name in [n for n in sys.modules if n.partition(".")[0] == "torch"]:
        monkeypatch.delitem(sys.modules, name)
    for name in ("torch", "pystoi", "matplotlib.figure"):
        monkeypatch.setitem(sys.modules, name, None)
    result = evaluate(folder / "a.wav", "-m", model, "-o", tmp_path / "out")
    assert result.exit_code == 0, result.stderr
    for extra in ("[torch]", "[eval]", "[plot]"):
        assert extra in result.stderr
        assert extra in (tmp_path / "out" / "report.md").read_text()
    assert "PyTorch |" not in result.stdout
    assert "STOI |" not in result.stdout
    assert "LSD, dB |" in result.stdout
    assert sorted(p.suffix for p in (tmp_path / "out").iterdir()) == [".json", ".md", ".wav"]


def test_eval_scores_an_unconditioned_model(folder, tmp_path):
    path = tmp_path / "dual.safetensors"
    weights.write(path, *random_model("dual:32"))
    result = evaluate(folder / "a.wav", "-m", path, "-o", tmp_path / "out", "--json")
    assert result.exit_code == 0, result.stderr
    [row] = json.loads(result.stdout)["done"]
    assert row["nll"]["fp32"] > 0
    assert row["torch_difference"] <= 1e-4
    assert "unconditioned" in result.stderr
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["report.json", "report.md"]


def test_a_full_disk_stops_the_job(folder, model, tmp_path, monkeypatch):
    import errno

    from wavernn_fast.errors import AudioError

    def full(*arguments, **options):
        error = AudioError("no space left")
        error.errno = errno.ENOSPC
        raise error

    monkeypatch.setattr(audio, "write_wav", full)
    result = evaluate(folder, "-m", model, "-o", tmp_path / "out", "--json")
    assert result.exit_code == 1
    report = json.loads(result.stdout)
    assert (len(report["failed"]), len(report["left"])) == (1, 1)
    assert "Nothing more can be written" in result.stderr
