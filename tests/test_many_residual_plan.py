"""Plans of the kernel for many streams of the residual core, as test_many_plan.py for the dual one.

After a change of the planner that is meant: `python tests/test_many_residual_plan.py` writes
golden/gpu_many_residual_plans.txt anew.
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
from test_many_plan import GPUS, PLACES, WORKING_REGISTERS, plan_of
from test_residual_plan import usual

from wavernn_fast import _C
from wavernn_fast.config import ModelConfig
from wavernn_fast.errors import DeviceError

GOLDEN = Path(__file__).parent / "golden" / "gpu_many_residual_plans.txt"
MATRICES = {"gru1": "w_recurrent", "gru2": "w_recurrent", "gru2_input": "w_input"}
MODELS: list[tuple[int, dict[str, Any]]] = [
    (128, {"bits": 9}),
    (512, {"bits": 9}),
    (512, {"bits": 10}),
    (512, {"mixtures": 10}),
    (512, {"head": "gaussian", "n_classes": 2}),
    (512, {"head": "beta", "n_classes": 2}),
    (512, {"bits": 9, "bands": 4, "hop_length": 128}),
]

HEADER = """\
# Plans of the kernel for many streams of the residual core; written by
# tests/test_many_residual_plan.py. fc has the width of the GRUs. streams: that are wanted; 0: those
# of most samples. "split": activations in two halves. Places of fc1, fc2, fc3: Shared memory, L2;
# "whole": every block has all rows of fc3; "apart": one block draws for a stream.
# hidden head outputs gpu streams | teams x blocks x warps | streams a team | tiles of units a block
#   | tiles of columns of W_ih2, R1, R2 in registers / all | places | weight registers a thread
#   | shared bytes a block | bytes resident a team
#   | cycles: gates, states, hidden layers, logits, draw | cycles a sample | samples/s of one stream
#   | of all slots (the last four are predictions)
"""


def row(size: int, head: dict[str, Any], gpu: str, streams: int, split: bool = False) -> str:
    """One line of the table; where a model does not fit, the sentence that says so."""
    config = usual(size, head)
    outputs = f"{config.n_classes:4}" + (f" x {config.bands}" if config.bands > 1 else "")
    title = f"{size:4} {config.head:7} {outputs} {gpu:8} {streams:3}" + " split" * split
    try:
        plan = plan_of(config, gpu=gpu, streams=streams, split=split)
    except DeviceError as error:
        return f"{title} | {error}"
    s, latency = plan["shape"], plan["latency"]
    places = "".join(PLACES[s[f"fc{i}_place"]] for i in (1, 2, 3))
    places += " whole" * s["fc3_whole"] + " apart" * s["draw_apart"]
    terms = " ".join(str(latency[n]) for n in ("gates", "hidden", "y", "logits", "draw"))
    return (
        f"{title} | {plan['teams']:2} x {s['blocks']:2} x {s['warps']} | {s['streams']:3}"
        f" | {s['unit_tiles']} | {s['gru_kept']:2} / {3 * s['gru_columns']:2} | {places}"
        f" | {plan['weight_registers']:3} | {plan['shared_bytes']:6} | {plan['resident_bytes']:8}"
        f" | {terms} | {plan['cycles']:5} | {plan['samples_per_s']:.0f}"
        f" | {plan['throughput']:.0f}"
    )


def table() -> str:
    rows = [
        row(size, head, gpu, streams)
        for size, head in MODELS
        for gpu in GPUS
        for streams in (8, 64, 0)
    ]
    rows += [row(512, {"bits": 9}, gpu, 4, True) for gpu in GPUS]
    return HEADER + "\n".join(rows) + "\n"


def test_the_plans_of_usual_models_are_those_of_the_table():
    assert table() == GOLDEN.read_text()


@st.composite
def fitting(draw) -> tuple[ModelConfig, dict[str, Any], dict[str, Any]]:
    """A model, a launch and its plan."""
    tiles = draw(st.integers(1, 16))
    head = draw(st.sampled_from([{"bits": 4}, {"bits": 9}, {"mixtures": 5}, {"mixtures": 40}]))
    aux = {"aux_size": 3, "aux_channels": 4, "aux_blocks": 1, "aux_kernel": 3}
    config = cases.residual_config(16 * tiles, 16 * draw(st.integers(1, 24)), **head, **aux)
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
    dealt = s["fc2_rows"] * (1 if s["fc3_whole"] else s["blocks"])
    assert dealt >= (config.n_classes if s["fc3_whole"] else s["choice_words"])
    assert s["fc2_tiles"] * 16 >= s["fc2_rows"]
    # Words have names of 24 bits in a report, two words one.
    assert plan["teams"] * s["buffer_words"] <= 1 << 24
    latency = plan["latency"]
    assert plan["cycles"] == sum(latency.values())
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
    assert set(unpacked) == {*MATRICES, "fc1", "fc2", "fc3"}
    for name, flat in unpacked.items():
        weight = tensors[f"{name.removesuffix('_input')}.{MATRICES.get(name, 'weight')}"]
        state = config.fc_size if name in ("fc2", "fc3") else config.hidden_size
        kept = weight[:, :state].astype(np.float16).astype(np.float32)
        assert np.array_equal(flat.reshape(kept.shape), kept), name


if __name__ == "__main__":
    GOLDEN.write_text(table())
