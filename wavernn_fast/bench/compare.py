"""From what was timed to rows: every rate beside its floor and baselines of the same minutes."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from .. import floors
from ..machine import cpu_name
from .peers import EAGER
from .rows import Row, speeds
from .runs import EngineRun, Model, Probe, Run


def engine_row(run: EngineRun, peers: Sequence[Run], models: Mapping[str, Model]) -> Row:
    """The row of an engine.

    Parameters
    ----------
    run : EngineRun
    peers : baselines of the session, timed
    models : name -> configuration and tensors
    """
    case, voc = run.case, run.voc
    assert voc is not None
    return Row(
        model=case.name,
        runner=run.runner,
        device=case.device,
        device_name=device_name(case.device),
        dtype=voc.dtype,
        isa=voc.isa,
        threads=voc.cpu_threads,
        n_weights=n_weights(models[case.name]),
        weight_bytes=voc.engine.weight_bytes,
        macs_per_step=voc.engine.macs_per_step,
        **speeds(run.rates, case.streams, voc.sample_rate),
        **_floor(run, run.probe),
        **_ratios(run, peers),
        logit_error=None,
    )


def baseline_row(
    run: Run, probe: Probe | None, peers: Sequence[Run], models: Mapping[str, Model]
) -> Row:
    """The row of a baseline.

    Parameters
    ----------
    run : Run
    probe : of the float32 weights with the same threads, from the same rounds; None: none
    peers : baselines of the session, itself among them
    models : name -> configuration and tensors
    """
    from .. import _C

    case, work = run.case, None if probe is None else probe.work
    macs = n_weights(models[case.name]) if work is None else work.macs_per_step
    return Row(
        model=case.name,
        runner=run.runner,
        device=case.device,
        device_name=device_name(case.device),
        dtype="fp32",
        isa=_C.available_isas()[-1],
        threads=case.threads,
        n_weights=n_weights(models[case.name]),
        weight_bytes=4 * macs if work is None else work.weight_bytes,
        macs_per_step=macs,
        **speeds(run.rates, case.streams, models[case.name][0].sample_rate),
        **_floor(run, probe),
        **_ratios(run, peers),
        logit_error=run.logit_error,
    )


def n_weights(model: Model) -> int:
    """Numbers in a model."""
    return sum(int(value.size) for value in model[1].values())


def device_name(device: str) -> str:
    """Of the processor, or of the GPU that runs."""
    if device != "cuda":
        return cpu_name()
    from .. import _C

    return str(_C.cuda_devices()[0]["name"])


def _floor(run: Run, probe: Probe | None) -> dict[str, Any]:
    """Fields of the floor; what was probed for other streams may serve."""
    names = ("floor", "floor_samples_per_s", "share_of_floor", "share_of_read")
    if probe is None:
        return {"probes": {}, **dict.fromkeys(names)}
    rate, rates = statistics.median(run.rates), probe.medians()
    side_by_side = run.case.streams * probe.rows
    floor = floors.floor(probe.work, side_by_side, rates)
    allowed = floor.samples_per_s(side_by_side)
    few = side_by_side < floors.ARITHMETIC_STREAMS
    read = rate / floor.samples_per_s(side_by_side, "read") if few else None
    return {
        "probes": rates,
        "floor": floor.limit,
        "floor_samples_per_s": allowed,
        "share_of_floor": rate / allowed,
        "share_of_read": read,
    }


def _ratios(run: Run, peers: Sequence[Run]) -> dict[str, Any]:
    """Fields of the comparisons with eager PyTorch and with the fastest baseline.

    A row is never compared with what had more threads.
    """
    case, rate = run.case, statistics.median(run.rates)
    fair = [
        p
        for p in peers
        if (p.case.name, p.case.device) == (case.name, case.device)
        and p.case.threads in (1, case.threads)
    ]
    eager = [p for p in fair if p.runner.endswith(EAGER)]  # of WaveNet too
    single = _fastest([p for p in eager if p.case.streams == 1])
    batch = _fastest([p for p in eager if p.case.streams > 1 and case.streams > 1])
    best = _fastest([p for p in fair if p.case.streams == 1 or case.streams > 1])
    return {
        "eager_samples_per_s": _rate(single),
        "eager_threads": single.case.threads if single else None,
        "ratio_to_eager": _over(rate, single),
        "eager_batch_samples_per_s": _rate(batch),
        "eager_batch_streams": batch.case.streams if batch else None,
        "eager_batch_threads": batch.case.threads if batch else None,
        "ratio_to_eager_batch": _over(rate, batch),
        "fastest_baseline": best.runner if best else None,
        "fastest_baseline_samples_per_s": _rate(best),
        "fastest_baseline_streams": best.case.streams if best else None,
        "fastest_baseline_threads": best.case.threads if best else None,
        "ratio_to_fastest": _over(rate, best),
    }


def _fastest(runs: Sequence[Run]) -> Run | None:
    return max(runs, key=lambda run: statistics.median(run.rates), default=None)


def _rate(run: Run | None) -> float | None:
    return None if run is None else statistics.median(run.rates)


def _over(rate: float, run: Run | None) -> float | None:
    return None if run is None else rate / statistics.median(run.rates)
