"""Plans of the persistent kernel: the table of golden/gpu_plans.txt, and what holds for every plan.

After a change of the planner that is meant: `python tests/test_gpu_plan.py` writes the table anew.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import cases
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from one_plans import (
    PLACES,
    check_refusal,
    check_within_the_chip,
    fitting,
    kept,
    plan_of,
    tensors_without_zeros,
)

from wavernn_fast import _C
from wavernn_fast.config import ModelConfig
from wavernn_fast.errors import DeviceError

GOLDEN = Path(__file__).parent / "golden" / "gpu_plans.txt"
SIZES = [(224, 112), (384, 192), (512, 256), (896, 448), (1024, 512)]


def row(hidden: int, fc: int, dtype: str, gpu: str, cluster: int = 0) -> str:
    """One line of the table; where a model does not fit, the sentence that says so."""
    head = f"{hidden:4} {dtype} {gpu:8}" + (f" in {cluster}" if cluster else "")
    try:
        plan = plan_of(cases.dual_config(hidden, fc), gpu=gpu, dtype=dtype, cluster=cluster)
    except DeviceError as error:
        return f"{head} | {error}"
    s = plan["shape"]
    matrices = ("gru", "fc1", "coarse_fc2", "fine_fc2", "coarse_sample")
    places = "".join(PLACES[s[f"{name}_place"]] for name in matrices[: 5 if cluster else 4])
    slots = f"{s['unit_slots']}/{s['fc1_slots']}/{s['fc2_slots']}/{s['class_rounds']}"
    return (
        f"{head} | {s['exchanges']} | {s['blocks']:3} x {s['warps']:2} | {slots} | {places}"
        f" | {plan['weight_registers']:3} | {plan['shared_bytes']:6} | {plan['resident_bytes']:8}"
        f" | {plan['streamed_bytes']:7} | {plan['cycles']:5} | {plan['samples_per_s']:.0f}"
    )


HEADER = """\
# Plans of the persistent kernel; written by tests/test_gpu_plan.py. fc is hidden / 2.
# slots of a warp: GRU units / rows of fc1 / rows of fc2 (four exchanges) / classes of a thread
# (two exchanges). places of R, fc1, coarse fc2, fine fc2: Registers, Shared memory, L2. "in 8": in
# clusters of 8 blocks, with the place of the coarse half's input weights besides.
# hidden dtype gpu | exchanges | blocks x warps | slots | places | weight registers a thread
#   | shared bytes a block | bytes resident | bytes streamed a sample | cycles a sample | samples/s
# (the last two are predictions)
"""


def table() -> str:
    rows = [
        row(hidden, fc, dtype, gpu)
        for hidden, fc in SIZES
        for dtype in ("fp32", "fp16")
        for gpu in _C.known_gpus()
    ]
    rows += [
        row(hidden, fc, dtype, gpu, cluster=8)
        for hidden, fc in SIZES
        for dtype in ("fp32", "fp16")
        for gpu in ("H200", "B200")
    ]
    return HEADER + "\n".join(rows) + "\n"


def test_the_plans_of_usual_models_are_those_of_the_table():
    assert table() == GOLDEN.read_text()


def test_a_model_that_does_not_fit_is_refused_with_the_numbers():
    check_refusal(cases.dual_config(2048, 1024), 3 * 2048**2 + 2 * 1024 * (1024 + 256))


# --- every plan -----------------------------------------------------------------------------------


@st.composite
def requests(draw) -> tuple[ModelConfig, dict[str, Any]]:
    """A model and a launch, most of which fit."""
    hidden = 32 * draw(st.integers(1, 12))
    config = cases.dual_config(hidden, draw(st.integers(1, hidden)))
    options = {
        "gpu": draw(st.sampled_from(_C.known_gpus())),
        "dtype": draw(st.sampled_from(["fp32", "fp16"])),
        "exchanges": draw(st.sampled_from([0, 2, 4])),
        "blocks": draw(st.one_of(st.just(0), st.integers(1, min(40, hidden // 2)))),
        "warps": draw(st.sampled_from([0, 0, 1, 2, 3, 4, 8, 16])),
    }
    if draw(st.booleans()):
        cluster = draw(st.sampled_from([2, 3, 8, 16]))
        blocks = options["blocks"] // cluster * cluster
        options |= {"cluster": cluster, "blocks": blocks, "exchanges": 0, "gpu": "H200"}
    return config, options


@settings(deadline=None, max_examples=60)
@given(requests())
def test_every_plan_keeps_within_the_chip(request):
    config, options, plan = fitting(request)
    s = plan["shape"]
    check_within_the_chip(plan, options, working=32)
    assert 3 * s["unit_slots"] <= 32  # rows that one warp reduces together
    assert s["row_slots"] <= 32
    assert 1 <= s["blocks"] <= config.hidden_size // 2
    assert s["cluster"] == options.get("cluster", 1)
    assert s["blocks"] % s["cluster"] == 0
    assert plan == plan_of(config, **options)  # a plan is a function of the request


@settings(deadline=None, max_examples=60)
@given(requests())
def test_every_block_owns_a_unit_of_each_half_and_every_unit_has_an_owner(request):
    s = fitting(request)[2]["shape"]
    half, blocks = s["half"], s["blocks"]
    begin = [half * b // blocks for b in range(blocks + 1)]
    owned = np.diff(begin)
    assert begin[0] == 0
    assert begin[-1] == half
    assert owned.min() >= 1
    # Units of both halves and rows of fc1 find a slot in some warp.
    assert 2 * owned.max() <= s["unit_slots"] * s["warps"]
    parts = s["cluster"] if s["cluster"] > 1 else blocks  # that share the output layers
    rows = [s["fc"] * b // parts for b in range(parts + 1)]
    assert np.diff(rows).max() <= s["fc1_slots"] * s["warps"]
    if s["exchanges"] == 4:
        assert -(-256 // parts) <= s["fc2_slots"] * s["warps"]
    else:
        assert s["class_rounds"] * s["threads"] >= 256
        assert 2 * s["y_pairs"] >= np.diff(rows).max()


@settings(deadline=None, max_examples=25)
@given(requests(), st.integers(0, 3))
def test_packing_and_unpacking_gives_every_weight_back(request, seed):
    """So every row and column has one owner: a weight packed twice or nowhere would not come back.

    The packed places start as zero and the weights here are not.
    """
    config, options, _ = fitting(request)
    tensors = tensors_without_zeros(config, seed)
    unpacked = _C.unpack_gpu_plan(dataclasses.asdict(config), tensors, **options)
    for name, flat in unpacked.items():
        weight = tensors["gru.w_recurrent" if name == "gru" else f"{name}.weight"]
        weight = kept(weight, options["dtype"])
        assert np.array_equal(flat.reshape(weight.shape), weight), name


def test_a_weight_beyond_fp16_is_refused_by_name():
    config = cases.dual_config(64, 32)
    tensors = cases.random_tensors(config)
    tensors["fine_fc1.weight"][3, 4] = 65520.0
    with pytest.raises(ValueError, match="weight fine_fc1 holds 65520, beyond fp16"):
        _C.unpack_gpu_plan(dataclasses.asdict(config), tensors, dtype="fp16")


if __name__ == "__main__":
    GOLDEN.write_text(table())
