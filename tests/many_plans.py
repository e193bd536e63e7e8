"""What the planners of many streams of all cores promise, and how their tables print a plan."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from gpu_chips import SHARED_LIMIT
from hypothesis import strategies as st
from one_plans import kept, planned, tensors_without_zeros

from wavernn_fast import _C
from wavernn_fast.config import ModelConfig

GPUS = [name for name in _C.known_gpus() if _C.known_gpu(name)["arch"] >= 75]
PLACES = "RSL"  # registers, shared memory, L2
Stands = dict[str, tuple[str, int | None]]
WORKING_REGISTERS = 62  # at least, besides weights and sums: csrc/plan/gpu_many_parts.h


def plan_of(config: ModelConfig, **options: Any) -> dict[str, Any]:
    return _C.many_plan(dataclasses.asdict(config), **options)


def plan_that_fits(config: ModelConfig, options: dict[str, Any]) -> dict[str, Any]:
    return planned(lambda: plan_of(config, **options))


@st.composite
def layouts(draw, tiles: int) -> dict[str, Any]:
    """A GPU, and blocks of a team for a model of so many tiles of units, which may be a cluster."""
    gpu = draw(st.sampled_from(GPUS))
    blocks = draw(st.one_of(st.just(0), st.integers(1, tiles)))
    if _C.known_gpu(gpu)["arch"] < 90 or not draw(st.booleans()):
        return {"gpu": gpu, "blocks": blocks, "cluster": 0}
    dealt = -(-tiles // draw(st.integers(-(-tiles // 16), tiles)))  # what divides to so many
    return {"gpu": gpu, "blocks": 0, "cluster": dealt if dealt > 1 else 0}


def cells(plan: dict[str, Any], places: str, matrices: int = 1) -> str:
    """The columns of a table behind the title: what every core has."""
    s, latency = plan["shape"], plan["latency"]
    terms = " ".join(str(latency[n]) for n in ("gates", "hidden", "y", "logits", "draw"))
    return (
        f"{plan['teams']:2} x {s['blocks']:2} x {s['warps']} | {s['streams']:3}"
        f" | {s['unit_tiles']} | {s['gru_kept']:2} / {matrices * s['gru_columns']:2} | {places}"
        f" | {plan['weight_registers']:3} | {plan['shared_bytes']:6} | {plan['resident_bytes']:8}"
        f" | {terms} | {plan['cycles']:5} | {plan['samples_per_s']:.0f}"
        f" | {plan['throughput']:.0f}"
    )


def check_within_the_chip(
    config: ModelConfig, options: dict[str, Any], plan: dict[str, Any]
) -> None:
    """Of a plan for so asked: memory, registers, streams, multiprocessors, words, its cycles."""
    s = plan["shape"]
    assert plan["shared_bytes"] <= SHARED_LIMIT[plan["arch"]]
    assert s["threads"] == 32 * s["warps"] <= 512
    # A thread has its weights, the sums of its tiles and what it works with.
    registers = plan["weight_registers"] + 12 * s["unit_tiles"] + WORKING_REGISTERS
    assert registers <= 255
    assert registers * s["threads"] <= 65536
    assert s["streams"] == s["stream_tiles"] * (4 if options["split"] else 8)
    assert plan["slots"] == plan["teams"] * s["streams"]
    assert 1 <= plan["teams"] * s["blocks"] <= _C.known_gpu(options["gpu"])["multiprocessors"]
    for name in ("blocks", "warps", "cluster"):
        assert not options[name] or s[name] == options[name]
    assert s["cluster"] in (1, s["blocks"])
    # Words have names of 24 bits in a report, two words one.
    assert plan["teams"] * s["buffer_words"] <= 1 << 24
    assert plan["throughput"] == pytest.approx(plan["slots"] * plan["samples_per_s"])
    assert plan == plan_of(config, **options)  # a plan is a function of the request


def check_units_have_owners(config: ModelConfig, shape: dict[str, Any]) -> None:
    """Where units are dealt as a whole: every block has one of each GRU, every column a warp."""
    units = 16 * shape["unit_tiles"]
    owned = [min(config.hidden_size, units * (b + 1)) - units * b for b in range(shape["blocks"])]
    assert min(owned) >= 1
    assert sum(owned) == config.hidden_size
    assert shape["gru_columns"] * shape["warps"] >= shape["hidden_tiles"]
    assert shape["blocks"] * shape["fc1_tiles"] * 16 >= config.fc_size
    assert shape["fc2_tiles"] * 16 >= shape["fc2_rows"]


def check_packing(config: ModelConfig, options: dict[str, Any], seed: int, stands: Stands) -> None:
    """Every weight of the matrices that are multiplied comes back, so each stands in one place:
    those of two are added. `stands`: the tensor of each packed matrix, and columns of it (or all).
    """
    options = {name: options[name] for name in ("gpu", "blocks", "warps", "cluster")}
    tensors = tensors_without_zeros(config, seed)
    unpacked = planned(  # or it fits with activations in two halves only
        lambda: _C.unpack_many_plan(dataclasses.asdict(config), tensors, **options)
    )
    assert set(unpacked) == set(stands)
    for name, flat in unpacked.items():
        tensor, columns = stands[name]
        weight = kept(tensors[tensor][:, :columns], "fp16")
        assert np.array_equal(flat.reshape(weight.shape), weight), name
