"""Presets: complete, named in errors, and recognisable by the values they produce."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from wavernn_fast.config import ModelConfig, OutputConfig
from wavernn_fast.errors import InputError
from wavernn_fast.features import expected_range, log_mel
from wavernn_fast.mel_conversion import advice, framing_differences, value_map
from wavernn_fast.mel_origin import closest_presets, mismatch_warning
from wavernn_fast.presets import PRESETS, fitting_presets, get_preset, with_preset

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
_NAMES = {
    "fatchord-raw9",
    "fatchord-mol",
    "rtvc",
    "torchaudio-ljspeech",
    "geneing",
    "mkotha",
    "yanggeng",
    "native-22k",
    "deepmind",
    "univoc-v0.2",
    "univoc-v0.1",
    "anandaswarup",
    "gibiansky",
    "yukarin",
    "yukarin-linear",
    "zerospeech",
    "tomiinek-raw10",
    "forwardtacotron",
    "coqui",
    "mozilla-libritts",
    "erogol-universal",
    "multiband",
    "gwang-gauss",
    "gwang-beta",
    "gwang-mol",
    "gwang-bits",
    "gwang-mulaw",
}
_UNIT = {name for name in _NAMES if name.startswith(("fatchord", "tomiinek", "gwang"))} | {
    *("torchaudio-ljspeech", "mkotha", "yanggeng", "native-22k", "erogol-universal")
}  # mels in [0, 1]

_WITHOUT_MEL = {"deepmind", "yukarin", "yukarin-linear", "zerospeech"}
_HOPS = {"deepmind": 1, "yukarin": 240, "yukarin-linear": 240, "zerospeech": 160}
_OPEN = {"univoc-v0.2", "anandaswarup", "gibiansky"}  # mels without an upper limit


def _speech_levels(seed: int = 0) -> np.ndarray:
    """Mel magnitudes over the 100 dB that speech and its pauses cover, [80, 60]."""
    decibels = np.random.default_rng(seed).uniform(-110.0, 10.0, (80, 60))
    return 10.0 ** (decibels / 20.0)


def _apply(name: str, magnitudes: np.ndarray) -> Any:
    mel = get_preset(name).mel
    assert mel is not None
    log = {"db": lambda x: 20.0 * np.log10(x), "ln": np.log, "log10": np.log10}[mel.log]
    level = log(np.maximum(mel.floor, magnitudes**mel.power)) - mel.ref_db
    value = mel.scale * level + mel.offset
    return value if mel.clip is None else np.clip(value, *mel.clip)


def test_presets_are_the_published_families_and_ours() -> None:
    assert set(PRESETS) == _NAMES
    assert all(preset.name == name for name, preset in PRESETS.items())


def test_an_unknown_preset_is_refused_with_the_known_names() -> None:
    with pytest.raises(InputError) as caught:
        get_preset("fatcord")
    assert all(name in str(caught.value) for name in _NAMES)


def test_presets_cannot_be_changed_by_accident() -> None:
    with pytest.raises(TypeError):
        PRESETS["mine"] = PRESETS["rtvc"]  # type: ignore[index]


@pytest.mark.parametrize("name", sorted(_NAMES))
def test_a_preset_agrees_with_its_mel(name: str) -> None:
    preset = get_preset(name)
    if preset.mel is None:
        assert preset.hop_length == _HOPS[name]
        return
    assert (preset.sample_rate, preset.hop_length) == (
        preset.mel.sample_rate,
        preset.mel.hop_length,
    )
    assert preset.mel.preset == name
    if name in _OPEN:
        assert preset.mel.clip is None
        low, high = expected_range(preset.mel)
        assert preset.value_range[0] <= low
        assert high <= preset.value_range[1]
    elif preset.mel.clip is not None:
        assert preset.mel.clip == preset.value_range
    else:  # the bottom is that of the floor; a sine at full scale comes near the top
        log = np.log10 if preset.mel.log == "log10" else np.log
        assert preset.value_range[0] == pytest.approx(log(preset.mel.floor))
        sine = 0.999 * np.sin(2 * np.pi * 200 / preset.sample_rate * np.arange(preset.sample_rate))
        top = float(log_mel(sine.astype(np.float32), preset.mel).max())
        assert preset.value_range[1] - 1.0 < top < preset.value_range[1]
    assert preset.mel.pad_mode == "reflect"
    assert preset.mel.power == (2.0 if name == "gibiansky" else 1.0)
    assert preset.mel.f_max <= preset.sample_rate / 2


def test_fatchord_mel_is_its_published_formula() -> None:
    s = _speech_levels()
    expected = np.clip((20 * np.log10(np.maximum(1e-5, s)) + 100) / 100, 0, 1)
    for name in (
        "fatchord-raw9",
        "tomiinek-raw10",
        "fatchord-mol",
        "torchaudio-ljspeech",
        "mkotha",
        "yanggeng",
    ):
        np.testing.assert_allclose(_apply(name, s), expected, atol=1e-12)


def test_rtvc_mel_is_the_symmetric_mapping_divided_by_four() -> None:
    s = _speech_levels()
    level = 20 * np.log10(np.maximum(1e-5, s)) - 20
    expected = np.clip(8 * (level + 100) / 100 - 4, -4, 4) / 4
    np.testing.assert_allclose(_apply("rtvc", s), expected, atol=1e-12)


def test_geneing_mel_is_the_symmetric_mapping() -> None:
    s = _speech_levels()
    level = 20 * np.log10(np.maximum(1e-5, s)) - 20
    expected = np.clip(8 * (level + 100) / 100 - 4, -4, 4)
    for name in ("geneing", "coqui", "mozilla-libritts"):
        np.testing.assert_allclose(_apply(name, s), expected, atol=1e-12)


def test_mels_in_the_unit_range_over_a_reference_are_their_published_formula() -> None:
    s = _speech_levels()
    expected = np.clip((20 * np.log10(np.maximum(1e-5, s)) - 20 + 100) / 100, 0, 1)
    for name in ("erogol-universal", "gwang-gauss", "gwang-beta", "gwang-mol", "gwang-bits"):
        np.testing.assert_allclose(_apply(name, s), expected, atol=1e-12)


def test_forwardtacotron_mel_is_the_natural_logarithm() -> None:
    s = _speech_levels()
    np.testing.assert_allclose(_apply("forwardtacotron", s), np.log(np.maximum(1e-5, s)))


# sample rate, n_fft, hop, window, lowest and highest frequency, pre-emphasis
_FRAMES = {
    "fatchord-raw9": (22050, 2048, 275, 1100, 40, 11025, 0),
    "fatchord-mol": (22050, 2048, 275, 1100, 40, 11025, 0),
    "torchaudio-ljspeech": (22050, 2048, 275, 1100, 40, 11025, 0),
    "rtvc": (16000, 800, 200, 800, 55, 7600, 0.97),
    "geneing": (16000, 2048, 200, 800, 95, 7600, 0),
    "mkotha": (22050, 2048, 64, 1024, 40, 11025, 0),
    "yanggeng": (16000, 2048, 200, 800, 40, 8000, 0),
    "univoc-v0.2": (16000, 2048, 200, 800, 50, 8000, 0.97),
    "univoc-v0.1": (16000, 2048, 200, 800, 50, 8000, 0.97),
    "anandaswarup": (22050, 2048, 275, 1100, 50, 11025, 0),
    "gibiansky": (22050, 1024, 256, 512, 0, 11025, 0.9),
    "tomiinek-raw10": (22050, 2048, 275, 1100, 40, 11025, 0),
    "forwardtacotron": (22050, 1024, 256, 1024, 0, 8000, 0),
    "coqui": (22050, 1024, 256, 1024, 0, 11025, 0),
    "mozilla-libritts": (24000, 1024, 256, 1024, 40, 8000, 0.98),
    "erogol-universal": (16000, 2048, 200, 800, 0, 8000, 0.98),
    "multiband": (24000, 512, 128, 512, 50, 12000, 0),
    "gwang-beta": (22050, 1024, 256, 1024, 125, 7600, 0.97),
}


@pytest.mark.parametrize("name", _FRAMES)
def test_frames_are_cut_as_published(name: str) -> None:
    mel = get_preset(name).mel
    assert mel is not None
    cut = (mel.sample_rate, mel.n_fft, mel.hop_length, mel.win_length)
    assert (*cut, mel.f_min, mel.f_max, mel.preemphasis) == _FRAMES[name]
    norm = "sum" if name in ("univoc-v0.2", "anandaswarup") else "slaney"
    assert (mel.n_mels, mel.mel_scale, mel.mel_norm) == (80, "slaney", norm)


def test_output_rules_are_those_of_the_families() -> None:
    raw, mol = get_preset("fatchord-raw9").output, get_preset("fatchord-mol").output
    assert raw.mu_law
    assert not mol.mu_law
    for output in (raw, mol):
        assert (output.fold_target, output.fold_overlap) == (11000, 550)
        assert (output.length, output.fade_out_frames) == ("frames_minus_one", 20)
    rtvc = get_preset("rtvc").output
    assert rtvc.mu_law
    assert not rtvc.decode_before_crossfade
    assert rtvc.deemphasis == 0.97
    audio = get_preset("torchaudio-ljspeech").output
    assert audio.mu_law
    assert audio.length == "frames"
    assert audio.fade_out_frames == 0
    geneing = get_preset("geneing").output
    assert not geneing.mu_law
    assert (geneing.fold_target, geneing.fold_overlap) == (8000, 400)
    for name in ("forwardtacotron", "coqui", "mozilla-libritts", "erogol-universal"):
        output = get_preset(name).output
        assert (output.length, output.fade_out_frames) == ("frames_minus_one", 20)
        assert output.deemphasis == 0.0  # a mel may be pre-emphasised, the waveform is not
    assert get_preset("forwardtacotron").output.decode_before_crossfade
    assert not get_preset("coqui").output.decode_before_crossfade
    assert get_preset("coqui").output.mu_law
    assert not get_preset("gwang-bits").output.mu_law
    assert get_preset("mkotha").output.dual_scale == "symmetric"
    assert get_preset("deepmind").output.dual_scale == "int16"
    assert get_preset("yanggeng").output == OutputConfig()  # samples as drawn, whole frames
    for name in ("univoc-v0.2", "anandaswarup"):
        assert get_preset(name).output == OutputConfig(mu_law=True, label_decode="univoc")
    first = get_preset("univoc-v0.1").output
    assert (first.mu_law, first.label_decode) == (True, "exact")
    assert (first.decode_before_crossfade, first.fold_target, first.fold_overlap) == (
        False,
        8000,
        400,
    )
    gibiansky = get_preset("gibiansky").output
    assert (gibiansky.label_decode, gibiansky.deemphasis) == ("gibiansky", 0.9)
    assert gibiansky.limit == 0.9999


@pytest.mark.parametrize(
    ("name", "kin"),
    [
        ("fatchord-raw9", _UNIT | {"univoc-v0.1"}),
        ("rtvc", {"rtvc", "univoc-v0.2", "anandaswarup"}),
        ("geneing", {"geneing", "coqui", "mozilla-libritts"}),
        ("forwardtacotron", {"forwardtacotron"}),
    ],
)
def test_a_mel_is_recognised_by_its_values(name: str, kin: set[str]) -> None:
    assert set(closest_presets(_apply(name, _speech_levels()))) == kin


def test_decibels_that_were_not_scaled_fit_no_preset() -> None:
    assert closest_presets(20 * np.log10(np.maximum(1e-5, _speech_levels()))) == []


@pytest.mark.parametrize(
    "mel", [np.zeros((80, 0)), np.full((80, 9), np.nan), np.full((80, 9), 0.5), np.zeros((80, 9))]
)
def test_a_mel_without_information_fits_no_preset(mel: np.ndarray) -> None:
    assert closest_presets(mel) == []


def test_a_mel_of_another_preset_is_warned_about_by_name() -> None:
    warning = mismatch_warning(_apply("geneing", _speech_levels()), "fatchord-raw9")
    assert warning is not None
    assert "geneing" in warning
    assert "fatchord-raw9" in warning
    warning = mismatch_warning(_apply("fatchord-raw9", _speech_levels()), "geneing")
    assert warning is not None
    assert "fatchord-raw9" in warning


@pytest.mark.parametrize("name", sorted(_NAMES - _WITHOUT_MEL))
def test_a_mel_of_the_right_preset_is_not_warned_about(name: str) -> None:
    assert mismatch_warning(_apply(name, _speech_levels()), name) is None


def test_nothing_is_said_where_nothing_is_known() -> None:
    mel = _apply("geneing", _speech_levels())
    assert mismatch_warning(mel, "custom") is None
    assert mismatch_warning(mel, "deepmind") is None
    # Three loud frames in [0, 1] may well be of a [-4, 4] model.
    assert mismatch_warning(_apply("fatchord-raw9", _speech_levels())[:, :3], "geneing") is None


def test_an_out_of_range_mel_of_no_preset_gets_advice() -> None:
    warning = mismatch_warning(20 * np.log10(np.maximum(1e-5, _speech_levels())), "fatchord-raw9")
    assert warning is not None
    assert "log base" in warning


def test_the_mel_of_the_torchaudio_bundle_is_named_with_its_conversion() -> None:
    mel = np.log(np.maximum(1e-5, _speech_levels()))
    for name in ("torchaudio-ljspeech", "fatchord-mol"):
        warning = mismatch_warning(mel, name)
        assert warning is not None
        assert "looks like the torchaudio (natural-log mel of its bundle)" in warning
        formula = warning.split("convert it with ")[1].rstrip(".")
        found = eval(formula, {"np": np, "mel": mel})
        np.testing.assert_allclose(found, _apply(name, _speech_levels()), atol=1e-5)
    warning = mismatch_warning(mel, "coqui")  # cut as ForwardTacotron cuts its frames
    assert warning is not None
    assert "looks like the forwardtacotron or torchaudio" in warning
    assert "highest frequency 8000, not 11025" in warning


_CONDITIONED = sorted(_NAMES - _WITHOUT_MEL)


@pytest.mark.parametrize("target", _CONDITIONED)
@pytest.mark.parametrize("source", _CONDITIONED)
def test_the_formula_turns_one_convention_into_the_other(source: str, target: str) -> None:
    """Where nothing is cut: between the highest floor and the lowest clip."""
    level = np.random.default_rng(0).uniform(-28.0, -8.0, (80, 30))
    ours, theirs = get_preset(source).mel, get_preset(target).mel
    assert ours is not None
    assert theirs is not None
    factor, offset = value_map(ours, theirs)
    magnitudes = 10.0 ** (level / 20.0)
    found = factor * _apply(source, magnitudes) + offset
    np.testing.assert_allclose(found, _apply(target, magnitudes), atol=1e-12)
    same = framing_differences(ours, theirs) == []
    assert ("convert it with" in advice(ours, theirs)) == same


def test_differences_of_frames_are_named() -> None:
    ours, theirs = get_preset("mozilla-libritts").mel, get_preset("coqui").mel
    assert ours is not None
    assert theirs is not None
    assert framing_differences(ours, theirs) == [
        "sample rate 24000, not 22050",
        "lowest frequency 40, not 0",
        "highest frequency 8000, not 11025",
        "pre-emphasis 0.98, not 0",
    ]
    assert "make the mel again" in advice(ours, theirs)


def test_the_likeliest_origin_is_the_one_whose_frames_are_most_like_the_models() -> None:
    mel = _apply("coqui", _speech_levels())
    for model, likely in (("forwardtacotron", "coqui"), ("rtvc", "geneing")):
        warning = mismatch_warning(mel, model)
        assert warning is not None
        assert f"looks like the {likely} or" in warning


def _config(**changes: object) -> ModelConfig:
    fields: dict[str, object] = {
        "core": "residual",
        "hidden_size": 32,
        "fc_size": 32,
        "head": "softmax",
        "n_classes": 512,
        "sample_rate": 8000,
        "hop_length": 200,
        "n_mels": 80,
    }
    return ModelConfig(**{**fields, **changes})  # type: ignore[arg-type]


def test_a_preset_replaces_rate_mel_and_output() -> None:
    config = with_preset(_config(), "rtvc")
    preset = get_preset("rtvc")
    assert (config.sample_rate, config.mel, config.output, config.preset) == (
        16000,
        preset.mel,
        preset.output,
        "rtvc",
    )


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"hop_length": 256}, "256 samples"),
        ({"n_mels": 40}, "40 mel bins"),
        ({"head": "mol", "n_classes": 30}, "head is mol"),
    ],
)
def test_a_preset_of_other_sizes_is_refused(changes: dict[str, object], words: str) -> None:
    with pytest.raises(InputError, match=words):
        with_preset(_config(**changes), "rtvc")


def test_fitting_presets_follow_head_hop_and_bins() -> None:
    assert fitting_presets(head="softmax", hop_length=200, n_mels=80) == ["rtvc", "geneing"]
    assert fitting_presets(head="mol", hop_length=275, n_mels=80) == ["fatchord-mol"]
    assert fitting_presets(head="gaussian", hop_length=0, n_mels=80) == [
        *("coqui", "mozilla-libritts", "gwang-gauss")
    ]
    assert fitting_presets(head=None, hop_length=256, n_mels=80) == [
        *("coqui", "mozilla-libritts", "gwang-gauss", "gwang-beta")
    ]
    assert fitting_presets(head="dual_softmax", hop_length=1, n_mels=0) == ["deepmind"]
    embedded = fitting_presets(head="softmax", hop_length=200, n_mels=80, embedded=True)
    assert embedded == [
        "univoc-v0.2",
        "univoc-v0.1",
        "anandaswarup",
        "gibiansky",
        "yukarin",
        "yukarin-linear",
        "zerospeech",
    ]
    assert fitting_presets(head="softmax", hop_length=7, n_mels=80) == []


@pytest.mark.skipif(not DATA.is_dir(), reason=f"needs speech in {DATA}")
@pytest.mark.parametrize("name", sorted(_NAMES - _WITHOUT_MEL))
def test_real_speech_is_recognised_under_every_preset(name: str) -> None:
    from wavernn_fast import audio, features

    preset = get_preset(name)
    assert preset.mel is not None
    for path in sorted((DATA / "kerstin").glob("*.flac"))[:3]:
        mel = features.log_mel(audio.read_wav(path, preset.sample_rate)[0], preset.mel)
        assert mismatch_warning(mel, name) is None
        assert name in closest_presets(mel)
        others = {n for n, p in PRESETS.items() if p.mel and p.value_range != preset.value_range}
        assert all(mismatch_warning(mel, other) is not None for other in others)
