"""Plans of the kernel for many streams of the embedded core, as test_many_plan.py for the dual one.

After a change of the planner that is meant: `python tests/test_many_embedded_plan.py` writes
golden/gpu_many_embedded_plans.txt anew.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import cases
import numpy as np
from gpu_chips import SHARED_LIMIT
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from test_embedded_plan import usual
from test_many_plan import GPUS, PLACES, WORKING_REGISTERS, plan_of

from wavernn_fast import _C
from wavernn_fast.config import ModelConfig
from wavernn_fast.errors import DeviceError

GOLDEN = Path(__file__).parent / "golden" / "gpu_many_embedded_plans.txt"
MATRICES = {"gru": "gru.w_recurrent", "fc1": "fc1.weight", "fc2": "fc2.weight"}
UNIVOC = (896, 256, 10)
MODELS = [UNIVOC, (896, 256, 9), (1024, 512, 8), (512, 256, 8)]  # hidden size, fc, bits

HEADER = """\
# Plans of the kernel for many streams of the embedded core; written by
# tests/test_many_embedded_plan.py. streams: that are wanted; 0: those of most samples. "split":
# activations in two halves. Places of fc1, fc2: Shared memory, L2; "apart": one block draws for a
# stream.
# hidden fc labels gpu streams | teams x blocks x warps | streams a team | tiles of units a block
#   | tiles of columns of R in registers / all | places | weight registers a thread
#   | shared bytes a block | bytes resident a team
#   | cycles: gates, state, hidden layer, logits, draw | cycles a sample | samples/s of one stream
#   | of all slots (the last four are predictions)
"""


def row(size: tuple[int, int, int], gpu: str, streams: int, split: bool = False) -> str:
    """One line of the table; where a model does not fit, the sentence that says so."""
    config = usual(*size)
    title = f"{size[0]:4} {size[1]:3} {config.n_classes:4} {gpu:8} {streams:3}" + " split" * split
    try:
        plan = plan_of(config, gpu=gpu, streams=streams, split=split)
    except DeviceError as error:
        return f"{title} | {error}"
    s, latency = plan["shape"], plan["latency"]
    places = PLACES[s["fc1_place"]] + PLACES[s["fc2_place"]] + " apart" * s["draw_apart"]
    terms = " ".join(str(latency[n]) for n in ("gates", "hidden", "y", "logits", "draw"))
    return (
        f"{title} | {plan['teams']:2} x {s['blocks']:2} x {s['warps']} | {s['streams']:3}"
        f" | {s['unit_tiles']} | {s['gru_kept']:2} / {s['gru_columns']:2} | {places}"
        f" | {plan['weight_registers']:3} | {plan['shared_bytes']:6} | {plan['resident_bytes']:8}"
        f" | {terms} | {plan['cycles']:5} | {plan['samples_per_s']:.0f}"
        f" | {plan['throughput']:.0f}"
    )


def table() -> str:
    rows = [
        row(size, gpu, streams) for size in MODELS for gpu in GPUS for streams in (8, 32, 64, 0)
    ]
    rows += [row(UNIVOC, gpu, 4, True) for gpu in GPUS]
    return HEADER + "\n".join(rows) + "\n"


def test_the_plans_of_usual_models_are_those_of_the_table():
    assert table() == GOLDEN.read_text()


@st.composite
def fitting(draw) -> tuple[ModelConfig, dict[str, Any], dict[str, Any]]:
    """A model, a launch and its plan."""
    tiles = draw(st.integers(1, 16))
    config = cases.embedded_config(
        16 * tiles, 16 * draw(st.integers(1, 24)), draw(st.integers(1, 10))
    )
    config = dataclasses.replace(
        config, n_classes=draw(st.integers(config.n_classes // 2 + 1, config.n_classes))
    )
    options = {
        "gpu": draw(st.sampled_from(GPUS)),
        "blocks": draw(st.one_of(st.just(0), st.integers(1, tiles))),
        "warps": draw(st.sampled_from([0, 0, 2, 4, 8, 16])),
    }
    asked = {"streams": draw(st.integers(0, 1500)), "split": draw(st.booleans())}
    try:
        plan = plan_of(config, **options, **asked)
    except DeviceError:
        plan = None
    assume(plan is not None)
    return config, options | asked, plan


@settings(deadline=None, max_examples=60)
@given(fitting())
def test_every_plan_keeps_within_the_chip_and_leaves_nothing_without_an_owner(request):
    config, options, plan = request
    s = plan["shape"]
    assert plan["shared_bytes"] <= SHARED_LIMIT[plan["arch"]]
    registers = plan["weight_registers"] + 12 * s["unit_tiles"] + WORKING_REGISTERS
    assert registers <= 255
    assert registers * s["threads"] <= 65536
    assert s["streams"] == s["stream_tiles"] * (4 if options["split"] else 8)
    assert 1 <= plan["teams"] * s["blocks"] <= _C.known_gpu(options["gpu"])["multiprocessors"]
    units = 16 * s["unit_tiles"]
    owned = [min(config.hidden_size, units * (b + 1)) - units * b for b in range(s["blocks"])]
    assert min(owned) >= 1
    assert sum(owned) == config.hidden_size
    assert s["gru_columns"] * s["warps"] >= s["hidden_tiles"]
    assert s["blocks"] * s["fc1_tiles"] * 16 >= config.fc_size
    assert s["fc2_rows"] * s["blocks"] >= s["choice_words"] >= config.n_classes
    assert s["fc2_tiles"] * 16 >= s["fc2_rows"]
    assert not s["draw_apart"] or s["blocks"] > 1
    # Words have names of 24 bits in a report, two words one.
    assert plan["teams"] * s["buffer_words"] <= 1 << 24
    assert s["table_at"] % 2 == 0  # rows of the table are read in pairs
    assert plan["cycles"] == sum(plan["latency"].values())
    assert plan == plan_of(config, **options)  # a plan is a function of the request


@settings(deadline=None, max_examples=15)
@given(fitting(), st.integers(0, 3))
def test_packing_and_unpacking_gives_every_weight_back(request, seed):
    """So every weight stands in one place: those of two are added, and would not come back."""
    config, options, _ = request
    options = {name: options[name] for name in ("gpu", "blocks", "warps")}
    tensors = {
        name: np.where(x == 0, np.float32(0.5), x)
        for name, x in cases.random_tensors(config, seed=seed).items()
    }
    try:
        unpacked = _C.unpack_many_plan(dataclasses.asdict(config), tensors, **options)
    except DeviceError:
        unpacked = None  # it fits with activations in two halves only
    assume(unpacked is not None)
    assert set(unpacked) == set(MATRICES)
    for name, flat in unpacked.items():
        kept = tensors[MATRICES[name]].astype(np.float16).astype(np.float32)
        assert np.array_equal(flat.reshape(kept.shape), kept), name


if __name__ == "__main__":
    GOLDEN.write_text(table())
