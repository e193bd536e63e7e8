"""Instructions of a sample, counted: they do not grow unnoticed, and are the same twice."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path

import cases
import numpy as np
import pytest
from engine_work import Work

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benchmarks"))

import instructions

from wavernn_fast import _C
from wavernn_fast.synthetic import random_model

needs_valgrind = pytest.mark.skipif(
    instructions.valgrind() is None, reason="valgrind is not installed (Debian: valgrind)"
)


SCALAR = tuple(case for case in instructions.CASES if case.isa == "scalar")
OTHERS = tuple(case for case in instructions.CASES if case.isa != "scalar")
TIMED = SCALAR[0]._replace(clocks=True)


@pytest.fixture(scope="module")
def small() -> dict[str, dict[str, float]]:
    """Cases in plain C++, whose models are small, and one a second time with the clocks on."""
    return instructions.measure((*SCALAR, TIMED))


@pytest.fixture(scope="module")
def large() -> dict[str, dict[str, float]]:
    """The other cases, and the first in plain C++ once more."""
    return instructions.measure((*OTHERS, SCALAR[0]))


def too_many(found: dict[str, dict[str, float]]) -> list[str]:
    """Two in a hundred more are allowed; of another compiler than the committed, half as many."""
    counts = {
        isa: {name: n for name, n in found[isa].items() if name != TIMED.name} for isa in found
    }
    return instructions.problems(counts, _C.compiler())


@pytest.mark.slow
@needs_valgrind
def test_no_small_model_takes_more_instructions_than_are_committed(small):
    assert list(small) == ["scalar"]
    assert too_many(small) == []


@pytest.mark.slow
@needs_valgrind
def test_no_model_takes_more_instructions_than_are_committed(large):
    assert set(large) == {isa for isa in instructions.ISAS if isa in _C.available_isas()}
    assert too_many(large) == []


def test_a_count_that_grew_is_named():
    known = instructions.committed()
    compiler, row = next(iter(known.items()))
    isa = "avx2"
    counts = {isa: dict(row["counts"][isa])}
    name = "dual:896 fp32"
    assert instructions.problems(counts, compiler) == []
    counts[isa][name] *= 1.021
    (problem,) = instructions.problems(counts, compiler)
    assert name in problem
    assert "--update" in problem
    assert instructions.problems(counts, "g++ 99") == []
    counts[isa][name] *= 1.6
    assert len(instructions.problems(counts, "g++ 99")) == 1


def test_every_case_is_committed():
    for row in instructions.committed().values():
        assert {(isa, name) for isa, counts in row["counts"].items() for name in counts} == {
            (case.isa, case.name) for case in instructions.CASES
        }


@pytest.mark.parametrize("config", cases.small_configs()[:4], ids=lambda c: f"{c.core}-{c.head}")
def test_what_is_counted_is_what_the_engine_does(config):
    """The same samples as the engine draws with the same conditioning rows."""
    work = Work(config, 24)
    rows = {k: None if v is None else np.full_like(v, 0.1) for k, v in work.rows.items()}
    engine = work.engine(threads=1)
    stream = engine.open(1)
    expected = engine.run([stream], [24], [rows["interp"]], [rows["hold"]])[0][0]
    counted = _C.run_counted(dataclasses.asdict(config), work.tensors, [8, 16])
    assert np.array_equal(np.array(counted, expected.dtype), expected)


def test_stretches_of_no_steps_are_refused():
    config, tensors = random_model("dual:32")
    with pytest.raises(ValueError, match="a stretch has 0 steps"):
        _C.run_counted(dataclasses.asdict(config), tensors, [8, 0])


@pytest.mark.slow
@needs_valgrind
def test_counts_are_the_same_twice(small, large):
    """In another process, whose memory lies elsewhere."""
    name = SCALAR[0].name
    assert large["scalar"][name] == pytest.approx(small["scalar"][name], rel=1e-4)


@pytest.mark.slow
@needs_valgrind
def test_clocks_take_a_few_instructions_a_stage(small):
    counts = small["scalar"]
    assert 0 < counts[TIMED.name] - counts[SCALAR[0].name] < 12 * 40  # twelve stages a sample


def test_results_say_where_they_come_from():
    report = json.loads(instructions.RESULTS.read_text())
    assert report["command"] == "python benchmarks/instructions.py --update"
    for row in report["compilers"].values():
        assert row["cpu"]
        assert row["valgrind"].startswith("valgrind-")
    assert instructions.table() in instructions.PAGE.read_text(encoding="utf-8")
