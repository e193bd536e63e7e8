"""Plans of the kernel for many streams of the residual core, as test_many_plan.py for the dual one.

After a change of the planner that is meant: `python tests/test_many_residual_plan.py` writes
golden/gpu_many_residual_plans.txt anew.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cases
from hypothesis import given, settings
from hypothesis import strategies as st
from many_plans import (
    GPUS,
    PLACES,
    cells,
    check_packing,
    check_units_have_owners,
    check_within_the_chip,
    layouts,
    plan_of,
    plan_that_fits,
)
from test_residual_plan import usual

from wavernn_fast.config import ModelConfig
from wavernn_fast.errors import DeviceError

GOLDEN = Path(__file__).parent / "golden" / "gpu_many_residual_plans.txt"
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
# "whole": every block has all rows of fc3; "apart": one block draws for a stream; "cluster": so
# many blocks of a team are one.
# hidden head outputs gpu streams | teams x blocks x warps | streams a team | tiles of units a block
#   | tiles of columns of W_ih2, R1, R2 in registers / all | places | weight registers a thread
#   | shared bytes a block | bytes resident a team
#   | cycles: gates, states, hidden layers, logits, draw | cycles a sample | samples/s of one stream
#   | of all slots (the last four are predictions)
"""


def row(
    size: int, head: dict[str, Any], gpu: str, streams: int, split: bool = False, cluster: int = 0
) -> str:
    """One line of the table; where a model does not fit, the sentence that says so."""
    config = usual(size, head)
    outputs = f"{config.n_classes:4}" + (f" x {config.bands}" if config.bands > 1 else "")
    title = f"{size:4} {config.head:7} {outputs} {gpu:8} {streams:3}" + " split" * split
    title += f" cluster {cluster}" * (cluster > 0)
    try:
        plan = plan_of(config, gpu=gpu, streams=streams, split=split, cluster=cluster)
    except DeviceError as error:
        return f"{title} | {error}"
    s = plan["shape"]
    places = "".join(PLACES[s[f"fc{i}_place"]] for i in (1, 2, 3))
    places += " whole" * s["fc3_whole"] + " apart" * s["draw_apart"]
    return f"{title} | {cells(plan, places, matrices=3)}"


def table() -> str:
    rows = [
        row(size, head, gpu, streams)
        for size, head in MODELS
        for gpu in GPUS
        for streams in (8, 64, 0)
    ]
    rows += [row(512, {"bits": 9}, gpu, 4, True) for gpu in GPUS]
    rows += [
        row(size, head, gpu, streams, cluster=cluster)
        for size, cluster in ((256, 8), (512, 16))
        for head in (MODELS[0][1], {"mixtures": 10})
        for gpu in ("H200", "B200")
        for streams in (8, 0)
    ]
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
    options = {"warps": draw(st.sampled_from([0, 0, 2, 4, 8, 16]))} | draw(layouts(tiles))
    asked = {"streams": draw(st.integers(0, 1500)), "split": draw(st.booleans())}
    return config, options | asked, plan_that_fits(config, options | asked)


@settings(deadline=None, max_examples=60)
@given(fitting())
def test_every_plan_keeps_within_the_chip_and_leaves_nothing_without_an_owner(request):
    config, options, plan = request
    check_within_the_chip(config, options, plan)
    s = plan["shape"]
    check_units_have_owners(config, s)
    dealt = s["fc2_rows"] * (1 if s["fc3_whole"] else s["blocks"])
    assert dealt >= (config.n_classes if s["fc3_whole"] else s["choice_words"])
    assert plan["cycles"] == sum(plan["latency"].values())


@settings(deadline=None, max_examples=15)
@given(fitting(), st.integers(0, 3))
def test_packing_and_unpacking_gives_every_weight_back(request, seed):
    """Columns of conditioning are not multiplied."""
    config, options, _ = request
    hidden, fc = config.hidden_size, config.fc_size
    stands = {
        "gru1": ("gru1.w_recurrent", hidden),
        "gru2": ("gru2.w_recurrent", hidden),
        "gru2_input": ("gru2.w_input", hidden),
        "fc1": ("fc1.weight", hidden),
        "fc2": ("fc2.weight", fc),
        "fc3": ("fc3.weight", fc),
    }
    check_packing(config, options, seed, stands)


if __name__ == "__main__":
    GOLDEN.write_text(table())
