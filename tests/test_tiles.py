"""Batches are multiplied in register tiles: each shape gives the bits of one stream."""

from __future__ import annotations

import cases
import numpy as np
import pruned_models
import pytest
from engine_work import ISAS, make
from quick import first_is_quick

COUNTS = [*range(2, 15), 17, 24, 33]  # every tile, alone and beside others
N_STEPS = 5

# Units and outputs of the hidden layers: panels of one, two, three and six blocks of 16 rows, and
# columns that are no multiple of 64.
SIZES = [(96, 16), (160, 32), (64, 48), (192, 96)]


def check(engine) -> None:
    """Every number of streams gives each of them the bits that it gets alone."""

    def run(seeds):
        n = len(seeds)
        streams = [engine.open(seed) for seed in seeds]
        return engine.run(streams, [N_STEPS] * n, [None] * n, [None] * n, return_logits=True)

    alone = [run([seed])[0] for seed in range(max(COUNTS))]
    assert len({samples.tobytes() for samples, _ in alone}) > 1  # they are not all the same
    for n in COUNTS:
        for seed, (samples, logits) in enumerate(run(range(n))):
            assert np.array_equal(samples, alone[seed][0]), (n, seed)
            assert np.array_equal(logits, alone[seed][1]), (n, seed)


@pytest.mark.parametrize("sizes", SIZES, ids=str)
@pytest.mark.parametrize("dtype", ["fp32", "fp16", "bf16", "int8", "int8-fast"])
@pytest.mark.parametrize("isa", first_is_quick(list(reversed(ISAS))))
def test_every_number_of_streams_gives_the_bits_of_one(isa, dtype, sizes):
    config = cases.dual_config(*sizes)
    tensors = cases.random_tensors(config, seed=3)
    check(make(config, tensors, isa=isa, dtype=dtype, threads=1))


@pytest.mark.parametrize(
    ("dtype", "layout"),
    [(d, b) for d in ("fp32", "bf16", "int8", "int8-fast") for b in ("16x1", "4x4")]
    + [("int8", "8x4"), ("int8-fast", "8x4")],
)
@pytest.mark.parametrize("isa", first_is_quick(list(reversed(ISAS))))
def test_every_number_of_streams_of_a_pruned_model_gives_the_bits_of_one(isa, dtype, layout):
    config = cases.dual_config(128, 64)
    rows, columns = map(int, layout.split("x"))
    tensors = pruned_models.pruned(config, (rows, columns), density=0.2, seed=3)
    check(make(config, tensors, isa=isa, dtype=dtype, sparse=layout, threads=1))
