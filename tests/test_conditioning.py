"""Hoisted conditioning equals the original network, and is the same bit for bit in any cut."""

from __future__ import annotations

import hashlib
import itertools
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wavernn_fast.conditioning import Conditioner
from wavernn_fast.conditioning_frames import StreamedMel
from wavernn_fast.conditioning_products import BLOCK
from wavernn_fast.config import ModelConfig
from wavernn_fast.errors import InputError

Array = np.ndarray
SCALES = (5, 5, 11)
HOP, PAD, EPS = 275, 2, 1e-5
M, A, CH, BLOCKS, R, K, CLASSES = 9, 4, 6, 3, 32, 16, 32


# --- models ---------------------------------------------------------------------------------------


def residual_config(aux: bool = True) -> ModelConfig:
    return ModelConfig(
        core="residual",
        hidden_size=R,
        fc_size=K,
        head="softmax",
        n_classes=CLASSES,
        sample_rate=22050,
        hop_length=HOP,
        n_mels=M,
        aux_size=A if aux else 0,
        aux_channels=CH if aux else 0,
        aux_blocks=BLOCKS if aux else 0,
        aux_kernel=2 * PAD + 1 if aux else 0,
        upsample_left=2,
        upsample_right=2,
    )


def dual_config(*, pad: str = "none", aux: bool = False, left: int = 1, right: int = 2):
    return ModelConfig(
        core="dual",
        hidden_size=32,
        fc_size=16,
        head="dual_softmax",
        n_classes=256,
        sample_rate=22050,
        hop_length=4,
        n_mels=M,
        aux_size=A if aux else 0,
        aux_channels=CH if aux else 0,
        aux_blocks=1 if aux else 0,
        aux_kernel=7 if aux else 0,
        upsample_left=left,
        upsample_right=right,
        pad=pad,  # type: ignore[arg-type]
    )


def tensors_of(config: ModelConfig, seed: int = 0) -> dict[str, Array]:
    """Random canonical tensors, as far as conditioning needs them."""
    rng = np.random.default_rng(seed)
    a, m, ch, r, k = (
        config.aux_size,
        config.n_mels,
        config.aux_channels,
        config.hidden_size,
        config.fc_size,
    )
    shapes: dict[str, tuple[int, ...]] = {}
    if config.core == "dual":
        shapes["gru.w_conditioning"] = (3 * r, m + a)
    else:
        shapes["input.weight"] = (r, 1 + m + a)
        shapes["gru1.w_input"] = (3 * r, r)
        shapes["gru2.w_input"] = (3 * r, r + a)
        shapes["fc1.weight"] = (k, r + a)
        shapes["fc2.weight"] = (k, k + a)
    if a:
        layers = {"conv_in": (ch, m, config.aux_kernel)}
        for i in range(config.aux_blocks):
            layers |= {f"blocks.{i}.conv1": (ch, ch), f"blocks.{i}.conv2": (ch, ch)}
        layers["conv_out"] = ((4 if config.core == "residual" else 1) * a, ch)
        for name, shape in layers.items():
            shapes[f"aux.{name}.weight"] = shape
            shapes[f"aux.{name}.bias"] = shape[:1]
    return {n: rng.normal(0.0, 0.4, s).astype(np.float32) for n, s in shapes.items()}


CONFIGS = {
    "residual": residual_config(),
    "residual_without_aux": residual_config(aux=False),
    "dual_no_padding": dual_config(),
    "dual_with_aux": dual_config(pad="zeros", aux=True),
    "dual_with_aux_no_padding": dual_config(pad="none", aux=True),
    "dual_without_context": dual_config(pad="zeros", left=0, right=0),
}
CONDITIONERS = {name: Conditioner(c, tensors_of(c)) for name, c in CONFIGS.items()}
every_model = pytest.mark.parametrize("name", CONFIGS)


def random_mel(n_frames: int, seed: int = 1) -> Array:
    return np.random.default_rng(seed).normal(size=(M, n_frames)).astype(np.float32)


def whole(name: str, mel: Array) -> tuple[Array, Array | None]:
    total = CONFIGS[name].n_output_frames(mel.shape[1])
    return CONDITIONERS[name].window(mel, 0, total)


def same_bits(found: Array | None, expected: Array | None) -> bool:
    if found is None or expected is None:
        return found is expected
    return found.shape == expected.shape and found.tobytes() == expected.tobytes()


# --- the original network, one stage after the other, in float64 ----------------------------------


class OriginalUpsampling:
    """The published upsampling network with batch-norm, repeats, FIRs, padding and cut."""

    def __init__(self, seed: int) -> None:
        rng = np.random.default_rng(seed)

        def norm() -> tuple[Array, ...]:
            return (
                rng.uniform(0.5, 1.5, CH),
                rng.normal(0.0, 0.3, CH),
                rng.normal(0.0, 0.3, CH),
                rng.uniform(0.5, 2.0, CH),
            )

        self.conv_in = rng.normal(0.0, 0.3, (CH, M, 2 * PAD + 1))
        self.norm_in = norm()
        self.blocks = [
            tuple((rng.normal(0.0, 0.4, (CH, CH)), norm()) for _ in range(2)) for _ in range(BLOCKS)
        ]
        self.conv_out = rng.normal(0.0, 0.4, (4 * A, CH))
        self.bias_out = rng.normal(0.0, 0.4, 4 * A)
        self.firs = [rng.normal(1.0 / (2 * s + 1), 0.05, 2 * s + 1) for s in SCALES]

    @staticmethod
    def normalise(x: Array, norm: tuple[Array, ...]) -> Array:
        gain, shift, mean, variance = (v[:, None] for v in norm)
        return (x - mean) / np.sqrt(variance + EPS) * gain + shift

    def aux(self, mel: Array) -> Array:
        """[M, n + 2 PAD] -> [4 A, n]."""
        taps = 2 * PAD + 1
        n = mel.shape[1] - 2 * PAD
        x = np.stack(
            [np.einsum("cmk,mk->c", self.conv_in, mel[:, i : i + taps]) for i in range(n)], axis=1
        )
        x = np.maximum(self.normalise(x, self.norm_in), 0.0)
        for (weight1, norm1), (weight2, norm2) in self.blocks:
            inner = np.maximum(self.normalise(weight1 @ x, norm1), 0.0)
            x = x + self.normalise(weight2 @ inner, norm2)
        return self.conv_out @ x + self.bias_out[:, None]

    def upsample(self, mel: Array) -> Array:
        """[M, n + 2 PAD] -> [M, n * HOP]."""
        x = mel
        for scale, fir in zip(SCALES, self.firs, strict=True):
            x = np.repeat(x, scale, axis=1)
            padded = np.pad(x, ((0, 0), (scale, scale)))
            x = sum(fir[i] * padded[:, i : i + x.shape[1]] for i in range(fir.size))
        return x[:, PAD * HOP : x.shape[1] - PAD * HOP]

    def __call__(self, mel: Array) -> tuple[Array, Array]:
        """Mel [M, n] -> upsampled mel [M, n * HOP], aux [4 A, n * HOP]."""
        padded = np.pad(mel.astype(np.float64), ((0, 0), (PAD, PAD)))
        return self.upsample(padded), np.repeat(self.aux(padded), HOP, axis=1)

    def canonical(self) -> dict[str, Array]:
        """The same as canonical tensors: batch-norm folded, FIRs composed (by an impulse)."""
        out: dict[str, Array] = {}

        def folded(name: str, weight: Array, norm: tuple[Array, ...]) -> None:
            gain, shift, mean, variance = norm
            scale = gain / np.sqrt(variance + EPS)
            out[f"{name}.weight"] = weight * scale.reshape(-1, *[1] * (weight.ndim - 1))
            out[f"{name}.bias"] = shift - mean * scale

        folded("aux.conv_in", self.conv_in, self.norm_in)
        for i, pair in enumerate(self.blocks):
            for j, (weight, norm) in enumerate(pair, start=1):
                folded(f"aux.blocks.{i}.conv{j}", weight, norm)
        out["aux.conv_out.weight"], out["aux.conv_out.bias"] = self.conv_out, self.bias_out
        impulse = np.zeros((1, 5 + 4 + 2 * PAD))
        impulse[0, 4 + PAD] = 1.0
        response = self.upsample(impulse).reshape(9, HOP)
        out["upsample.kernel"] = np.stack([response[4 + 2 - j] for j in range(5)], axis=1)
        return {name: value.astype(np.float32) for name, value in out.items()}


def conditioning_of_samples(config: ModelConfig, kernel: Array, interp: Array, hold: Array):
    """What the engine adds at every sample: [n * hop, interp channels] and the rest of hold."""
    taps = kernel.shape[1]
    n = hold.shape[0]
    windows = np.stack([interp[j : j + n] for j in range(taps)]).astype(np.float64)
    up = np.einsum("pj,jnc->npc", kernel.astype(np.float64), windows)
    return (up + hold[:, None, : interp.shape[1]]).reshape(n * config.hop_length, -1)


@pytest.mark.parametrize("n_frames", [1, 2, 3, 7, 8, 9, 21])
def test_hoisted_rows_equal_the_original_network(n_frames: int) -> None:
    config, original = residual_config(), OriginalUpsampling(3)
    tensors = tensors_of(config) | original.canonical()
    mel = random_mel(n_frames)
    interp, hold = Conditioner(config, tensors).window(mel, 0, n_frames)
    assert interp.shape == (n_frames + 4, 4 * R)
    assert hold.shape == (n_frames, 7 * R + 2 * K)

    up, aux = original(mel)
    a1, a2, a3, a4 = (aux[i * A : (i + 1) * A].T for i in range(4))
    weights = {name: value.astype(np.float64) for name, value in tensors.items()}
    u = np.concatenate([up.T, a1], axis=1) @ weights["input.weight"][:, 1:].T
    expected = {
        "input and gru1": np.concatenate([u, u @ weights["gru1.w_input"].T], axis=1),
        "gru2": a2 @ weights["gru2.w_input"][:, R:].T,
        "fc1": a3 @ weights["fc1.weight"][:, R:].T,
        "fc2": a4 @ weights["fc2.weight"][:, K:].T,
    }
    rest = np.repeat(hold[:, 4 * R :], HOP, axis=0)
    found = {
        "input and gru1": conditioning_of_samples(config, tensors["upsample.kernel"], interp, hold),
        "gru2": rest[:, : 3 * R],
        "fc1": rest[:, 3 * R : 3 * R + K],
        "fc2": rest[:, 3 * R + K :],
    }
    for part, values in expected.items():
        np.testing.assert_allclose(
            found[part], values, rtol=0.0, atol=1e-5 * np.abs(values).max(), err_msg=part
        )


def test_dual_rows_are_products_with_the_frames_each_output_reads() -> None:
    config = dual_config(pad="none", left=1, right=2)
    tensors = tensors_of(config)
    mel = random_mel(12)
    interp, hold = Conditioner(config, tensors).window(mel, 2, 5)
    # output frame 2 reads mel frames 2 .. 5: the first mel frame only serves as context
    expected = (tensors["gru.w_conditioning"].astype(np.float64) @ mel[:, 2:10]).T
    assert hold is None
    np.testing.assert_allclose(interp, expected, atol=1e-6)


def test_dual_with_aux_puts_the_slice_into_the_gates() -> None:
    config = dual_config(pad="zeros", aux=True)
    tensors = tensors_of(config)
    interp, hold = Conditioner(config, tensors).window(random_mel(6), 0, 6)
    assert interp.shape == (9, 96)
    assert hold.shape == (6, 96)
    flat = dict(tensors)
    flat["gru.w_conditioning"] = tensors["gru.w_conditioning"].copy()
    flat["gru.w_conditioning"][:, M:] = 0.0
    _, zero = Conditioner(config, flat).window(random_mel(6), 0, 6)
    assert np.abs(hold).max() > 0.1
    assert not zero.any()


# --- any cut, the same bits -----------------------------------------------------------------------


@every_model
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_windows_equal_the_whole_bit_for_bit(name: str, data: st.DataObject) -> None:
    mel = random_mel(data.draw(st.integers(0, 70)))
    interp, hold = whole(name, mel)
    total = CONFIGS[name].n_output_frames(mel.shape[1])
    first = data.draw(st.integers(0, total))
    count = data.draw(st.integers(0, total - first))
    context = CONFIGS[name].upsample_left + CONFIGS[name].upsample_right
    part_interp, part_hold = CONDITIONERS[name].window(mel, first, count)
    assert part_interp.shape[0] == count + context
    assert count == 0 or same_bits(part_interp, interp[first : first + count + context])
    assert same_bits(part_hold, None if hold is None else hold[first : first + count])


# Frames that come, whether the last frame is asked for again, frames that are asked for at most. A
# list, drawn at once: what is drawn piece by piece costs more than what is tested.
TURNS = st.lists(st.tuples(st.integers(0, 20), st.booleans(), st.integers(0, 25)), max_size=14)
LATER = (1, False, 100)  # of every turn after those


@every_model
@settings(max_examples=25, deadline=None)
@given(frames=st.integers(0, 70), turns=TURNS)
def test_stream_equals_the_whole_bit_for_bit(
    name: str, frames: int, turns: list[tuple[int, bool, int]]
) -> None:
    mel = random_mel(frames)
    config = CONFIGS[name]
    interp, hold = whole(name, mel)
    context = config.upsample_left + config.upsample_right
    stream, sent, done = CONDITIONERS[name].stream(), 0, 0
    for come, again, most in itertools.chain(turns, itertools.repeat(LATER)):
        if sent < mel.shape[1]:
            stream.push(mel[:, sent : sent + come])
            sent = min(sent + come, mel.shape[1])
        elif not stream.finished:
            stream.finish()
        first = max(done - int(again and done > 0), stream._oldest)
        count = min(most, stream.ready - first)
        if stream.finished:
            count = stream.ready - first
        part_interp, part_hold = stream.window(first, count)
        assert part_interp.shape[0] == count + context
        assert count == 0 or same_bits(part_interp, interp[first : first + count + context])
        assert same_bits(part_hold, None if hold is None else hold[first : first + count])
        done = first + count
        if stream.finished:
            break
    assert done == config.n_output_frames(mel.shape[1])


@every_model
def test_frames_are_ready_as_soon_as_their_context_is_known(name: str) -> None:
    config, stream = CONFIGS[name], CONDITIONERS[name].stream()
    behind = config.lookback_frames if config.pad == "none" else 0
    for known in range(12):
        assert stream.ready == max(0, known - behind - config.lookahead_frames)
        stream.push(random_mel(1))
    stream.finish()
    assert stream.ready == config.n_output_frames(12)


@every_model
def test_stream_keeps_a_bounded_number_of_frames_and_blocks(name: str) -> None:
    stream, done = CONDITIONERS[name].stream(), 0
    for seed in range(200):
        stream.push(random_mel(5, seed))
        stream.window(done, stream.ready - done)
        done = stream.ready
        assert stream._frames._kept.shape[1] <= 5 * BLOCK
        assert stream._frames._room.shape[1] <= 2 * (5 * BLOCK + 5)
        assert len(stream._cache) <= 5
    assert done > 900


@pytest.mark.slow
def test_frames_that_come_one_by_one_are_not_all_copied_for_each() -> None:
    class Counting:
        """numpy, and how many frames it was asked to make room for."""

        float32 = np.float32
        asarray = staticmethod(np.asarray)
        frames = 0

        def zeros(self, shape: tuple[int, int], dtype: type) -> Array:
            self.frames += shape[1]
            return np.zeros(shape, dtype)

    xp, n_frames, mel = Counting(), 2000, np.random.default_rng(0).random((M, 2000), np.float32)
    stream = StreamedMel(M, xp, 0.0)
    for n in range(n_frames):
        stream.push(mel[:, n : n + 1])
    assert xp.frames <= 8 * n_frames
    stream.drop(1500)
    stream._xp = np
    assert np.array_equal(stream.take(1490, 520)[10:-10], mel[:, 1500:].T)


def test_bits_do_not_hang_on_the_number_of_blas_threads() -> None:
    code = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "import test_conditioning as t; print(t.digest_of_a_large_model())"
    )
    found = set()
    for threads in ("1", "2", "4"):
        env = os.environ | {"OPENBLAS_NUM_THREADS": threads, "OMP_NUM_THREADS": threads}
        here = Path(__file__).resolve().parent
        result = subprocess.run(
            [sys.executable, "-c", code, str(here)],
            env=env | {"PYTHONPATH": str(here.parent)},
            capture_output=True,
            text=True,
            check=True,
        )
        found.add(result.stdout)
    assert len(found) == 1


def digest_of_a_large_model() -> str:
    """Hash of the rows of a model whose matrices are large enough for several threads."""
    config = ModelConfig(
        core="residual",
        hidden_size=256,
        fc_size=64,
        head="softmax",
        n_classes=256,
        sample_rate=16000,
        hop_length=4,
        n_mels=80,
        aux_size=32,
        aux_channels=128,
        aux_blocks=2,
        aux_kernel=5,
        upsample_left=2,
        upsample_right=2,
    )
    mel = np.random.default_rng(0).normal(size=(80, 40)).astype(np.float32)
    rows = Conditioner(config, tensors_of(config)).window(mel, 0, 40)
    return hashlib.sha256(b"".join(r.tobytes() for r in rows)).hexdigest()


# --- ends -----------------------------------------------------------------------------------------


def test_edges_are_zero_whatever_the_floor_of_the_mel() -> None:
    mel = np.full((M, 3), -4.0, dtype=np.float32)
    interp, _ = whole("residual", mel)
    assert not interp[:2].any()
    assert not interp[-2:].any()
    assert interp[2:5].any()


@every_model
def test_no_frames_give_no_rows_but_the_context(name: str) -> None:
    config = CONFIGS[name]
    interp, hold = whole(name, random_mel(0))
    assert interp.shape == (
        config.upsample_left + config.upsample_right,
        CONDITIONERS[name].interp_size,
    )
    assert hold is None or hold.shape == (0, CONDITIONERS[name].hold_size)


def test_one_frame_gives_one_row_when_padded_and_none_when_not() -> None:
    assert whole("residual", random_mel(1))[1].shape == (1, 7 * R + 2 * K)
    assert CONFIGS["dual_no_padding"].n_output_frames(1) == 0
    assert CONFIGS["dual_no_padding"].n_output_frames(4) == 1


def test_unconditioned_model_has_no_rows() -> None:
    config = ModelConfig(
        core="dual",
        hidden_size=32,
        fc_size=16,
        head="dual_softmax",
        n_classes=256,
        sample_rate=24000,
        hop_length=1,
    )
    conditioner = Conditioner(config, {})
    assert (conditioner.interp_size, conditioner.hold_size) == (0, 0)
    assert conditioner.window(None, 0, 100) == (None, None)
    assert conditioner.stream().window(0, 100) == (None, None)


@every_model
def test_rows_are_contiguous_float32(name: str) -> None:
    for rows in whole(name, random_mel(30)):
        assert rows is None or (rows.dtype == np.float32 and rows.flags.c_contiguous)


def test_what_cannot_be_asked_is_refused() -> None:
    conditioner = CONDITIONERS["residual"]
    mel = random_mel(40)
    for first, count in [(-1, 2), (0, 41), (40, 1), (3, -1)]:
        with pytest.raises(InputError, match="there are 40"):
            conditioner.window(mel, first, count)
    stream = conditioner.stream()
    stream.push(mel)
    with pytest.raises(InputError, match="there are 38"):
        stream.window(0, 39)
    stream.window(30, 2)
    with pytest.raises(InputError, match="no longer kept"):
        stream.window(29, 2)
    with pytest.raises(InputError, match=r"shape \(3, 4\)"):
        stream.push(np.zeros((3, 4), dtype=np.float32))
    stream.finish()
    with pytest.raises(InputError, match="after the end"):
        stream.push(mel)


@every_model
def test_another_array_module_gives_the_same_rows(name: str) -> None:
    torch = pytest.importorskip("torch", reason="torch stands in for an array module of a GPU")
    config, mel = CONFIGS[name], random_mel(19)
    total = config.n_output_frames(19)
    found = Conditioner(config, tensors_of(config), xp=torch).window(
        torch.from_numpy(mel), 0, total
    )
    for ours, theirs in zip(whole(name, mel), found, strict=True):
        assert (ours is None) == (theirs is None)
        if ours is not None:
            np.testing.assert_allclose(theirs.numpy(), ours, atol=1e-6)
