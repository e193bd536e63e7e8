"""The class with univoc's signature: what goes in and out, and that it draws as the original."""

from __future__ import annotations

from pathlib import Path

import checkpoint_builders as builders
import embedded_twins as twins
import numpy as np
import pytest
import reference
import torch
import voices

import wavernn_fast
from wavernn_fast.compat.univoc import FirstVocoder, Vocoder
from wavernn_fast.errors import InputError, ModelError


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return builders.save(
        tmp_path_factory.mktemp("univoc") / "univoc.pt", builders.univoc(), wrapper="model"
    )


def _mel(n_frames: int = 2) -> torch.Tensor:
    random = np.random.default_rng(3)
    return torch.from_numpy(random.uniform(-1, 0, (1, n_frames, 8)).astype(np.float32))


def test_generate_gives_the_waveform_of_the_original_loop_and_its_rate(saved: Path) -> None:
    vocoder = Vocoder.from_pretrained(saved, device="cpu", seed=9).eval().to("cpu")
    wav, sr = vocoder.generate(_mel())
    assert (wav.dtype, wav.shape, sr) == (np.float64, (400,), 16000)
    words = reference.philox_words(9, 0, 400)[:, 0]
    labels, _ = twins.univoc(builders.univoc()).run(
        _mel()[0].T.numpy(),
        lambda i, logits: reference.categorical(logits, int(words[i]))[0],
    )
    x = (labels - 512) * (2.0 / 1024)  # librosa.mu_expand(labels - 512, mu=1023)
    assert np.array_equal(wav, np.sign(x) / 1023 * (np.power(1024, np.abs(x)) - 1))


def test_numpy_and_torch_mels_sound_alike_and_as_the_vocoder_itself(saved: Path) -> None:
    vocoder = Vocoder.from_pretrained(saved, device="cpu")
    wav, _ = vocoder.generate(_mel())
    assert np.array_equal(vocoder.generate(_mel().numpy())[0], wav)
    own = vocoder.vocoder.generate(_mel()[0].T.numpy(), seed=0)
    assert np.array_equal(wav.astype(np.float32), own)


def test_without_a_seed_torch_says_what_is_drawn(saved: Path) -> None:
    vocoder = Vocoder.from_pretrained(saved, device="cpu", seed=None)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        one, two = vocoder.generate(_mel())[0], vocoder.generate(_mel())[0]
        torch.manual_seed(1)
        again = vocoder.generate(_mel())[0]
    assert np.array_equal(one, again)
    assert not np.array_equal(one, two)


def test_no_frames_are_no_samples(saved: Path) -> None:
    wav, sr = Vocoder.from_pretrained(saved, device="cpu").generate(_mel(0))
    assert (wav.shape, sr) == ((0,), 16000)


@pytest.mark.parametrize("shape", [(8, 5), (1, 8, 5), (2, 5, 8), (1, 5, 7)])
def test_a_mel_of_another_shape_is_refused(saved: Path, shape: tuple[int, ...]) -> None:
    vocoder = Vocoder.from_pretrained(saved, device="cpu")
    with pytest.raises(InputError, match="expected \\[1, n_frames, 8\\]"):
        vocoder.generate(torch.zeros(shape))


def test_a_url_and_a_model_of_another_kind_are_refused() -> None:
    with pytest.raises(InputError, match="nothing is downloaded"):
        Vocoder.from_pretrained("https://example.org/univoc-ljspeech.pt")
    with pytest.raises(InputError, match="embedded core"):
        Vocoder(voices.voice(voices.LABELS))


class Univoc(twins.Univoc):
    """The published class as far as `accelerate` looks at it."""

    def __init__(self, hop_length: int = 100, sr: int = 8000) -> None:
        super().__init__()
        self.hop_length, self.sr, self.rnn_size, self.bits = hop_length, sr, 32, 10

    def generate(self, mel: torch.Tensor) -> str:
        return "the original"


def live(**fields: int) -> Univoc:
    module = Univoc(**fields)
    tensors = {name: torch.from_numpy(t) for name, t in builders.univoc().items()}
    module.load_state_dict(tensors)
    return module


def test_a_live_module_is_accelerated_with_its_own_hop_and_rate(saved: Path) -> None:
    module = live()
    with wavernn_fast.accelerate(module, device="cpu", seed=9, cpu_threads=1) as handle:
        wav, sr = module.generate(_mel())
        assert (wav.shape, sr) == ((200,), 8000)
        assert (handle.preset, handle.vocoder.config.hop_length) == ("custom", 100)  # of 8 bins
    assert module.generate(_mel()) == "the original"
    usual = live(hop_length=200, sr=16000)
    wavernn_fast.accelerate(usual, device="cpu", seed=9, cpu_threads=1)
    expected = Vocoder.from_pretrained(saved, device="cpu", seed=9).generate(_mel())
    found = usual.generate(_mel())
    assert found[1] == expected[1]
    assert np.array_equal(found[0], expected[0])


def test_a_live_module_of_other_rates_than_its_presets_is_accelerated() -> None:
    """Of 80 bins, so that there is a preset: its mel is of another rate, and says nothing."""
    module = Univoc(hop_length=300, sr=24000)
    state = builders.to_torch(builders.univoc(n_mels=80))
    module.state_dict = lambda: state  # type: ignore[method-assign]
    with wavernn_fast.accelerate(module, device="cpu", cpu_threads=1) as handle:
        config = handle.vocoder.config
        wav, sr = module.generate(np.full((1, 2, 80), -0.5, np.float32))
    assert (wav.shape, sr) == ((600,), 24000)
    assert (config.mel, handle.preset, config.output.label_decode) == (None, "custom", "univoc")


def test_a_live_module_that_contradicts_itself_is_refused() -> None:
    module = live()
    module.rnn_size = 64
    with pytest.raises(ModelError, match="rnn_size is 64, but its tensors say 32"):
        wavernn_fast.accelerate(module, device="cpu")


# --- the class of 0.1 -----------------------------------------------------------------------------


class First(twins.Univoc):
    """The published class of 0.1 as far as `accelerate` looks at it."""

    def __init__(self, hop_length: int = 100) -> None:
        super().__init__(classes=512, first_version=True, hop=hop_length)
        self.hop_length, self.rnn_channels, self.quantization_channels = hop_length, 32, 512

    def generate(self, mel: torch.Tensor, batched: bool, target: int, overlap: int) -> str:
        return "the original"


class BeforeFolds(twins.Univoc):
    """The class between both versions: the layers of 0.2, labels as in 0.1, no rate, no folds."""

    def __init__(self, hop_length: int = 100) -> None:
        super().__init__(hop=hop_length)
        self.hop_length, self.rnn_channels, self.quantization_channels = hop_length, 32, 1024

    def generate(self, mel: torch.Tensor) -> str:
        return "the original"


def loaded(module: torch.nn.Module, state: dict[str, np.ndarray]) -> torch.nn.Module:
    module.load_state_dict({name: torch.from_numpy(array) for name, array in state.items()})
    return module


def _original_end(folds: np.ndarray, overlap: int, classes: int) -> np.ndarray:
    """What the program makes of labels [folds, target + 2 overlap].

    Written from its description: values, faded by square roots over one half of the overlap and
    silent over the other, folds `target + overlap` apart and added, and mu-law undone last.
    """
    y = (2 * folds.astype(np.float32) / np.float32(classes - 1) - np.float32(1)).astype(np.float64)
    if overlap:
        quiet = overlap // 2
        t = np.linspace(-1, 1, overlap - quiet)
        y[:, :overlap] *= np.concatenate([np.zeros(quiet), np.sqrt(0.5 * (1 + t))])
        y[:, -overlap:] *= np.concatenate([np.sqrt(0.5 * (1 - t)), np.zeros(quiet)])
    stride = y.shape[1] - overlap
    wave = np.zeros(stride * len(y) + overlap)
    for i, fold in enumerate(y):
        wave[i * stride : i * stride + len(fold)] += fold
    return np.sign(wave) / (classes - 1) * (float(classes) ** np.abs(wave) - 1)


def _labels(module: twins.Univoc, mel: torch.Tensor, seed: int, n: int) -> np.ndarray:
    words = reference.philox_words(seed, 0, n)[:, 0]
    state = {name: tensor.float().numpy() for name, tensor in module.state_dict().items()}
    sizes = {"classes": module.embedding.num_embeddings, "first_version": module.first_version}
    twin = twins.univoc(state, hop=module.hop, **sizes)
    return twin.run(
        mel[0].T.numpy(), lambda i, logits: reference.categorical(logits, int(words[i]))[0]
    )[0]


@pytest.mark.parametrize(
    ("kind", "state"),
    [(First, builders.univoc_first()), (BeforeFolds, builders.univoc())],
    ids=["0.1", "between"],
)
def test_a_live_module_of_the_first_version_is_accelerated(kind: type, state: dict) -> None:
    module = loaded(kind(), state)
    arguments = (False, 0, 0) if kind is First else ()
    with wavernn_fast.accelerate(module, device="cpu", seed=9, cpu_threads=1) as handle:
        wave = module.generate(_mel(3), *arguments)
        assert handle.vocoder.config.hop_length == 100
        assert handle.vocoder.sample_rate == 16000
        assert isinstance(handle.player, FirstVocoder)
    assert module.generate(_mel(), *arguments) == "the original"
    labels = _labels(module, _mel(3), 9, 300)
    expected = _original_end(labels[None], 0, module.quantization_channels)
    assert (wave.dtype, wave.shape) == (np.float64, (300,))
    np.testing.assert_allclose(wave, expected, rtol=0, atol=1e-15)


def test_folds_of_the_first_version_are_joined_as_there() -> None:
    """Labels by the engine, fold by fold; what becomes of them by the program's description."""
    module = loaded(First(), builders.univoc_first())
    wavernn_fast.accelerate(module, device="cpu", seed=5, cpu_threads=1)
    wave = module.generate(_mel(9), True, 250, 40)
    player = module.__dict__["generate"].accelerated.player
    [drawing] = player.draw([_mel(9)[0].T], (250, 40))
    folds = np.full((3, 330), 100)  # 900 samples: folds 290 apart, the last of 320 and a rest
    for row, fold in zip(folds, drawing.folds, strict=True):
        row[: len(fold)] = fold
    expected = _original_end(folds, 40, 512)[:900]
    np.testing.assert_allclose(wave, expected, rtol=0, atol=1e-15)
    assert not np.allclose(wave[40:], module.generate(_mel(9), False, 250, 40)[40:])


def test_the_first_version_loads_a_file_and_folds_as_its_settings(tmp_path: Path) -> None:
    path = builders.save(tmp_path / "first.pt", builders.univoc_first(), wrapper="model")
    vocoder = FirstVocoder.from_checkpoint(path, device="cpu", seed=2)
    whole, folded = vocoder.generate(_mel()), vocoder.generate(_mel(), True)
    assert whole.shape == folded.shape == (400,)  # no longer than the overlap: not cut into folds
    assert np.array_equal(whole, folded)
    with pytest.raises(InputError, match="target must be larger"):
        vocoder.generate(_mel(), True, 40, 40)
    with pytest.raises(InputError, match="expected \\[1, n_frames, 8\\]"):
        vocoder.generate(_mel()[0])


def test_a_first_version_that_contradicts_itself_is_refused() -> None:
    module = loaded(First(), builders.univoc_first())
    module.quantization_channels, module.rnn_channels = 1024, 31
    with pytest.raises(ModelError) as caught:
        wavernn_fast.accelerate(module, device="cpu")
    assert set(caught.value.problems) == {
        "its rnn_channels is 31, but its tensors say 32",
        "its quantization_channels is 1024, but its tensors say 512",
    }
