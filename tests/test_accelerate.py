"""`accelerate` puts the engine behind a live module, says what it assumed, and goes away again."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Iterator
from typing import Any

import checkpoint_builders
import live_twins
import numpy as np
import pytest
import torch
import torchaudio_files
from quick import first_is_quick
from same_draws import SameDraws
from torch import nn
from voices import same_bits

import wavernn_fast
from wavernn_fast import ModelError, accelerate
from wavernn_fast.checkpoints import load_state
from wavernn_fast.compat import coqui, fatchord, rtvc, torchaudio
from wavernn_fast.models.eager import torch_threads

SIZES: dict[str, Any] = {"hidden": 32, "fc": 32, "n_mels": 8, "aux": 4, "scales": (2, 5, 5)}
PRESET_SIZES: dict[str, Any] = {**SIZES, "n_mels": 80, "scales": (5, 5, 8)}
HOP = 50


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    with torch_threads(1):
        yield


def mel(n_frames: int, n_mels: int = 8) -> torch.Tensor:
    values = np.random.default_rng(1).uniform(0, 1, (1, n_mels, n_frames))
    return torch.from_numpy(values.astype(np.float32))


def live(program: Any = live_twins.WaveRNN, sizes: Any = None, seed: int = 3, **fields: Any) -> Any:
    sizes = sizes or SIZES
    classes = fields.get("classes", 512)
    state = checkpoint_builders.fatchord(classes=classes, seed=seed, **sizes)
    return live_twins.load(program(**sizes, **fields), state)


class TorchaudioLike(nn.Module):
    """torchaudio's tensors and method, without what computes."""

    def __init__(self, classes: int = 256) -> None:
        super().__init__()
        state = checkpoint_builders.torchaudio(classes=classes, seed=5, **SIZES)
        self.kept = {name: torch.from_numpy(np.array(a)) for name, a in state.items()}

    def state_dict(self) -> Any:  # type: ignore[override]
        return self.kept

    def infer(self, specgram: Any, lengths: Any = None) -> str:
        return "the original"


def test_the_modules_generate_is_ours_under_the_same_draws(monkeypatch, tmp_path):
    module, frames = live(), mel(60)
    expected_name = list(inspect.signature(module.generate).parameters)
    handle = accelerate(module, device="cpu", cpu_threads=1, seed=9)
    assert list(inspect.signature(module.generate).parameters) == expected_name
    found = module.generate(frames, tmp_path / "a.wav", True, 400, 60, True)
    assert module.logits_seen == []  # PyTorch has computed nothing
    [drawing] = handle.player.draw([frames], (400, 60))
    handle.restore()
    draws = SameDraws([(9, i) for i in range(drawing.plan.num_folds)], 520, drawing.folds)
    monkeypatch.setattr(torch, "multinomial", draws.multinomial)
    expected = module.generate(frames, None, True, 400, 60, True)
    assert len(module.logits_seen) == 520
    assert draws.ties <= 2
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("make", "method", "player"),
    [
        (live, "generate", fatchord.WaveRNN),
        (lambda: live(live_twins.RtvcWaveRNN), "generate", rtvc.WaveRNN),
        (lambda: live(mode="MOL", classes=30), "generate", fatchord.WaveRNN),
        (TorchaudioLike, "infer", torchaudio.WaveRNN),
        (lambda: TorchaudioLike(30), "infer", torchaudio.WaveRNN),
    ],
    ids=["fatchord", "rtvc", "mol", "torchaudio", "torchaudio-mol"],
)
def test_the_family_is_told_by_the_method_and_the_tensors(make, method, player):
    module = make()
    original = getattr(module, method)
    with accelerate(module, cpu_threads=1, seed=2) as handle:
        assert (handle.method, type(handle.player)) == (method, player)
        assert getattr(module, method) != original
        voc = wavernn_fast.Vocoder(*load_state(module.state_dict(), "m"), cpu_threads=1)
        again = getattr(player(voc, seed=2), method)
        found, expected = getattr(module, method)(mel(9)), again(mel(9))
        if method == "infer":
            found, expected = found[0].numpy(), expected[0].numpy()
        assert same_bits(found, expected)
        assert found.size
    assert getattr(module, method) == original
    assert method not in module.__dict__


@pytest.mark.skipif(torchaudio_files.folder() is None, reason=torchaudio_files.MISSING)
def test_torchaudios_own_module_is_accelerated(monkeypatch):
    module = torchaudio_files.wavernn().WaveRNN(
        [2, 5, 5], 256, 50, n_res_block=2, n_rnn=32, n_fc=32, n_freq=8, n_hidden=12, n_output=16
    ).eval()  # fmt: skip
    frames = mel(45)
    with accelerate(module, cpu_threads=1, seed=3):
        found, lengths = module.infer(frames, torch.tensor([40]))
    labels = np.rint((found[0, 0].numpy().astype(np.float64) + 1) / 2 * 255).astype(np.int64)
    draws = SameDraws([(3, 0)], 45 * HOP, [labels])
    monkeypatch.setattr(torch, "multinomial", draws.multinomial)
    with torch.no_grad():
        expected, expected_lengths = module.infer(frames, torch.tensor([40]))
    assert draws.ties <= 2
    assert same_bits(found.numpy(), expected.contiguous().numpy())
    assert torch.equal(lengths, expected_lengths)


@pytest.mark.skipif(torchaudio_files.folder() is None, reason=torchaudio_files.MISSING)
def test_the_bundles_own_vocoder_plays_an_accelerated_module():
    module = TorchaudioLike()
    module.n_bits, module.n_classes = 8, 256
    bundle = torchaudio_files.bundle_vocoder()(module)
    mels = mel(9) * 11 - 11
    with accelerate(bundle._model, cpu_threads=1, seed=3) as handle:
        found, lengths = bundle(mels, torch.tensor([7]))
        expected, _ = torchaudio.Vocoder(handle.player)(mels)
    assert same_bits(found.numpy(), expected.numpy())
    assert lengths.tolist() == [350]


@pytest.mark.parametrize("n_frames", first_is_quick([9, 21, 60]))
@pytest.mark.parametrize("batched", [False, True])
def test_coquis_inference_is_ours_under_the_same_draws(monkeypatch, n_frames, batched):
    module, frames = live(live_twins.CoquiWavernn), mel(n_frames)
    how = {"batched": True, "target": 400, "overlap": 60} if batched else {}
    handle = accelerate(module, device="cpu", cpu_threads=1, seed=9)
    assert (handle.method, type(handle.player)) == ("inference", coqui.Wavernn)
    found = module.inference(frames, **how)
    assert module.logits_seen == []
    [drawing] = handle.player.draw([frames], (400, 60) if batched else None)
    handle.restore()
    steps = 520 if batched else n_frames * HOP
    draws = SameDraws([(9, i) for i in range(len(drawing.folds))], steps, drawing.folds)
    monkeypatch.setattr(torch, "multinomial", draws.multinomial)
    expected = module.inference(frames, **how)
    assert draws.ties <= 2
    assert type(found) is type(expected)
    assert found.dtype == expected.dtype
    assert len(found) == (n_frames - 1) * HOP
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12 if batched else 2e-7)


def test_coquis_settings_say_what_its_tensors_do_not():
    """Companding, samples of a frame where the mel is interpolated, and which of two heads."""
    plain = live(live_twins.CoquiWavernn, mulaw=False)
    with accelerate(plain, cpu_threads=1) as handle:
        bare = handle.player.inference(mel(9)).numpy()
        assert not np.array_equal(bare, coqui.Wavernn(handle.vocoder).inference(mel(9)).numpy())
    sizes = {name: size for name, size in SIZES.items() if name != "scales"}
    state = checkpoint_builders.coqui(classes=2, **sizes)
    module = live(live_twins.CoquiWavernn)
    module.args.mode, module.n_classes = "gauss", 2
    module.config.audio.hop_length = 37
    monkeypatched = {name: torch.from_numpy(np.array(a)) for name, a in state.items()}
    module.state_dict = lambda: monkeypatched
    module.hop_length = 37
    with accelerate(module, cpu_threads=1) as handle:
        config = handle.vocoder.config
        assert (config.hop_length, config.head, config.upsample) == (37, "gaussian", "linear")
        assert len(module.inference(mel(9))) == 8 * 37


def test_mozillas_generate_takes_no_mu_law_and_gives_an_array():
    class Mozilla(live_twins.WaveRNN):
        mulaw = True

        def generate(self, mels: Any, batched: bool, target: int, overlap: int) -> Any:
            return None

    module = live(Mozilla)
    with accelerate(module, cpu_threads=1, seed=4) as handle:
        assert (handle.method, type(handle.player)) == ("generate", coqui.Wavernn)
        found = module.generate(mel(30).numpy()[0], True, 400, 60)
        assert (found.dtype, len(found)) == (np.float64, 29 * HOP)
        assert same_bits(found, handle.player.inference(mel(30), True, 400, 60))


def test_weights_are_those_of_the_moment():
    module, frames = live(), mel(9)
    accelerate(module, cpu_threads=1)
    before = module.generate(frames)
    with torch.no_grad():
        module.I.weight.mul_(0.5)
    assert same_bits(module.generate(frames), before)
    accelerate(module, cpu_threads=1)
    assert not np.array_equal(module.generate(frames), before)


def test_half_precision_is_read():
    module, frames = live(), mel(9)
    with accelerate(module.half(), cpu_threads=1):
        found = module.generate(frames)
    rounded = {name: a.float() for name, a in module.state_dict().items()}
    voc = wavernn_fast.Vocoder(*load_state(rounded, "m"), cpu_threads=1)
    assert same_bits(found, fatchord.WaveRNN(voc).generate(frames))


def test_a_module_accelerated_again_is_restored_in_any_order():
    module = live()
    original = module.generate
    first, second = (accelerate(module, cpu_threads=1, seed=seed) for seed in (1, 2))
    assert module.generate.accelerated is second
    first.restore()  # below the second, which stays
    assert module.generate.accelerated is second
    second.restore()
    assert module.generate == original
    first, second = (accelerate(module, cpu_threads=1, seed=seed) for seed in (1, 2))
    second.restore()
    assert module.generate.accelerated is first
    first.restore()
    first.restore()
    assert module.generate == original
    assert not first.active


def test_a_method_of_the_instance_is_given_back():
    module = live()
    mine = lambda mels, save_path, batched, target, overlap, mu_law: "mine"  # noqa: E731
    module.generate = mine
    with accelerate(module, cpu_threads=1):
        assert module.generate is not mine
    assert module.generate is mine


def test_what_was_assumed_is_said(caplog):
    caplog.set_level(logging.INFO, logger="wavernn_fast")
    handle = accelerate(live(sizes=PRESET_SIZES), cpu_threads=1)
    assert handle.preset == "rtvc"
    assert "assuming preset rtvc" in caplog.text
    assert repr(handle) in caplog.text
    assert "preset rtvc" in repr(handle)
    given = accelerate(live(sizes=PRESET_SIZES), cpu_threads=1, preset="geneing")
    assert given.preset == "geneing"
    assert accelerate(live(), cpu_threads=1).preset == "custom"


def test_the_method_tells_the_preset_where_sizes_do_not():
    """A second GRU of zeros is taken for another family's, but not with this method."""
    for program, preset in ((live_twins.WaveRNN, "geneing"), (live_twins.RtvcWaveRNN, "rtvc")):
        module = live(program, PRESET_SIZES)
        with torch.no_grad():
            module.rnn2.weight_ih_l0.zero_()
            module.rnn2.weight_hh_l0.zero_()
        assert accelerate(module, cpu_threads=1).preset == preset


@pytest.mark.parametrize("bits", [9, "mold", "gauss"])
def test_coquis_modules_get_coquis_preset_and_no_warning_of_their_own_mels(bits):
    """ForwardTacotron's have the same sizes and other mels."""
    classes = {"mold": 30, "gauss": 2}.get(bits, 512)
    sizes = {"n_mels": 80, "scales": (4, 8, 8)}
    state = checkpoint_builders.fatchord(classes=classes, **sizes)
    module = live_twins.CoquiWavernn(bits=bits, **sizes)
    module.state_dict = lambda: checkpoint_builders.to_torch(state)
    frames = np.random.default_rng(0).uniform(-4, 4, (80, 30)).astype(np.float32)
    with accelerate(module, device="cpu", cpu_threads=1) as handle:
        assert handle.preset == "coqui"
        module.inference(frames[None])  # a warning is an error here


def test_files_have_the_modules_sample_rate(tmp_path):
    import soundfile

    module = live(sample_rate=24000)
    accelerate(module, cpu_threads=1)
    module.generate(mel(5), tmp_path / "a.wav")
    assert soundfile.info(tmp_path / "a.wav").samplerate == 24000


def test_options_reach_the_engine():
    module = live()
    handle = accelerate(
        module, device="cpu", dtype="fp16", cpu_threads=2, seed=None, flavour="rtvc"
    )
    voc = handle.vocoder
    assert (voc.device, voc.dtype, voc.cpu_threads) == ("cpu", "fp16", 2)
    assert handle.player.flavour == fatchord.FLAVOURS["rtvc"]
    torch.manual_seed(1)
    first = module.generate(mel(9))
    torch.manual_seed(1)
    assert same_bits(module.generate(mel(9)), first)
    assert not np.array_equal(module.generate(mel(9)), first)


# --- refusals -------------------------------------------------------------------------------------


def problems(module: Any) -> str:
    with pytest.raises(ModelError) as caught:
        accelerate(module, cpu_threads=1)
    assert "generate" not in getattr(module, "__dict__", {})
    return "\n".join([str(caught.value), *caught.value.problems])


def test_every_problem_is_listed_at_once():
    module = live()
    module.hop_length = 49
    module.fc3 = nn.Linear(32, 5)
    module.rnn1 = nn.GRU(32, 32, num_layers=2, batch_first=True)
    module.extra = nn.Linear(2, 2)
    module.upsample.resnet.batch_norm.eps = 1e-3
    with torch.no_grad():
        module.fc2.weight[0, 0] = torch.nan
    found = problems(module)
    for word in (
        "module WaveRNN cannot be accelerated",
        "5 outputs",
        "rnn1.weight_ih_l1",
        "extra.weight",
        "upsample.resnet.batch_norm adds 0.001",
        "fc2.weight",
    ):
        assert word in found


@pytest.mark.parametrize(
    ("name", "value"),
    [("hop_length", 49), ("n_classes", 256), ("rnn_dims", 64), ("aux_dims", 8), ("pad", 3)],
)
def test_attributes_that_contradict_the_tensors_are_refused(name, value):
    module = live()
    setattr(module, name, value)
    assert f"its {name} is {value}" in problems(module)


def test_a_mode_that_contradicts_the_head_is_refused():
    module = live()
    module.mode = "MOL"
    assert "mode is 'MOL'" in problems(module)


@pytest.mark.filterwarnings("ignore:.*torch.jit.script")
def test_other_modules_are_refused():
    assert "state_dict" in problems("model.pt")
    linear = problems(nn.Linear(3, 3))
    assert "neither generate(mels" in linear
    assert "no known layout" in linear
    assert "`.module`" in problems(nn.DataParallel(live()))
    compiled = nn.Module()  # as torch.compile wraps one
    compiled._orig_mod = live()
    assert "`._orig_mod`" in problems(compiled)
    scripted = torch.jit.script(nn.Linear(2, 2))
    assert "TorchScript" in problems(scripted)


def test_a_method_with_other_parameters_is_refused():
    class Other(live_twins.WaveRNN):
        def generate(self, text: str) -> None:  # type: ignore[override]
            del text

    assert "neither generate(mels" in problems(live(Other))


def test_a_class_that_hears_a_speaker_is_refused():
    """Its generate has the speaker between mel and path: ours would take one for the other."""

    class Speaking(live_twins.WaveRNN):
        def generate(self, mels, spk_embd, save_path, batched, target, overlap, mu_law):  # type: ignore[override]
            raise NotImplementedError

        def state_dict(self):  # type: ignore[override]
            return checkpoint_builders.to_torch(checkpoint_builders.scwavernn())

    found = problems(Speaking())
    assert "it hears a speaker" in found
    assert "generate(mel, speaker=...)" in found


@pytest.mark.parametrize("pad", [-4.0, -2.5, None])
def test_begeekmyfriends_ends_are_those_of_its_version(pad):
    class Biased(live_twins.WaveRNN):
        def state_dict(self):  # type: ignore[override]
            return checkpoint_builders.to_torch(checkpoint_builders.begeekmyfriend())

    module = Biased()
    if pad is not None:
        module.pad_val = pad
    mel = torch.full((1, 8, 30), -4.0)
    with accelerate(module, device="cpu", cpu_threads=1) as handle:
        assert handle.vocoder.config.pad_value == (0.0 if pad is None else pad)
        wave = module.generate(mel, None, False, 11000, 550, True)
    assert len(wave) == (29 if pad is None else 30) * module.hop_length
    assert (wave[-1] == 0.0) == (pad is None)  # the end of the ramp


def test_a_device_that_is_not_there_is_refused_before_any_work():
    module = live()
    with pytest.raises(wavernn_fast.WaveRNNError, match="abacus"):
        accelerate(module, device="abacus")
    assert "generate" not in module.__dict__
