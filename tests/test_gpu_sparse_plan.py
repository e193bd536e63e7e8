"""Plans of the kernel for pruned models: the table of golden/gpu_sparse_plans.txt, and every plan.

After a change of the planner that is meant: `python tests/test_gpu_sparse_plan.py` writes it anew.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import cases
import numpy as np
import pruned_models
import pytest
from gpu_chips import SHARED_LIMIT
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from wavernn_fast import _C
from wavernn_fast.config import ModelConfig
from wavernn_fast.errors import DeviceError

GOLDEN = Path(__file__).parent / "golden" / "gpu_sparse_plans.txt"
# Hidden size, share of blocks that are kept, shape of a block: the paper's sizes and one small.
MODELS = [(384, 0.1, (4, 4)), (1024, 0.05, (4, 4)), (1024, 0.05, (16, 1)), (2048, 0.036, (16, 1))]
GPUS = ("A100", "H200", "B200")
MATRICES = ("coarse gru", "fine gru", "coarse_fc1", "coarse_fc2", "fine_fc1", "fine_fc2")
KEPT = [f"{name.replace(' ', '_')}_kept" for name in MATRICES]


def plan_of(config: ModelConfig, tensors: cases.Tensors, **options) -> dict[str, Any]:
    return _C.sparse_plan(dataclasses.asdict(config), tensors, **options)


HEADER = """\
# Plans of the kernel for pruned models; written by tests/test_gpu_sparse_plan.py. fc is half of the
# hidden size, all matrices keep the same share of their blocks. "many": the plan of most samples of
# many streams.
# hidden blocks kept dtype gpu | teams x blocks of a team | warps of the chain + those of R
#   | bins of a warp in registers: R coarse, fine; O1, O2, O3, O4 | weight registers a thread
#   | shared bytes a block | cycles a sample: gates, y, logits, draw of a half, late; issue, fetch
#   | cycles a sample | samples/s of one stream | of all teams (the last three are predictions)
"""


def row(head: str, config: ModelConfig, tensors: cases.Tensors, **options) -> str:
    try:
        plan = plan_of(config, tensors, **options)
    except DeviceError as error:
        return f"{head} | {error}"
    s, latency = plan["shape"], plan["latency"]
    kept = "".join(str(s[name]) for name in KEPT)
    terms = " ".join(str(latency[n]) for n in ("gates", "y", "logits", "draw", "late"))
    return (
        f"{head} | {plan['teams']:3} x {s['cluster']} | {s['chain_warps']:2} +"
        f" {s['warps'] - s['chain_warps']:2} | {kept} | {plan['weight_registers']:3}"
        f" | {plan['shared_bytes']:6} | {terms}; {latency['issue']} {latency['fetch']}"
        f" | {plan['cycles']:5} | {plan['samples_per_s']:.0f} | {plan['throughput']:.0f}"
    )


def table() -> str:
    rows = []
    for hidden, density, tile in MODELS:
        config = cases.dual_config(hidden, hidden // 2)
        tensors = pruned_models.pruned(config, tile, density)
        for dtype in ("fp32", "fp16"):
            for gpu in GPUS:
                for many in (False, True):
                    name = f"{tile[0]}x{tile[1]}"
                    head = f"{hidden:4} {name:4} {density} {dtype} {gpu}{' many' * many}"
                    options = {"dtype": dtype, "gpu": gpu, "many": many}
                    rows.append(row(head, config, tensors, **options))
    return HEADER + "\n".join(rows) + "\n"


@pytest.mark.slow
def test_the_plans_of_usual_pruned_models_are_those_of_the_table():
    assert table() == GOLDEN.read_text()


@pytest.mark.skipif(not pruned_models.LYRA.is_dir(), reason=pruned_models.NO_LYRA)
def test_a_real_model_of_95_percent_is_predicted_as_fast_as_it_was_measured():
    """On an H200: benchmarks/results/gpu_h200.json, part sparse."""
    config, tensors = pruned_models.LYRA_CONFIG, pruned_models.lyra()
    for dtype, cluster, measured in (
        ("fp16", 8, 220_095),
        ("fp16", 4, 212_121),
        ("fp16", 2, 164_268),
        ("fp32", 8, 187_237),
    ):
        one = plan_of(config, tensors, dtype=dtype, cluster=cluster)
        assert one["samples_per_s"] == pytest.approx(measured, rel=0.25)
    many = plan_of(config, tensors, dtype="fp16", many=True)
    assert many["teams"] >= 64
    assert many["throughput"] == pytest.approx(10.4e6, rel=0.25)


def test_dense_output_layers_are_refused_with_the_numbers():
    config = cases.dual_config(1024, 512)
    tensors = cases.random_tensors(config)
    mask = pruned_models.block_mask((3072, 1024), (4, 4), 0.05, seed=0)
    tensors = pruned_models.apply(tensors, {"gru.w_recurrent": mask})
    with pytest.raises(DeviceError) as refusal:
        plan_of(config, tensors)
    kept = 2 * 512 * (512 + 256) * 4
    for part in (f"O1 to O4 are {kept} bytes", "262144 bytes of registers", "232448 of shared"):
        assert part in str(refusal.value)
    assert str(refusal.value).endswith('Use dtype="fp16", prune more, or use sparse="off".')


def test_clusters_before_compute_capability_9_are_refused():
    config = cases.dual_config(64, 32)
    tensors = pruned_models.pruned(config, (4, 4), 0.2)
    with pytest.raises(DeviceError, match="A100 has no clusters"):
        plan_of(config, tensors, gpu="A100", cluster=2)
    with pytest.raises(ValueError, match="has 1, 2, 4 or 8 blocks"):
        plan_of(config, tensors, cluster=3)


# --- every plan -----------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Request:
    """A pruned model, rows as uneven as they come, and a launch."""

    hidden: int
    fc: int
    tile: tuple[int, int]
    unevenness: int
    seed: int
    options: dict[str, Any]

    def model(self) -> tuple[ModelConfig, cases.Tensors]:
        config = cases.dual_config(self.hidden, self.fc)
        tensors = cases.random_tensors(config, seed=self.seed)
        tensors = {k: np.where(v == 0, np.float32(0.5), v) for k, v in tensors.items()}
        masks = pruned_models.uneven_masks(tensors, self.tile, self.unevenness, self.seed)
        return config, {k: v * masks[k] if k in masks else v for k, v in tensors.items()}


@st.composite
def requests(draw) -> Request:
    hidden = 32 * draw(st.integers(1, 8))
    options = {
        "gpu": draw(st.sampled_from(["V100", "A100", "H200", "B200"])),
        "dtype": draw(st.sampled_from(["fp32", "fp16"])),
        "tile": draw(st.sampled_from(["", "4x4", "16x1"])),
        "warps": draw(st.sampled_from([0, 0, 2, 3, 5, 8, 9, 16])),
    }
    if options["gpu"] in ("H200", "B200"):
        options["cluster"] = draw(st.sampled_from([0, 1, 2, 4, 8]))
    fc, tile = draw(st.integers(1, hidden)), draw(st.sampled_from([(4, 4), (16, 1)]))
    return Request(
        hidden, fc, tile, draw(st.integers(1, 8)), draw(st.integers(0, 2**32 - 1)), options
    )


@settings(deadline=None, max_examples=40)
@given(requests())
def test_every_plan_keeps_within_the_chip(request):
    (config, tensors), options = request.model(), request.options
    try:
        plan = plan_of(config, tensors, **options)
    except DeviceError:
        plan = None
    assume(plan is not None)
    s = plan["shape"]
    assert plan["shared_bytes"] <= SHARED_LIMIT[plan["arch"]]
    assert s["threads"] == 32 * s["warps"] <= 512
    assert (plan["weight_registers"] + 60) * s["threads"] <= 65536
    assert 1 <= s["chain_warps"] < s["warps"]
    assert plan["teams"] >= 1
    assert s["tile_rows"] * s["tile_cols"] == 16
    assert plan["cycles"] == pytest.approx(
        1.0 / plan["samples_per_s"] * clock(options["gpu"]), 1e-3
    )
    assert plan == plan_of(config, tensors, **options)  # a plan is a function of the request


def clock(gpu: str) -> float:
    return 1000.0 * _C.known_gpu(gpu)["clock_khz"]


@settings(deadline=None, max_examples=40)
@given(requests())
def test_packing_and_unpacking_gives_every_weight_back(request):
    """So every block has one owner: one packed twice or nowhere would not come back."""
    (config, tensors), options = request.model(), request.options
    try:
        unpacked = _C.unpack_sparse_plan(dataclasses.asdict(config), tensors, **options)
    except DeviceError:
        unpacked = None
    assume(unpacked is not None)
    half = config.hidden_size // 2
    recurrent = tensors["gru.w_recurrent"].reshape(3, 2, half, -1)
    for name, flat in unpacked.items():
        weight = (
            tensors[f"{name}.weight"] if "fc" in name else recurrent[:, int(name == "fine gru")]
        )
        if options["dtype"] == "fp16":
            weight = weight.astype(np.float16).astype(np.float32)
        assert np.array_equal(flat.reshape(weight.shape), weight), name


def test_a_weight_beyond_fp16_is_refused_by_name():
    config = cases.dual_config(64, 32)
    tensors = pruned_models.pruned(config, (4, 4), 0.3)
    tensors["fine_fc1.weight"][3, 4] = 65520.0
    with pytest.raises(ValueError, match="weight fine_fc1 holds 65520, beyond fp16"):
        _C.unpack_sparse_plan(dataclasses.asdict(config), tensors, dtype="fp16")


if __name__ == "__main__":
    GOLDEN.write_text(table())
