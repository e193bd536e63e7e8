"""The floor that stands beside every speed: what limits a step, and what is probed for it."""

from __future__ import annotations

import checkpoint_builders
import pytest

from wavernn_fast import _C, checkpoints, floors
from wavernn_fast.bench.rows import Case
from wavernn_fast.bench.session import measure
from wavernn_fast.synthetic import random_model
from wavernn_fast.vocoder import Vocoder

ISAS = ("avx2", "avx512", "avx512vnni")
# Rates at which every limit of the 32-unit model is the tightest for somebody.
PROBED = {"read": 4e9, "fma": 8e9, "fp16": 1e9, "bf16": 1e9, "int8": 5e9}


@pytest.mark.parametrize(
    ("dtype", "streams", "limit", "operations"),
    [
        ("fp32", 1, "read", 4),  # operations: bytes, flops or multiply-adds for each weight
        ("fp32", 4, "fma", 4 * 2),  # the arithmetic of four streams takes longer than reading
        ("fp32", 8, "fma", 8 * 2),
        ("fp16", 1, "fp16", 1),
        ("bf16", 1, "bf16", 1),
        ("bf16", 8, "fma", 8 * 2),
        ("int8", 1, "int8", 2),  # two passes
        ("int8", 8, "int8", 8 * 2),
        ("int8-fast", 1, "read", 1),
        ("int8-fast", 8, "int8", 8),
    ],
)
def test_the_floor_is_the_longest_of_reading_widening_and_arithmetic(
    dtype, streams, limit, operations, monkeypatch
):
    monkeypatch.setattr(floors, "probe", lambda work, kind: PROBED[kind])
    name, model = "dual:32", random_model("dual:32")
    case = Case(name, dtype, 1, streams)
    result = measure({name: model}, [case], rounds=1, seconds=0.01, baselines="none")
    [row] = result.rows
    weights = row.macs_per_step
    assert row.weight_bytes == {"fp32": 4, "fp16": 2, "bf16": 2}.get(dtype, 1) * weights
    assert row.floor == limit
    assert row.floor_samples_per_s == pytest.approx(
        streams * PROBED[limit] / (operations * weights)
    )


def test_the_probe_reads_as_many_bytes_as_the_engine_holds(tmp_path, monkeypatch):
    state = checkpoint_builders.multiband(hidden=32, fc=32)
    config, tensors = checkpoints.load(checkpoint_builders.save(tmp_path / "a.pt", state))
    products = ("w_input", "w_recurrent", "fc1.weight", "fc2.weight", "fc3.weight")
    held = 4 * sum(value.size for name, value in tensors.items() if name.endswith(products))
    asked = []
    monkeypatch.setattr(_C, "probe", lambda kind, share, *more: asked.append(share) or 1e9)
    for threads in (1, 2):
        voc = Vocoder(config, tensors, device="cpu", dtype="fp32", cpu_threads=threads)
        work = floors.Work.of(voc)
        floors.probe(work, "read")
        assert asked[-1] == pytest.approx(held / threads, rel=0.3)  # padding beside them


def test_the_probe_uses_the_fastest_instructions_the_engine_may_use(monkeypatch):
    asked = []

    def answer(kind, share, threads, seconds, isa):
        asked.append(isa)
        return {"avx2": 5.0, "avx512": 3.0, "avx512vnni": 4.0}.get(isa, 9.0)

    monkeypatch.setattr(_C, "probe", answer)
    monkeypatch.setattr(_C, "available_isas", lambda: ["scalar", *ISAS, "avx1024"])
    floors._fastest_isa.cache_clear()
    try:
        for isa, best in (("avx512vnni", "avx2"), ("avx512", "avx2"), ("scalar", "scalar")):
            assert floors._fastest_isa("fp16", 100, 1, isa) == best
    finally:
        floors._fastest_isa.cache_clear()
    assert set(asked) == set(ISAS)  # never more than the engine has, never scalar beside others


def test_probes_before_and_after_a_round_are_averaged(monkeypatch):
    answers = iter([1e9, 1e9, 3e9, 3e9])
    monkeypatch.setattr(floors, "probe", lambda work, kind: next(answers))
    name = "dual:32"
    models = {name: random_model(name)}
    case = Case(name, "fp32", 1, 1)
    [row] = measure(models, [case], rounds=1, seconds=0.01, baselines="none").rows
    assert row.probes == {"read": 2e9, "fma": 2e9}
