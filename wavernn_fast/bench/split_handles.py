"""The paper's argument as pairs: what each handle of T(u) = |u| sum(c + d) changes, all else equal.

Pairs are looked for among the splits that were measured; what has no partner has no line.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

Fields = Mapping[str, Any]  # `Split.to_dict`

ENGINE, EAGER, WAVENET = "wavernn_fast", "torch-eager", "wavenet-"


class Pair(NamedTuple):
    """Two splits that differ in one handle, `after` pulled."""

    handle: str
    before: Fields
    after: Fields


def pairs(splits: Sequence[Fields]) -> list[Pair]:
    """All pairs, by handle: N, d, c, |u|; what was only counted has none."""
    timed = [split for split in splits if split["computation_us"] + split["overhead_us"] > 0.0]
    handles: tuple[tuple[str, Callable[[Fields, Fields], bool]], ...] = (
        ("N: WaveNet, WaveRNN", _fewer_products),
        ("d: calls of a library, one engine", _one_engine),
        ("c: dense, pruned", _pruned),
        ("|u|: one stream a step, several", _more_streams),
    )
    return [
        Pair(handle, before, after)
        for handle, fits in handles
        for before, after in _couples(timed)
        if fits(before, after)
    ]


def per_sample(split: Fields, key: str) -> float:
    """`total_us`, `computation_us` or `overhead_us` of one sample of one stream."""
    return float(split[key]) / int(split["streams"])


def _couples(splits: Sequence[Fields]) -> Iterator[tuple[Fields, Fields]]:
    """Every ordered couple on the same device with as many threads."""
    for before in splits:
        for after in splits:
            if before is not after and _same(before, after, "device", "threads"):
                yield before, after


def _same(before: Fields, after: Fields, *keys: str) -> bool:
    return all(before[key] == after[key] for key in keys)


def _fewer_products(before: Fields, after: Fields) -> bool:
    """The same kind of program; of WaveRNN the model of the same tables, dual and dense."""
    return (
        before["model"].startswith("wavenet:")
        and after["model"].startswith("dual:")
        and after["model"].count(":") == 1
        and before["runner"] == WAVENET + after["runner"]
        and _same(before, after, "streams", "dtype")
    )


def _one_engine(before: Fields, after: Fields) -> bool:
    return (
        before["runner"] == EAGER
        and after["runner"] == ENGINE
        and _same(before, after, "model", "streams", "dtype")
    )


def _pruned(before: Fields, after: Fields) -> bool:
    return (
        before["runner"] == after["runner"] == ENGINE
        and after["model"].startswith(before["model"] + ":")
        and _same(before, after, "streams", "dtype")
    )


def _more_streams(before: Fields, after: Fields) -> bool:
    return (
        before["streams"] == 1
        and after["streams"] > 1
        and _same(before, after, "model", "runner", "dtype")
    )
