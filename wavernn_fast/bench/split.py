"""Where the time of a sample goes: T(u) = |u| sum(c + d).

Kalchbrenner et al. 2018, section 2: a sample takes the sum over the N operations that must follow
each other of the computation c and the overhead d of each. A `Split` holds those for one way to run
one model; `bench` makes them, the report and the pictures read them.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True)
class Operation:
    """One kind of operation of a sample, all its occurrences together; times are of one sample."""

    name: str  # "R", "O1", "gates", "draw", "blocks", "meetings" and so on
    count: int  # how often it occurs in a sample
    computation_us: float  # c, summed over the occurrences
    overhead_us: float  # d, summed over the occurrences: call, launch, exchange, meeting

    def __post_init__(self) -> None:
        if self.count < 0 or self.computation_us < 0.0 or self.overhead_us < 0.0:
            raise ValueError(f"{self.name}: counts and times are 0 or more.")


@dataclass(frozen=True)
class Split:
    """The time of a sample of one model, run in one way, by operation.

    `total_us` is measured without any clocks inside; the operations need not add up to it exactly,
    since reading clocks takes time too. Times are of one sample of one stream-step: with B streams
    side by side, of one step of all of them.
    """

    model: str
    runner: str  # "wavernn_fast" or the name of a baseline
    device: str  # "cpu", "cuda", "emu"
    dtype: str
    threads: int
    streams: int  # side by side in a step
    sequential: int  # N: products that must follow each other in a sample
    operations: tuple[Operation, ...]
    total_us: float
    method: str  # how c and d were told apart: "stage clocks", "empty twin", "counted"
    facts: dict[str, Any] = field(default_factory=dict)  # exchanges counted, launches, and so on

    @property
    def computation_us(self) -> float:
        """Sum of c."""
        return sum(o.computation_us for o in self.operations)

    @property
    def overhead_us(self) -> float:
        """Sum of d."""
        return sum(o.overhead_us for o in self.operations)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            **asdict(self),
            "computation_us": self.computation_us,
            "overhead_us": self.overhead_us,
        }
