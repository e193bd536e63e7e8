"""`compat.torchaudio` gives what torchaudio's own files give, under the same draws."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import checkpoint_builders
import numpy as np
import pytest
import tolerances
import torch
import torchaudio_files
from same_draws import SameDraws
from voices import same_bits

from wavernn_fast import InputError, Vocoder
from wavernn_fast.checkpoints import load_state
from wavernn_fast.compat import torchaudio
from wavernn_fast.models.eager import torch_threads

SEED = 11
SMALL: dict[str, Any] = {"hidden": 32, "fc": 32, "n_mels": 8, "aux": 4, "scales": (2, 5, 5)}
FULL: dict[str, Any] = {
    "hidden": 512, "fc": 512, "n_mels": 80, "aux": 32, "channels": 128, "blocks": 10,
    "scales": (5, 5, 11),
}  # fmt: skip
needs_files = pytest.mark.skipif(torchaudio_files.folder() is None, reason=torchaudio_files.MISSING)


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    with torch_threads(1):
        yield


def state_of(sizes: dict[str, Any], classes: int = 256) -> dict[str, torch.Tensor]:
    state = checkpoint_builders.torchaudio(classes=classes, seed=5, **sizes)
    return {name: torch.from_numpy(np.array(a)) for name, a in state.items()}


def drop_in(sizes: dict[str, Any] = SMALL, classes: int = 256, **options: Any) -> Any:
    voc = Vocoder(*load_state(state_of(sizes, classes), "module"), cpu_threads=1)
    return torchaudio.WaveRNN(voc, **{"seed": SEED, **options})


def original(sizes: dict[str, Any] = SMALL, classes: int = 256) -> Any:
    module = torchaudio_files.wavernn().WaveRNN(
        list(sizes["scales"]),
        classes,
        int(np.prod(sizes["scales"])),
        n_res_block=sizes.get("blocks", 2),
        n_rnn=sizes["hidden"],
        n_fc=sizes["fc"],
        n_freq=sizes["n_mels"],
        n_hidden=sizes.get("channels", 12),
        n_output=4 * sizes["aux"],
    )
    module.load_state_dict(state_of(sizes, classes))
    return module.eval()


def specgram(batch: int, n_frames: int, n_mels: int = 8) -> torch.Tensor:
    values = np.random.default_rng(2).uniform(0, 1, (batch, n_mels, n_frames))
    return torch.from_numpy(values.astype(np.float32))


def labels_of(wave: Any, classes: int = 256) -> np.ndarray:
    return np.rint((np.asarray(wave, np.float64) + 1) / 2 * (classes - 1)).astype(np.int64)


def compare(ours: Any, module: Any, mels: torch.Tensor, monkeypatch: Any) -> None:
    """The same labels, and logits within 1e-4, at every step of every item."""
    lengths = torch.arange(1, len(mels) + 1)
    found, found_lengths = ours.infer(mels, lengths)
    hop, steps = ours.hop_length, mels.shape[2] * ours.hop_length
    classes = ours.n_classes
    drawn = [labels_of(wave[0], classes) for wave in found]
    draws = SameDraws([(SEED + i, 0) for i in range(len(mels))], steps, drawn)
    seen: list[torch.Tensor] = []
    module.fc3.register_forward_hook(lambda _module, _inputs, logits: seen.append(logits))
    with torch.no_grad(), monkeypatch.context() as patch:
        patch.setattr(torch, "multinomial", draws.multinomial)
        expected, expected_lengths = module.infer(mels, lengths)
    assert draws.ties <= 2
    assert same_bits(found.numpy(), expected.contiguous().numpy())
    assert torch.equal(found_lengths, expected_lengths)
    assert len(np.unique(draws.labels)) > 50
    logits = torch.stack(seen, dim=1).numpy()
    for i, labels in enumerate(drawn):
        interp, hold = ours.vocoder.conditioner.window(mels[i].numpy(), 0, steps // hop)
        engine = ours.vocoder.engine
        _, row = engine.run(
            [engine.open(SEED + i)], [steps], [interp], [hold],
            forced=[labels.astype(np.int32)], return_logits=True,
        )[0]  # fmt: skip
        assert tolerances.logit_error(row, logits[i]) <= 1e-4


@needs_files
@pytest.mark.parametrize("classes", [256, 512])
def test_labels_and_logits_are_those_of_torchaudio(classes, monkeypatch):
    """2 utterances of 2,250 steps."""
    compare(drop_in(classes=classes), original(classes=classes), specgram(2, 45), monkeypatch)


@needs_files
@pytest.mark.slow
def test_labels_and_logits_of_a_full_size_model_are_those_of_torchaudio(monkeypatch):
    """2,200 steps of the bundle's sizes."""
    compare(drop_in(FULL), original(FULL), specgram(1, 8, 80), monkeypatch)


@needs_files
@pytest.mark.parametrize("min_level_db", [-100.0, None])
def test_the_bundles_vocoder_is_reproduced_bit_for_bit(min_level_db, monkeypatch):
    ours = torchaudio.Vocoder(drop_in(), min_level_db)
    mels = specgram(2, 12) * 14 - 13  # natural logarithms; below the floor of 1e-5 too
    assert mels.min() < np.log(1e-5) < mels.max()
    heard: list[torch.Tensor] = []
    infer = ours.model.infer
    monkeypatch.setattr(
        ours.model, "infer", lambda mel, lengths: (heard.append(mel), infer(mel, lengths))[1]
    )
    found, found_lengths = ours(mels, torch.tensor([12, 7]))
    module = original()
    drawn = [labels_of(wave[0]) for wave in infer(heard[0])[0]]
    draws = SameDraws([(SEED + i, 0) for i in range(2)], 600, drawn)
    heard_there: list[torch.Tensor] = []
    whole = module.infer
    module.infer = lambda mel, lengths: (heard_there.append(mel), whole(mel, lengths))[1]
    with torch.no_grad():
        monkeypatch.setattr(torch, "multinomial", draws.multinomial)
        expected, lengths = torchaudio_files.bundle_vocoder()(module, min_level_db)(
            mels, torch.tensor([12, 7])
        )
    assert same_bits(heard[0].numpy(), heard_there[0].numpy())
    assert same_bits(found.numpy(), expected.contiguous().numpy())
    assert torch.equal(found_lengths, lengths)
    assert ours.sample_rate == 22050


@needs_files
def test_every_label_is_decoded_as_by_the_bundle(monkeypatch):
    labels = np.arange(256)
    values = 2 * torch.arange(256).float() / 255.0 - 1.0
    ours = torchaudio.Vocoder(drop_in())
    monkeypatch.setattr(ours.model, "infer", lambda mel, lengths: (values[None, None], lengths))
    module = type("Module", (), {"n_bits": 8, "n_classes": 256, "infer": lambda *_: _infer(values)})
    expected, _ = torchaudio_files.bundle_vocoder()(module())(specgram(1, 1))
    found, _ = ours(specgram(1, 1))
    assert same_bits(found.numpy(), expected.numpy())
    exact = mu_law(labels)
    assert (np.abs(found[0].numpy() - exact) > 1e-6).sum() == 63
    right, _ = torchaudio.Vocoder(ours.model, decode="exact")(specgram(1, 1))
    np.testing.assert_allclose(right[0].numpy(), exact, rtol=0, atol=1e-6)


def _infer(values: torch.Tensor) -> tuple[torch.Tensor, None]:
    return values[None, None], None


# --- without torchaudio's files -------------------------------------------------------------------


def mu_law(labels: np.ndarray, classes: int = 256) -> np.ndarray:
    """float64 mu-law decoding of labels."""
    x, mu = 2 * labels / (classes - 1) - 1, classes - 1
    return np.sign(x) * ((1 + mu) ** np.abs(x) - 1) / mu


def truncated(labels: np.ndarray) -> np.ndarray:
    """Labels after the bundle's way to float32 values and back, one operation at a time."""
    f = np.float32
    values = (f(2) * labels.astype(f) / f(255) - f(1)).astype(f)
    return ((values + f(1)) * f(255) / f(2)).astype(np.int64)


def test_infer_gives_companded_values_of_the_drawn_labels_for_all_frames():
    ours, mels = drop_in(), specgram(3, 6)
    wave, lengths = ours.infer(mels, torch.tensor([6, 2, 4]))
    assert (wave.dtype, tuple(wave.shape)) == (torch.float32, (3, 1, 300))
    assert lengths.tolist() == [300, 100, 200]
    for i, row in enumerate(wave):
        engine = ours.vocoder.engine
        interp, hold = ours.vocoder.conditioner.window(mels[i].numpy(), 0, 6)
        labels = engine.run([engine.open(SEED + i)], [300], [interp], [hold])[0][0]
        np.testing.assert_allclose(row[0].numpy(), 2 * labels / 255 - 1, rtol=0, atol=1e-7)
    assert ours.infer(mels)[1] is None


def test_arrays_come_back_in_their_kind():
    ours, mels = drop_in(), specgram(2, 3)
    wave, lengths = ours.infer(mels.numpy(), [3, 2])
    assert isinstance(wave, np.ndarray)
    assert lengths.tolist() == [150, 100]
    assert same_bits(wave, ours.infer(mels)[0].numpy())
    assert ours.infer(mels[:0])[0].shape == (0, 1, 150)
    assert ours.infer(mels[:, :, :0])[0].shape == (2, 1, 0)


@pytest.mark.parametrize("decode", ["truncate", "exact"])
def test_the_vocoder_follows_the_equations(decode):
    ours = torchaudio.Vocoder(drop_in(), decode=decode)
    mels = (specgram(2, 8) * 14 - 13).numpy()
    db = 20 * np.log10(np.maximum(1e-5, np.exp(mels.astype(np.float64))))
    unit = np.clip((db + 100) / 100, 0, 1).astype(np.float32)
    labels = labels_of(ours.model.infer(unit)[0][:, 0])
    expected = mu_law(truncated(labels) if decode == "truncate" else labels)
    for given in (mels, torch.from_numpy(mels)):
        found, _ = ours(given)
        assert type(found) is type(given)
        np.testing.assert_allclose(np.asarray(found), expected, rtol=0, atol=1e-6)


def test_mixtures_of_logistics_are_sampled_and_not_decoded():
    ours, mels = drop_in(classes=30), specgram(1, 4)
    wave, _ = ours.infer(mels)
    assert same_bits(wave[0, 0].numpy(), ours.draw([mels[0]])[0].folds[0])
    assert len(np.unique(wave)) > 60
    heard, _ = torchaudio.Vocoder(ours, None)(torch.log(10 ** (mels / 20)))
    np.testing.assert_allclose(heard[0], wave[0, 0], rtol=0, atol=1e-2)


def test_a_checkpoint_file_becomes_the_bundles_vocoder(tmp_path):
    torch.save(state_of(SMALL), tmp_path / "m.pth")
    voc = torchaudio.Vocoder.from_checkpoint(tmp_path / "m.pth", cpu_threads=1, decode="exact")
    assert (voc.decode, voc.min_level_db, voc.model.n_bits) == ("exact", -100.0, 8)
    assert len(voc(specgram(1, 2))[0][0]) == 100


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda p: p.infer(specgram(1, 4)[0]), "n_batch"),
        (lambda p: p.infer(specgram(1, 4, 7)), "8"),
        (lambda p: p.infer(specgram(2, 4), torch.tensor([4])), "one for each"),
        (lambda p: p.infer(specgram(2, 4), torch.tensor([4.0, 3.0])), "integers"),
        (lambda p: torchaudio.Vocoder(p, decode="round"), "truncate or exact"),
    ],
)
def test_nonsense_is_refused(call, words):
    with pytest.raises(InputError, match=words):
        call(drop_in())
