"""What one draw of a gaussian and of a beta head costs on this machine.

python benchmarks/real_draws.py
"""

from __future__ import annotations

import time

import numpy as np

from wavernn_fast import _C

# Head and outputs: a wide bell, a uniform, two poles, a narrow bell, a needle, off-centre, a coin.
CASES = (
    ("gaussian", (0.0, -3.0)),
    *(("beta", (2.0, 2.0)), ("beta", (0.0, 0.0)), ("beta", (-1.0, -2.0)), ("beta", (8.0, 8.5))),
    *(("beta", (14.0, 14.0)), ("beta", (3.0, -6.0)), ("beta", (-8.0, -8.0))),
)
DRAWS, ROUNDS = 2000, 30


def main() -> None:
    """Print microseconds a draw, median and best of the rounds."""
    words = np.random.default_rng(0).integers(0, 2**32, DRAWS, dtype=np.uint32)
    for head, outputs in CASES:
        rows = np.tile(np.float32(outputs), (DRAWS, 1))
        seconds = []
        for _ in range(ROUNDS):
            begun = time.perf_counter()
            _C.draw_real(head, rows, words)
            seconds.append((time.perf_counter() - begun) / DRAWS)
        print(f"{head} {outputs}: {1e6 * np.median(seconds):.2f} us, best {1e6 * min(seconds):.2f}")


if __name__ == "__main__":
    main()
