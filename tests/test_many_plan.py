"""Plans of the kernel for many streams: the table of golden/gpu_many_plans.txt, and every plan.

After a change of the planner that is meant: `python tests/test_many_plan.py` writes it anew.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import cases
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from many_plans import (
    GPUS,
    PLACES,
    cells,
    check_packing,
    check_within_the_chip,
    layouts,
    plan_of,
    plan_that_fits,
)

from wavernn_fast import _C
from wavernn_fast.config import ModelConfig
from wavernn_fast.errors import DeviceError

GOLDEN = Path(__file__).parent / "golden" / "gpu_many_plans.txt"
SIZES = [(224, 112), (512, 256), (896, 448), (1024, 512)]
STREAMS = (1, 32, 128, 0)
CLUSTERS = [(224, 4), (224, 7), (384, 6), (512, 8), (512, 16), (896, 14)]
HEADER = """\
# Plans of the kernel for many streams; written by tests/test_many_plan.py. fc is hidden / 2.
# streams: that are wanted; 0: those of most samples. "split": activations in two halves; "cluster":
# so many blocks of a team are one. Places of fc1, fc2: Shared memory, L2; "apart": one block draws
# for a stream.
# hidden gpu streams | teams x blocks x warps | streams a team | tiles of units a block
#   | tiles of columns of R in registers / all | places | weight registers a thread
#   | shared bytes a block | bytes resident a team
#   | cycles of a half: gates, hidden, y, logits, draw | cycles a sample | samples/s of one stream
#   | of all slots (the last four are predictions)
"""


def row(hidden: int, fc: int, gpu: str, streams: int, split: bool = False, cluster: int = 0) -> str:
    """One line of the table; where a model does not fit, the sentence that says so."""
    head = f"{hidden:4} {gpu:8} {streams:3}" + " split" * split
    head += f" cluster {cluster}" * (cluster > 0)
    options = {"gpu": gpu, "streams": streams, "split": split, "cluster": cluster}
    try:
        plan = plan_of(cases.dual_config(hidden, fc), **options)
    except DeviceError as error:
        return f"{head} | {error}"
    s = plan["shape"]
    places = PLACES[s["fc1_place"]] + PLACES[s["fine_fc2_place"]] + " apart" * s["draw_apart"]
    return f"{head} | {cells(plan, places)}"


def table() -> str:
    rows = [
        row(hidden, fc, gpu, streams) for hidden, fc in SIZES for gpu in GPUS for streams in STREAMS
    ]
    rows += [row(896, 448, gpu, streams, True) for gpu in GPUS for streams in (4, 0)]
    rows += [
        row(hidden, hidden // 2, gpu, streams, cluster=cluster)
        for hidden, cluster in CLUSTERS
        for gpu in ("H200", "B200")
        for streams in (1, 128, 0)
    ]
    return HEADER + "\n".join(rows) + "\n"


def test_the_plans_of_usual_models_are_those_of_the_table():
    assert table() == GOLDEN.read_text()


# --- every plan -----------------------------------------------------------------------------------


@st.composite
def requests(draw) -> tuple[ModelConfig, dict[str, Any]]:
    """A model and a launch, most of which fit."""
    tiles = draw(st.integers(1, 12))
    config = cases.dual_config(32 * tiles, draw(st.integers(1, 64 * tiles)))
    options = {
        "streams": draw(st.one_of(st.just(0), st.integers(1, 1500))),
        "split": draw(st.booleans()),
        "warps": draw(st.sampled_from([0, 0, 2, 4, 8, 16])),
    }
    return config, options | draw(layouts(tiles))


def fitting(request) -> tuple[ModelConfig, dict[str, Any], dict[str, Any]]:
    config, options = request
    return config, options, plan_that_fits(config, options)


def buffer_words(s: dict[str, int]) -> int:
    if s["cluster"] > 1:
        return 0
    tiles = s["half_tiles"] + s["fc_tiles"]
    return s["stream_tiles"] * 128 * tiles + 2 * s["streams"] * 257


@settings(deadline=None, max_examples=80)
@given(requests())
def test_every_plan_keeps_within_the_chip(request):
    config, options, plan = fitting(request)
    check_within_the_chip(config, options, plan)
    s, latency = plan["shape"], plan["latency"]
    assert 0 <= s["gru_kept"] <= s["gru_columns"]
    halves = sum(latency[n] for n in ("gates", "hidden", "y", "logits", "draw"))
    assert plan["cycles"] == 2 * halves + latency["advance"]
    a_warp = 1 if s["cluster"] > 1 else 2
    assert s["draw_apart"] == int(s["streams"] > a_warp * s["warps"] and s["blocks"] > 1)


@settings(deadline=None, max_examples=80)
@given(requests())
def test_every_block_owns_units_of_each_half_and_every_row_has_an_owner(request):
    config, _, plan = fitting(request)
    s = plan["shape"]
    units, half = 16 * s["unit_tiles"], config.hidden_size // 2
    owned = [min(half, units * (b + 1)) - units * b for b in range(s["blocks"])]
    assert min(owned) >= 1
    assert sum(owned) == half
    assert s["blocks"] * s["fc1_tiles"] * 16 >= config.fc_size
    assert s["blocks"] * s["fc2_rows"] >= 256
    assert s["fc2_tiles"] * 16 >= s["fc2_rows"]
    if s["cluster"] > 1:  # every block hands on logits, four at a time
        assert (s["blocks"] - 1) * s["fc2_rows"] < 256
        assert s["fc2_rows"] % 4 == 0
    assert s["gru_columns"] * (s["warps"] // 2) >= 2 * s["half_tiles"]


@settings(deadline=None, max_examples=60)
@given(requests())
@example((cases.dual_config(32, 1), {"gpu": "B200", "streams": 65536, "warps": 2}))
def test_every_word_of_the_exchange_area_can_be_named_in_a_report(request):
    """In the bits that KernelStatus::stall has for a word, and for a block."""
    s, teams = fitting(request)[2]["shape"], fitting(request)[2]["teams"]
    source = dict(_C.kernel_sources())["cuda/kernels/args.h"]
    bits = int(source.split("kStallWordBits = ")[1].split(";")[0])
    assert s["buffer_words"] == buffer_words(s)
    assert teams * buffer_words(s) <= 1 << bits  # two buffers, and two words have one name
    assert teams * s["blocks"] <= 1 << (32 - bits)


@settings(deadline=None, max_examples=40)
@given(requests(), st.lists(st.integers(1, 3000), min_size=2, max_size=6))
def test_who_wants_more_streams_gets_no_fewer_slots(request, wanted):
    config, options, _ = fitting(request)
    plans = [plan_of(config, **(options | {"streams": n})) for n in sorted(wanted)]
    slots = [plan["slots"] for plan in plans]
    assert slots == sorted(slots)
    most = plan_of(config, **(options | {"streams": 65536}))["slots"]
    for n, plan in zip(sorted(wanted), plans, strict=True):
        assert plan["slots"] >= min(n, most)
    best = plan_of(config, **(options | {"streams": 0}))
    assert best["throughput"] >= max(plan["throughput"] for plan in plans)


@settings(deadline=None, max_examples=40)
@given(requests(), st.integers(0, 3))
def test_packing_and_unpacking_gives_every_weight_back(request, seed):
    config, options, _ = fitting(request)
    layers = ("coarse_fc1", "coarse_fc2", "fine_fc1", "fine_fc2")
    stands = {name: (f"{name}.weight", None) for name in layers}
    check_packing(config, options, seed, stands | {"gru": ("gru.w_recurrent", None)})


def test_a_weight_beyond_fp16_is_refused_by_name():
    config = cases.dual_config(64, 32)
    tensors = cases.random_tensors(config)
    tensors["fine_fc1.weight"][3, 4] = 65520.0
    with pytest.raises(ValueError, match=r"weight fine_fc1\.weight holds 65520, beyond fp16"):
        _C.unpack_many_plan(dataclasses.asdict(config), tensors)


@pytest.mark.parametrize("gpu", ["P100", "V100"])
def test_chips_without_the_instruction_are_refused(gpu):
    with pytest.raises(DeviceError, match=f"{gpu} has compute capability .* need 7.5 or more"):
        plan_of(cases.dual_config(64, 32), gpu=gpu)


if __name__ == "__main__":
    GOLDEN.write_text(table())
