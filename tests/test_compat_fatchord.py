"""`compat.fatchord` and `compat.rtvc` give what the published loops give, under the same draws."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import checkpoint_builders
import live_twins
import numpy as np
import pytest
import reference
import soundfile
import tolerances
import torch
from quick import slow
from same_draws import SameDraws, choose
from voices import same_bits

from wavernn_fast import Folding, InputError, Vocoder
from wavernn_fast.audio import read_wav
from wavernn_fast.checkpoints import load_state
from wavernn_fast.compat import coqui, fatchord, rtvc, torchaudio
from wavernn_fast.config import OutputConfig
from wavernn_fast.errors import AudioError
from wavernn_fast.fold import fold_plan
from wavernn_fast.models.eager import torch_threads

SIZES: dict[str, Any] = {"hidden": 32, "fc": 32, "n_mels": 8, "aux": 4, "scales": (2, 5, 5)}
HOP, SEED = 50, 7
PROGRAMS = {"fatchord": live_twins.WaveRNN, "rtvc": live_twins.RtvcWaveRNN}
DROP_INS = {"fatchord": fatchord.WaveRNN, "rtvc": rtvc.WaveRNN}


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Steps this small are slower on several."""
    with torch_threads(1):
        yield


def mel(n_frames: int, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).uniform(0, 1, (1, 8, n_frames)).astype(np.float32)


def pair(program: str = "fatchord", *, mode: str = "RAW", seed: int = 3) -> tuple[Any, Any]:
    """The published module, and the drop-in with its weights."""
    classes = 30 if mode == "MOL" else 512
    state = checkpoint_builders.fatchord(classes=classes, seed=seed, **SIZES)
    module = live_twins.load(PROGRAMS[program](mode=mode, classes=classes, **SIZES), state)
    tensors = {name: torch.from_numpy(np.array(a)) for name, a in state.items()}
    voc = Vocoder(*load_state(tensors, "twin"), cpu_threads=1)
    return module, DROP_INS[program](voc, seed=SEED)


def arguments(program: str, path: Any, *rest: Any) -> tuple[Any, ...]:
    """Positional arguments as the program takes them."""
    return (path, *rest) if program == "fatchord" else rest


def same_draws(module: Any, ours: Any, frames: np.ndarray, sizes: Any, patch: Any) -> SameDraws:
    """Give the module the chance of the drop-in's streams."""
    [drawing] = ours.draw([frames], sizes)
    plan = drawing.plan
    steps = max(plan.lengths) if plan.plain else plan.fold_length
    known = drawing.folds if module.mode == "RAW" else ()
    draws = SameDraws([(SEED, i) for i in range(plan.num_folds)], steps, known)
    patch.setattr(torch, "multinomial", draws.multinomial)
    module.uniforms = draws.uniforms
    return draws


def test_the_stand_in_draws_as_the_reference_does():
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 3, (200, 512))
    words = reference.philox_words(1, 0, 200)[:, 0]
    exp = np.exp(logits - logits.max(axis=1, keepdims=True))
    labels, margins = choose(exp / exp.sum(axis=1, keepdims=True), words)
    for row, word, label, margin in zip(logits, words, labels, margins, strict=True):
        assert reference.categorical(row, int(word)) == (label, pytest.approx(margin, rel=1e-6))


@pytest.mark.parametrize("program", PROGRAMS)
@pytest.mark.parametrize("mu_law", [True, False])
@pytest.mark.parametrize(
    "sizes",
    [
        None,
        pytest.param((400, 60), marks=pytest.mark.slow),
        pytest.param((401, 61), marks=pytest.mark.slow),
    ],
    ids=["whole", "even", "odd"],
)
def test_waves_are_those_of_the_published_loop(program, sizes, mu_law, tmp_path, monkeypatch):
    module, ours = pair(program)
    n_frames = 24 if sizes is None else 60
    frames = mel(n_frames)
    draws = same_draws(module, ours, frames, sizes, monkeypatch)
    rest = (sizes is not None, *(sizes or (11000, 550)), mu_law)
    expected = module.generate(
        torch.from_numpy(frames), *arguments(program, tmp_path / "a.wav", *rest)
    )
    found = ours.generate(torch.from_numpy(frames), *arguments(program, tmp_path / "b.wav", *rest))
    assert draws.ties <= 2
    assert (type(found), found.dtype) == (np.ndarray, np.float64)
    assert found.shape == expected.shape == ((n_frames - 1) * HOP,)
    assert np.abs(expected).max() > 0.1
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)
    if program == "fatchord":
        (_, saved), (wave, rate) = module.saved[0], read_wav(tmp_path / "b.wav")
        assert rate == ours.sample_rate
        np.testing.assert_allclose(wave, saved, rtol=0, atol=1e-7)


@pytest.mark.parametrize("sizes", [None, (400, 60)], ids=["whole", "folded"])
def test_labels_and_logits_are_those_of_the_published_loop(sizes, monkeypatch):
    """3,000 steps, or more in folds that overlap."""
    module, ours = pair()
    frames = mel(60)
    draws = same_draws(module, ours, frames, sizes, monkeypatch)
    module.sample(torch.from_numpy(frames), sizes)
    [drawing] = ours.draw([frames], sizes)
    logits = torch.stack(module.logits_seen, dim=1).numpy()  # [folds, steps, C]
    plan, voc, total = drawing.plan, ours.vocoder, 0
    for i, labels in enumerate(drawing.folds):
        assert np.array_equal(draws.labels[i, : len(labels)], labels)
        first, count, _ = plan.frames(i, HOP)
        interp, hold = voc.conditioner.window(frames[0], first, count)
        stream = voc.engine.open(SEED, fold=i, start=plan.starts[i])
        _, found = voc.engine.run(
            [stream], [len(labels)], [interp], [hold], forced=[labels], return_logits=True
        )[0]
        assert tolerances.logit_error(found, logits[i, : len(labels)]) <= 1e-4
        total += len(labels)
    assert total >= 60 * HOP
    assert draws.ties <= 2
    assert len(np.unique(draws.labels)) > 100


@pytest.mark.parametrize("sizes", [None, (400, 60)], ids=["whole", "folded"])
def test_mixtures_of_logistics_are_those_of_the_published_loop(sizes, monkeypatch):
    """Values fed back part at the first tie, so the first 500 samples are looked at."""
    module, ours = pair(mode="MOL")
    frames = mel(40)
    same_draws(module, ours, frames, sizes, monkeypatch)
    rest = (sizes is not None, *(sizes or (11000, 550)), True)  # mu_law is without effect
    expected = module.generate(torch.from_numpy(frames), None, *rest)
    found = ours.generate(frames, None, *rest)
    assert np.abs(expected).max() > 0.1
    np.testing.assert_allclose(found[:500], expected[:500], rtol=0, atol=1e-3)


@pytest.mark.parametrize("program", PROGRAMS)
@pytest.mark.parametrize("n_frames", [0, 2, 21, *(slow(n) for n in (1, 3, 20, 22))])
@pytest.mark.parametrize("batched", [False, True])
def test_short_utterances_sound_where_the_original_fails(program, n_frames, batched, tmp_path):
    module, ours = pair(program)
    frames, path = mel(max(n_frames, 1))[:, :, :n_frames], tmp_path / "short.wav"
    rest = (batched, 400, 60, True)
    wave = ours.generate(frames, *arguments(program, path, *rest))
    assert wave.shape == (max(0, n_frames - 1) * HOP,)
    assert np.isfinite(wave).all()
    if n_frames > 1:
        assert np.abs(wave).max() > 0
    if program == "fatchord":
        assert soundfile.info(path).frames == len(wave)
    if n_frames and n_frames - 1 < 20:
        fault = "broadcast" if n_frames > 1 or not batched else "non-empty"  # the ramp; no fold
        with pytest.raises((ValueError, RuntimeError), match=fault):
            module.generate(torch.from_numpy(frames), *arguments(program, path, *rest))


def test_an_utterance_no_longer_than_the_overlap_is_not_folded():
    _, ours = pair()
    frames = mel(2)
    whole = ours.generate(frames, None, False, 400, 100, True)
    assert same_bits(ours.generate(frames, None, True, 400, 100, True), whole)


@pytest.mark.parametrize("program", PROGRAMS)
def test_sizes_left_out_are_those_of_the_program(program):
    _, ours = pair(program)
    frames = mel(500)
    sizes = {"fatchord": (11000, 550), "rtvc": (8000, 800)}[program]
    found = ours.generate(frames, batched=True, mu_law=True)
    given = ours.generate(frames, *arguments(program, None, True, *sizes, True))
    assert same_bits(found, given)


def test_an_output_rule_of_ones_own_is_obeyed(monkeypatch):
    """Programs in between: the older crossfade, decoded before or after it, all frames sounding."""
    module, ours = pair()
    frames = mel(30)
    same_draws(module, ours, frames, (400, 60), monkeypatch)
    values = module.sample(torch.from_numpy(frames), (400, 60))
    faded = live_twins.unfold(values, 60, hole=True)[: 30 * HOP]
    expanded = live_twins.unfold(live_twins.expand(values, 512), 60, hole=True)[: 30 * HOP]
    expected = {False: live_twins.expand(faded, 512), True: expanded}
    for before in (True, False):
        rule = OutputConfig(crossfade="legacy", decode_before_crossfade=before)
        player = fatchord.WaveRNN(ours.vocoder, flavour=rule, seed=SEED)
        found = player.generate(frames, None, True, 400, 60, True)
        np.testing.assert_allclose(found, expected[before], rtol=0, atol=1e-12)


def test_the_drop_in_and_generate_agree_but_for_rounding():
    _, ours = pair()
    frames = mel(60)
    found = ours.generate(frames, None, True, 400, 60, True)
    other = ours.vocoder.generate(frames, seed=SEED, fold=Folding(target=400, overlap=60))
    np.testing.assert_allclose(other, found, rtol=0, atol=1e-6)


def test_the_synthesizers_mel_is_divided_by_four():
    _, ours = pair("rtvc")
    frames = mel(60)[0]
    expected = ours.generate(frames, True, 400, 60)
    assert same_bits(ours.infer_waveform(4 * frames, target=400, overlap=60), expected)
    found = ours.infer_waveform(frames, normalize=False, target=400, overlap=60)
    assert same_bits(found, expected)
    torch_mel = torch.from_numpy(4 * frames)
    assert same_bits(ours.infer_waveform(torch_mel, target=400, overlap=60), expected)


def test_progress_is_reported_as_the_original_reports_it():
    _, ours = pair("rtvc")
    calls: list[tuple[int, int, int, float]] = []
    ours.generate(mel(60), True, 400, 60, True, lambda *call: calls.append(call))
    plan = fold_plan(60 * HOP, 400, 60)
    assert {call[1:3] for call in calls} == {(520, plan.num_folds)}
    assert [call[0] for call in calls] == sorted(call[0] for call in calls)
    assert calls[-1][0] <= 520
    assert all(call[3] > 0 for call in calls)


def test_seeds_are_kept_counted_or_taken_from_pytorch():
    _, ours = pair()
    frames = mel(25)
    assert same_bits(ours.generate(frames), ours.generate(frames))
    assert same_bits(ours.draw([frames] * 2)[1].folds[0], alone(ours, SEED + 1, frames))
    free = fatchord.WaveRNN(ours.vocoder, seed=None)
    torch.manual_seed(5)
    first, second = free.generate(frames), free.generate(frames)
    torch.manual_seed(5)
    assert same_bits(free.generate(frames), first)
    assert not np.array_equal(first, second)


def alone(player: Any, seed: int, frames: np.ndarray) -> np.ndarray:
    return fatchord.WaveRNN(player.vocoder, seed=seed).draw([frames])[0].folds[0]


def test_a_checkpoint_file_is_loaded_with_the_options_of_the_class(tmp_path):
    state = checkpoint_builders.fatchord(**SIZES)
    torch.save({k: torch.from_numpy(np.array(v)) for k, v in state.items()}, tmp_path / "m.pt")
    player = rtvc.WaveRNN.from_checkpoint(tmp_path / "m.pt", "cpu", cpu_threads=1, seed=4)
    assert (player.vocoder.device, player.vocoder.cpu_threads, player.seed) == ("cpu", 1, 4)
    assert player.flavour.crossfade == "legacy"
    assert player.eval().to("cuda").train() is player


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda p: p.generate(mel(9)[0, :5]), "8"),
        (lambda p: p.generate(np.concatenate([mel(9), mel(9)])), "mel"),
        (lambda p: p.generate(mel(9), None, True, 60, 400), "larger"),
        (lambda p: p.generate(mel(9), None, True, 0, 0), "larger"),
        (lambda p: p.generate(mel(9), None, True, 400, 2.5), "integer"),
        (lambda p: p.generate(np.full((8, 9), np.nan, np.float32)), "NaN"),
        (lambda p: fatchord.WaveRNN(p.vocoder, flavour="tacotron"), "fatchord, rtvc"),
        (lambda p: fatchord.WaveRNN(p.vocoder, seed=-1), "seed"),
    ],
)
def test_nonsense_is_refused(call, words):
    with pytest.raises(InputError, match=words):
        call(pair()[1])


@pytest.mark.parametrize("make", [checkpoint_builders.multiband, checkpoint_builders.scwavernn])
@pytest.mark.parametrize("player", [fatchord.WaveRNN, torchaudio.WaveRNN, coqui.Wavernn])
def test_models_that_the_classes_have_no_place_for_are_refused(make, player, tmp_path):
    """Bands would come out as if each were the wave; a speaker could not be given."""
    path = checkpoint_builders.save(tmp_path / "m.pt", make())
    with pytest.raises(InputError, match="which this class has no place for"):
        player.from_checkpoint(path, device="cpu", cpu_threads=1)


def test_a_dual_model_is_refused():
    with pytest.raises(InputError, match="residual"):
        fatchord.WaveRNN(Vocoder.from_pretrained("kerstin", cpu_threads=1))


# ---------------------------------------------------------------- files


def _no_folder(folder: Path) -> Path:
    return folder / "none" / "out.wav"


def _a_file_as_folder(folder: Path) -> Path:
    (folder / "file").write_bytes(b"")
    return folder / "file" / "out.wav"


def _a_folder(folder: Path) -> Path:
    return folder


def _another_format(folder: Path) -> Path:
    return folder / "out.mp3"


def _no_such_samples(folder: Path) -> Path:
    return folder / "out.flac"


def _no_name(folder: Path) -> Path:
    return folder / ("n" * 300 + ".wav")


def _nothing_is_made_there(_: Path) -> Path:
    return Path("/proc/self/out.wav")


@pytest.mark.parametrize(
    ("place", "words"),
    [
        (_no_folder, "there is no folder"),
        (_a_file_as_folder, "there is no folder"),
        (_a_folder, "is a folder"),
        (_another_format, "Cannot write .mp3 files"),
        (_no_such_samples, "FLAC"),
        (_no_name, "cannot be written"),
        (_nothing_is_made_there, "cannot be written"),
    ],
)
def test_a_file_that_cannot_be_written_is_refused_before_anything_is_drawn(
    place: Any, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, ours = pair()
    path = place(tmp_path)
    before = sorted(tmp_path.iterdir())
    monkeypatch.setattr(ours, "wave", lambda *_, **__: pytest.fail("it has drawn"))
    with pytest.raises((AudioError, InputError), match=words) as caught:
        ours.generate(mel(4), path)
    assert repr(str(path)) in str(caught.value)
    assert sorted(tmp_path.iterdir()) == before


def test_the_check_of_a_file_leaves_what_is_there(tmp_path: Path) -> None:
    _, ours = pair()
    old = tmp_path / "out.wav"
    old.write_bytes(b"old")
    with pytest.raises(InputError, match="mel"):
        ours.generate(mel(4)[:, :3], old)
    assert [p.name for p in tmp_path.iterdir()] == ["out.wav"]
    assert old.read_bytes() == b"old"
    ours.generate(mel(40), old)
    assert read_wav(old)[0].size == 39 * HOP
