"""A session of measurements: everything takes turns, and no baseline is timed unchecked."""

from __future__ import annotations

import dataclasses
import math
from typing import Any, ClassVar

import checkpoint_builders
import numpy as np
import pytest

from wavernn_fast import checkpoints, floors, voices
from wavernn_fast.baselines import BASELINES, Baseline, Made
from wavernn_fast.baselines.numpy_loop import NumpyLoop
from wavernn_fast.bench import compare, peers, runs
from wavernn_fast.bench.rows import Case, speeds
from wavernn_fast.bench.session import Session, measure
from wavernn_fast.errors import DeviceError, InputError
from wavernn_fast.synthetic import random_model, random_speaker
from wavernn_fast.vocoder import Vocoder

NAME = "dual:32"
QUICK = {"rounds": 1, "seconds": 0.01}


@pytest.fixture(autouse=True)
def _short_probes(monkeypatch):
    monkeypatch.setattr(floors, "_PROBE_SECONDS", 0.002)


def models(*names: str) -> dict[str, Any]:
    return {name: random_model(name) for name in names or (NAME,)}


class Odd(NumpyLoop):
    """A baseline that does not sample its model."""

    name: ClassVar[str] = "odd"
    timed: ClassVar[list[int]] = []  # steps of what ran without logits
    spoil: ClassVar[Any] = None  # tensors -> tensors

    def _build(self) -> None:
        self.tensors = type(self).spoil(dict(self.tensors))
        super()._build()

    def sample(self, n_steps, mel=None, *, seed=0, keep_logits=False) -> Made:
        if not keep_logits:
            self.timed.append(n_steps)
        return super().sample(n_steps, mel, seed=seed, keep_logits=keep_logits)


@pytest.fixture
def odd(monkeypatch):
    monkeypatch.setitem(BASELINES, "odd", Odd)
    monkeypatch.setattr(Odd, "timed", [])
    return Odd


# --- turns ----------------------------------------------------------------------------------------


def test_cases_of_a_session_take_turns_with_the_baselines(monkeypatch):
    turns: list[tuple[str, int, int]] = []
    for kind in (runs.Run, runs.EngineRun):
        measured = kind.measure

        def note(self, measured=measured, kind=kind):
            if type(self) is kind:
                turns.append((self.runner, self.case.streams, self.case.threads))
            measured(self)

        monkeypatch.setattr(kind, "measure", note)
    cases = [Case(NAME, "fp32", threads, n) for threads in (1, 2) for n in (1, 3)]
    calls: list[int] = []
    one = Session(models(), cases, "numpy")
    result = one.measure(2, 0.01, calls.append)
    one_round = [(who, n, t) for who in ("wavernn_fast", "numpy") for t in (1, 2) for n in (1, 3)]
    assert sorted(turns[:8]) == sorted(one_round)
    assert turns[8:] == turns[:8][::-1]
    assert sum(calls) == one.measurements(2) == 3 * 8
    assert [(row.runner, row.threads, row.streams, row.rounds) for row in result.rows[:4]] == [
        ("wavernn_fast", case.threads, case.streams, 2) for case in cases
    ]
    assert {row.runner for row in result.rows[4:]} == {"numpy"}
    assert len(result.rows) == 8


def test_a_run_of_a_baseline_is_of_whole_frames_where_it_is_longer_than_one():
    config, tensors = random_model("dual-mel:32")
    hop = config.hop_length
    run = peers.peer_runner(NumpyLoop(config, tensors))
    wanted = (5, hop, hop + 1, 3 * hop - 1)
    assert [run(n)[0] for n in wanted] == [5, hop, hop, 2 * hop]
    run = peers.peer_runner(NumpyLoop(*random_model(NAME)))  # hears no mel
    assert run(65)[0] == 65


def test_rates_of_the_rounds_become_median_tenths_and_spread():
    row = speeds([100.0, 300.0, 200.0], streams=2, sample_rate=50.0)
    assert row["samples_per_s"] == 200.0
    assert (row["samples_per_s_p10"], row["samples_per_s_best"]) == (pytest.approx(120.0), 300.0)
    assert row["spread"] == pytest.approx(0.5 * (280.0 - 120.0) / 200.0)
    assert (row["x_realtime"], row["x_realtime_stream"]) == (4.0, 2.0)
    assert row["rates"] == (100.0, 300.0, 200.0)


# --- what a row is compared with ------------------------------------------------------------------


def test_a_row_is_compared_with_the_fastest_baseline_of_no_more_threads():
    def baseline(runner, threads, streams, *rates, name=NAME, device="cpu"):
        case = Case(name, "fp32", threads, streams, device)
        return runs.Run(case, lambda steps: (steps, 1.0), runner, rates=list(rates))

    timed = [
        baseline("torch-eager", 1, 1, 8.0, 10.0, 99.0),
        baseline("torch-eager", 2, 1, 20.0),
        baseline("torch-eager", 1, 4, 50.0),
        baseline("torch-eager", 2, 4, 40.0),
        baseline("torch-eager", 1, 16, 30.0),
        baseline("torch-eager", 2, 16, 60.0),
        baseline("numpy", 1, 1, 25.0),
        baseline("numpy", 2, 16, 80.0),
        baseline("numpy", 1, 1, 1e6, name="another model"),
        baseline("numpy", 1, 1, 1e6, device="cuda"),
    ]
    found = []
    for threads, streams in ((1, 1), (2, 1), (1, 16), (2, 4)):
        voc = Vocoder(*random_model(NAME), cpu_threads=threads)
        probe = runs.Probe(floors.Work.of(voc), streams)
        probe.rounds.append({"read": 1e9, "fma": 1e9})
        case = Case(NAME, "fp32", threads, streams)
        run = runs.EngineRun(case, timed[0].run, rates=[100.0, 300.0, 200.0], voc=voc, probe=probe)
        row = compare.engine_row(run, timed, models())
        found.append(
            (
                (row.eager_threads, row.ratio_to_eager),
                (row.eager_batch_threads, row.eager_batch_streams, row.ratio_to_eager_batch),
                (row.fastest_baseline, row.fastest_baseline_threads, row.fastest_baseline_streams),
                row.ratio_to_fastest,
            )
        )
    assert found == [
        ((1, 20.0), (None, None, None), ("numpy", 1, 1), 8.0),
        ((2, 10.0), (None, None, None), ("numpy", 1, 1), 8.0),
        ((1, 20.0), (1, 4, 4.0), ("torch-eager", 1, 4), 4.0),
        ((2, 10.0), (2, 16, pytest.approx(200 / 60)), ("numpy", 2, 16), 2.5),
    ]


def test_a_baseline_stands_beside_the_floor_of_float32(monkeypatch):
    """Also where no engine of the session is float32: then the floor is probed for it alone."""
    rates = {"read": 4e9, "fma": 8e9, "int8": 5e9}
    monkeypatch.setattr(floors, "probe", lambda work, kind: rates[kind])
    found = []
    for dtype in ("fp32", "int8"):
        result = measure(models(), [Case(NAME, dtype, 1, 1)], baselines="numpy", **QUICK)
        engine, baseline = result.rows
        assert engine.dtype == dtype
        assert baseline.dtype == "fp32"
        assert baseline.weight_bytes == 4 * baseline.macs_per_step == 4 * engine.macs_per_step
        expected = rates["read"] / baseline.weight_bytes
        assert baseline.floor_samples_per_s == pytest.approx(expected)
        assert baseline.share_of_floor == pytest.approx(baseline.samples_per_s / expected)
        found.append(baseline.probes)
    assert found[0] == found[1] == {"read": 4e9, "fma": 8e9}


def test_rows_of_a_subscale_model_share_arithmetic_and_no_reading():
    name = "subscale:32"
    result = measure(models(name), [Case(name, "int8", 1, 1)], baselines="torch-eager", **QUICK)
    assert [row.floor for row in result.rows] == ["int8", "fma"]
    assert [row.share_of_read for row in result.rows] == [None, None]


# --- what is checked before -----------------------------------------------------------------------


@pytest.mark.parametrize("name", [NAME, "dual-mel:32", "residual:32", "residual-mol:32"])
@pytest.mark.parametrize("streams", [1, 3])
def test_logits_of_an_honest_baseline_are_those_of_the_readable_engine(name, streams):
    model = random_model(name)
    peer = peers.make("numpy", *model, streams=streams)
    assert 0.0 < peers.check(peer, peers.Readable(*model)).error < 1e-6


@pytest.mark.parametrize("name", ["subscale:32", "embedded:32", "residual-beta:32"])
def test_every_core_has_a_baseline_and_a_reference(name):
    model = random_model(name)
    peer = peers.make("torch-eager", *model)
    assert 0.0 < peers.check(peer, peers.Readable(*model)).error < 1e-6


@pytest.mark.parametrize(
    "state",
    [checkpoint_builders.scwavernn(hidden=32), checkpoint_builders.yukarin(speakers=3)],
    ids=["residual", "embedded"],
)
def test_a_model_that_hears_a_speaker_is_measured_and_compared(state, tmp_path):
    model = checkpoints.load(checkpoint_builders.save(tmp_path / "voice.pt", state))
    peer, readable = peers.make("torch-eager", *model), peers.Readable(*model)
    assert 0.0 < peers.check(peer, readable).error < 1e-6
    peer.model.hear(random_speaker(model[0], 1))
    assert peers.check(peer, readable).error > 1e-4  # the speaker of the reference is another
    case = Case("voice", "fp32", 1, 2)
    result = measure({"voice": model}, [case], baselines="torch-eager", **QUICK)
    assert [row.is_baseline for row in result.rows] == [False, True, True]  # one stream and two
    assert not result.left_out


def test_large_logits_may_differ_by_more_and_a_wrong_weight_is_found_still():
    config, tensors = random_model(NAME)
    for name in ("coarse_fc2", "fine_fc2"):
        tensors[f"{name}.weight"] = 400.0 * tensors[f"{name}.weight"]
    readable = peers.Readable(config, tensors)
    honest = peers.check(peers.make("numpy", config, tensors), readable)
    assert honest.passed
    assert 2 * peers.TOLERANCE < honest.tolerance < 0.01
    wrong = tensors | {"coarse_fc1.bias": tensors["coarse_fc1.bias"] + np.float32(1e-3)}
    assert not peers.check(peers.make("numpy", config, wrong), readable).passed


@pytest.mark.parametrize("name", ["numpy", "torch-eager", "torch-inference"])
def test_a_trained_voice_is_not_refused(name):
    model = checkpoints.load(voices.resolve(voices.DEFAULT))
    readable = peers.Readable(*model)
    for streams in (1, 3):
        assert peers.check(peers.make(name, *model, streams=streams), readable).passed


def one_weight(tensors):
    changed = tensors["coarse_fc2.bias"].copy()
    changed[3] += 0.001
    return tensors | {"coarse_fc2.bias": changed}


def recurrent_weights(tensors):
    """Without effect on the first sample: the state is zero there."""
    return tensors | {"gru.w_recurrent": np.float32(1.1) * tensors["gru.w_recurrent"]}


def not_a_number(tensors):
    return tensors | {"fine_fc2.bias": np.full_like(tensors["fine_fc2.bias"], np.nan)}


@pytest.mark.parametrize("spoil", [one_weight, recurrent_weights, not_a_number])
def test_a_baseline_with_wrong_logits_is_refused_and_not_timed(odd, spoil, monkeypatch):
    monkeypatch.setattr(odd, "spoil", spoil)
    result = measure(models(), [Case(NAME, "fp32", 1, 2)], baselines="odd,numpy", **QUICK)
    assert {row.runner for row in result.rows} == {"wavernn_fast", "numpy"}
    assert odd.timed == []
    assert [(one.runner, one.model, one.streams) for one in result.refused] == [
        ("odd", NAME, 1), ("odd", NAME, 2),
    ]  # fmt: skip
    for one in result.refused:
        assert "readable engine" in one.reason
        bad = spoil is not_a_number
        assert one.logit_error is None if bad else one.logit_error > peers.TOLERANCE
    assert result.rows[0].fastest_baseline == "numpy"
    assert result.to_dict()["refused"][0]["runner"] == "odd"


def test_a_last_stream_that_goes_wrong_is_found(odd, monkeypatch):
    monkeypatch.setattr(odd, "spoil", lambda tensors: tensors)
    honest = odd.sample

    def sample(self, *arguments, **options):
        made = honest(self, *arguments, **options)
        if made.logits is not None:
            made.logits[1:] += 0.01
        return made

    monkeypatch.setattr(odd, "sample", sample)
    result = measure(models(), [Case(NAME, "fp32", 1, 2)], baselines="odd", **QUICK)
    assert [row.streams for row in result.rows if row.is_baseline] == [1]
    assert [one.streams for one in result.refused] == [2]


def test_the_same_baseline_is_timed_where_its_weights_are_right(odd, monkeypatch):
    monkeypatch.setattr(odd, "spoil", lambda tensors: tensors)
    result = measure(models(), [Case(NAME, "fp32", 1, 1)], baselines="odd", **QUICK)
    assert [row.runner for row in result.rows] == ["wavernn_fast", "odd"]
    assert odd.timed
    assert result.refused == ()
    assert result.rows[1].logit_error < 1e-6


# --- models that only baselines run ---------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Coin:
    """Draws heads or tails, each with one weight."""

    sample_rate: int = 100
    n_mels: int = 0


class CoinLoop(Baseline):
    name: ClassVar[str] = "coin"
    title: ClassVar[str] = "a coin"
    macs_per_step: ClassVar[int] = 1000
    error: ClassVar[float] = 0.0

    @classmethod
    def supports(cls, config) -> bool:
        return isinstance(config, Coin)

    def _build(self) -> None:
        self.seen: list[int] = []

    def sample(self, n_steps, mel=None, *, seed=0, keep_logits=False) -> Made:
        assert mel is None
        samples = np.random.default_rng(seed).integers(0, 2, (self.streams, n_steps))
        logits = np.stack([samples, 1 - samples], axis=2).astype(np.float32)
        return Made(samples, logits if keep_logits else None)

    def reference_logits(self, samples):
        return np.stack([samples, 1 - samples], axis=1) + self.error


def test_a_model_of_baselines_alone_is_held_against_its_own_reference(monkeypatch):
    monkeypatch.setitem(BASELINES, "coin", CoinLoop)
    monkeypatch.setattr(floors, "probe", lambda work, kind: {"read": 8e6, "fma": 1e9}[kind])
    found = {"coin": (Coin(), {"w": np.ones((2, 3), np.float32)}), **models()}
    cases = [Case("coin", "fp32", 1, 1), Case("coin", "int8", 1, 1), Case(NAME, "fp32", 1, 1)]
    result = measure(found, cases, baselines="numpy,coin", **QUICK)
    [row] = [row for row in result.rows if row.model == "coin"]
    assert (row.runner, row.n_weights, row.macs_per_step) == ("coin", 6, 1000)
    assert (row.floor, row.floor_samples_per_s) == ("read", pytest.approx(8e6 / 4000))
    assert row.x_realtime == pytest.approx(row.samples_per_s / 100)
    assert row.logit_error == 0.0
    monkeypatch.setattr(CoinLoop, "error", 0.5)
    result = measure(found, cases[:1], baselines="coin", **QUICK)
    assert result.rows == ()
    assert result.refused[0].logit_error == 0.5


# --- what is left out -----------------------------------------------------------------------------


def test_a_baseline_without_its_package_is_listed_with_what_to_install(monkeypatch):
    monkeypatch.setattr(NumpyLoop, "packages", ("onnxruntime", "no_such_package"))
    result = measure(models(), [Case(NAME, "fp32", 1, 1)], baselines="numpy", **QUICK)
    assert [row.runner for row in result.rows] == ["wavernn_fast"]
    [one] = result.left_out
    assert (one.runner, one.model) == ("numpy", None)
    assert one.reason == 'it needs no_such_package: pip install "wavernn-fast[bench]".'
    assert peers.requirement(["torch"]) == "wavernn-fast[torch]"
    assert peers.requirement(["torch", "onnx"]) == "wavernn-fast[bench,torch]"
    row = result.rows[0]
    assert row.fastest_baseline is row.ratio_to_eager is row.ratio_to_fastest is None


def test_a_baseline_that_fails_is_listed_and_the_others_are_measured(odd, monkeypatch):
    def no_compiler(tensors):
        raise RuntimeError("No working C++ compiler found\nin /usr/bin")

    monkeypatch.setattr(odd, "spoil", no_compiler)
    result = measure(models(), [Case(NAME, "fp32", 1, 1)], baselines="odd,numpy", **QUICK)
    assert [row.runner for row in result.rows] == ["wavernn_fast", "numpy"]
    [one] = result.left_out
    assert one.sentence() == (
        "odd, dual:32: it failed with RuntimeError: No working C++ compiler found"
    )


def test_a_baseline_that_was_named_and_runs_no_model_is_listed(monkeypatch):
    monkeypatch.setitem(BASELINES, "coin", CoinLoop)
    case = [Case(NAME, "fp32", 1, 1)]
    named = Session(models(), case, "numpy,coin")
    assert [(one.runner, one.reason[:16]) for one in named.left_out] == [
        ("coin", "it runs none of ")
    ]
    monkeypatch.setattr(CoinLoop, "packages", ("no_such_package",))
    assert "coin" not in {one.runner for one in Session(models(), case, "default").left_out}


def test_baselines_are_chosen_by_name():
    assert peers.choose("none") == []
    assert set(peers.choose("all")) == set(BASELINES)
    assert set(peers.choose("default")) < set(BASELINES) | {"x"}
    assert "numpy" in peers.choose("default")
    assert peers.choose("numpy, torch-eager,numpy") == ["numpy", "torch-eager"]
    with pytest.raises(InputError, match="no baseline 'melgan'; choose default"):
        peers.choose("numpy,melgan")


def test_a_device_that_is_not_here_is_left_out_beside_one_that_is(monkeypatch):
    monkeypatch.setenv("WAVERNN_FAST_LIBCUDA", "/nowhere/libcuda.so")
    both = [Case(NAME, "fp32", 1, 1, device) for device in ("cpu", "cuda")]
    result = measure(models(), both, baselines="torch-eager", **QUICK)
    assert [(row.runner, row.device) for row in result.rows] == [
        ("wavernn_fast", "cpu"), ("torch-eager", "cpu"),
    ]  # fmt: skip
    [one] = result.left_out
    assert (one.runner, one.device) == ("wavernn_fast", "cuda")
    assert "driver" in one.reason
    with pytest.raises(DeviceError, match="driver"):
        measure(models(), both[1:], **QUICK)


def test_the_emulator_has_rows_without_a_floor():
    result = measure(models(), [Case(NAME, "fp32", 1, 1, "emu")], **QUICK)
    [row] = result.rows
    assert (row.device, row.floor, row.share_of_floor, row.probes) == ("emu", None, None, {})
    assert row.samples_per_s > 0


def test_engines_on_a_gpu_are_made_in_the_clusters_that_were_asked_for():
    sizes = models("dual:64")
    session = Session(sizes, [Case("dual:64", "fp32", 1, 1, "emu")], "none", gpu_cluster=2)
    [row] = session.measure(1, 0.01).rows
    assert row.samples_per_s > 0
    [engine] = session.engines
    assert "clusters of 2" in engine.voc.engine.describe()
    with pytest.raises(InputError, match="gpu_cluster is 17"):
        measure(sizes, session.cases, baselines="none", gpu_cluster=17, rounds=1, seconds=0.01)


def test_what_a_gpu_does_not_run_is_left_out_beside_what_it_does():
    """Its kernel for many streams is fp16 alone."""
    cases = [Case(NAME, dtype, 1, 2, "emu") for dtype in ("fp16", "fp32")]
    result = measure(models(), cases, **QUICK)
    assert [(row.dtype, row.streams) for row in result.rows] == [("fp16", 2)]
    [one] = result.left_out
    assert (one.runner, one.device, one.streams) == ("wavernn_fast", "emu", 2)
    assert "fp16" in one.reason


def test_nonsense_is_refused():
    for wrong in ({"rounds": 0}, {"seconds": 0.0}, {"seconds": math.nan}):
        with pytest.raises(InputError, match="at least one round"):
            measure(models(), [Case(NAME, "fp32", 1, 1)], baselines="none", **(QUICK | wrong))


def test_a_session_counts_what_is_left_out(monkeypatch, odd):
    monkeypatch.setattr(odd, "spoil", one_weight)
    calls: list[int] = []
    one = Session(models(), [Case(NAME, "fp32", 1, 1)], "odd,numpy")
    one.measure(3, 0.01, calls.append)
    assert sum(calls) == one.measurements(3) == 4 * 3
