"""The rows of `wavernn-fast bench` by pytest-benchmark: its statistics, files and comparisons.

    pytest benchmarks/ --benchmark-only
    pytest benchmarks/ --benchmark-only --sizes dual:896 --benchmark-json speed.json
    pytest benchmarks/ --benchmark-only --benchmark-autosave --benchmark-compare

Engines and baselines are built, checked and calibrated by the same code as for the command. A time
is that of one sample, all streams counted, so OPS is samples a second. What differs from the
command: rows run one after the other, not in turns, so a machine that slows down favours the rows
that ran before; and `extra_info` stands for the other fields of a row.
"""

from __future__ import annotations

from typing import Any

import pytest

from wavernn_fast import floors
from wavernn_fast.baselines.wavenet import random_wavenet
from wavernn_fast.bench.peers import Peers, Wanted, absent, choose, wanted
from wavernn_fast.bench.rows import Case
from wavernn_fast.bench.runs import EngineRun, Engines, Probe, Run, rows_of
from wavernn_fast.config import ModelConfig
from wavernn_fast.synthetic import random_model


class Clock:
    """Counts seconds a sample, so that runs of different lengths can be compared."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def now(self) -> float:
        return self.seconds


_clock = Clock()
pytestmark = pytest.mark.benchmark(timer=_clock.now)
_models: dict[str, Any] = {}  # name -> configuration and tensors
_engines = Engines()


def _model(name: str) -> Any:
    if name not in _models:
        make = random_wavenet if name.startswith("wavenet:") else random_model
        _models[name] = make(name)
    return _models[name]


@pytest.fixture(scope="module")
def peers() -> Peers:
    return Peers(_models)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """One test a row."""
    option = metafunc.config.getoption
    words = {name: option(f"--{name}").split(",") for name in ("sizes", "dtypes")}
    numbers = {n: [int(x) for x in option(f"--{n}").split(",")] for n in ("threads", "streams")}
    cases = [
        Case(name, dtype, threads, streams)
        for name in words["sizes"]
        for threads in numbers["threads"]
        for streams in numbers["streams"]
        for dtype in words["dtypes"]
        if isinstance(_model(name)[0], ModelConfig) or dtype == words["dtypes"][0]
    ]
    if metafunc.function is test_engine:
        able = [case for case in cases if isinstance(_model(case.name)[0], ModelConfig)]
        metafunc.parametrize("case", able, ids=[f"{c.dtype}-{_end(c)}" for c in able])
        return
    names = choose(option("--baselines"))
    lacking = {one.runner: one.reason for one in absent(names)}
    found = [
        one
        for one in wanted([n for n in names if n not in lacking], cases, _models)
        if one.case.streams in numbers["streams"] and one.case.threads in numbers["threads"]
    ]
    rows = [pytest.param(one, id=f"{one.name}-{_end(one.case)}") for one in found]
    rows += [
        pytest.param(None, id=name, marks=pytest.mark.skip(reason=f"{name}: {why}"))
        for name, why in lacking.items()
    ]
    metafunc.parametrize("one", rows)


def _end(case: Case) -> str:
    return f"{case.name}-{case.threads}t-{case.streams}s"


def test_engine(benchmark: Any, case: Case, request: pytest.FixtureRequest) -> None:
    run = _engines.run(case, _model(case.name))
    assert run.probe is not None
    _measure(benchmark, run, run.probe, request)


def test_baseline(
    benchmark: Any, one: Wanted, peers: Peers, request: pytest.FixtureRequest
) -> None:
    refused = len(peers.refused)
    run = peers.run(one)
    assert run is not None, peers.refused[refused].sentence()
    case = one.case
    work = peers.work(case.name, case.threads)
    probe = Probe(work, case.streams, rows_of(_model(case.name)[0]))
    _measure(benchmark, run, probe, request)


def _measure(benchmark: Any, run: Run, probe: Probe, request: pytest.FixtureRequest) -> None:
    """Time rounds of a calibrated run between two probes of its floor."""
    case = run.case
    run.calibrate(request.config.getoption("--seconds"))

    def turn() -> None:
        made, took = run.run(run.steps)
        _clock.seconds += took / (made * case.streams)

    before = probe.read()
    benchmark.group = f"{case.name}, streams {case.streams}, threads {case.threads}"
    benchmark.pedantic(turn, rounds=request.config.getoption("--turns"))
    after = probe.read()
    rates = {kind: 0.5 * (before[kind] + after[kind]) for kind in before}
    side_by_side = case.streams * probe.rows
    floor = floors.floor(probe.work, side_by_side, rates)
    benchmark.extra_info |= {
        "model": case.name,
        "runner": run.runner,
        "dtype": case.dtype,
        "threads": case.threads,
        "streams": case.streams,
        "steps": run.steps,
        "logit_error": run.logit_error,
        "floor": floor.limit,
        "floor_samples_per_s": floor.samples_per_s(side_by_side),
        "isa": run.voc.isa if isinstance(run, EngineRun) and run.voc else None,
    }
    if benchmark.stats is not None:  # None: --benchmark-disable
        rate = 1.0 / benchmark.stats.stats.median
        benchmark.extra_info["samples_per_s"] = rate
        benchmark.extra_info["share_of_floor"] = rate / floor.samples_per_s(side_by_side)
