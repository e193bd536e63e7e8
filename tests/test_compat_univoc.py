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
from wavernn_fast.compat.univoc import Vocoder
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


def test_a_live_module_that_contradicts_itself_is_refused() -> None:
    module = live()
    module.rnn_size = 64
    with pytest.raises(ModelError, match="rnn_size is 64, but its tensors say 32"):
        wavernn_fast.accelerate(module, device="cpu")
