"""The dual-softmax loop as one ONNX graph: a Scan operator whose body makes one sample."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

OPSET = 17
IR_VERSION = 9  # of the same age as the operator set, so that older runtimes read it


class _Body:
    """Collects the nodes of one step; every method returns the name of its result."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []

    def op(self, kind: str, *inputs: str, result: str = "", **attributes: Any) -> str:
        from onnx import helper

        result = result or f"{kind}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [result], **attributes))
        return result

    def split(self, x: str, sizes: str, parts: int) -> list[str]:
        from onnx import helper

        names = [f"{x}_part{len(self.nodes)}_{i}" for i in range(parts)]
        self.nodes.append(helper.make_node("Split", [x, sizes], names, axis=1))
        return names

    def dense(self, x: str, name: str) -> str:
        return self.op("Gemm", x, name, f"{name}_b")

    def cell(self, recurrent: tuple[str, str], inputs: str, h: str) -> str:
        """New half state; recurrent holds (r and u side by side, e)."""
        gates_in, candidate_in = self.split(inputs, "gate_sizes", 2)
        gates = self.op("Sigmoid", self.op("Add", recurrent[0], gates_in))
        reset, update = self.split(gates, "half_sizes", 2)
        candidate = self.op("Add", self.op("Mul", reset, recurrent[1]), candidate_in)
        candidate = self.op("Tanh", candidate)
        kept = self.op("Mul", update, self.op("Sub", h, candidate))
        return self.op("Add", candidate, kept)

    def draw(self, logits: str, uniform: str) -> str:
        """First class [B, 1], int32, whose cumulative probability exceeds the uniform [B, 1]."""
        cumulative = self.op("CumSum", self.op("Softmax", logits, axis=1), "axis_1")
        below = self.op("Cast", self.op("LessOrEqual", cumulative, uniform), to=6)  # int32
        return self.op("Min", self.op("ReduceSum", below, "axes_1", keepdims=1), "last_class")

    def scaled(self, drawn: str, result: str) -> str:
        """Class to [-1, 1]."""
        value = self.op("Div", self.op("Cast", drawn, to=1), "half_range")  # float32
        return self.op("Sub", value, "one", result=result)


def _constants(half: int) -> dict[str, NDArray[Any]]:
    return {
        "recurrent_sizes": np.array([2 * half, half, 2 * half, half], np.int64),
        "gate_sizes": np.array([2 * half, half], np.int64),
        "half_sizes": np.array([half, half], np.int64),
        "axis_1": np.array(1, np.int64),
        "axes_1": np.array([1], np.int64),
        "last_class": np.array(255, np.int32),
        "classes": np.array(256, np.int32),
        "half_range": np.array(127.5, np.float32),
        "one": np.array(1.0, np.float32),
        "first": np.array(0, np.int64),
        "second": np.array(1, np.int64),
    }


def _step(half: int, keep_logits: bool) -> Any:
    """Body graph: (h, coarse, fine, u [2, B, 1]) -> (h, coarse, fine, sample[, logits])."""
    from onnx import TensorProto, helper

    body = _Body()
    r_gates, r_candidate, f_gates, f_candidate = body.split(
        body.dense("h", "R"), "recurrent_sizes", 4
    )
    h_coarse, h_fine = body.split("h", "half_sizes", 2)
    inputs = body.dense(body.op("Concat", "coarse", "fine", axis=1), "I_coarse")
    h_coarse = body.cell((r_gates, r_candidate), inputs, h_coarse)
    coarse_logits = body.dense(body.op("Relu", body.dense(h_coarse, "O1")), "O2")
    coarse = body.draw(coarse_logits, body.op("Gather", "u", "first", axis=0))
    body.scaled(coarse, "coarse_next")
    inputs = body.dense(body.op("Concat", "coarse", "fine", "coarse_next", axis=1), "I_fine")
    h_fine = body.cell((f_gates, f_candidate), inputs, h_fine)
    fine_logits = body.dense(body.op("Relu", body.dense(h_fine, "O3")), "O4")
    fine = body.draw(fine_logits, body.op("Gather", "u", "second", axis=0))
    body.scaled(fine, "fine_next")
    body.op("Concat", h_coarse, h_fine, axis=1, result="h_next")
    body.op("Add", body.op("Mul", coarse, "classes"), fine, result="sample")

    f32, i32 = TensorProto.FLOAT, TensorProto.INT32
    one, state = ["batch", 1], ["batch", 2 * half]
    ins = [("h", state), ("coarse", one), ("fine", one), ("u", [2, "batch", 1])]
    outs = [("h_next", state), ("coarse_next", one), ("fine_next", one)]
    results = [helper.make_tensor_value_info(name, f32, shape) for name, shape in outs]
    results.append(helper.make_tensor_value_info("sample", i32, one))
    if keep_logits:
        body.op("Concat", coarse_logits, fine_logits, axis=1, result="step_logits")
        results.append(helper.make_tensor_value_info("step_logits", f32, ["batch", 512]))
    return helper.make_graph(
        body.nodes,
        "step",
        [helper.make_tensor_value_info(name, f32, shape) for name, shape in ins],
        results,
    )


def session(weights: dict[str, NDArray[np.float32]], *, keep_logits: bool, threads: int) -> Any:
    """Build the graph and return its onnxruntime session.

    Parameters
    ----------
    weights : matrices [in, out] "R", "I_coarse", "I_fine", "O1".."O4"; biases [out] "<name>_b"
    keep_logits : also return every step's logits [n, B, 512]
    threads : of one operator

    Returns
    -------
    onnxruntime.InferenceSession
        Inputs h_0 [B, H], coarse_0 [B, 1], fine_0 [B, 1], uniforms [n, 2, B, 1]; outputs samples
        [n, B, 1] int32 and, if asked for, logits.
    """
    import onnxruntime
    from onnx import TensorProto, checker, helper, numpy_helper

    half = weights["O1"].shape[0]
    names = ["samples", "logits"] if keep_logits else ["samples"]
    scan = helper.make_node(
        "Scan",
        ["h_0", "coarse_0", "fine_0", "uniforms"],
        ["h_n", "coarse_n", "fine_n", *names],
        body=_step(half, keep_logits),
        num_scan_inputs=1,
    )
    f32, i32 = TensorProto.FLOAT, TensorProto.INT32
    one = ["batch", 1]
    ins = [("h_0", ["batch", 2 * half]), ("coarse_0", one), ("fine_0", one)]
    ins.append(("uniforms", ["n", 2, "batch", 1]))
    outs = [helper.make_tensor_value_info("samples", i32, ["n", "batch", 1])]
    if keep_logits:
        outs.append(helper.make_tensor_value_info("logits", f32, ["n", "batch", 512]))
    arrays: dict[str, NDArray[Any]] = {**weights, **_constants(half)}
    graph = helper.make_graph(
        [scan],
        "dual_softmax_loop",
        [helper.make_tensor_value_info(name, f32, shape) for name, shape in ins],
        outs,
        [numpy_helper.from_array(np.array(a, order="C"), name) for name, a in arrays.items()],
    )
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION
    )
    checker.check_model(model)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    return onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
