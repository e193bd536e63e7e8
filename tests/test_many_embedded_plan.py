"""Plans of the kernel for many streams of the embedded core, as test_many_plan.py for the dual one.

After a change of the planner that is meant: `python tests/test_many_embedded_plan.py` writes
golden/gpu_many_embedded_plans.txt anew.
"""

from __future__ import annotations

import dataclasses
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
from test_embedded_plan import usual

from wavernn_fast.config import ModelConfig
from wavernn_fast.errors import DeviceError

GOLDEN = Path(__file__).parent / "golden" / "gpu_many_embedded_plans.txt"
MATRICES = {
    name: (tensor, None)
    for name, tensor in {"gru": "gru.w_recurrent", "fc1": "fc1.weight", "fc2": "fc2.weight"}.items()
}
UNIVOC = (896, 256, 10)
MODELS = [UNIVOC, (896, 256, 9), (1024, 512, 8), (512, 256, 8)]  # hidden size, fc, bits

HEADER = """\
# Plans of the kernel for many streams of the embedded core; written by
# tests/test_many_embedded_plan.py. streams: that are wanted; 0: those of most samples. "split":
# activations in two halves; "cluster": so many blocks of a team are one. Places of fc1, fc2: Shared
# memory, L2; "apart": one block draws for a stream.
# hidden fc labels gpu streams | teams x blocks x warps | streams a team | tiles of units a block
#   | tiles of columns of R in registers / all | places | weight registers a thread
#   | shared bytes a block | bytes resident a team
#   | cycles: gates, state, hidden layer, logits, draw | cycles a sample | samples/s of one stream
#   | of all slots (the last four are predictions)
"""


def row(
    size: tuple[int, int, int], gpu: str, streams: int, split: bool = False, cluster: int = 0
) -> str:
    """One line of the table; where a model does not fit, the sentence that says so."""
    config = usual(*size)
    title = f"{size[0]:4} {size[1]:3} {config.n_classes:4} {gpu:8} {streams:3}" + " split" * split
    title += f" cluster {cluster}" * (cluster > 0)
    try:
        plan = plan_of(config, gpu=gpu, streams=streams, split=split, cluster=cluster)
    except DeviceError as error:
        return f"{title} | {error}"
    s = plan["shape"]
    places = PLACES[s["fc1_place"]] + PLACES[s["fc2_place"]] + " apart" * s["draw_apart"]
    return f"{title} | {cells(plan, places)}"


def table() -> str:
    rows = [
        row(size, gpu, streams) for size in MODELS for gpu in GPUS for streams in (8, 32, 64, 0)
    ]
    rows += [row(UNIVOC, gpu, 4, True) for gpu in GPUS]
    rows += [
        row((512, 256, 8), gpu, streams, cluster=cluster)
        for cluster in (8, 16)
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
    config = cases.embedded_config(
        16 * tiles, 16 * draw(st.integers(1, 24)), draw(st.integers(1, 10))
    )
    config = dataclasses.replace(
        config, n_classes=draw(st.integers(config.n_classes // 2 + 1, config.n_classes))
    )
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
    assert s["fc2_rows"] * s["blocks"] >= s["choice_words"] >= config.n_classes
    assert not s["draw_apart"] or s["blocks"] > 1
    assert s["table_at"] % 2 == 0  # rows of the table are read in pairs
    assert plan["cycles"] == sum(plan["latency"].values())


@settings(deadline=None, max_examples=15)
@given(fitting(), st.integers(0, 3))
def test_packing_and_unpacking_gives_every_weight_back(request, seed):
    config, options, _ = request
    check_packing(config, options, seed, MATRICES)


if __name__ == "__main__":
    GOLDEN.write_text(table())
