"""Plans of the residual core's kernel: the table of golden/gpu_residual_plans.txt, and every plan.

After a change of the planner that is meant: `python tests/test_residual_plan.py` writes it anew.
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
from wavernn_fast.errors import DeviceError, InputError

GOLDEN = Path(__file__).parent / "golden" / "gpu_residual_plans.txt"
LAYERS = ("fc1", "fc2", "fc3")
MATRICES = ("gru1", "gru2", "gru2_input", *LAYERS)
AUX = {"aux_size": 3, "aux_channels": 10, "aux_blocks": 2, "aux_kernel": 5}
# Hidden size and fc, and what is drawn.
MODELS: list[tuple[int, dict[str, Any]]] = [
    (128, {"bits": 9}),
    (256, {"bits": 9}),
    (512, {"bits": 9}),
    (512, {"bits": 10}),
    (512, {"mixtures": 10}),
    (512, {"head": "gaussian", "n_classes": 2}),
    (512, {"head": "beta", "n_classes": 2}),
    (512, {"bits": 9, "bands": 4, "hop_length": 128}),
]


def usual(size: int, head: dict[str, Any]) -> ModelConfig:
    """80 mels over five frames and an auxiliary network, as the residual vocoders have."""
    fields = {"hop_length": 275, "n_mels": 80, "upsample_left": 2, "upsample_right": 2}
    aux = {"aux_size": 32, "aux_channels": 128, "aux_blocks": 10, "aux_kernel": 5}
    return cases.residual_config(size, size, **(fields | aux | {"sample_rate": 22050} | head))


def row(size: int, head: dict[str, Any], dtype: str, gpu: str) -> str:
    """One line of the table; where a model does not fit, the sentence that says so."""
    config = usual(size, head)
    outputs = f"{config.n_classes:4}" + (f" x {config.bands}" if config.bands > 1 else "")
    title = f"{size:4} {config.head:7} {outputs} {dtype} {gpu:8}"
    try:
        plan = plan_of(config, gpu=gpu, dtype=dtype)
    except DeviceError as error:
        return f"{title} | {error}"
    s = plan["shape"]
    places = "".join(PLACES[s[f"{name}_place"]] for name in MATRICES)
    layers = [f"{s[f'{name}_slots']}{'*' * s[f'{name}_whole']}" for name in LAYERS]
    return (
        f"{title} | {s['exchanges']} | {s['blocks']:3} x {s['warps']:2}"
        f" | {s['unit_slots']}/{'/'.join(layers)} | {places}"
        f" | {plan['weight_registers']:3} | {plan['shared_bytes']:6} | {plan['resident_bytes']:8}"
        f" | {plan['streamed_bytes']:7} | {plan['cycles']:5} | {plan['samples_per_s']:.0f}"
    )


HEADER = """\
# Plans of the residual core's kernel; written by tests/test_residual_plan.py. fc has the width of
# the GRUs. exchanges: one less than four for each layer that every block has whole (marked *).
# slots of a warp: units / rows of fc1 / fc2 / fc3. places of R1, R2, W_ih2, fc1, fc2, fc3:
# Registers, Shared memory, L2.
# hidden head outputs (x bands) dtype gpu | exchanges | blocks x warps | slots | places
#   | weight registers a thread | shared bytes a block | bytes resident | bytes streamed a sample
#   | cycles a sample, or a step of all bands | samples/s (the last two are predictions)
"""


def table() -> str:
    rows = [
        row(size, head, dtype, gpu)
        for size, head in MODELS
        for dtype in ("fp32", "fp16")
        for gpu in _C.known_gpus()
    ]
    return HEADER + "\n".join(rows) + "\n"


def test_the_plans_of_usual_models_are_those_of_the_table():
    assert table() == GOLDEN.read_text()


def test_a_model_that_does_not_fit_is_refused_with_the_numbers():
    check_refusal(usual(512, {"bits": 9}), 9 * 512**2 + 2 * 512**2 + 512 * 512)


def test_an_odd_width_is_refused():
    config = dataclasses.asdict(cases.residual_config(32, 32, bits=8)) | {"fc_size": 33}
    with pytest.raises(InputError, match="fc_size is 33, the GPU kernel needs an even number"):
        _C.gpu_plan(config)


# --- every plan -----------------------------------------------------------------------------------


@st.composite
def requests(draw) -> tuple[ModelConfig, dict[str, Any]]:
    """A model and a launch, most of which fit."""
    hidden, fc = 16 * draw(st.integers(1, 24)), 16 * draw(st.integers(1, 24))
    head = draw(
        st.one_of(
            st.builds(lambda n: {"mixtures": n}, st.integers(1, 64)),
            st.builds(lambda n: {"bits": n}, st.integers(1, 10)),
            st.builds(
                lambda n, bands: {"bits": n, "bands": bands},
                st.integers(4, 10),
                st.sampled_from([2, 4]),
            ),
            st.builds(
                lambda head: {"head": head, "n_classes": 2}, st.sampled_from(["gaussian", "beta"])
            ),
        )
    )
    config = cases.residual_config(hidden, fc, **head, **AUX)
    options = {
        "gpu": draw(st.sampled_from(_C.known_gpus())),
        "dtype": draw(st.sampled_from(["fp32", "fp16"])),
        "exchanges": draw(st.sampled_from([0, 0, 0, 1, 2, 3, 4])),
        "blocks": draw(st.one_of(st.just(0), st.integers(1, min(40, hidden)))),
        "warps": draw(st.sampled_from([0, 0, 2, 3, 4, 8, 16])),
    }
    return config, options


@settings(deadline=None, max_examples=60)
@given(requests())
def test_every_plan_keeps_within_the_chip(request):
    _, options, plan = fitting(request)
    s = plan["shape"]
    check_within_the_chip(plan, options, working=60)
    assert 4 * s["unit_slots"] <= 32  # sums that one warp reduces together
    assert max(s["fc1_slots"], s["fc2_slots"], s["fc3_slots"]) <= 32
    assert s["exchanges"] == 4 - sum(s[f"{name}_whole"] for name in LAYERS)
    assert plan["streamed_bytes"] == 0 or any(s[f"{name}_place"] == 2 for name in MATRICES)


@settings(deadline=None, max_examples=60)
@given(requests())
def test_every_block_owns_a_unit_and_every_row_has_an_owner(request):
    config, _, plan = fitting(request)
    s = plan["shape"]

    def shares(n: int) -> np.ndarray:
        return np.diff([n * b // s["blocks"] for b in range(s["blocks"] + 1)])

    assert shares(s["hidden"]).min() >= 1
    assert shares(s["hidden"]).max() <= s["unit_slots"] * s["warps"]
    for name, n in zip(LAYERS, (s["fc"], s["fc"], s["classes"]), strict=True):
        rows = n if s[f"{name}_whole"] else shares(n).max()
        assert rows <= s[f"{name}_slots"] * s["warps"]
    outputs = config.bands * config.n_classes
    assert s["classes"] in (outputs, outputs + 1)
    assert s["bands"] * s["band_words"] == s["choice_words"]
    assert 64 * s["draw_pairs"] >= s["choices"]
    assert s["choice_words"] >= s["classes"]
    assert s["choices"] << s["weight_bits"] < 2**32


@settings(deadline=None, max_examples=25)
@given(requests(), st.integers(0, 3))
def test_packing_and_unpacking_gives_every_weight_back(request, seed):
    """So every row and column has one owner: a weight packed twice or nowhere would not come back.

    The packed places start as zero and the weights here are not.
    """
    config, options, _ = fitting(request)
    tensors = tensors_without_zeros(config, seed)
    unpacked = _C.unpack_gpu_plan(dataclasses.asdict(config), tensors, **options)
    names = ("gru1.w_recurrent", "gru2.w_recurrent", "gru2.w_input")
    names += ("fc1.weight", "fc2.weight", "fc3.weight")
    for (name, flat), tensor in zip(unpacked.items(), names, strict=True):
        weight = tensors[tensor]
        weight = weight[:, : flat.size // len(weight)]  # without what conditioning brings
        weight = kept(weight, options["dtype"])
        assert np.array_equal(flat.reshape(weight.shape), weight), name


def test_a_weight_beyond_fp16_is_refused_by_name():
    config = cases.residual_config(64, 32, bits=8)
    tensors = cases.random_tensors(config)
    tensors["fc2.weight"][3, 4] = 65520.0
    with pytest.raises(ValueError, match="weight fc2 holds 65520, beyond fp16"):
        _C.unpack_gpu_plan(dataclasses.asdict(config), tensors, dtype="fp16")


if __name__ == "__main__":
    GOLDEN.write_text(table())
