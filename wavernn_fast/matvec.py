"""Matrix-vector products by themselves: table 4 of the WaveRNN paper, on this machine.

Kalchbrenner et al. 2018 time square matrices on two big cores of a phone: dense, and pruned in
blocks so that few weights are left. Their claim is that a block-sparse product costs about as much
a weight as a dense one. Here every matrix is packed and multiplied as the engine does it, in
interleaved rounds, beside the peak of the arithmetic and of reading its weights.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import floors
from .synthetic import drop_blocks

_PROBE_SECONDS = 0.03


@dataclass(frozen=True)
class Matrix:
    """A square matrix of the table."""

    size: int
    sparsity: float = 0.0  # share of zero blocks
    block: str = ""  # "16x1"; empty: dense
    twin: int = 0  # size of the dense matrix with about as many weights
    paper: tuple[float, float] | None = None  # products/s on a Snapdragon 808 and 835

    def weights(self) -> NDArray[np.float32]:
        """Random weights, float32 [size, size]."""
        random = np.random.default_rng(self.size)
        full = random.standard_normal((self.size, self.size)).astype(np.float32)
        if not self.block:
            return full
        rows, columns = (int(n) for n in self.block.split("x"))
        return drop_blocks(full, (rows, columns), self.sparsity, random)


# Table 4 of the paper (its "MVM"), and the same matrices in blocks of 8x4.
TABLE = (
    Matrix(224, paper=(95.4e3, 95.4e3)),
    Matrix(384, paper=(32.6e3, 32.6e3)),
    Matrix(1024, paper=(1.8e3, 3.8e3)),
    Matrix(512, 0.8, "1x1", 224, (20.1e3, 36.5e3)),
    Matrix(1024, 0.95, "1x1", 224, (17.2e3, 32.2e3)),
    Matrix(2048, 0.964, "1x1", 384, (6.5e3, 12.1e3)),
    Matrix(512, 0.8, "4x4", 224, (85.2e3, 136.6e3)),
    Matrix(1024, 0.95, "4x4", 224, (75.6e3, 118.2e3)),
    Matrix(2048, 0.964, "4x4", 384, (28.1e3, 42.2e3)),
    Matrix(512, 0.8, "16x1", 224, (94.0e3, 138.1e3)),
    Matrix(1024, 0.95, "16x1", 224, (85.5e3, 127.4e3)),
    Matrix(2048, 0.964, "16x1", 384, (30.0e3, 41.8e3)),
    Matrix(512, 0.8, "8x4", 224),
    Matrix(1024, 0.95, "8x4", 224),
    Matrix(2048, 0.964, "8x4", 384),
)


@dataclass(frozen=True)
class Row:
    """What was measured of one matrix; rates are medians of the rounds."""

    size: int
    sparsity: float
    block: str
    dtype: str
    isa: str
    threads: int
    products_per_s: float
    gflops: float  # two operations a weight that is there
    weights: int  # multiplied
    weight_bytes: int  # with columns, row ends and padding
    ns_per_weight: float
    share_of_peak: float  # of the multiply-adds probed in the same round
    share_of_read: float  # of the bytes a second probed in the same round
    cost_of_dense: float | None  # ns_per_weight over that of the dense twin
    paper_products_per_s: tuple[float, float] | None

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return asdict(self)


@dataclass
class _Run:
    matrix: Matrix
    dtype: str
    threads: int
    weight: NDArray[np.float32]
    rates: list[float] = field(default_factory=list)
    peaks: list[float] = field(default_factory=list)  # share of the arithmetic peak
    reads: list[float] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)

    def measure(self, seconds: float) -> None:
        from . import _C

        sparse = self.matrix.block or "off"
        self.facts = _C.matvec(
            self.weight, dtype=self.dtype, sparse=sparse, threads=self.threads, seconds=seconds
        )
        rate, macs = self.facts["products_per_s"], self.facts["macs"]
        kind, operations = floors.arithmetic(self.dtype)
        share = self.facts["weight_bytes"] // self.threads
        peak, read = (
            _C.probe(probe, share, self.threads, _PROBE_SECONDS) for probe in (kind, "read")
        )
        self.rates.append(rate)
        self.peaks.append(rate * macs * operations / peak)
        self.reads.append(rate * self.facts["weight_bytes"] / read)


def offered(block: str, dtype: str) -> bool:
    """Whether the engine has products of such blocks in this dtype."""
    return {"8x4": dtype.startswith("int8"), "1x1": not dtype.startswith("int8")}.get(block, True)


def runs(dtypes: Sequence[str], threads: Sequence[int]) -> int:
    """How many products one round of `measure` times."""
    rows = sum(offered(matrix.block, dtype) for matrix in TABLE for dtype in dtypes)
    return rows * len(threads)


def measure(
    dtypes: Sequence[str],
    threads: Sequence[int],
    *,
    rounds: int,
    seconds: float,
    progress: Callable[[int], None] | None = None,
) -> list[Row]:
    """Time every matrix of `TABLE`.

    Parameters
    ----------
    dtypes : how weights are kept; blocks that a dtype does not have are left out
    threads : team sizes; a team meets after every product
    rounds : int
        1 or more; odd rounds run in reverse order.
    seconds : float
        About how long one product is repeated in a round.
    progress : callable, optional
        Called with 1 after every measurement, `rounds` times `runs(...)` in all.

    Returns
    -------
    list of Row
    """
    cases = [
        _Run(matrix, dtype, count, matrix.weights())
        for count in threads
        for dtype in dtypes
        for matrix in TABLE
        if offered(matrix.block, dtype)
    ]
    for i in range(rounds):
        for run in cases if i % 2 == 0 else reversed(cases):
            run.measure(seconds)
            if progress is not None:
                progress(1)
    dense = {
        (run.matrix.size, run.dtype, run.threads): _ns(run) for run in cases if not run.matrix.block
    }
    return [_row(run, dense) for run in cases]


def _ns(run: _Run) -> float:
    return 1e9 / statistics.median(run.rates) / float(run.facts["macs"])


def _row(run: _Run, dense: dict[tuple[int, str, int], float]) -> Row:
    rate, macs, matrix = statistics.median(run.rates), run.facts["macs"], run.matrix
    twin = dense.get((matrix.twin, run.dtype, run.threads))
    return Row(
        size=matrix.size,
        sparsity=matrix.sparsity,
        block=matrix.block,
        dtype=run.dtype,
        isa=run.facts["isa"],
        threads=run.threads,
        products_per_s=rate,
        gflops=2e-9 * macs * rate,
        weights=macs,
        weight_bytes=run.facts["weight_bytes"],
        ns_per_weight=_ns(run),
        share_of_peak=statistics.median(run.peaks),
        share_of_read=statistics.median(run.reads),
        cost_of_dense=None if twin is None else _ns(run) / twin,
        paper_products_per_s=matrix.paper,
    )


def to_markdown(rows: Sequence[Row], facts: dict[str, Any], rounds: int) -> str:
    """A table of the rows, and a line about the machine."""
    isa = ", ".join(sorted({row.isa for row in rows}))
    heads = (
        "size", "zero", "blocks", "dtype", "threads", "products/s", "Gflop/s", "ns a weight",
        "of dense", "of peak", "of read", "paper, SD 808 / 835",
    )  # fmt: skip
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    for row in rows:
        cells = [
            str(row.size),
            f"{100 * row.sparsity:g} %" if row.block else "",
            row.block or "dense",
            row.dtype,
            str(row.threads),
            f"{row.products_per_s:,.0f}",
            f"{row.gflops:.1f}",
            f"{row.ns_per_weight:.4f}",
            "" if row.cost_of_dense is None else f"{row.cost_of_dense:.2f}",
            f"{100 * row.share_of_peak:.0f} %",
            f"{100 * row.share_of_read:.0f} %",
            " / ".join(f"{n:,.0f}" for n in row.paper_products_per_s or ()),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    lines += [
        "",
        f"{facts['cpu']}, {facts['cores']} cores, {facts['cpus_allowed']} allowed, {isa}; medians "
        f"of {rounds} rounds; wavernn_fast {facts['wavernn_fast']}, {facts['date']}. "
        "Of dense: cost of a weight over that in the dense matrix with about as many weights (224 "
        "for 512 and 1024, 384 for 2048). Of peak: multiply-adds; of read: bytes of weights from "
        "where they lie. The paper: float32, two cores of a phone.",
    ]
    return "\n".join(lines)
