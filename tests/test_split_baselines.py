"""T(u) of baselines: time is a number that a test moves, so every figure is exact."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest

from wavernn_fast.baselines import BASELINES, Baseline, Made, make
from wavernn_fast.baselines.wavenet import WaveNetConfig, random_tensors
from wavernn_fast.bench import split_baselines, split_points
from wavernn_fast.bench.clocks import Clock, Library, Matrix, attribute, entry, rebuilt
from wavernn_fast.bench.split_baselines import empty_twin, split_baseline
from wavernn_fast.errors import InputError
from wavernn_fast.synthetic import random_model

US = 1000  # ns
SMALL_WAVENET = WaveNetConfig(
    residual_size=8, gate_size=6, skip_size=10, cycles=2, dilations=3, n_classes=8
)


class Time:
    """A clock that moves when it is told to."""

    def __init__(self) -> None:
        self.ns = 0

    def __call__(self) -> int:
        return self.ns

    def passes(self, us: float) -> None:
        self.ns += round(US * us)


# --- clocks ---------------------------------------------------------------------------------------


def test_an_operation_s_time_is_without_the_operations_inside() -> None:
    now = Time()
    clock = Clock(now)
    inner = clock.timed("inner", lambda: now.passes(3))

    def whole() -> int:
        now.passes(1)
        inner()
        inner()
        now.passes(4)
        return 7

    assert clock.timed("outer", whole)() == 7
    assert clock.ns == {"inner": 6 * US, "outer": 5 * US}
    assert clock.calls == {"inner": 2, "outer": 1}


def test_an_error_inside_an_operation_leaves_the_clock_right() -> None:
    now = Time()
    clock = Clock(now)

    def fail() -> None:
        now.passes(2)
        raise ValueError("broken")

    outer = clock.timed("outer", clock.timed("inner", fail))
    for _ in range(2):
        with pytest.raises(ValueError, match="broken"):
            outer()
    assert clock.ns == {"inner": 4 * US, "outer": 0}


def test_what_a_clock_costs_is_learned() -> None:
    """Each look at the time takes 1 us here: one falls into the operation, one beside it."""
    now = Time()

    def slow() -> int:
        now.passes(1)
        return now.ns

    own, beside = Clock(slow).cost()
    assert own == pytest.approx(US, rel=0.01)
    assert beside == pytest.approx(US, rel=0.01)


def test_replacements_are_taken_back() -> None:
    class Thing:
        def act(self) -> str:
            return "class"

    thing, table = Thing(), {"x": 1}
    with attribute(thing, "act", lambda: "replaced"), entry(table, "x", 2):
        assert (thing.act(), table) == ("replaced", {"x": 2})
    assert (thing.act(), vars(thing), table) == ("class", {}, {"x": 1})


def test_products_with_a_matrix_are_timed_on_either_side() -> None:
    clock = Clock()
    array = np.arange(6.0).reshape(2, 3)
    matrix: Any = Matrix(array, clock, "R")
    assert (np.ones((1, 2)) @ matrix == np.ones((1, 2)) @ array).all()
    assert (matrix @ np.ones((3, 1)) == array @ np.ones((3, 1))).all()
    assert (matrix * np.full(3, 2.0) == 2.0 * array).all()
    assert (np.full(3, 2.0) * matrix == 2.0 * array).all()
    assert matrix.shape == (2, 3)
    assert clock.calls == {"R": 4}


def test_functions_of_a_module_are_timed_by_what_they_are_given() -> None:
    import math as module

    clock, known = Clock(), 4.0
    library: Any = Library(module, ("sqrt",), {id(known): "known"}, clock)
    assert (library.sqrt(known), library.sqrt(9.0), library.pi) == (2.0, 3.0, math.pi)
    assert clock.calls == {"known": 1}


def test_functions_made_anew_see_replacements_and_the_module_does_not() -> None:
    from wavernn_fast import words

    world = rebuilt(split_points, {"_POINTS": {}})
    baseline = make("numpy", *random_model("dual:32"))
    assert not world["can_be_taken_apart"](baseline)
    assert split_points.can_be_taken_apart(baseline)
    assert rebuilt(words, {})["__name__"] == words.__name__


# --- exact figures --------------------------------------------------------------------------------


class Fake(Baseline):
    """A baseline whose operations take 10 us of overhead, and 1 us for every 16 units beyond 16."""

    name = "fake"
    title = "for tests"
    now: Time
    slow_draws: bool = False  # of a small model

    @classmethod
    def supports(cls, config: Any) -> bool:
        return True

    def _build(self) -> None:
        self.looks = 0

    def _product(self) -> None:
        self.now.passes(10 + (self.config.hidden_size - 32) / 16)

    def _draw(self) -> None:
        self.now.passes(5 if self.config.hidden_size > 32 or not self.slow_draws else 8)

    def sample(self, n_steps: int, mel: Any = None, **_: Any) -> Made:
        for _t in range(n_steps):
            self._product()
            self._product()
            self._draw()
            self.now.passes(2)
        return Made(np.zeros((self.streams, n_steps), np.int32), None)


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Time:
    now = Time()
    monkeypatch.setattr(Fake, "now", now, raising=False)

    def points(baseline: Any, places: Any) -> None:
        places.method(baseline, "_product", "R")
        places.method(baseline, "_draw", "draw")

    monkeypatch.setitem(split_points._POINTS, "fake", points)
    return now


def split_fake(now: Time) -> Any:
    baseline = Fake(*random_model("dual:192"), streams=3, threads=2)
    return split_baseline(baseline, model="dual:192", rounds=2, seconds=1e-3, now=now)


def test_the_twin_tells_overhead_from_computation(fake: Time) -> None:
    split = split_fake(fake)
    found = {o.name: (o.count, o.computation_us, o.overhead_us) for o in split.operations}
    assert found == {
        "R": (2, pytest.approx(20.0), pytest.approx(20.0)),
        "draw": (1, 0.0, pytest.approx(5.0)),
        "rest": (1, pytest.approx(0.0, abs=1e-9), pytest.approx(2.0)),
    }
    assert split.total_us == pytest.approx(47.0)
    assert split.facts["us_of_twin"] == pytest.approx(27.0)
    assert split.facts["below_twin_us"] == {}
    assert (split.sequential, split.streams, split.threads) == (5, 3, 2)
    assert (split.model, split.runner, split.method) == ("dual:192", "fake", "empty twin")


def test_a_slower_twin_is_said_and_never_a_negative_computation(
    fake: Time, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Fake, "slow_draws", True)
    split = split_fake(fake)
    [draw] = [o for o in split.operations if o.name == "draw"]
    assert (draw.computation_us, draw.overhead_us) == (0.0, pytest.approx(5.0))
    assert split.facts["below_twin_us"] == {"draw": pytest.approx(3.0)}


def test_a_loop_that_cannot_be_taken_apart_is_one_operation(
    fake: Time, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(split_points._POINTS, "fake")
    [loop] = split_fake(fake).operations
    assert (loop.name, loop.count) == ("loop", 1)
    assert (loop.computation_us, loop.overhead_us) == (pytest.approx(20.0), pytest.approx(27.0))


@pytest.mark.parametrize("wrong", [{"rounds": 0}, {"seconds": 0.0}, {"seconds": math.nan}])
def test_numbers_without_meaning_are_refused(fake: Time, wrong: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="at least one round"):
        split_baseline(Fake(*random_model("dual:64")), model="x", now=fake, **wrong)


# --- the real loops -------------------------------------------------------------------------------

AHEAD = ("conditioning", "numbers")  # once for many samples
DUAL = {"R": 1, "inputs": 2, "gates": 2, "O1": 1, "O2": 1, "O3": 1, "O4": 1, "draw": 2}
RESIDUAL = {
    "inputs": 1, "R1": 1, "I2": 1, "R2": 1, "gates": 2, "O1": 1, "O2": 1, "O3": 1, "draw": 1,
}  # fmt: skip
EAGER_RESIDUAL = {"inputs": 1, "GRU 1": 1, "GRU 2": 1, "O1": 1, "O2": 1, "O3": 1, "draw": 1}
WAVENET = {"old taps": 1, "dilated": 6, "gates": 6, "residual": 5, "skip": 1, "O1": 1, "O2": 1}
EAGER_WAVENET = {**WAVENET, "skip": 6, "inputs": 1}
del EAGER_WAVENET["old taps"]
CASES = [
    ("numpy", "dual:32", DUAL),
    ("torch-inference", "dual:32", DUAL),
    ("torch-eager", "dual:32", {**DUAL, "gates": 2}),
    ("numpy", "dual-mel:32", DUAL),
    ("numpy", "residual:32", RESIDUAL),
    ("numpy", "residual-mol:32", {**RESIDUAL, "draw": 2}),  # of the mixture, and of the value
    ("torch-inference", "residual:32", RESIDUAL),
    ("torch-inference", "residual-mol:32", RESIDUAL),
    ("torch-eager", "residual:32", EAGER_RESIDUAL),
    ("torch-eager", "residual-mol:32", EAGER_RESIDUAL),
    ("torch-eager", "embedded:896", {"GRU": 1, "O1": 1, "O2": 1, "draw": 1}),
    ("wavenet-numpy", "wavenet", {**WAVENET, "draw": 1}),
    ("wavenet-torch-inference", "wavenet", {**WAVENET, "draw": 1}),
    ("wavenet-torch-eager", "wavenet", {**EAGER_WAVENET, "draw": 1}),
]


def model_of(spec: str) -> Any:
    if spec == "wavenet":
        return SMALL_WAVENET, random_tensors(SMALL_WAVENET)
    return random_model(spec)


def mel_of(config: Any, steps: int) -> Any:
    from wavernn_fast.bench.runs import mel_for

    return mel_for(config, steps)


@pytest.mark.parametrize(("name", "spec", "expected"), CASES)
def test_every_operation_of_a_sample_has_a_clock(
    name: str, spec: str, expected: dict[str, int]
) -> None:
    steps, clock = 6, Clock()
    baseline = make(name, *model_of(spec))
    with split_points.clocks_in(baseline, clock):
        baseline.sample(steps, mel_of(baseline.config, steps))
    counts = {k: v / steps for k, v in clock.calls.items() if k not in AHEAD}
    assert counts == expected
    made_ahead = [] if name.startswith("wavenet") else ["conditioning"]
    made_ahead += ["numbers"] if name in ("numpy", "torch-inference") else []
    assert [k for k in AHEAD if clock.calls.get(k) == 1] == made_ahead


@pytest.mark.parametrize(("name", "spec", "expected"), CASES)
def test_clocks_change_no_sample_and_leave_nothing_behind(
    name: str, spec: str, expected: dict[str, int]
) -> None:
    baseline = make(name, *model_of(spec), streams=2)
    mel = mel_of(baseline.config, 6)
    plain = baseline.sample(6, mel, seed=4, keep_logits=True)
    clock = Clock()
    with split_points.clocks_in(baseline, clock):
        clocked = baseline.sample(6, mel, seed=4, keep_logits=True)
    assert (plain.samples == clocked.samples).all()
    assert plain.logits is not None
    assert clocked.logits is not None
    assert (plain.logits == clocked.logits).all()
    before = dict(clock.calls)
    again = baseline.sample(6, mel, seed=4)
    assert clock.calls == before
    assert (again.samples == plain.samples).all()


@pytest.mark.parametrize("name", ["numpy", "torch-eager", "wavenet-torch-script"])
def test_a_split_of_a_real_loop_adds_up(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Operations and what is left over are the clocked run, with clocks that cost nothing."""
    monkeypatch.setattr(Clock, "cost", lambda _self: (0.0, 0.0))
    spec = "wavenet" if name.startswith("wavenet") else "residual:32"
    baseline = make(name, *model_of(spec))
    split = split_baseline(baseline, model=spec, rounds=1, seconds=0.02)
    whole = split.computation_us + split.overhead_us
    if split_points.can_be_taken_apart(baseline):
        assert whole == pytest.approx(split.facts["us_with_clocks"])
    else:
        assert whole == pytest.approx(split.total_us)
    assert split.total_us > 0.0


@pytest.mark.parametrize("spec", ["dual:64", "dual-mel:64", "residual:64", "residual-mol:64"])
def test_a_twin_has_all_the_calls_and_the_smallest_widths(spec: str) -> None:
    config, tensors = random_model(spec)
    twin = empty_twin(make("numpy", config, tensors, streams=2))
    assert twin.config.hidden_size < config.hidden_size
    assert (twin.config.logits_size, twin.streams) == (config.logits_size, 2)
    same = ("core", "head", "n_mels", "hop_length", "aux_size", "n_classes")
    assert all(getattr(twin.config, n) == getattr(config, n) for n in same)


KINDS = (
    "dual", "dual-mel", "subscale", "residual", "residual-mol", "residual-gaussian",
    "residual-beta", "embedded",
)  # fmt: skip


@pytest.mark.parametrize("spec", [f"{kind}:64" for kind in KINDS] + ["residual:64:4x4:50"])
def test_every_kind_of_model_has_a_twin_that_runs(spec: str) -> None:
    twin = empty_twin(make("torch-eager", *random_model(spec)))
    made = twin.sample(4, mel_of(twin.config, 4), keep_logits=True)
    assert made.logits is not None
    assert made.samples.shape == (1, 4)
    assert np.isfinite(made.logits).all()


def test_a_twin_of_a_wavenet_has_all_the_blocks() -> None:
    twin = empty_twin(make("wavenet-numpy", *model_of("wavenet")))
    changes = {"residual_size": 2, "gate_size": 2, "skip_size": 2}
    assert twin.config == dataclasses.replace(SMALL_WAVENET, **changes)
    assert split_baselines.sequential(SMALL_WAVENET) == 14


def test_points_are_of_baselines_that_there_are() -> None:
    assert set(split_points._POINTS) <= set(BASELINES)
