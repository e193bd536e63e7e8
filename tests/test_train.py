"""The training loop: what an update does, warm-up, pruning while training, several processes."""

from __future__ import annotations

import dataclasses
import json
import math

import numpy as np
import pytest
import recordings
import torch
from train_runs import (
    ALONE,
    PRUNE,
    finish,
    log,
    one_thread,  # noqa: F401
    resumed,
    settings,
    trainer,
    voice,
)

from wavernn_fast import canonical, weights
from wavernn_fast.errors import EngineError, InputError, ModelError
from wavernn_fast.models.wavernn import Batch, WaveRNN
from wavernn_fast.network_config import NetworkConfig
from wavernn_fast.train import need_torch
from wavernn_fast.train.loop import MODEL, VALID_SEGMENTS, Every, cut, segment_frames
from wavernn_fast.train.processes import Processes, low_precision, start
from wavernn_fast.train.prune import PruneSettings, expand, prune_once
from wavernn_fast.train.run import ModelSizes, make_trainer, read_start
from wavernn_fast.train.settings import TrainSettings

CONFIG = recordings.config()
HOP = CONFIG.hop_length
HEARS_MEL = {"gru.w_conditioning", "gru.b_input", "aux.conv_in.weight", "aux.conv_in.bias"}


# --- numbers ----------------------------------------------------------------------------------


def test_the_rate_rises_then_falls_by_half_a_cosine():
    numbers = settings(steps=110, lr=1e-2, lr_final=1e-4, lr_warmup=10)
    by_hand = {0: 1e-3, 4: 5e-3, 9: 1e-2, 10: 1e-2, 60: 5.05e-3, 110: 1e-4, 500: 1e-4}
    for step, rate in by_hand.items():
        assert numbers.learning_rate(step) == pytest.approx(rate, rel=1e-9), step


def test_the_average_forgets_the_start_soon():
    numbers = settings(ema=0.999)
    assert numbers.ema_decay(1) == pytest.approx(2 / 11)
    assert numbers.ema_decay(10**6) == 0.999


def test_all_impossible_numbers_are_listed():
    with pytest.raises(InputError) as caught:
        TrainSettings(
            steps=0, batch=0, segment=0, warmup=-1, lr=2.0, lr_final=-1.0, lr_output=-1.0,
            lr_warmup=-1, clip=0.0, ema=1.0, seed=-1,
        )  # fmt: skip
    for name in ("steps", "batch", "segment", "warmup", "lr ", "lr_final", "lr_output", "lr_warmup",
                 "clip", "ema", "seed"):  # fmt: skip
        assert f"{name.strip()} is " in str(caught.value)


def test_settings_survive_their_text():
    for numbers in (settings(), settings(prune=PRUNE, warmup=7, seed=2**63 - 1)):
        assert TrainSettings.from_json(numbers.to_json()) == numbers
    with pytest.raises(ModelError, match="cannot be read"):
        TrainSettings.from_json('{"steps": 3}')
    known = json.loads(TrainSettings(steps=3).to_json())
    del known["lr_output"]  # of a run from before there was one
    assert TrainSettings.from_json(json.dumps(known)) == TrainSettings(steps=3)


def test_segments_are_rounded_up_to_whole_frames():
    assert [segment_frames(CONFIG, n) for n in (1, HOP, HOP + 1)] == [1, 1, 2]


@pytest.mark.parametrize("preset", ["native-22k", "mkotha"])
def test_presets_make_trainable_models(preset):
    config = ModelSizes(preset=preset, hidden_size=64).config()
    assert (config.fc_size, config.aux_radius) == (64, 2)
    WaveRNN(config)
    bare = ModelSizes(preset=preset, conditioned=False).config()
    assert (bare.n_mels, bare.hop_length, bare.mel) == (0, 1, None)
    assert ModelSizes(preset=preset, aux_size=0).config().aux_radius == 0


def test_presets_of_other_models_are_refused():
    with pytest.raises(InputError, match="native-22k and mkotha do"):
        ModelSizes(preset="fatchord-raw9").config()


def test_a_model_with_a_network_over_its_mel_is_refused():
    network = NetworkConfig(kind="residual_conv", layers=2, size=CONFIG.n_mels, kernel=3)
    none = {"aux_size": 0, "aux_channels": 0, "aux_blocks": 0, "aux_kernel": 0}
    with pytest.raises(ModelError, match=r"network of its own over the mel \(residual_conv\)"):
        WaveRNN(dataclasses.replace(CONFIG, network=network, **none))


# --- one update -------------------------------------------------------------------------------


def batch_of(frames: int, count: int = 3) -> Batch:
    return trainer_corpus(frames).random(0, 0, 0, count)


def trainer_corpus(frames: int):
    from wavernn_fast.train.corpus import Corpus

    return Corpus(voice(CONFIG).train, CONFIG, frames, CONFIG.aux_radius)


def test_cut_gives_both_parts_their_own_context():
    batch = batch_of(5)
    first, rest = cut(batch, 2, CONFIG)
    assert torch.equal(torch.cat([first.samples, rest.samples], 1), batch.samples)
    assert first.samples.shape[1] == 2 * HOP
    assert torch.equal(first.before, batch.before)
    assert torch.equal(rest.before, batch.samples[:, 2 * HOP - 1])
    assert torch.equal(first.mel, batch.mel[:, :, : 2 + 4])
    assert torch.equal(rest.mel, batch.mel[:, :, 2:])


def test_the_loss_after_a_warm_up_is_that_of_the_later_part_of_the_whole(tmp_path):
    one = trainer(tmp_path, settings(warmup=HOP + 1, segment=2 * HOP))  # two frames, then two
    batch = batch_of(4)
    found = one._losses(one.model, batch)
    logits, _ = one.model(batch)
    targets = batch.samples.t()[2 * HOP :]
    for part, classes in enumerate((targets >> 8, targets & 255)):
        own = logits[2 * HOP :, :, 256 * part : 256 * (part + 1)]
        expected = torch.nn.functional.cross_entropy(own.flatten(0, 1), classes.flatten())
        assert found[part].item() == pytest.approx(expected.item(), abs=1e-5)


def test_a_warm_up_teaches_nothing(tmp_path):
    """Gradients are those of the later part alone, begun in a state that is given."""
    one = trainer(tmp_path, settings(warmup=2 * HOP, segment=2 * HOP))
    batch = batch_of(4)
    one._losses(one.model, batch).sum().backward()
    found = [p.grad.clone() for p in one.model.parameters()]
    first, rest = cut(batch, 2, CONFIG)
    with torch.no_grad():
        _, h = one.model(first)
    one.model.zero_grad()
    losses, _ = one.model.losses(rest, h)
    (losses.coarse + losses.fine).backward()
    assert all(torch.equal(a, p.grad) for a, p in zip(found, one.model.parameters(), strict=True))


@pytest.mark.parametrize("lr_output", [1.0, 3.0])
def test_an_update_is_adam_on_the_clipped_gradient(tmp_path, lr_output):
    numbers = settings(clip=0.05, lr_conditioning=0.1, lr_output=lr_output)
    one, twin = trainer(tmp_path, numbers), trainer(tmp_path, numbers).model
    hears = {n for n, _ in twin.named_parameters() if "conditioning" in n or "aux" in n}
    assert hears
    shares = dict.fromkeys(hears, 0.1) | {
        f"{half}_{layer}.{kind}": lr_output
        for half in ("coarse", "fine")
        for layer in ("fc1", "fc2")
        for kind in ("weight", "bias")
    }
    adam = torch.optim.Adam(
        {"params": [p], "lr": numbers.learning_rate(0) * shares.pop(n, 1.0)}
        for n, p in twin.named_parameters()
    )
    assert not shares
    losses, _ = twin.losses(one._train.random(0, 0, 0, 4))
    (losses.coarse + losses.fine).backward()
    norm = torch.nn.utils.clip_grad_norm_(twin.parameters(), 0.05)
    adam.step()
    (coarse, fine), size = one.update()
    assert (coarse, fine) == pytest.approx((losses.coarse.item(), losses.fine.item()))
    assert size == pytest.approx(float(norm))
    assert size > 0.05
    for found, expected in zip(one.model.parameters(), twin.parameters(), strict=True):
        assert torch.allclose(found, expected, atol=1e-6)
    decay = numbers.ema_decay(1)
    start_ = trainer(tmp_path, numbers).model
    for mean, now, before in zip(
        one.average.parameters(), one.model.parameters(), start_.parameters(), strict=True
    ):
        assert torch.allclose(mean, decay * before + (1 - decay) * now, atol=1e-6)


def test_the_loss_of_held_out_segments_is_what_the_averaged_model_gives(tmp_path):
    one = trainer(tmp_path, settings(steps=3))
    last = finish(one)
    config, tensors = weights.read(tmp_path / MODEL)
    model = WaveRNN(config)
    model.load_canonical(tensors)
    assert one._valid is not None
    with torch.no_grad():
        losses, _ = model.losses(one._valid.spread(VALID_SEGMENTS))
    assert last["valid_nll"] == pytest.approx(float(losses.coarse + losses.fine), abs=1e-5)
    assert last == {**log(tmp_path)[-1], "samples_per_s": last["samples_per_s"]}


def test_looking_at_held_out_segments_does_not_count_in_the_speed(tmp_path, monkeypatch):
    now = 0.0  # an update takes 1 s, held-out segments 100 s
    one = trainer(tmp_path, settings(steps=8))

    def takes(seconds, function):
        def run(*arguments):
            nonlocal now
            now += seconds
            return function(*arguments)

        return run

    monkeypatch.setattr(one, "update", takes(1.0, one.update))
    monkeypatch.setattr(one, "validate", takes(100.0, one.validate))
    monkeypatch.setattr("wavernn_fast.train.loop.time.perf_counter", lambda: now)
    told = []
    one.run(Every(log=4, validate=3, checkpoint=9), told.append)  # between lines, after 3 updates
    speeds = {line["step"]: line["samples_per_s"] for line in told if "loss" in line}
    an_update = one.settings.batch * segment_frames(CONFIG, one.settings.segment) * HOP
    assert speeds == {4: an_update, 8: an_update}


def test_an_update_with_bfloat16_products_gives_nearly_the_same_loss(tmp_path):
    full = trainer(tmp_path, settings(precision="fp32")).update()[0]
    low = trainer(tmp_path, settings(precision="bf16")).update()[0]
    assert low != full
    assert low == pytest.approx(full, rel=0.02)
    assert low_precision("bf16", ALONE.device)
    assert not low_precision("fp32", ALONE.device)


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_checkpoint(tmp_path):
    one = trainer(tmp_path, settings(steps=4))
    finish(one)
    before = (tmp_path / "state.pt").read_bytes(), (tmp_path / MODEL).read_bytes()
    again = resumed(tmp_path, settings(steps=8))
    with torch.no_grad():
        again.model.fine_fc2.bias[7] = math.nan
    with pytest.raises(EngineError, match=r"not finite at step 4 \(coarse .* fine nan.*--from"):
        finish(again)
    assert before == ((tmp_path / "state.pt").read_bytes(), (tmp_path / MODEL).read_bytes())


def test_unconditioned_models_train_too(tmp_path):
    config = dataclasses.replace(
        CONFIG, n_mels=0, mel=None, hop_length=1, aux_size=0, aux_channels=0, aux_blocks=0,
        aux_kernel=0,
    )  # fmt: skip
    read = [dataclasses.replace(r, mel=np.zeros((0, len(r.samples)), np.float32))
            for r in voice(CONFIG).train]  # fmt: skip
    loaded = dataclasses.replace(voice(CONFIG), train=read, valid=[])
    one = make_trainer(tmp_path, config, settings(steps=3, warmup=5), loaded, ALONE)
    last = finish(one)
    assert last["step"] == 3
    assert "valid_nll" not in last
    assert 2.0 < last["loss"] < 14.0


# --- pruning while training -------------------------------------------------------------------


def zeros_are_kept(tensors, masks, block=(16, 1)) -> bool:
    return all(not tensors[name][~expand(mask, block)].any() for name, mask in masks.items())


def test_a_run_ends_pruned_exactly_in_weights_average_and_file(tmp_path):
    one = trainer(tmp_path, settings(prune=PRUNE))
    finish(one)
    assert one.pruner is not None
    counts = list(one.pruner.counts())
    assert all(count.kept == count.blocks - round(0.75 * count.blocks) for count in counts)
    for model in (one.model, one.average):
        assert zeros_are_kept(model.state_dict(), one.pruner.masks)
    config, tensors = weights.read(tmp_path / MODEL)
    assert (config.block_shape, len(config.pruned)) == ((16, 1), 5)
    mask = tensors[canonical.mask_name("gru.w_recurrent")]
    assert np.array_equal(mask != 0, one.pruner.masks["gru.w_recurrent"].numpy())


def test_the_log_tells_the_share_that_is_zero_now(tmp_path):
    """Masks change at steps 1, 3 and 5; at 2 and 4 the share is that of the step before."""
    finish(trainer(tmp_path, settings(prune=PRUNE)))
    shares = {line["step"]: line["sparsity"] for line in log(tmp_path)}
    assert shares[1] == 0.0
    assert shares[2] == 0.0
    assert shares[3] == shares[4] == pytest.approx(0.75 * 0.875, abs=0.01)
    assert shares[5] == shares[8] == pytest.approx(0.75, abs=0.01)


def pruned_start(sparsity: float = 0.5) -> tuple:
    torch.manual_seed(3)
    tensors = WaveRNN(CONFIG).canonical()
    return prune_once(CONFIG, tensors, PruneSettings(sparsity=sparsity))[:2]


def test_training_on_a_pruned_model_keeps_its_zeros(tmp_path):
    config, tensors = pruned_start()
    gentle = PruneSettings(sparsity=0.25, start=2, length=2, every=1)
    one = trainer(tmp_path, settings(prune=gentle))
    one.start_from(config, tensors)
    finish(one)
    _, found = weights.read(tmp_path / MODEL)
    for name in config.pruned:
        mask = canonical.mask_name(name)
        assert np.array_equal(found[mask], tensors[mask]), name
        assert not np.array_equal(found[name], tensors[name])


def test_training_on_a_pruned_model_prunes_further(tmp_path):
    config, tensors = pruned_start()
    one = trainer(tmp_path, settings(prune=PRUNE))
    one.start_from(config, tensors)
    finish(one)
    assert one.pruner is not None
    for count in one.pruner.counts():
        assert count.kept == count.blocks - round(0.75 * count.blocks)
    _, found = weights.read(tmp_path / MODEL)
    for name in map(canonical.mask_name, config.pruned):
        assert not (found[name] > tensors[name]).any()


def test_a_pruned_model_is_not_trained_densely_by_accident(tmp_path):
    with pytest.raises(ModelError, match="its zeros would fill again"):
        trainer(tmp_path, settings()).start_from(*pruned_start())
    other = PruneSettings(sparsity=0.5, block=(4, 4))
    with pytest.raises(InputError, match="use the same blocks"):
        trainer(tmp_path, settings(prune=other)).start_from(*pruned_start())


def test_a_dense_model_is_a_start_too(tmp_path):
    first = trainer(tmp_path / "a", settings(steps=2))
    finish(first)
    config, tensors = read_start(tmp_path / "a")
    one = trainer(tmp_path / "b", settings(seed=9))
    one.start_from(config, tensors)
    averages = dict(first.average.named_parameters())
    for name, found in one.model.named_parameters():
        # What hears the mel was written as float32 for the mel itself, and whitened again.
        near = 1e-6 if name in HEARS_MEL else 0.0
        assert torch.allclose(found, averages[name], rtol=0, atol=near), name
    bigger = trainer(tmp_path / "c", settings(), recordings.config(64))
    with pytest.raises(ModelError, match="expected"):
        bigger.start_from(config, tensors)


# --- where it runs ----------------------------------------------------------------------------


def test_a_batch_that_the_processes_cannot_share_is_refused(tmp_path):
    two = Processes(0, 2, torch.device("cpu"))
    with pytest.raises(InputError, match=r"batch of 5 .* 2 processes"):
        make_trainer(tmp_path, CONFIG, settings(batch=5), voice(CONFIG), two)


def test_unknown_devices_are_refused():
    with pytest.raises(InputError, match="not on 'tpu'"):
        start("tpu", None)


def test_a_missing_torch_names_the_extra(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "torch", None)
    with pytest.raises(ImportError, match=r"wavernn-fast\[torch\]"):
        need_torch()
