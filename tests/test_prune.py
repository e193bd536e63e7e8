"""Block pruning: the schedule, exact counts, whole blocks, the weakest first, zeros that stay."""

from __future__ import annotations

import dataclasses

import cases
import checkpoint_builders as builders
import numpy as np
import pytest
import torch
from cli_runner import run
from test_wavernn_model import CONFIGS, ENGINES, assert_same, engine_logits, trained_weights
from train_runs import one_thread  # noqa: F401

from wavernn_fast import canonical, weights
from wavernn_fast.errors import InputError, ModelError
from wavernn_fast.train.prune import (
    OUTPUTS,
    RECURRENT,
    Pruner,
    PruneSettings,
    block_mask,
    block_scores,
    expand,
    groups,
    prune_once,
)

CONFIG = CONFIGS[3]  # hidden 128, conditioned
SMALL = cases.dual_config(64, 48)
BLOCKS = [(16, 1), (4, 4), (1, 1)]


def settings(**fields) -> PruneSettings:
    return PruneSettings(**{"sparsity": 0.9, **fields})


def parameters(config=SMALL, seed: int = 0) -> dict[str, torch.Tensor]:
    tensors = cases.random_tensors(config, seed)
    return {name: torch.from_numpy(value.copy()) for name, value in tensors.items()}


# --- when and how far -------------------------------------------------------------------------


def test_the_share_follows_the_cubic_schedule():
    plan = settings(sparsity=0.8, start=100, length=200)
    by_hand = {0: 0.0, 100: 0.0, 150: 0.4625, 200: 0.7, 250: 0.7875, 300: 0.8, 10**6: 0.8}
    for step, share in by_hand.items():
        assert plan.share(step) == pytest.approx(share, abs=1e-12), step


def test_masks_are_renewed_every_so_often_and_at_the_end():
    plan = settings(start=10, length=25, every=10)
    assert [step for step in range(60) if plan.due(step)] == [10, 20, 30, 35]


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"sparsity": 1.0}, "sparsity is 1.0"),
        ({"sparsity": -0.1}, "sparsity is -0.1"),
        ({"sparsity": float("nan")}, "sparsity is nan"),
        ({"block": (0, 1)}, "a block of 0 x 1"),
        ({"start": -1}, "start -1"),
        ({"length": 0}, "length 0"),
        ({"every": 0}, "every 0"),
        ({"gates": "all"}, "gates is 'all'"),
    ],
)
def test_impossible_settings_are_named(fields, words):
    with pytest.raises(InputError, match=words):
        settings(**fields)


# --- which blocks -----------------------------------------------------------------------------


def test_the_weakest_blocks_by_mean_magnitude_go():
    matrix = torch.tensor([[3.0, -3.0, 0.0, 9.0], [3.0, 3.0, 0.0, 0.0], [1.0, 1.0, -2.0, 2.0],
                           [1.0, 1.0, 2.0, 2.0]])  # fmt: skip
    assert block_scores(matrix, (2, 2)).tolist() == [[3.0, 2.25], [1.0, 2.0]]
    assert block_mask(matrix, (2, 2), 0.5).tolist() == [[True, True], [False, False]]
    assert block_mask(matrix, (2, 2), 0.75).tolist() == [[True, False], [False, False]]
    assert block_mask(matrix, (4, 1), 0.25).tolist() == [[True, True, False, True]]
    wide = expand(block_mask(matrix, (1, 2), 0.125), (1, 2))
    assert wide.tolist() == [[True] * 4, [True, True, False, False], [True] * 4, [True] * 4]


def test_of_equal_blocks_the_first_goes():
    assert block_mask(torch.ones(4, 4), (2, 2), 0.5).tolist() == [[False, False], [True, True]]


@pytest.mark.parametrize("gates", ["separate", "stacked"])
@pytest.mark.parametrize("block", BLOCKS)
@pytest.mark.parametrize("share", [0.0, 0.333, 0.5, 0.9, 0.999])
def test_exactly_the_rounded_share_of_every_group_is_zero(block, gates, share):
    tensors = parameters()
    pruner = Pruner(tensors, settings(block=block, gates=gates))
    pruner.renew(share)
    pruner.apply(tensors)
    counts = list(pruner.counts())
    assert len(counts) == (7 if gates == "separate" else 5)
    for count, group in zip(counts, groups_of(pruner), strict=True):
        matrix = tensors[group.name][group.first : group.last]
        blocks = matrix.numel() // (block[0] * block[1])
        dropped = round(share * blocks)
        assert (count.blocks, count.kept) == (blocks, blocks - dropped)
        assert count.weights == count.kept * block[0] * block[1]
        assert count.sparsity == pytest.approx(dropped / blocks)
        scores = block_scores(matrix, block)
        assert int((scores == 0).sum()) == dropped  # whole blocks; random weights are never 0
        assert int((matrix == 0).sum()) == dropped * block[0] * block[1]


def groups_of(pruner: Pruner) -> list:
    return groups({n: tuple(t.shape) for n, t in pruner._tensors.items()}, pruner.settings)


def test_separate_gates_have_a_threshold_each_and_stacked_ones_share_it():
    tensors = parameters()
    size = SMALL.hidden_size
    tensors[RECURRENT][:size] *= 100.0  # the reset gate is far stronger
    pruner = Pruner(tensors, settings(gates="separate"))
    pruner.renew(0.5)
    reset, update, candidate = pruner.masks[RECURRENT].chunk(3)
    assert int(reset.sum()) == int(update.sum()) == int(candidate.sum()) == reset.numel() // 2
    pruner = Pruner(tensors, settings(gates="stacked"))
    pruner.renew(0.5)
    reset, update, candidate = pruner.masks[RECURRENT].chunk(3)
    assert reset.all()
    assert int(update.sum() + candidate.sum()) == reset.numel() // 2


def test_output_layers_can_be_left_alone():
    tensors = parameters()
    before = {name: tensors[name].clone() for name in OUTPUTS}
    pruner = Pruner(tensors, settings(outputs=False))
    pruner.renew(0.9)
    pruner.apply(tensors)
    assert list(pruner.masks) == [RECURRENT]
    assert all(torch.equal(tensors[name], before[name]) for name in OUTPUTS)


def test_blocks_that_do_not_divide_are_all_listed():
    shapes = canonical.expected_shapes(cases.dual_config(96, 23))
    with pytest.raises(InputError, match="Blocks of 32 x 5 do not divide") as caught:
        groups(shapes, settings(block=(32, 5)))
    for words in (
        "gru.w_recurrent reset has 96 x 96 weights",
        "gru.w_recurrent update has 96",
        "gru.w_recurrent candidate has 96",
        "coarse_fc1.weight has 23 x 48",
        "coarse_fc2.weight has 256 x 23",
        "fine_fc1.weight has 23 x 48",
        "fine_fc2.weight has 256 x 23",
    ):
        assert words in str(caught.value)
    groups(shapes, settings(block=(16, 1), outputs=False))


# --- over time --------------------------------------------------------------------------------


@pytest.mark.parametrize("block", BLOCKS)
def test_what_was_dropped_stays_dropped(block):
    tensors = parameters()
    pruner = Pruner(tensors, settings(block=block, start=0, length=20, every=2))
    random = torch.Generator().manual_seed(1)
    kept = {name: mask.clone() for name, mask in pruner.masks.items()}
    for step in range(1, 25):
        for tensor in tensors.values():  # an update moves dropped weights too
            tensor += 0.3 * torch.randn(tensor.shape, generator=random)
        assert pruner.step(step) == (step % 2 == 0 and step <= 20)
        for name, mask in pruner.masks.items():
            assert not (mask & ~kept[name]).any()
            assert not tensors[name][~expand(mask, block)].any()
        kept = {name: mask.clone() for name, mask in pruner.masks.items()}
    assert all(count.kept == count.blocks - round(0.9 * count.blocks) for count in pruner.counts())


def test_dropped_blocks_go_before_blocks_that_happen_to_be_zero():
    tensors = parameters()
    pruner = Pruner(tensors, settings(block=(1, 1)))
    pruner.renew(0.5)
    pruner.apply(tensors)
    kept = pruner.masks[RECURRENT].clone()
    first = kept.nonzero()[0]
    tensors[RECURRENT][tuple(first)] = 0.0  # kept, and 0 at this moment
    pruner.renew(0.5)
    assert torch.equal(pruner.masks[RECURRENT], kept)


def test_nothing_is_touched_before_the_start():
    tensors = parameters()
    before = {name: tensor.clone() for name, tensor in tensors.items()}
    pruner = Pruner(tensors, settings(start=5, length=10, every=1))
    assert not any(pruner.step(step) for step in range(1, 5))
    assert all(torch.equal(tensors[name], before[name]) for name in tensors)


def test_masks_of_other_blocks_are_refused():
    pruner = Pruner(parameters(), settings(block=(4, 4)))
    other = Pruner(parameters(), settings(block=(16, 1)))
    with pytest.raises(InputError, match="use the same blocks"):
        pruner.load(other.masks)
    with pytest.raises(InputError, match="masks of nothing"):
        pruner.load({})


# --- finished models --------------------------------------------------------------------------


@pytest.mark.parametrize("block", [(16, 1), (4, 4), (1, 1), (8, 2)])
def test_a_pruned_model_survives_its_file(block, tmp_path):
    tensors = trained_weights(CONFIG)
    before = {name: value.copy() for name, value in tensors.items()}
    config, pruned, counts = prune_once(CONFIG, tensors, settings(sparsity=0.75, block=block))
    assert all(np.array_equal(tensors[name], before[name]) for name in before)
    assert (config.block_shape, config.pruned) == (block, tuple(sorted((RECURRENT, *OUTPUTS))))
    assert all(count.kept == count.blocks - round(0.75 * count.blocks) for count in counts)
    weights.write(tmp_path / "m.safetensors", config, pruned)
    again, found = weights.read(tmp_path / "m.safetensors")
    assert again == config
    assert found.keys() == pruned.keys()
    assert all(np.array_equal(found[name], pruned[name]) for name in pruned)


def test_pruning_again_goes_on_from_the_zeros_there_are():
    config, once, _ = prune_once(CONFIG, trained_weights(CONFIG), settings(sparsity=0.5))
    _, less, counts = prune_once(config, once, settings(sparsity=0.25))
    assert all(count.kept == count.blocks - round(0.5 * count.blocks) for count in counts)
    assert all(np.array_equal(less[name], once[name]) for name in once)
    _, more, counts = prune_once(config, once, settings(sparsity=0.75))
    assert all(count.kept == count.blocks - round(0.75 * count.blocks) for count in counts)
    mask = canonical.mask_name(RECURRENT)
    assert not (more[mask] > once[mask]).any()
    with pytest.raises(InputError, match="use the same blocks"):
        prune_once(config, once, settings(sparsity=0.75, block=(4, 4)))


def test_masks_that_lie_are_refused(tmp_path):
    config, tensors, _ = prune_once(CONFIG, trained_weights(CONFIG), settings())
    mask = canonical.mask_name("coarse_fc1.weight")
    half = {**tensors, mask: np.where(tensors[mask] == 0.0, np.float32(0.5), tensors[mask])}
    filled = {**tensors, "coarse_fc1.weight": tensors["coarse_fc1.weight"] + np.float32(1)}
    lost = {name: value for name, value in tensors.items() if name != mask}
    for wrong, words in (
        (half, "coarse_fc1.weight.mask holds values other than 0 and 1"),
        (filled, "coarse_fc1.weight has .* non-zero values in dropped blocks"),
        (lost, "missing tensor coarse_fc1.weight.mask"),
    ):
        with pytest.raises(ModelError, match=words):
            weights.write(tmp_path / "m.safetensors", config, wrong)
    with pytest.raises(ModelError, match=r"unexpected tensor .*mask"):
        weights.write(tmp_path / "m.safetensors", CONFIG, tensors)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("engine", ENGINES)
def test_a_pruned_model_sounds_like_the_same_dense_arrays(engine):
    config, pruned, _ = prune_once(CONFIG, trained_weights(CONFIG), settings(sparsity=0.9))
    n = 40
    samples, mel = cases.random_samples(config, n), cases.mel_for(config, n)
    dense = canonical.without_masks(pruned)
    plain = dataclasses.replace(config, block_shape=None, pruned=())
    expected = engine_logits(plain, dense, samples, mel, "reference")
    found = engine_logits(config, pruned, samples, mel, engine)
    assert_same(found.astype(np.float64), expected.astype(np.float64))


# --- the command ------------------------------------------------------------------------------


def test_the_command_prunes_a_file(tmp_path):
    weights.write(tmp_path / "dense.safetensors", CONFIG, trained_weights(CONFIG))
    target = tmp_path / "sparse.safetensors"
    options = ("--sparsity", 0.5, "--prune-block", "4x4", "--prune-gates", "stacked")
    result = run("prune", tmp_path / "dense.safetensors", "-o", target, *options)
    assert result.exit_code == 0, result.stderr
    line = "gru.w_recurrent: 1536 of 3072 blocks kept, 24576 weights (50.00% pruned)"
    assert line in result.stderr
    config, tensors = weights.read(target)
    assert config.block_shape == (4, 4)
    expected = prune_once(
        CONFIG, trained_weights(CONFIG), settings(sparsity=0.5, block=(4, 4), gates="stacked")
    )[1]
    assert all(np.array_equal(tensors[name], expected[name]) for name in expected)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--sparsity", 1.5), "sparsity is 1.5"),
        (("--sparsity", 0.5, "--prune-block", "16"), "'16' is not a block"),
        (("--sparsity", 0.5, "--prune-block", "0x4"), "'0x4' is not a block"),
        (("--sparsity", 0.5, "--prune-block", "16x3"), "do not divide"),
    ],
)
def test_the_command_refuses_what_cannot_be(tmp_path, options, words):
    weights.write(tmp_path / "dense.safetensors", CONFIG, trained_weights(CONFIG))
    target = tmp_path / "sparse.safetensors"
    result = run("prune", tmp_path / "dense.safetensors", "-o", target, *options)
    assert result.exit_code == 2
    assert words in result.stderr
    assert "Traceback" not in result.stderr
    assert not target.exists()


def test_a_residual_model_is_not_pruned(tmp_path):
    config = cases.residual_config(32, 16, bits=8)
    weights.write(tmp_path / "r.safetensors", config, cases.random_tensors(config))
    result = run(
        "prune", tmp_path / "r.safetensors", "-o", tmp_path / "s.safetensors", "--sparsity", 0.5
    )
    assert result.exit_code == 2
    assert "Only the dual core can be pruned" in result.stderr


def test_a_preset_is_named_as_for_other_commands(tmp_path):
    """240 samples a frame are not those of the family, so its own preset is not assumed."""
    state = builders.mkotha(n_mels=80, hidden=32, scales=(4, 6, 10))
    path = builders.save(tmp_path / "m.pt", state)
    out = ("-o", tmp_path / "s.safetensors", "--sparsity", 0.5)
    assert run("prune", path, *out).exit_code == 0
    assert weights.read(tmp_path / "s.safetensors")[0].preset == "custom"
    named = run("prune", path, *out, "--preset", "native-22k")
    assert named.exit_code == 0, named.stderr
    config, _ = weights.read(tmp_path / "s.safetensors")
    assert (config.preset, config.mel is not None, config.block_shape) == (
        "native-22k", True, (16, 1),
    )  # fmt: skip
    before = (tmp_path / "s.safetensors").read_bytes()
    for preset in ("nonsense", "mkotha", "fatchord-raw9"):
        refused = run("prune", path, *out, "--preset", preset)
        assert refused.exit_code == 2
        assert preset in refused.stderr
    assert (tmp_path / "s.safetensors").read_bytes() == before


@pytest.mark.parametrize(
    ("output", "words"),
    [
        ("dense.safetensors", "is the input"),
        ("folder.safetensors", "is a folder"),
        ("none/sparse.safetensors", "there is no folder"),
        ("sparse.pt", "must end in .safetensors"),
    ],
)
@pytest.mark.parametrize("command", ["prune", "convert"])
def test_an_output_that_cannot_be_is_refused_before_the_model_is_read(
    command, output, words, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    source = tmp_path / "dense.safetensors"
    source.write_bytes(b"no model")  # as reading it would say
    (tmp_path / "folder.safetensors").mkdir()
    options = ("--sparsity", 0.5) if command == "prune" else ()
    result = run(command, source, "-o", output, *options)
    assert result.exit_code == 2
    assert words in result.stderr
    assert source.read_bytes() == b"no model"
    assert len(list(tmp_path.iterdir())) == 2
