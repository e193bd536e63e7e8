"""A step, and the whole loop over it, as ONNX graphs.

Products are `Gemm` nodes x W with constant W [in, out], which ONNX Runtime packs once. Streams are
rows here: states [B, n].
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..config import ModelConfig
from .cells import Weights
from .loops import LOG_SCALE_FLOOR, numbers_size

OPSET = 17
IR_VERSION = 9  # of the same age as the operator set, so that older runtimes read it


class _Step:
    """Collects the nodes of one step; every method returns the name of its result."""

    def __init__(self, config: ModelConfig, weights: Weights) -> None:
        self.config = config
        self.nodes: list[Any] = []
        self.constants: dict[str, NDArray[Any]] = {
            name: array.T if name.endswith("_b") or array.shape[1] == 1 else array.T.copy()
            for name, array in weights.items()
        }

    def op(self, kind: str, *inputs: str, result: str = "", **attributes: Any) -> str:
        """Add a node with one result."""
        from onnx import helper

        result = result or f"{kind}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [result], **attributes))
        return result

    def constant(self, value: Any) -> str:
        """Name of a constant array."""
        name = f"constant_{len(self.constants)}"
        self.constants[name] = np.asarray(value)
        return name

    def split(self, x: str, *sizes: int) -> list[str]:
        """Columns of x, `sizes` of them each."""
        from onnx import helper

        names = [f"{x}_{len(self.nodes)}_{i}" for i in range(len(sizes))]
        where = self.constant(np.array(sizes, np.int64))
        self.nodes.append(helper.make_node("Split", [x, where], names, axis=1))
        return names

    def dense(self, x: str, name: str, bias: str = "", *, relu: bool = False) -> str:
        """Product with a matrix, plus a bias: its own, or a part of the row."""
        y = self.op("Gemm", x, name, bias or f"{name}_b")
        return self.op("Relu", y) if relu else y

    def cell(self, recurrent: str, inputs: list[str], h: str, size: int) -> str:
        """One GRU from products [B, 3 n] of the state and of the inputs [B, 2 n] and [B, n]."""
        r_gates, r_candidate = self.split(recurrent, 2 * size, size)
        gates = self.op("Sigmoid", self.op("Add", r_gates, inputs[0]))
        reset, update = self.split(gates, size, size)
        candidate = self.op("Add", self.op("Mul", reset, r_candidate), inputs[1])
        candidate = self.op("Tanh", candidate)
        kept = self.op("Mul", update, self.op("Sub", h, candidate))
        return self.op("Add", candidate, kept)

    def draw(self, logits: str, numbers: str) -> str:
        """Class [B, 1] int64 by Gumbel numbers."""
        return self.op("ArgMax", self.op("Add", logits, numbers), axis=1, keepdims=1)

    def scaled(self, drawn: str, last: float, result: str = "") -> str:
        """Class 0 to `last` -> [-1, 1]."""
        value = self.op("Cast", drawn, to=1)  # float32
        value = self.op("Mul", value, self.constant(np.float32(2.0 / last)))
        return self.op("Sub", value, self.constant(np.float32(1.0)), result=result)

    def dual(self) -> None:
        """From h [B, H], x [B, 2], row [1, 3 H], numbers [B, 512] -> the same, sample, logits."""
        half = self.config.hidden_size // 2
        r_coarse, r_fine = self.split(self.dense("h", "R"), 3 * half, 3 * half)
        h_coarse, h_fine = self.split("h", half, half)
        parts = self.split(self.dense("x", "I", "row"), 2 * half, half, 3 * half)
        u_coarse, u_fine = self.split("numbers", 256, 256)
        h_coarse = self.cell(r_coarse, parts[:2], h_coarse, half)
        coarse_logits = self.dense(self.dense(h_coarse, "O1", relu=True), "O2")
        coarse = self.draw(coarse_logits, u_coarse)
        now = self.scaled(coarse, 255)
        inputs = self.op("Add", parts[2], self.op("Mul", now, "I_now"))
        h_fine = self.cell(r_fine, self.split(inputs, 2 * half, half), h_fine, half)
        fine_logits = self.dense(self.dense(h_fine, "O3", relu=True), "O4")
        fine = self.draw(fine_logits, u_fine)
        self.op("Concat", h_coarse, h_fine, axis=1, result="h_next")
        self.op("Concat", now, self.scaled(fine, 255), axis=1, result="x_next")
        high = self.op("Mul", coarse, self.constant(np.int64(256)))
        self.op("Cast", self.op("Add", high, fine), to=6, result="sample")  # int32
        self.op("Concat", coarse_logits, fine_logits, axis=1, result="logits")

    def residual(self) -> None:
        """From h [B, 2 H], x [B, 1], row [1, 7 H + 2 K] -> h, x, sample, logits; see `dual`."""
        n, width = self.config.hidden_size, self.config.fc_size
        h1, h2 = self.split("h", n, n)
        row_1, row_2, row_p, row_q = self.split("row", 4 * n, 3 * n, width, width)
        heard = self.op("Add", self.op("Mul", "x", "I"), row_1)
        u, *inputs = self.split(heard, n, 2 * n, n)
        h1 = self.cell(self.dense(h1, "R1"), inputs, h1, n)
        v = self.op("Add", u, h1)
        inputs = self.split(self.dense(v, "W2", row_2), 2 * n, n)
        h2 = self.cell(self.dense(h2, "R2"), inputs, h2, n)
        self.op("Concat", h1, h2, axis=1, result="h_next")
        p = self.dense(self.op("Add", v, h2), "F1", row_p, relu=True)
        logits = self.dense(self.dense(p, "F2", row_q, relu=True), "F3")
        self.op("Identity", logits, result="logits")
        if self.config.head == "mol":
            self.logistic(logits)
            return
        label = self.draw(logits, "numbers")
        self.scaled(label, self.config.n_classes - 1, "x_next")
        self.op("Cast", label, to=6, result="sample")

    def logistic(self, logits: str) -> None:
        """Draw x from mixtures of logistics."""
        n = self.config.n_classes // 3
        mixtures, means, log_scales = self.split(logits, n, n, n)
        gumbel, value = self.split("numbers", n, 1)
        k = self.draw(mixtures, gumbel)
        mean = self.op("GatherElements", means, k, axis=1)
        log_scale = self.op("GatherElements", log_scales, k, axis=1)
        floor = self.constant(np.float32(LOG_SCALE_FLOOR))
        scale = self.op("Exp", self.op("Max", log_scale, floor))
        x = self.op("Add", mean, self.op("Mul", scale, value))
        ends = (self.constant(np.float32(-1.0)), self.constant(np.float32(1.0)))
        self.op("Clip", x, *ends, result="x_next")
        self.op("Identity", "x_next", result="sample")


def _shapes(config: ModelConfig, row: NDArray[np.float32]) -> dict[str, tuple[int, list[Any]]]:
    """Name -> (type of element, shape) of everything that goes in and out of a step."""
    dual = config.core == "dual"
    state = ["B", config.hidden_size if dual else 2 * config.hidden_size]
    shapes: dict[str, tuple[int, list[Any]]] = {
        "h": (1, state),
        "x": (1, ["B", 2 if dual else 1]),
        "row": (1, [1, row.size]),
        "numbers": (1, ["B", numbers_size(config)]),
        "sample": (1 if config.draws_values else 6, ["B", 1]),
        "logits": (1, ["B", config.logits_size]),
    }
    return shapes | {"h_next": shapes["h"], "x_next": shapes["x"]}


def _graph(config: ModelConfig, weights: Weights, row: NDArray[np.float32]) -> tuple[_Step, Any]:
    """A step, and a function of names that describes what goes in and out of it by these."""
    step = _Step(config, weights)
    (step.dual if config.core == "dual" else step.residual)()
    if not config.n_mels:
        step.constants["row"] = row.reshape(1, -1)
    shapes = _shapes(config, row)

    def infos(*names: str, ahead: tuple[Any, ...] = ()) -> list[Any]:
        from onnx import helper

        return [
            helper.make_tensor_value_info(
                name if not ahead else f"{name}_all", shapes[name][0], [*ahead, *shapes[name][1]]
            )
            for name in names
        ]

    return step, infos


def step_model(config: ModelConfig, weights: Weights, row: NDArray[np.float32]) -> bytes:
    """One sample: h, x, numbers (and row, if conditioned) -> h_next, x_next, sample, logits.

    Parameters
    ----------
    config : a model that `cells.fused` takes
    weights : of `cells.loop_weights`
    row : what an unconditioned model adds at every sample, [size]

    Returns
    -------
    bytes
        A serialised ONNX model.
    """
    from onnx import helper

    step, infos = _graph(config, weights, row)
    heard = ["row"] if config.n_mels else []
    inputs, outputs = infos("h", "x", "numbers", *heard), infos(*_OUTPUTS)
    return _model(helper.make_graph(step.nodes, "step", inputs, outputs, _initializers(step)))


def scan_model(
    config: ModelConfig, weights: Weights, row: NDArray[np.float32], keep_logits: bool
) -> bytes:
    """The whole loop as one `Scan` operator.

    h, x, numbers_all [n, B, D] (and row_all [n, 1, size]) -> h_last, x_last, sample_all [n, B, 1]
    and, if asked for, logits_all [n, B, L]. Arguments as for `step_model`.
    """
    from onnx import helper

    step, infos = _graph(config, weights, row)
    scanned = ["numbers", *(["row"] if config.n_mels else [])]
    made = ["sample", *(["logits"] if keep_logits else [])]
    body = helper.make_graph(
        step.nodes, "step", infos("h", "x", *scanned), infos("h_next", "x_next", *made)
    )
    node = helper.make_node(
        "Scan",
        ["h_first", "x_first", *(f"{name}_all" for name in scanned)],
        ["h_last", "x_last", *(f"{name}_all" for name in made)],
        body=body,
        num_scan_inputs=len(scanned),
    )
    shapes = _shapes(config, row)

    def ends(suffix: str) -> list[Any]:
        return [
            helper.make_tensor_value_info(f"{name}_{suffix}", *shapes[name]) for name in ("h", "x")
        ]

    inputs = [*ends("first"), *infos(*scanned, ahead=("n",))]
    outputs = [*ends("last"), *infos(*made, ahead=("n",))]
    return _model(helper.make_graph([node], "loop", inputs, outputs, _initializers(step)))


_OUTPUTS = ("h_next", "x_next", "sample", "logits")


def _initializers(step: _Step) -> list[Any]:
    from onnx import numpy_helper

    return [
        numpy_helper.from_array(np.array(array, order="C"), name)
        for name, array in step.constants.items()
    ]


def _model(graph: Any) -> bytes:
    from onnx import checker, helper

    opsets = [helper.make_opsetid("", OPSET)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION)
    checker.check_model(model)
    serialised: bytes = model.SerializeToString()
    return serialised
