"""Where the operations of each baseline are: what gets a clock.

Names are the engine's: R is what the state is multiplied by, O1 to O4 the output layers, in a
residual model R1, I2 and R2 the GRUs'. What has no name of its own (indices, joined vectors, the
sample stored) is left over as "rest".
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from ..baselines import Baseline
from .clocks import Clock, Library, Matrix, Places, rebuilt

CONDITIONING, NUMBERS = "conditioning", "numbers"  # both made for many samples at once
# Weight of the fused loops (`baselines.cells.loop_weights`) -> operation.
_WEIGHTS = {
    "R": "R", "I": "inputs", "I_now": "inputs", "O1": "O1", "O2": "O2", "O3": "O3", "O4": "O4",
    "R1": "R1", "W2": "I2", "R2": "R2", "F1": "O1", "F2": "O2", "F3": "O3",
}  # fmt: skip
# Module of an eager model (`models.eager`) -> operation.
_MODULES = {
    "R": "R", "I_coarse": "inputs", "I_fine": "inputs", "I": "inputs", "O1": "O1", "O2": "O2",
    "O3": "O3", "O4": "O4", "rnn1": "GRU 1", "rnn2": "GRU 2", "rnn": "GRU", "fc1": "O1",
    "fc2": "O2", "fc3": "O3",
}  # fmt: skip
_WAVENET = {
    "_old_taps": "old taps", "_dilated": "dilated", "_gate": "gates", "_residual": "residual",
    "_skip": "skip", "_output1": "O1", "_output2": "O2", "_embed": "inputs", "_draw": "draw",
}  # fmt: skip
_PRODUCTS = ("addmm", "mm", "matmul", "addmv", "mv", "addcmul", "mul")  # of torch


def can_be_taken_apart(baseline: Baseline) -> bool:
    """Whether `clocks_in` finds operations; else the loop is one."""
    return baseline.device == "cpu" and baseline.name in _POINTS


@contextmanager
def clocks_in(baseline: Baseline, clock: Clock) -> Iterator[None]:
    """Time the operations of a baseline while this lasts."""
    with ExitStack() as stack:
        _POINTS[baseline.name](baseline, Places(stack, clock))
        yield


def _numpy(baseline: Any, places: Places) -> None:
    for name, operation in _WEIGHTS.items():
        if name in baseline.weights:
            matrix = Matrix(baseline.weights[name], places.clock, operation)
            places.item(baseline.weights, name, matrix)
    places.method(baseline, "_cell", "gates")
    places.method(baseline, "_draw", "draw")
    places.method(baseline, "_logistic", "draw")
    _ahead(baseline, places)


def _ahead(baseline: Any, places: Places) -> None:
    """What the fused loops make before the steps that need it."""
    from ..baselines import loops

    places.method(baseline.conditions, "rows", CONDITIONING)
    places.method(loops, "to_numbers", NUMBERS)


def _torch_inference(baseline: Any, places: Places) -> None:
    from ..baselines import torch_steps

    clock = places.clock
    operations = {id(baseline.weights[k]): v for k, v in _WEIGHTS.items() if k in baseline.weights}
    library = Library(vars(torch_steps)["torch"], _PRODUCTS, operations, clock)
    world = rebuilt(torch_steps, {"torch": library})
    for name, operation in (("cell", "gates"), ("draw", "draw")):
        world[name] = clock.timed(operation, world[name])
    places.value(baseline, "step", world[baseline.step.__name__])
    _ahead(baseline, places)


def _torch_eager(baseline: Any, places: Places) -> None:
    from ..models import eager, eager_embedded, eager_residual, eager_subscale

    model = baseline.model
    for name, operation in _MODULES.items():
        if hasattr(model, name):
            module = places.clock.timed(operation, getattr(model, name))
            places.value(model, name, module)
    places.method(model, "conditions", CONDITIONING)
    places.method(eager, "_half_cell", "gates")
    for home in (eager, eager_embedded, eager_subscale):
        places.method(home, "_categorical", "draw")
    draws = eager_residual._DRAWS
    for head in list(draws):
        places.item(draws, head, places.clock.timed("draw", draws[head]))


def _wavenet(baseline: Any, places: Places) -> None:
    for name, operation in _WAVENET.items():
        if hasattr(baseline, name):
            places.method(baseline, name, operation)


_POINTS: dict[str, Callable[[Any, Places], None]] = {
    "numpy": _numpy,
    "torch-inference": _torch_inference,
    "torch-eager": _torch_eager,
    "wavenet-numpy": _wavenet,
    "wavenet-torch-eager": _wavenet,
    "wavenet-torch-inference": _wavenet,
}
