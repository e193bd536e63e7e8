"""Plans of the embedded core's kernel: the table of golden/gpu_embedded_plans.txt, and every plan.

After a change of the planner that is meant: `python tests/test_embedded_plan.py` writes it anew.
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

GOLDEN = Path(__file__).parent / "golden" / "gpu_embedded_plans.txt"
MATRICES = {"gru": "gru.w_recurrent", "fc1": "fc1.weight", "fc2": "fc2.weight"}
# Hidden size, fc and bits of a label: univoc 0.2 and 0.1, ZeroSpeech, a small one.
MODELS = [(896, 256, 10), (896, 256, 9), (896, 256, 8), (256, 128, 8)]


def usual(hidden: int, fc: int, bits: int) -> ModelConfig:
    """80 mels, as the originals have."""
    fields = {"sample_rate": 16000, "hop_length": 160, "n_mels": 80, "embedding_size": 256}
    return cases.embedded_config(hidden, fc, bits, **fields)


def row(size: tuple[int, int, int], dtype: str, gpu: str) -> str:
    """One line of the table; where a model does not fit, the sentence that says so."""
    config = usual(*size)
    title = f"{size[0]:4} {size[1]:4} {config.n_classes:4} {dtype} {gpu:8}"
    try:
        plan = plan_of(config, gpu=gpu, dtype=dtype)
    except DeviceError as error:
        return f"{title} | {error}"
    s = plan["shape"]
    places = "".join(PLACES[s[f"{name}_place"]] for name in MATRICES)
    return (
        f"{title} | {s['blocks']:3} x {s['warps']:2}"
        f" | {s['unit_slots']}/{s['fc1_slots']}/{s['fc2_slots']} | {places}"
        f" | {plan['weight_registers']:3} | {plan['shared_bytes']:6} | {plan['resident_bytes']:8}"
        f" | {plan['streamed_bytes']:7} | {plan['cycles']:5} | {plan['samples_per_s']:.0f}"
    )


HEADER = """\
# Plans of the embedded core's kernel; written by tests/test_embedded_plan.py. Two exchanges a
# sample. slots of a warp: units / rows of fc1 / fc2. places of R, fc1, fc2: Registers, Shared
# memory, L2.
# hidden fc labels dtype gpu | blocks x warps | slots | places
#   | weight registers a thread | shared bytes a block | bytes resident | bytes streamed a sample
#   | cycles a sample | samples/s (the last two are predictions)
"""


def table() -> str:
    rows = [
        row(size, dtype, gpu)
        for size in MODELS
        for dtype in ("fp32", "fp16")
        for gpu in _C.known_gpus()
    ]
    return HEADER + "\n".join(rows) + "\n"


def test_the_plans_of_usual_models_are_those_of_the_table():
    assert table() == GOLDEN.read_text()


def test_a_model_that_does_not_fit_is_refused_with_the_numbers():
    check_refusal(usual(896, 256, 10), 3 * 896**2 + 256 * 896 + 1024 * 256)


def test_a_table_that_l2_does_not_hold_is_predicted_to_take_longer():
    """A row comes from memory then: 11 MB of a P100's 4, and of an A100's 40."""
    gates = {
        (gpu, bits): plan_of(usual(896, 256, bits), gpu=gpu, dtype="fp16")["latency"]["gates"]
        for gpu in ("P100", "A100")
        for bits in (8, 10)
    }
    assert gates["P100", 10] > gates["P100", 8]
    assert gates["A100", 10] == gates["A100", 8]


# --- every plan -----------------------------------------------------------------------------------


@st.composite
def requests(draw) -> tuple[ModelConfig, dict[str, Any]]:
    """A model and a launch, most of which fit."""
    hidden, fc = 16 * draw(st.integers(1, 24)), 16 * draw(st.integers(1, 24))
    config = dataclasses.replace(
        cases.embedded_config(hidden, fc, 1, first_label=0), n_classes=draw(st.integers(2, 1024))
    )
    options = {
        "gpu": draw(st.sampled_from(_C.known_gpus())),
        "dtype": draw(st.sampled_from(["fp32", "fp16"])),
        "blocks": draw(st.one_of(st.just(0), st.integers(1, min(40, hidden)))),
        "warps": draw(st.sampled_from([0, 0, 2, 3, 4, 8, 16])),
    }
    return config, options


@settings(deadline=None, max_examples=40)
@given(requests())
def test_every_plan_keeps_within_the_chip_and_deals_every_row(request):
    config, options, plan = fitting(request)
    s = plan["shape"]
    check_within_the_chip(plan, options, working=60)
    assert 3 * s["unit_slots"] <= 32  # sums that one warp reduces together
    assert plan["streamed_bytes"] == 0 or any(s[f"{name}_place"] == 2 for name in MATRICES)

    def shares(n: int) -> np.ndarray:
        return np.diff([n * b // s["blocks"] for b in range(s["blocks"] + 1)])

    assert shares(s["hidden"]).min() >= 1  # every block owns a unit
    slots = {"hidden": "unit_slots", "fc": "fc1_slots", "classes": "fc2_slots"}
    for rows, name in slots.items():
        assert shares(s[rows]).max() <= s[name] * s["warps"]
        assert s[name] <= 32
    assert s["classes"] == config.n_classes + config.n_classes % 2
    assert 64 * s["draw_pairs"] >= s["choices"] == config.n_classes
    assert s["choices"] << s["weight_bits"] < 2**32


@settings(deadline=None, max_examples=15)
@given(requests(), st.integers(0, 3))
def test_packing_and_unpacking_gives_every_weight_back(request, seed):
    """So every row and column has one owner: a weight packed twice or nowhere would not come back.

    The packed places start as zero and the weights here are not.
    """
    config, options, _ = fitting(request)
    tensors = tensors_without_zeros(config, seed)
    unpacked = _C.unpack_gpu_plan(dataclasses.asdict(config), tensors, **options)
    assert list(unpacked) == list(MATRICES)
    for name, flat in unpacked.items():
        weight = tensors[MATRICES[name]]
        weight = kept(weight, options["dtype"])
        assert np.array_equal(flat.reshape(weight.shape), weight), name


def test_a_weight_beyond_fp16_is_refused_by_name():
    config = cases.embedded_config(64, 32, 8)
    tensors = cases.random_tensors(config)
    tensors["fc2.weight"][3, 4] = 65520.0
    with pytest.raises(ValueError, match="weight fc2 holds 65520, beyond fp16"):
        _C.unpack_gpu_plan(dataclasses.asdict(config), tensors, dtype="fp16")


if __name__ == "__main__":
    GOLDEN.write_text(table())
