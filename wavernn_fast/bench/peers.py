"""The baselines of a session: which of them run, what is checked before, how they are timed."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .. import floors
from ..baselines import BASELINES, Baseline, make
from ..config import ModelConfig
from ..errors import InputError
from ..likelihood import teacher_forced_logits
from ..synthetic import random_speaker
from ..utterance import make_request
from ..vocoder import Vocoder
from .rows import Case, Left
from .runs import Model, Run, Runner, Tensors, mel_for

EAGER = "torch-eager"  # what the original projects do; `ratio_to_eager` is against it
CHECK_STEPS = 12  # from the second on every weight acts on the logits
TOLERANCE = 1e-4  # largest |logit - logit of the readable engine|
# Of the largest |logit|, where that is more. Trained models have logits of 50 to 700; float32 loops
# that sum in another order come 4e-6 of that away within the samples that are checked.
RELATIVE_TOLERANCE = 1e-5
_LONG_TO_BUILD = ("torch-compile", "cuda-graph-compiled")  # a C++ compiler runs: minutes in all


def choose(names: str | Sequence[str]) -> list[str]:
    """Names of baselines, as `--baselines` has them.

    Parameters
    ----------
    names : "default", "all", "none", or names
        "default" leaves out those that take minutes to compile.

    Raises
    ------
    InputError
        If there is no such baseline.
    """
    if isinstance(names, str):
        names = names.split(",")
    found: list[str] = []
    for name in (part.strip() for part in names):
        if name in ("all", "default"):
            found += [n for n in BASELINES if name == "all" or n not in _LONG_TO_BUILD]
        elif name in BASELINES:
            found.append(name)
        elif name != "none":
            raise InputError(
                f"There is no baseline {name!r}; choose default, all, none, or of "
                f"{', '.join(BASELINES)}."
            )
    return list(dict.fromkeys(found))


@dataclasses.dataclass(frozen=True)
class Wanted:
    """A baseline that is to run."""

    name: str
    case: Case  # its model, device, threads and streams


def wanted(names: Sequence[str], cases: Sequence[Case], models: dict[str, Model]) -> list[Wanted]:
    """What runs beside cases: one stream and as many, on one thread and on as many.

    What does not run a model, or not on the device, is not wanted.
    """
    found: dict[Wanted, None] = {}
    for name in names:
        kind = BASELINES[name]
        able = [c for c in cases if c.device in kind.devices and kind.supports(models[c.name][0])]
        for case in able:
            found |= dict.fromkeys(Wanted(name, twin) for twin in _twins(case))
    return list(found)


def _twins(case: Case) -> Iterator[Case]:
    for streams in sorted({1, case.streams}):
        for threads in sorted({1, case.threads}):
            yield Case(case.name, "fp32", threads, streams, case.device)


def absent(names: Sequence[str]) -> list[Left]:
    """Baselines whose packages are not installed."""
    found = []
    for name in names:
        if lacking := BASELINES[name].missing():
            them = " and ".join(lacking)
            found.append(
                Left(
                    name, None, f'it needs {them}: pip install "{requirement(lacking)}".',
                    device=BASELINES[name].devices[0],
                )
            )  # fmt: skip
    return found


def requirement(modules: Sequence[str]) -> str:
    """What to hand to pip, so that these modules can be imported."""
    extras = sorted({"torch" if name == "torch" else "bench" for name in modules})
    if any(name == "cupy" for name in modules):
        return "cupy-cuda12x"
    return f"wavernn-fast[{','.join(extras)}]"


class Readable:
    """The model as the readable engine computes it, in double precision.

    Parameters
    ----------
    config : ModelConfig
    tensors : canonical tensors
    """

    def __init__(self, config: ModelConfig, tensors: Tensors) -> None:
        from .. import _C
        from ..subscale_network import cell_of
        from ..upsampling import engine_cell

        voc = Vocoder(config, tensors, device="cpu", dtype="fp32", cpu_threads=1)
        self.work = floors.Work.of(voc)
        cell, weights = (cell_of if config.subscale is not None else engine_cell)(config, tensors)
        engine = _C.Engine(dataclasses.asdict(cell), weights, device="reference")
        self._voice = dataclasses.replace(voc.voice(), engine=engine)

    def logits(self, samples: NDArray[Any], mel: NDArray[np.float32] | None) -> NDArray[np.float32]:
        """Logits [n, logits_size] while the model follows `samples` [n]."""
        voice = self._voice
        config = voice.config
        speaker = random_speaker(config) if config.speaker_size else None  # as the baselines hear
        n_samples = None if mel is not None else len(samples)
        request = make_request(config, mel, n_samples, 0, speaker=speaker)
        found = np.empty((len(samples), voice.engine.logits_size), np.float32)
        for numbers, part in teacher_forced_logits(voice, request, samples):
            found[numbers] = part
        return found


class Check(NamedTuple):
    """How far the logits of a baseline lie from those of the model."""

    error: float  # largest absolute difference; infinite where a logit is no finite number
    tolerance: float  # that is allowed

    @property
    def passed(self) -> bool:
        """Whether the baseline may be timed."""
        return self.error <= self.tolerance


def check(peer: Baseline, readable: Readable | None) -> Check:
    """Compare the logits of a baseline with those of the model, on its own samples.

    Parameters
    ----------
    peer : Baseline
    readable : Readable, optional
        None: the baseline brings its own reference, `reference_logits(samples [n])`.

    Returns
    -------
    Check
        Of the first and the last stream together.
    """
    mel = mel_for(peer.config, CHECK_STEPS)
    made = peer.sample(CHECK_STEPS, mel, seed=1, keep_logits=True)
    if made.logits is None or not np.isfinite(made.logits).all():
        return Check(float("inf"), TOLERANCE)
    worst = largest = 0.0
    for b in {0, peer.streams - 1}:
        if readable is not None:
            expected = readable.logits(made.samples[b], mel)
        else:
            expected = peer.reference_logits(made.samples[b])  # type: ignore[attr-defined]
        worst = max(worst, float(np.abs(made.logits[b] - expected).max()))
        largest = max(largest, float(np.abs(expected).max()))
    return Check(worst, max(TOLERANCE, RELATIVE_TOLERANCE * largest))


class Peers:
    """Builds and checks the baselines of a session.

    Parameters
    ----------
    models : name -> configuration and tensors
    """

    def __init__(self, models: dict[str, Model]) -> None:
        self._models = models
        self._readable: dict[str, Readable] = {}
        self._works: dict[str, floors.Work] = {}
        self.refused: list[Left] = []

    def run(self, one: Wanted) -> Run | None:
        """What times a baseline; None if its logits are not those of the model."""
        case = one.case
        config, tensors = self._models[case.name]
        peer = make(
            one.name,
            config,
            tensors,
            streams=case.streams,
            threads=case.threads,
            device=case.device,
        )
        found = check(peer, self._reference(case.name))
        if not found.passed:
            self.refused.append(_refusal(one, found))
            return None
        if case.name not in self._works:
            self._works[case.name] = self._work(case.name, peer)
        return Run(case, peer_runner(peer), one.name, logit_error=found.error)

    def work(self, model: str, threads: int) -> floors.Work:
        """What a step of a model takes at the least in float32, on some threads."""
        return self._works[model]._replace(threads=threads)

    def _reference(self, model: str) -> Readable | None:
        config, tensors = self._models[model]
        if not isinstance(config, ModelConfig):
            return None
        if model not in self._readable:
            self._readable[model] = Readable(config, tensors)
        return self._readable[model]

    def _work(self, model: str, peer: Baseline) -> floors.Work:
        if (readable := self._reference(model)) is not None:
            return readable.work
        from .. import _C

        macs = int(peer.macs_per_step)  # type: ignore[attr-defined]
        return floors.Work(4 * macs, macs, "fp32", 1, _C.available_isas()[-1])


def _refusal(one: Wanted, found: Check) -> Left:
    case = one.case
    reason = (
        f"its logits are {found.error:.1e} away from those of the readable engine, more than "
        f"{found.tolerance:.0e}; it is not timed."
    )
    where = one.name, case.name, reason, case.device, case.streams, case.threads
    return Left(*where, found.error if np.isfinite(found.error) else None)


def peer_runner(peer: Baseline) -> Runner:
    """From a mel to samples: conditioning is timed too.

    It is made by the frame, so a run that is longer than one is of whole frames; a shorter one is
    of whole steps.
    """
    hop = peer.config.hop_length if getattr(peer.config, "n_mels", 0) else 1

    def run(steps: int) -> tuple[int, float]:
        steps = max(steps // hop * hop, min(steps, hop))
        steps += -steps % getattr(peer.config, "bands", 1)
        mel = mel_for(peer.config, steps)
        started = time.perf_counter()
        made = peer.sample(steps, mel)
        took = time.perf_counter() - started
        assert made.samples.shape == (peer.streams, steps)
        return steps, took

    return run
