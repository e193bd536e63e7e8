"""yukarin_wavernn's other networks: dilated convolutions over features, and speakers."""

from __future__ import annotations

import dataclasses
import itertools
import json
from pathlib import Path
from typing import Any

import cases
import checkpoint_builders as builders
import embedded_twins as twins
import numpy as np
import pytest
import reference
import tolerances
from cli_runner import run
from hypothesis import given, settings
from hypothesis import strategies as st
from voices import joined, same_bits

from wavernn_fast import audio, checkpoints, conditioning_convolutions, weights
from wavernn_fast.conditioning_convolutions import DilatedNetwork
from wavernn_fast.conditioning_network import make_conditioner
from wavernn_fast.config import ModelConfig
from wavernn_fast.errors import InputError, ModelError
from wavernn_fast.likelihood import teacher_forced_logits
from wavernn_fast.models.eager import make_eager
from wavernn_fast.samples import decode_samples, encode_targets
from wavernn_fast.utterance import make_request
from wavernn_fast.verification import compare
from wavernn_fast.vocoder import Vocoder

# The published class normalises weights by a function that PyTorch wants to replace.
pytestmark = pytest.mark.filterwarnings("ignore:.*weight_norm:FutureWarning")

ENCODERS = (
    "skip_dilated_cnn",
    "residual_bottleneck_dilated_cnn",
    "residual_bottleneck_dilated_cnn_bn",
)
# kind, layers, size, kernel, and whether there are speakers
NETWORKS = [
    ("dilated_conv", 1, 5, 3, False),
    ("dilated_conv", 4, 6, 3, True),
    ("bottleneck_conv", 3, 9, 3, False),
    ("bottleneck_conv", 2, 8, 3, True),
    ("gru", 2, 5, 1, True),
]
CONVOLVED = NETWORKS[:4]


def config_of(kind: str, layers: int, size: int, kernel: int, speakers: bool) -> ModelConfig:
    fields = {"speakers": 4, "speaker_size": 3} if speakers else {}
    return cases.embedded_config(32, 16, 8, (kind, layers, size, kernel), **fields)


def heard(config: ModelConfig, tensors: Any, speaker: Any = None) -> Any:
    conditioner = make_conditioner(config, tensors)
    return conditioner if speaker is None else conditioner.of_speaker(np.asarray(speaker, float))


# --- the networks ---------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", NETWORKS)
@pytest.mark.parametrize("n_frames", [1, 9, 40])
def test_rows_are_those_of_the_float64_reference(shape: tuple, n_frames: int) -> None:
    config = config_of(*shape)
    tensors = cases.random_tensors(config)
    mel = cases.random_mel(config, n_frames)
    weight = {name: array.astype(np.float64) for name, array in tensors.items()}
    number = 2 if config.speakers else None
    vector = None if number is None else weight["speakers.weight"][number]
    held = reference.network(config, weight, mel.astype(np.float64), vector)
    expected = held @ weight["gru.w_conditioning"].T
    for speaker in (number, vector):
        interp, hold = heard(config, tensors, speaker).window(mel, 0, n_frames)
        assert interp is None
        np.testing.assert_allclose(hold, expected, atol=2e-6 * np.abs(expected).max())
    if number is not None:
        other = heard(config, tensors, 3).window(mel, 0, n_frames)[1]
        assert np.abs(other - expected).max() > 0.01


@pytest.mark.parametrize("shape", CONVOLVED)
def test_windows_and_streams_give_the_rows_of_the_whole_bit_for_bit(shape: tuple) -> None:
    config = config_of(*shape)
    conditioner = heard(config, cases.random_tensors(config), 1 if config.speakers else None)
    mel = cases.random_mel(config, 50)
    whole = conditioner.window(mel, 0, 50)[1]
    for first, count in ((0, 1), (5, 9), (49, 1), (13, 30)):
        assert same_bits(conditioner.window(mel, first, count)[1], whole[first : first + count])
    stream, done = conditioner.stream(), 0
    for n in range(0, 50, 3):
        stream.push(mel[:, n : n + 3])
        assert stream.ready == max(0, min(50, n + 3) - config.network.radius)
        while done < stream.ready:
            assert same_bits(stream.window(done, 1)[1], whole[done : done + 1])
            done += 1
    stream.finish()
    assert same_bits(stream.window(done, 50 - done)[1], whole[done:])


@pytest.mark.parametrize("kind", ["dilated_conv", "bottleneck_conv"])
def test_what_reaches_far_is_not_computed_again_for_every_few_frames(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, n_frames = config_of(kind, 6, 8, 3, False), 300  # 63 frames to either side
    conditioner = heard(config, cases.random_tensors(config))
    mel, fed = cases.random_mel(config, n_frames), []
    alone = [conditioner.window(mel, first, 1)[1] for first in range(n_frames)]
    made = DilatedNetwork.__call__

    def counted(self: DilatedNetwork, frames: Any, inside: Any) -> Any:
        fed.append(len(frames))
        return made(self, frames, inside)

    monkeypatch.setattr(DilatedNetwork, "__call__", counted)
    window = conditioner.of(mel)
    parts = [window(first, 10)[1] for first in range(0, n_frames, 10)]
    assert same_bits(np.concatenate(parts), np.concatenate(alone))
    assert sum(fed) <= 5 * n_frames
    stream, done = conditioner.stream(), 0
    for n in range(0, n_frames, 150):
        stream.push(mel[:, n : n + 150])
        if n + 150 == n_frames:
            stream.finish()
        for n_done in range(done, stream.ready):
            assert same_bits(stream.window(n_done, 1)[1], alone[n_done])
        done = stream.ready
    assert done == n_frames


@pytest.mark.parametrize("shape", CONVOLVED)
@settings(deadline=None, max_examples=25)
@given(
    n_frames=st.integers(1, 70),
    pieces=st.lists(st.integers(0, 40), max_size=30),
    asked=st.lists(st.integers(1, 20), min_size=1),
)
def test_frames_may_come_and_rows_be_asked_for_in_any_pieces(shape, n_frames, pieces, asked):
    config = config_of(*shape)
    conditioner = heard(config, cases.random_tensors(config), 1 if config.speakers else None)
    mel = cases.random_mel(config, n_frames)
    whole = conditioner.window(mel, 0, n_frames)[1]
    stream, come, done, counts = conditioner.stream(), 0, 0, itertools.cycle(asked)
    for piece in [*pieces, n_frames]:
        stream.push(mel[:, come : come + piece])
        come = min(n_frames, come + piece)
        if piece % 3 == 0:  # else some are left for later
            while done < stream.ready:
                count = min(next(counts), stream.ready - done)
                assert same_bits(stream.window(done, count)[1], whole[done : done + count])
                done += count
    stream.finish()
    assert stream.ready == n_frames
    while done < n_frames:
        count = min(next(counts), n_frames - done)
        assert same_bits(stream.window(done, count)[1], whole[done : done + count])
        done += count


@pytest.mark.parametrize("kind", ["dilated_conv", "bottleneck_conv"])
def test_frame_by_frame_a_layer_computes_no_more_than_the_block_of_a_frame(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was all that the layers reach, for every frame: a quarter of a second with ten of them."""
    config = config_of(kind, 7, 8, 3, False)  # 127 frames to either side
    conditioner, n_frames, rows = heard(config, cases.random_tensors(config)), 300, 0
    mel = cases.random_mel(config, n_frames)
    whole = conditioner.window(mel, 0, n_frames)[1]
    convolved = conditioning_convolutions._convolved

    def counted(*given: Any) -> Any:
        nonlocal rows
        found = convolved(*given)
        rows += len(found)
        return found

    monkeypatch.setattr(conditioning_convolutions, "_convolved", counted)
    stream, done = conditioner.stream(), 0
    for n in range(n_frames):
        stream.push(mel[:, n : n + 1])
        count = stream.ready - done
        if count:
            assert same_bits(stream.window(done, count)[1], whole[done : done + count])
            done += count
    kept = [len(one._room) for one in (*stream._hearing._heard, *stream._hearing._beside)]
    assert sum(kept) <= 20 * config.network.radius
    products = 1 + 7 * (3 if kind == "bottleneck_conv" else 1)
    assert rows <= 8 * products * n_frames


def test_layers_reach_one_two_and_four_frames_farther() -> None:
    for shape, radius in zip(CONVOLVED, (1, 15, 7, 3), strict=True):
        config = config_of(*shape)
        assert config.network.radius == config.lookahead_frames == radius
        conditioner = heard(config, cases.random_tensors(config), 0 if config.speakers else None)
        mel, frames = cases.random_mel(config, 41), set()
        whole = conditioner.window(mel, 0, 41)[1]
        for change in (-9.0, -1.0, 1.0, 9.0):  # what one does not get past a ReLU, another does
            other = mel.copy()
            other[:, 20] += change
            changed = conditioner.window(other, 0, 41)[1] != whole
            frames.update(np.flatnonzero(changed.any(axis=1)).tolist())
        ends = {20 - radius, 20 + radius}
        assert frames <= set(range(20 - radius, 21 + radius))
        assert frames & ends


def test_a_convolution_hears_zeros_beside_the_utterance_not_what_is_made_of_zeros() -> None:
    """Padding the features alone gives other numbers at the ends, and the tests above find it."""
    config = config_of("dilated_conv", 2, 6, 3, False)
    weight = {n: a.astype(np.float64) for n, a in cases.random_tensors(config).items()}
    mel = cases.random_mel(config, 12).astype(np.float64)
    right = reference.network(config, weight, mel)
    longer = reference.network(config, weight, np.pad(mel, ((0, 0), (6, 6))))[6:-6]
    assert np.abs(right - longer)[[0, -1]].max() > 1e-3
    np.testing.assert_allclose(right[3:-3], longer[3:-3])


@pytest.mark.parametrize("shape", NETWORKS)
def test_pytorch_says_what_the_reference_says(shape: tuple) -> None:
    config = config_of(*shape)
    tensors, mel = cases.random_tensors(config), cases.random_mel(config, 12)
    forced = cases.random_samples(config, 12 * config.hop_length)
    eager = make_eager(config, tensors, "float64")
    speaker = tensors["speakers.weight"][1] if config.speakers else None
    if speaker is not None:
        eager.hear(speaker)
    expected = reference.run(config, tensors, mel, forced=forced, speaker=speaker)["logits"]
    np.testing.assert_allclose(eager.teacher_forced_logits(forced, mel), expected, atol=1e-9)


@pytest.mark.parametrize(
    ("network", "fields", "words"),
    [
        (("dilated_conv", 11, 8, 3), {}, "1 to 10 layers and kernel 3, not 11 and 3"),
        (("dilated_conv", 2, 8, 5), {}, "1 to 10 layers and kernel 3, not 2 and 5"),
        (("bottleneck_conv", 2, 3, 3), {}, "a bottleneck has a quarter of it"),
        (("dilated_conv", 2, 8, 3), {"pad": "none"}, "pad their inputs with zeros"),
        (("dilated_conv", 2, 8, 3), {"pad_value": -4.0}, "pad their inputs with zeros"),
        (("conv", 2, 8, 3), {"speaker_size": 3}, "a speaker's vector needs"),
        (("gru", 2, 8, 1), {"speakers": 3}, "speakers is 3 and speaker_size 0"),
        (None, {"speaker_size": 3}, "a speaker's vector needs"),
    ],
)
def test_what_contradicts_itself_is_named(network: Any, fields: dict, words: str) -> None:
    with pytest.raises(ModelError, match=words):
        cases.embedded_config(32, 16, 8, network, **fields)


def test_other_cores_are_not_conditioned_by_them() -> None:
    network = config_of("dilated_conv", 2, 8, 3, False).network
    with pytest.raises(ModelError, match="a dual core is not conditioned by a network of kind"):
        dataclasses.replace(cases.framed_config(32, 16), network=network)


# --- the checkpoints ------------------------------------------------------------------------------

SIZES: dict[str, Any] = {"hidden": 48, "fc": 16, "n_mels": 5, "conditioning": 9, "layers": 3}
FILES = [(encoder, speakers) for encoder in ENCODERS for speakers in (0, 4)] + [("gru", 4)]


def saved(tmp_path: Path, encoder: str, speakers: int, **more: Any) -> tuple[Path, twins.Yukarin]:
    sizes = SIZES | {"encoder": encoder, "speakers": speakers} | more
    state = builders.yukarin(seed=3, **sizes)
    return builders.save(tmp_path / "m.pth", state), twins.yukarin(state, **sizes)


def features(n_frames: int) -> np.ndarray:
    return np.random.default_rng(5).uniform(-1, 1, (5, n_frames)).astype(np.float32)


@pytest.mark.parametrize(("encoder", "speakers"), FILES)
def test_a_checkpoint_means_what_the_published_module_means(
    tmp_path: Path, encoder: str, speakers: int
) -> None:
    path, twin = saved(tmp_path, encoder, speakers)
    config, tensors = checkpoints.load(path)
    assert (config.source, config.preset, config.hop_length) == ("yukarin", "yukarin", 240)
    assert (config.n_mels, config.speakers, config.speaker_size) == (
        5,
        speakers,
        3 if speakers else 0,
    )
    config = dataclasses.replace(config, hop_length=8)  # as no tensor tells it
    mel, n = features(12), 12 * 8
    forced = np.random.default_rng(1).integers(0, 1024, n).astype(np.int32)
    voc = Vocoder(config, tensors, device="cpu", cpu_threads=1)
    twin.who, twin.hop = 2, 8
    theirs = twin.logits(mel, forced)
    request = make_request(config, mel, None, 0, speaker=2 if speakers else None)
    parts = teacher_forced_logits(voc.voice(), request, forced)
    ours = np.concatenate([logits for _, logits in parts])
    assert tolerances.logit_error(ours, theirs) <= tolerances.logit_limit(theirs, "fp32")
    vector = tensors["speakers.weight"][2] if speakers else None
    again = reference.run(config, tensors, mel, forced=forced, speaker=vector)
    np.testing.assert_allclose(again["logits"], theirs, atol=1e-5)


@pytest.mark.parametrize("encoder", ["skip_dilated_cnn", "residual_bottleneck_dilated_cnn_bn"])
def test_a_stream_of_frames_sounds_as_generate_does(tmp_path: Path, encoder: str) -> None:
    voc = Vocoder.from_pretrained(saved(tmp_path, encoder, 4)[0], device="cpu", cpu_threads=1)
    mel = features(21)
    whole = voc.generate(mel, seed=4, speaker=1)
    assert same_bits(joined(voc.stream(iter(mel.T), seed=4, speaker=1)), whole)
    batch = voc.generate_batch([mel, mel[:, :4], mel], seeds=[4, 5, 4], speakers=[1, 0, 3])
    assert same_bits(batch[0], whole)
    assert not np.array_equal(batch[2], whole)


def test_a_speaker_is_a_number_or_a_vector(tmp_path: Path) -> None:
    path, _ = saved(tmp_path, "gru", 4)
    voc = Vocoder.from_pretrained(path, device="cpu", cpu_threads=1)
    mel, table = features(2), checkpoints.load(path)[1]["speakers.weight"]
    whole = voc.generate(mel, speaker=3)
    for same in (np.int64(3), np.array(3), table[3]):
        assert same_bits(voc.generate(mel, speaker=same), whole)
    assert not np.array_equal(voc.generate(mel, speaker=(table[3] + table[0]) / 2), whole)
    for wrong in (4, -1, 1.5, True, "anna"):
        with pytest.raises(InputError, match=r"(Speaker .* does not exist|speaker's vector)"):
            voc.generate(mel, speaker=wrong)
    with pytest.raises(InputError, match="a vector of 3 numbers, or a number from 0 to 3"):
        voc.generate(mel)
    with pytest.raises(InputError, match=r"shape \[?\(?4"):
        voc.generate(mel, speaker=np.zeros(4))


def test_the_commands_take_a_number(tmp_path: Path) -> None:
    """As an option, in a file, in a list; for a job an item's own stands in for the option."""
    path, _ = saved(tmp_path, "skip_dilated_cnn", 4)
    np.save(tmp_path / "who.npy", np.array(2))
    np.save(tmp_path / "mel.npy", features(2))
    rows = [{"out": "own", "speaker": 3}, {"out": "word", "speaker": "3"}, {"out": "none"}]
    listed = [json.dumps({"mel": "mel.npy"} | row) for row in rows]
    (tmp_path / "list.jsonl").write_text("\n".join(listed))
    mel, made = tmp_path / "mel.npy", ("-m", path, "-o")
    run("vocode", mel, *made, tmp_path / "file.wav", "--speaker", tmp_path / "who.npy")
    run("vocode", mel, *made, tmp_path / "two.wav", "--speaker", "2")
    run("vocode", tmp_path / "list.jsonl", *made, tmp_path / "job", "--speaker", "2")
    run("stream", mel, *made, tmp_path / "stream.wav", "--speaker", "2")
    voc = Vocoder.from_pretrained(path, device="cpu")
    waves = {n: voc.generate(features(2), speaker=n) for n in (2, 3)}
    for name, number in (
        *(("file", 2), ("two", 2), ("stream", 2), ("job/none", 2)),
        *(("job/own", 3), ("job/word", 3)),
    ):
        found = audio.read_wav(tmp_path / f"{name}.wav", 24000)[0]
        assert np.abs(found - waves[number]).max() < 1e-4, name
    assert np.abs(waves[2] - waves[3]).max() > 0.01
    wrong = run("vocode", mel, *made, tmp_path / "x.wav", "--speaker", "4")
    assert "Speaker 4 does not exist; expected 0 to 3" in wrong.stderr


@pytest.mark.parametrize(("encoder", "speakers"), FILES[::2])
def test_a_converted_file_is_the_same_model_and_verifies(
    tmp_path: Path, encoder: str, speakers: int
) -> None:
    config, tensors = checkpoints.load(saved(tmp_path, encoder, speakers)[0])
    weights.write(tmp_path / "m.safetensors", config, tensors)
    again, stored = checkpoints.load(tmp_path / "m.safetensors")
    assert again == config
    assert all(np.array_equal(stored[name], tensors[name]) for name in tensors)
    assert compare(Vocoder(config, tensors, device="cpu"), tensors, steps=100).passed


def test_a_model_without_speakers_knows_none(tmp_path: Path) -> None:
    voc = Vocoder.from_pretrained(saved(tmp_path, "skip_dilated_cnn", 0)[0], device="cpu")
    with pytest.raises(InputError, match="knows no speakers"):
        voc.generate(features(2), speaker=1)


NAMES = [
    (encoder, name)
    for encoder in ENCODERS
    for name in builders.yukarin(encoder=encoder, speakers=4, **SIZES)
    if name.startswith("local_encoder") and "num_batches" not in name
]


@pytest.mark.parametrize("fault", ["missing", "renamed", "reshaped"])
@pytest.mark.parametrize(("encoder", "name"), NAMES)
def test_a_fault_of_a_tensor_is_named(encoder: str, name: str, fault: str) -> None:
    state = builders.yukarin(encoder=encoder, speakers=4, **SIZES)
    array = state[name]
    if fault != "reshaped":
        del state[name]
    if fault == "renamed":
        state[f"{name}_x"] = array
    if fault == "reshaped":
        state[name] = np.concatenate([array, array], axis=-1)
    assert checkpoints.detect(state) == "yukarin"
    with pytest.raises(ModelError) as caught:
        checkpoints.DIALECTS["yukarin"].convert(state)
    words = {"missing": f"missing tensor {name},", "renamed": f"unexpected tensor {name}_x"}
    words["reshaped"] = f"{name} has shape"
    assert any(words[fault] in problem for problem in caught.value.problems)


def test_channels_of_a_bottleneck_are_a_quarter() -> None:
    state = builders.yukarin(encoder="residual_bottleneck_dilated_cnn", **SIZES)
    wide = builders.yukarin(
        encoder="residual_bottleneck_dilated_cnn", **(SIZES | {"conditioning": 16})
    )
    for name in state:
        if "conv" in name:
            array = wide[name]
            rows, columns = ("conv3" in name), ("conv1" in name)
            state[name] = array[:9] if rows else array
            if columns and array.ndim == 3 and array.shape[1] == 16:
                state[name] = array[:, :9]
    with pytest.raises(ModelError) as caught:
        checkpoints.DIALECTS["yukarin"].convert(state)
    assert caught.value.problems == ("the narrow layers have 4 channels, expected a quarter of 9",)


def test_the_table_of_speakers_tells_which_columns_are_theirs() -> None:
    """Without it, or with a wider one, others are features: no tensor contradicts that."""
    state = builders.yukarin(encoder="skip_dilated_cnn", speakers=4, **SIZES)
    table = state.pop("speaker_embedder.weight")
    fields, tensors = checkpoints.DIALECTS["yukarin"].convert(state)
    assert (fields["n_mels"], "speakers.weight" in tensors) == (8, False)
    for wrong in (table[:, 0], np.zeros((4, 9), np.float32)):
        with pytest.raises(ModelError, match=r"(speaker_embedder|pre)\.weight has shape"):
            checkpoints.DIALECTS["yukarin"].convert(state | {"speaker_embedder.weight": wrong})
    with pytest.raises(ModelError, match=r"unexpected tensor speaker_embedder\.x"):
        checkpoints.DIALECTS["yukarin"].convert(state | {"speaker_embedder.x": table})


@pytest.mark.parametrize("encoder", ["gru", "skip_dilated_cnn"])
def test_a_speaker_without_features_is_refused(encoder: str) -> None:
    state = builders.yukarin(encoder=encoder, n_mels=0, speakers=4)
    with pytest.raises(ModelError, match="hears a speaker and no features"):
        checkpoints.DIALECTS["yukarin"].convert(state)


def test_labels_that_are_not_companded_have_a_preset_of_their_own(tmp_path: Path) -> None:
    """decode_single of the program without decode_mulaw; no tensor tells which."""
    path, _ = saved(tmp_path, "gru", 0)
    config, _ = checkpoints.load(path, preset="yukarin-linear")
    assert checkpoints.inspect(path)["presets"][-3:-1] == ["yukarin", "yukarin-linear"]
    labels = np.arange(1024)
    np.testing.assert_allclose(decode_samples(labels, config), labels / 1023 * 2 - 1, atol=1e-15)
    wave = np.linspace(-1, 1, 999)
    encoded = np.minimum(((wave + 1) * 512).astype(np.int64), 1023)
    assert np.array_equal(encode_targets(wave, config), encoded)
