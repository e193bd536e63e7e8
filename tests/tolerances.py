"""Where each tolerance of the one table, `wavernn_fast.verification.TOLERANCES`, comes from.

All are for logits under teacher forcing against `reference.run` (float64): free-running sequences
part at the first draw that falls near a boundary, so equality of samples is asked only of twins
that add in the same order.

A tolerance is a pair (absolute, relative): |found - expected| <= absolute + relative * spread,
where spread is the largest |expected| of the run (a logit near zero is no easier than its
neighbours: it is a difference of the same large products).

fp32        Logits reach 16 on the cases, so one single-precision rounding of them is 1e-6. torch
            in float32 stays below 7e-6 on every case. 1e-4 is the promise: it leaves room for an
            approximate exp or tanh and for another order of summation. A trained model whose logits
            reach 151 amplifies the rounding of its recurrent product to 7e-6 (root mean square):
            the worst of 5,000 samples is 8.3e-5 on the median of 32 recordings and within 1e-4 on
            27, the four of test_real.py among them, which asks for 1e-4 flat. Hence 5e-7 of the
            largest logit on top, for models and recordings that are not known here. Units of
            trained subscale models hear the difference of a prediction and c(t) at gains of
            thousands: there the engine errs by 2e-4 and torch in float32 by 2.4e-3, and `verify`
            then asks for no more than torch has, up to four times the tolerance.
fp16, bf16  Rounding only the weight matrices (by up to 2**-11 and 2**-8 of a weight) and keeping
            everything else in float64 moves the logits by up to 1.2e-3 (fp16) and 8.5e-3 (bf16) of
            the spread, over every case with two seeds; test_reference.py holds the cases to 2e-3
            and 1e-2. 2e-2 is the promise for both. Activations are not rounded, so nothing else
            adds to it; but a model of 16 units with unlucky weights has been seen to amplify bf16
            rounding to 2.3e-2 over 160 steps: so few units leave nothing to average.
int8        Weights carry 127 levels a row, activations 14 bits in two passes of 7: what is left is
            the rounding of the weights, 0.3 / 127 of the largest of a row each. Measured up to
            2.7e-2 of the spread on the cases; 4e-2 is the promise.
int8-fast   Activations have 63 (signed) or 127 (after a ReLU) levels a vector as well: a product of
            n terms errs by about 0.3 / 63 of an activation times sqrt(n) weights. Measured
            up to 4e-2 on the cases. Trained weights have larger outliers than the cases, and the
            table is also that of `verify`: 1.5e-1. It is no bound: a
            model of 32 pruned units whose rows keep one or two weights has reached 1.9e-1.
emu         The persistent kernel stores fp32 and fp16 and rounds activations to float32 as the CPU
            engine does, so both rows hold for it too. Exact arithmetic leaves nothing but the
            rounding of single operations: on 500 free samples of a model of 64 units, on 3 of the
            paper's 896 and on 20 of models with weights in every kind of memory the largest
            difference is 2.5e-6 (fp16: against a reference with the same rounded weights).
            KERNEL_EXACT, 1e-5, is asked of these runs instead: a term that is left out of a sum or
            added twice would pass 1e-4 sooner. With two exchanges a sample every product of the
            last layer is rounded to 2**-24, at most F / 2 of 2**-24 in a logit, which is in it.
            The kernel of the residual core draws the values of a mixture in float32: a logarithm,
            an exponential and a product, each rounded, are 1e-6 of 1, and as much comes from the
            logits. 4.5e-7 is seen over 60 free samples; KERNEL_VALUE, 2e-6, is asked of 150. Those
            of a gaussian and of a beta as well: 6e-7 over 40 free samples.
many        The kernel for many streams multiplies activations in fp16, one of each pair with a bit
            less (the flag of its message): 2**-10 of a value at most, about 2**-11.5 in the mean.
            Over a few hundred terms and steps the logits of the cases move by up to 7e-4 of the
            spread; 3e-3 is asked (FP16_ACTIVATIONS, weights rounded on both sides). With split
            activations 2e-6 is seen and KERNEL_EXACT asked.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from wavernn_fast.verification import TOLERANCES

LOGITS = TOLERANCES  # the package's, so that `verify` and the tests ask for the same
EAGER_FLOAT64 = (1e-9, 0.0)  # the same equations in float64: only the order of sums differs
EAGER_FLOAT32 = (1e-4, 0.0)  # as fp32 above
FP16_ACTIVATIONS = 3e-3  # of the spread, see many above
KERNEL_EXACT = (1e-5, 0.0)  # the emulated kernel, see emu above
KERNEL_VALUE = 2e-6  # of a value that it draws, see there

# A draw whose margin (see `reference.categorical`) is below this may fall either way in fp32: an
# error of at most d in each logit moves a cumulative probability by at most d / 2 = 5e-5, and
# rounding 256 weights to integers, of which the largest is 2**23, by 128 / 2**23 = 1.5e-5.
TIE_MARGIN_FP32 = 1e-4


def logit_error(found: NDArray[np.floating], expected: NDArray[np.floating]) -> float:
    """Largest absolute difference; infinite if `found` holds a NaN or has another shape."""
    if found.shape != expected.shape or not np.isfinite(found).all():
        return float("inf")
    return float(np.abs(found - expected).max(initial=0.0))


def logit_limit(expected: NDArray[np.floating], dtype: str) -> float:
    """Largest allowed `logit_error` against `expected` for an engine of this dtype."""
    absolute, relative = LOGITS[dtype]
    return absolute + relative * float(np.abs(expected).max(initial=0.0))
