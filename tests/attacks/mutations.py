"""Sound files, damaged at random or cut, read again and again by one process.

Run as a program:

    python mutations.py cut STEP FILE ...            cut at every STEP-th byte
    python mutations.py alter COUNT SEED FILE ...    COUNT random alterations

Prints a line of JSON for each file: how often each end came, and the first ends that must not be.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from wavernn_fast import checkpoints
from wavernn_fast.errors import ModelError


def cuts(content: bytes, step: int) -> Iterator[bytes]:
    for size in range(0, len(content), step):
        yield content[:size]


def altered(content: bytes, rng: np.random.Generator) -> bytes:
    """One to six changes, half of them near the ends, where a file says what it holds."""
    data = bytearray(content)
    for _ in range(rng.integers(1, 7)):
        size = len(data)
        near = int(rng.integers(1, 4096)) % size
        at = int(rng.choice([rng.integers(size), rng.integers(size), near, size - 1 - near]))
        run = int(rng.integers(1, 64))
        change = rng.integers(7)
        if change <= 2:
            data[at] = rng.integers(256)
        elif change == 3:
            data[at] ^= 1 << int(rng.integers(8))
        elif change == 4:
            del data[at : at + run]
        elif change == 5:
            data[at:at] = rng.bytes(run)
        else:  # bytes from another place
            other = int(rng.integers(size))
            data[at : at + run] = data[other : other + run]
        if not data:
            break
    return bytes(data)


def end_of(path: Path, sound: tuple) -> str:
    """How a damaged file ends: refused, same, other (sound numbers), or the name of an error."""
    try:
        config, tensors = checkpoints.load(path)
    except ModelError:
        return "refused"
    except BaseException as error:
        return f"{type(error).__name__}: {error}"
    equal = config == sound[0] and all(np.array_equal(tensors[n], t) for n, t in sound[1].items())
    finite = all(np.isfinite(t).all() for t in tensors.values())
    return "same" if equal else "other" if finite else "not finite"


def ends_of(path: Path, how: str, *numbers: int) -> Counter[str]:
    """How often each end came when a file was damaged."""
    content, sound = path.read_bytes(), checkpoints.load(path)
    if how == "cut":
        damaged = cuts(content, *numbers)
    else:
        count, seed = numbers
        rng = np.random.default_rng(seed)
        damaged = (altered(content, rng) for _ in range(count))
    target = path.with_name(f"damaged{path.suffix}")
    ends: Counter[str] = Counter()
    for data in damaged:
        target.unlink(missing_ok=True)  # to write over a file takes some systems a millisecond
        target.write_bytes(data)
        ends[end_of(target, sound)[:300]] += 1
    return ends


def main() -> None:
    how, *words = sys.argv[1:]
    count = 1 if how == "cut" else 2
    numbers = [int(word) for word in words[:count]]
    for path in words[count:]:
        print(json.dumps(ends_of(Path(path), how, *numbers)), flush=True)


if __name__ == "__main__":
    main()
