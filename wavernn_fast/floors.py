"""What the hardware allows: probed rates of these minutes, and the samples a second they permit.

Below 8 streams a step takes at least the longest of three times:

- read: all weights once, at the bandwidth measured for that many bytes a thread;
- fp16, bf16: widening all weights once, at the rate measured for doing just that from L1;
- arithmetic: the multiply-adds of all streams.

From 8 streams on only arithmetic counts: the others are shared by the streams.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from .vocoder import Vocoder

ARITHMETIC_STREAMS = 8
_PROBE_SECONDS = 0.1
_CHOOSING_ROUNDS = 3
Rates = Mapping[str, float]  # probe kind -> bytes/s ("read"), flop/s ("fma"), multiply-adds/s


class Work(NamedTuple):
    """What a step of one stream has to do at the least, and with what."""

    weight_bytes: int  # read
    macs_per_step: int
    dtype: str
    threads: int
    isa: str  # the best instruction set that may be used
    bands: int = 1  # samples that one reading of all weights makes: bytes above are a share of them

    @classmethod
    def of(cls, voc: Vocoder) -> Work:
        """Of an engine on the CPU."""
        engine, bands = voc.engine, voc.config.bands
        size = engine.weight_bytes, engine.macs_per_step
        return cls(*size, voc.dtype, voc.cpu_threads, voc.isa, bands)


@dataclass(frozen=True)
class Floor:
    """Fewest seconds of one step of all streams, by what limits it."""

    seconds: dict[str, float]  # limit -> seconds

    @property
    def limit(self) -> str:
        """Which limit is the tightest."""
        return max(self.seconds, key=self.seconds.__getitem__)

    def samples_per_s(self, streams: int, limit: str | None = None) -> float:
        """Samples a second of all streams that the tightest (or the named) limit allows."""
        return streams / self.seconds[limit or self.limit]


def arithmetic(dtype: str) -> tuple[str, int]:
    """Which probe bounds the arithmetic of a dtype, and its operations a multiply-add.

    The "fma" probe counts two operations a multiply-add; int8 makes two passes of 7 bits over the
    weights, int8-fast one.
    """
    return {"int8": ("int8", 2), "int8-fast": ("int8", 1)}.get(dtype, ("fma", 2))


def kinds(dtype: str, streams: int) -> tuple[str, ...]:
    """Probes that the floor of a case needs."""
    last = arithmetic(dtype)[0]
    if streams >= ARITHMETIC_STREAMS:
        return (last,)
    return ("read", dtype, last) if dtype in ("fp16", "bf16") else ("read", last)


def probe(work: Work, kind: str) -> float:
    """Rate of this machine now, with the threads and the fastest instructions that may be used.

    An engine on AVX-512 uses 256-bit instructions where they are faster. What is read is as large
    as all weights of a thread, so that it lies in the same cache.
    """
    from . import _C

    share = max(1, work.bands * work.weight_bytes // work.threads)
    isa = _fastest_isa(kind, share, work.threads, work.isa)
    return _C.probe(kind, share, work.threads, _PROBE_SECONDS, isa)


@cache
def _fastest_isa(kind: str, share: int, threads: int, isa: str) -> str:
    """Of `isa` and those below it, the one with the best probe; a forced one below is kept to."""
    from . import _C

    names = _C.available_isas()
    allowed = [name for name in names[: names.index(isa) + 1] if name != "scalar"] or [isa]
    best: dict[str, float] = dict.fromkeys(allowed, 0.0)
    for _ in range(_CHOOSING_ROUNDS if len(allowed) > 1 else 0):
        for name in allowed:
            rate = _C.probe(kind, share, threads, _PROBE_SECONDS / 4, name)
            best[name] = max(best[name], rate)
    return max(best, key=best.__getitem__)


def floor(work: Work, streams: int, rates: Rates) -> Floor:
    """Bound a step by the probed rates (one for each of `kinds`)."""
    macs, dtype = work.macs_per_step, work.dtype
    kind, operations = arithmetic(dtype)
    seconds = {kind: streams * operations * macs / rates[kind]}
    if streams < ARITHMETIC_STREAMS:
        seconds["read"] = work.weight_bytes / rates["read"]
        if dtype in rates and dtype != kind:
            seconds[dtype] = macs / rates[dtype]
    return Floor(seconds)


def medians(rounds: list[dict[str, float]]) -> dict[str, float]:
    """Median of every kind over rounds."""
    return {kind: statistics.median(r[kind] for r in rounds) for kind in rounds[0]}
