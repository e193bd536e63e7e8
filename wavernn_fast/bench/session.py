"""Measured speed beside yardsticks of the same minutes: baselines and the hardware floor.

All cases of a session take turns: in every round each engine runs between two probes of its floor,
and each baseline runs once. So a machine that slows down slows everything that is compared. Every
figure is a median of the rounds; the best, the slowest tenth and the spread are given beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from .. import floors
from ..config import ModelConfig
from ..errors import DeviceError, InputError
from .compare import baseline_row, engine_row
from .peers import Peers, Wanted, absent, choose, wanted
from .rows import ENGINE, Case, Left, Result
from .runs import EngineRun, Engines, Model, Probe, ProbeRun, Run, probe_run, rows_of

Progress = Callable[[int], None]


def measure(
    models: Mapping[str, Model],
    cases: Sequence[Case],
    *,
    rounds: int = 5,
    seconds: float = 0.5,
    baselines: str | Sequence[str] = "default",
    gpu_cluster: int = 0,
    progress: Progress | None = None,
) -> Result:
    """Measure all cases in one interleaved session.

    Parameters
    ----------
    models : name -> configuration and canonical tensors
        Of a configuration that no engine runs (WaveNet) only baselines are timed.
    cases : what to run; every name in `models`
    rounds : int
        1 or more. Odd rounds run in reverse order.
    seconds : float
        About how long one engine or baseline runs in a round.
    baselines : "default", "all", "none", or names
        Each runs with one stream, and with every number of streams of `cases`; on one thread and on
        every number of threads of `cases`.
    gpu_cluster : int
        Of the engines on a GPU, as `Vocoder` takes it.
    progress : callable, optional
        Called with what has been done of `Session.measurements`.

    Returns
    -------
    Result
        Rows of the engines in the order of `cases`, then those of the baselines.

    Raises
    ------
    InputError
        If an argument is unusable.
    DeviceError
        If no case runs here.
    """
    session = Session(models, cases, baselines, gpu_cluster)
    return session.measure(rounds, seconds, progress)


class Session:
    """What is measured together; see `measure`."""

    def __init__(
        self,
        models: Mapping[str, Model],
        cases: Sequence[Case],
        baselines: str | Sequence[str] = "default",
        gpu_cluster: int = 0,
    ) -> None:
        self.models, self.cases, self.gpu_cluster = dict(models), list(cases), gpu_cluster
        asked = wanted(choose(baselines), cases, self.models)
        able = list(dict.fromkeys(one.name for one in asked))
        self.left_out = absent(able)
        lacking = {one.runner for one in self.left_out}
        self._wanted = [one for one in asked if one.name not in lacking]
        if baselines not in ("default", "all"):  # named, so that silence would be odd
            why = "it runs none of these models on these devices."
            self.left_out += [Left(n, None, why) for n in choose(baselines) if n not in able]
        self._engine_cases = [c for c in cases if isinstance(self.models[c.name][0], ModelConfig)]
        self.engines: list[EngineRun] = []
        self.peers: list[Run] = []
        self.probes: dict[tuple[str, int, int], Probe] = {}  # of baselines; see `_exactly`
        self.refused: list[Left] = []

    def measurements(self, rounds: int) -> int:
        """How much `progress` is called with, all together: making something counts as a round."""
        return (rounds + 1) * (len(self._engine_cases) + len(self._wanted))

    def measure(
        self, rounds: int = 5, seconds: float = 0.5, progress: Progress | None = None
    ) -> Result:
        """Make, check, calibrate and time everything."""
        if rounds < 1 or not seconds > 0.0:
            raise InputError("Give at least one round of more than 0 seconds.")
        if not self._engine_cases and not self._wanted:
            why = "; ".join(dict.fromkeys(left.sentence() for left in self.left_out))
            raise InputError(
                "There is nothing to measure: no engine runs these models, and none of the "
                f"baselines asked for does{f' ({why})' if why else ''}."
            )
        done = progress or (lambda count: None)
        alone = self._prepare(seconds, rounds, done)
        order = [*self.engines, *self.peers, *alone]
        for i in range(rounds):
            for one in order if i % 2 == 0 else reversed(order):
                one.measure()
                done(not isinstance(one, ProbeRun))
        return self._result()

    # -- pieces ------------------------------------------------------------------------------------

    def _prepare(self, seconds: float, rounds: int, done: Progress) -> list[ProbeRun]:
        """Fill `engines`, `peers` and `probes`; returns what only probes."""
        engines, peers = Engines(self.gpu_cluster), Peers(self.models)
        for case in self._engine_cases:
            made = self._engine(engines, case)
            if made is not None:
                made.calibrate(seconds)
                self.engines.append(made)
            done(1 if made is not None else rounds + 1)
        if self._engine_cases and not self.engines:
            raise DeviceError(self.left_out[-1].sentence())
        absent_devices = {c.device for c in self._engine_cases} - {
            run.case.device for run in self.engines
        }
        for one in self._wanted:
            here = one.case.device not in absent_devices
            run = self._peer(peers, one, seconds) if here else None
            if run is not None:
                self.peers.append(run)
            done(1 if run is not None else rounds + 1)
        self.refused = peers.refused
        return self._prepare_probes(peers)

    def _engine(self, engines: Engines, case: Case) -> EngineRun | None:
        """None where a device other than the CPU cannot run the case."""
        try:
            return engines.run(case, self.models[case.name])
        except (DeviceError, InputError) as error:
            if case.device == "cpu" or len(self._engine_cases) == 1:
                raise
            where = case.name, str(error), case.device, case.streams, case.threads
            self.left_out.append(Left(ENGINE, *where))
            return None

    def _peer(self, peers: Peers, one: Wanted, seconds: float) -> Run | None:
        """None where a baseline is refused or fails, as for want of a compiler; it is listed."""
        case = one.case
        try:
            run = peers.run(one)
            if run is not None:
                run.calibrate(seconds)
            return run
        except Exception as error:  # of any library; the rest of the session is not to suffer
            first = str(error).strip().partition("\n")[0]
            reason = f"it failed with {type(error).__name__}: {first}"
            where = case.name, reason, case.device, case.streams, case.threads
            self.left_out.append(Left(one.name, *where))
            return None

    def _prepare_probes(self, peers: Peers) -> list[ProbeRun]:
        """Beside baselines stand the probes of the float32 engine; without one, probes alone."""
        floats = [e for e in self.engines if e.probe is not None and e.case.dtype == "fp32"]
        exact = {_exactly(engine.case): engine.probe for engine in floats}
        alike = {self._alike(engine.case): engine.probe for engine in reversed(floats)}
        alone: list[ProbeRun] = []
        for case in (peer.case for peer in self.peers if peer.case.device == "cpu"):
            if (probe := exact.get(_exactly(case)) or alike.get(self._alike(case))) is None:
                rows, work = rows_of(self.models[case.name][0]), peers.work(case.name, case.threads)
                alone.append(probe_run(case, work, rows))
                probe = alike[self._alike(case)] = alone[-1].probe
            self.probes[_exactly(case)] = probe
        return alone

    def _alike(self, case: Case) -> tuple[str, int, bool]:
        """What cases have in common that one probe can serve."""
        side_by_side = case.streams * rows_of(self.models[case.name][0])
        return case.name, case.threads, side_by_side < floors.ARITHMETIC_STREAMS

    def _result(self) -> Result:
        rows = [engine_row(run, self.peers, self.models) for run in self.engines]
        for peer in self.peers:
            probe = self.probes.get(_exactly(peer.case)) if peer.case.device == "cpu" else None
            rows.append(baseline_row(peer, probe, self.peers, self.models))
        return Result(tuple(rows), tuple(self.refused), tuple(self.left_out))


def _exactly(case: Case) -> tuple[str, int, int]:
    return case.name, case.threads, case.streams
