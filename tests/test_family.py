"""The residual core's relatives: linear upsampling, a padded floor, a speaker's vector.

Each against the float64 reference on every instruction set, and against itself: in batches, in
pieces, folded, streamed.
"""

from __future__ import annotations

import dataclasses
import itertools

import cases
import numpy as np
import pytest
import reference
import tolerances
import torch
from engine_work import ISAS
from voices import ENDS, joined, same_bits

from wavernn_fast import likelihood, places, upsampling, weights
from wavernn_fast.config import ModelConfig
from wavernn_fast.errors import InputError, ModelError
from wavernn_fast.mel_rows import MelRows, SampleRows
from wavernn_fast.models.eager import make_eager
from wavernn_fast.utterance import Sampling, make_request
from wavernn_fast.verification import compare
from wavernn_fast.vocoder import Vocoder

_AUX = {"aux_size": 3, "aux_channels": 8, "aux_blocks": 1, "aux_kernel": 5}
_LINEAR = {"upsample": "linear", "upsample_left": 1, "upsample_right": 1, "upsample_pad": 2}
_KERNEL = {"upsample_left": 1, "upsample_right": 2}
CONFIGS = {
    "linear": cases.residual_config(32, 16, mixtures=2, output=ENDS, **_LINEAR),
    "linear-aux": cases.residual_config(48, 32, bits=8, hop_length=5, **_LINEAR, **_AUX),
    "linear-floor": cases.residual_config(16, 16, bits=8, pad_value=-4.0, **_LINEAR, **_AUX),
    "linear-hop1": cases.residual_config(16, 16, bits=8, hop_length=1, **_LINEAR, **_AUX),
    "floor": cases.residual_config(32, 32, bits=9, pad_value=-2.5, **_KERNEL, **_AUX),
    "speaker": cases.residual_config(32, 16, speaker_size=7, output=ENDS, **_KERNEL, **_AUX),
    "speaker-linear": cases.residual_config(16, 32, bits=8, speaker_size=4, **_LINEAR, **_AUX),
    "beta": cases.residual_config(32, 16, head="beta", n_classes=2, **_KERNEL, **_AUX),
    "gaussian": cases.residual_config(16, 16, head="gaussian", n_classes=2, **_LINEAR),
}
every_config = pytest.mark.parametrize("name", CONFIGS)
SPEAKER = np.random.default_rng(6).normal(size=16)


def made(name: str, **options) -> tuple[ModelConfig, dict, Vocoder]:
    config = CONFIGS[name]
    tensors = cases.random_tensors(config)
    return config, tensors, Vocoder(config, tensors, **({"cpu_threads": 1} | options))


def who(config: ModelConfig) -> dict:
    return {"speaker": SPEAKER[: config.speaker_size]} if config.speaker_size else {}


# --- meaning --------------------------------------------------------------------------------------


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("n_frames", [1, 2, 9])
@every_config
def test_forced_logits_match_the_reference(name, n_frames, isa, monkeypatch):
    monkeypatch.setenv("WAVERNN_FAST_ISA", isa)
    config, tensors, voc = made(name)
    assert voc.isa == isa
    frames = cases.random_mel(config, n_frames)
    n = n_frames * config.hop_length
    samples = cases.random_samples(config, n)
    expected = reference.run(config, tensors, frames, forced=samples, **who(config))["logits"]
    request = make_request(config, frames, None, 0, **who(config))
    parts = [part for _, part in likelihood.teacher_forced_logits(voc.voice(), request, samples)]
    error = tolerances.logit_error(np.concatenate(parts), expected)
    assert error < min(1e-4, tolerances.logit_limit(expected, "fp32"))


@pytest.mark.parametrize("n_frames", [1, 2, 9])
@every_config
def test_the_pytorch_twin_matches_the_reference(name, n_frames):
    config = CONFIGS[name]
    tensors, frames = cases.random_tensors(config), cases.random_mel(config, n_frames)
    samples = cases.random_samples(config, n_frames * config.hop_length)
    twin = make_eager(config, tensors, "float64")
    if config.speaker_size:
        twin.hear(SPEAKER[: config.speaker_size])
    found = twin.teacher_forced_logits(samples, frames)
    expected = reference.run(config, tensors, frames, forced=samples, **who(config))["logits"]
    assert tolerances.logit_error(found, expected) < tolerances.EAGER_FLOAT64[0]


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("linear", {"upsample_pad": 1}),
        ("floor", {"pad_value": 0.0}),
        ("linear-floor", {"pad_value": 0.0}),
    ],
)
def test_every_switch_is_heard(name, change):
    config = CONFIGS[name]
    tensors, frames = cases.random_tensors(config), cases.random_mel(config, 6)
    samples = cases.random_samples(config, 6 * config.hop_length)
    one, other = (
        reference.run(c, tensors, frames, forced=samples)["logits"]
        for c in (config, dataclasses.replace(config, **change))
    )
    assert tolerances.logit_error(one, other) > 0.01


def test_a_speaker_is_heard():
    config, _, voc = made("speaker")
    frames = cases.random_mel(config, 6)
    one, other = (voc.generate(frames, speaker=s * SPEAKER[:7]) for s in (1.0, -1.0))
    assert np.abs(one - other).max() > 0.05


@pytest.mark.parametrize(("n_frames", "hop", "pad"), [(1, 1, 1), (1, 7, 2), (2, 3, 2), (40, 11, 3)])
def test_positions_are_those_of_torch_interpolate(n_frames, hop, pad):
    """Rows that are frame numbers come out as positions; torch is asked in float64."""
    config = cases.residual_config(
        16, 16, bits=8, hop_length=hop, **(_LINEAR | {"upsample_pad": pad}), **_AUX
    )
    samples = np.arange(n_frames * hop)

    def torch_positions(n: int) -> np.ndarray:
        x = torch.arange(n, dtype=torch.float64)[None, None]
        y = torch.nn.functional.interpolate(x, scale_factor=hop, mode="linear", align_corners=True)
        return y[0, 0].numpy()

    mel = upsampling.mel_positions(config, n_frames, samples)
    expected = torch_positions(n_frames + 2 * pad)[pad * hop : -pad * hop] - pad
    np.testing.assert_allclose(mel.frame + mel.share.astype(np.float64), expected, atol=1e-6)
    # Each sample needs the frame it lies in and one to either side, which is what rows hold.
    assert ((mel.frame - samples // hop >= -1) & (mel.frame - samples // hop <= 0)).all()
    aux = upsampling.aux_positions(config, n_frames, samples)
    np.testing.assert_allclose(
        aux.frame + aux.share.astype(np.float64), torch_positions(n_frames), atol=1e-6
    )


# --- the same bits --------------------------------------------------------------------------------


@pytest.mark.parametrize("threads", [1, 2])
@every_config
def test_a_batch_item_equals_generate(name, threads):
    config, _, voc = made(name, cpu_threads=threads)
    lengths = [5, 40, 1, 90, 12, 33]
    mels = [cases.random_mel(config, n, seed=n) for n in lengths]
    speakers = None
    if config.speaker_size:
        speakers = [s * SPEAKER[: config.speaker_size] for s in (1, -1, 0.5, 2, 0, -2)]
    waves = voc.generate_batch(mels, speakers=speakers, streams=3)
    for i, (frames, wave) in enumerate(zip(mels, waves, strict=True)):
        one = {} if speakers is None else {"speaker": speakers[i]}
        assert same_bits(wave, voc.generate(frames, seed=i, **one))


@every_config
def test_every_instruction_set_draws_the_same_samples(name, monkeypatch):
    waves = []
    for isa in ISAS:
        monkeypatch.setenv("WAVERNN_FAST_ISA", isa)
        config, _, voc = made(name)
        waves.append(voc.generate(cases.random_mel(config, 30), seed=3, **who(config)))
    assert all(same_bits(wave, waves[0]) for wave in waves)


@pytest.mark.parametrize("chunk_frames", [1, 7])
@every_config
def test_chunks_join_to_the_whole(name, chunk_frames):
    config, _, voc = made(name)
    frames = cases.random_mel(config, 45)
    whole = voc.generate(frames, seed=2, **who(config))
    chunks = voc.stream(frames, seed=2, chunk_frames=chunk_frames, **who(config))
    assert same_bits(joined(chunks), whole)
    if config.upsample == "kernel":
        arriving = iter([frames[:, :1], frames[:, 1:20], frames[:, 20:]])
        chunks = voc.stream(arriving, seed=2, chunk_frames=chunk_frames, **who(config))
        assert same_bits(joined(chunks), whole)


@every_config
def test_folds_begin_inside_the_utterance(name):
    """A fold hears the rows of its place: its samples are those of a run that starts there."""
    config, tensors, voc = made(name)
    frames = cases.random_mel(config, 80)
    folded = voc.generate(frames, seed=1, fold=(30, 8), fade_out=False, **who(config))
    assert np.isfinite(folded).all()
    voice = voc.voice()
    request = make_request(config, frames, None, 1, **who(config))
    start, n = 38, 20
    stream = voice.open(1, Sampling(1.0, True, None), fold=1, start=start)
    first = start // voice.hop_length
    rows = voice.source(request).rows(first, (start + n - 1) // voice.hop_length - first + 1)
    found = voice.engine.run([stream], [n], [rows[0]], [rows[1]], return_logits=True)[0]
    expected = reference.run(
        config, tensors, frames, first_sample=start, n_steps=n, forced=found[0], **who(config)
    )["logits"]
    assert tolerances.logit_error(found[1], expected) < 1e-4


@pytest.mark.parametrize("name", ["linear-aux", "speaker", "speaker-linear", "floor"])
def test_rows_made_by_pytorch_are_those_of_numpy(name):
    """What a mel in the memory of a GPU goes through, with PyTorch on the host."""
    config, _, voc = made(name)
    frames = cases.random_mel(config, 12)
    request = make_request(config, frames, None, 0, **who(config))
    place = places._TorchPlace(torch, torch.device("cpu"))
    place.export = lambda rows: rows.numpy()
    there = voc.conditioner.on(place.xp, None)
    if config.speaker_size:
        there = there.of_speaker(request.speaker)
    kind = MelRows if config.upsample == "kernel" else SampleRows
    first, count = (3, 6) if config.upsample == "kernel" else (7, 20)
    ours = voc.voice().source(request).rows(first, count)
    theirs = kind(there, torch.from_numpy(frames), place).rows(first, count)
    for one, other in zip(ours, theirs, strict=True):
        assert other.dtype == np.float32
        np.testing.assert_allclose(other, one, atol=1e-5)


# --- files, tools, refusals -----------------------------------------------------------------------


@every_config
def test_a_model_file_keeps_the_switches(name, tmp_path):
    config, tensors, _ = made(name)
    weights.write(tmp_path / "m.safetensors", config, tensors)
    again, stored = weights.read(tmp_path / "m.safetensors")
    assert again == config
    assert set(stored) == set(tensors)


@every_config
def test_verify_passes_and_finds_a_wrong_weight(name):
    _, tensors, voc = made(name)
    assert compare(voc, tensors, steps=60).passed
    wrong = {**tensors, "input.weight": tensors["input.weight"] * np.float32(1.01)}
    assert not compare(voc, wrong, steps=60).passed


@every_config
def test_a_model_likes_its_own_samples(name):
    config, _, voc = made(name)
    frames = cases.random_mel(config, 60)
    own = voc.generate(frames, fade_out=False, **who(config))
    own = np.pad(own, (0, 60 * config.hop_length - len(own)))
    noise = np.random.default_rng(1).uniform(-1, 1, len(own)).astype(np.float32)
    assert voc.score(frames, own, **who(config)) < voc.score(frames, noise, **who(config))


def test_linear_upsampling_cannot_follow_frames_as_they_come():
    config, _, voc = made("linear")
    with pytest.raises(InputError, match="depends on the length of the mel"):
        voc.stream(iter([cases.random_mel(config, 3)]))


def test_a_speaker_must_be_given_where_one_is_heard_and_nowhere_else():
    config, _, voc = made("speaker")
    frames = cases.random_mel(config, 3)
    for call in (voc.generate, voc.stream, lambda mel: voc.score(mel, np.zeros(12, np.float32))):
        with pytest.raises(InputError, match="a vector of 7 numbers"):
            call(frames)
    with pytest.raises(InputError, match=r"shape \(4,\), expected \[7\]"):
        voc.generate(frames, speaker=SPEAKER[:4])
    with pytest.raises(InputError, match="NaN"):
        voc.generate(frames, speaker=np.full(7, np.nan))
    with pytest.raises(InputError, match="There are 1 speakers for 2 mels"):
        voc.generate_batch([frames, frames], speakers=[SPEAKER[:7]])
    plain = made("floor")[2]
    with pytest.raises(InputError, match="knows no speakers"):
        plain.generate(cases.random_mel(plain.config, 3), speaker=SPEAKER[:7])


def test_a_speaker_may_come_as_a_tensor():
    config, _, voc = made("speaker")
    frames = cases.random_mel(config, 4)
    vector = torch.from_numpy(SPEAKER[:7].astype(np.float32))
    assert same_bits(
        voc.generate(frames, speaker=vector), voc.generate(frames, speaker=vector[None].numpy())
    )


def test_impossible_switches_are_all_named():
    with pytest.raises(ModelError) as caught:
        cases.residual_config(
            32, 16, bits=8, upsample="linear", pad="none", pad_value=1.0, speaker_size=3
        )
    text = "\n".join(caught.value.problems)
    for part in ("reads a frame a side", "needs a padded mel", "upsample_pad is 0", "pad_value is"):
        assert part in text
    assert "auxiliary network" in text
    with pytest.raises(ModelError, match="linear upsampling, and that alone"):
        cases.residual_config(32, 16, bits=8, upsample_pad=2)
    with pytest.raises(ModelError, match="needs a residual core"):
        cases.dual_config(32, 16, **_LINEAR)


def test_rows_of_samples_are_made_a_few_at_a_time():
    """The slices of a batch of linear models stay small: rows of a sample are thousands wide."""
    config, _, voc = made("linear")
    voice = voc.voice()
    assert (voice.hop_length, voice.slice_steps) == (1, upsampling.SLICE_STEPS)
    asked: list[int] = []
    engine, request = voice.engine, make_request(config, cases.random_mel(config, 400), None, 0)

    class Spy:
        def __getattr__(self, name):
            return getattr(engine, name)

        def run(self, streams, n_steps, *rest, **options):
            asked.extend(n_steps)
            return engine.run(streams, n_steps, *rest, **options)

    from wavernn_fast.batch import Batch, run_batch

    spied = dataclasses.replace(voice, engine=Spy())
    run_batch(Batch(spied, Sampling(1.0, False, None)), list(itertools.repeat(request, 2)))
    widest = 4 * (11 * 512 + 2 * 512)  # bytes of a row at hidden size 512, interp and hold
    assert max(asked) * widest < 8e6
    assert sum(asked) >= 2 * 399 * config.hop_length
