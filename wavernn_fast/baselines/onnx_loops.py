"""ONNX Runtime: one call a sample, or one call for the whole loop."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from . import onnx_graph
from .cells import loop_weights
from .loops import FusedLoop, numbers_size


class _OnnxLoop(FusedLoop):
    """What both share; states are [B, n] here."""

    packages: ClassVar[tuple[str, ...]] = ("onnx", "onnxruntime")

    def _session(self, model: bytes) -> Any:
        """Session of a model, all graph optimisations on (the default)."""
        import onnxruntime  # type: ignore[import-untyped]

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = self.threads, 1
        options.log_severity_level = 3
        return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])

    def _start(self) -> Any:
        config, dual = self.config, self.config.core == "dual"
        size = config.hidden_size if dual else 2 * config.hidden_size
        h = np.zeros((self.streams, size), np.float32)
        return h, np.full((self.streams, 2 if dual else 1), config.first_input, np.float32)


class OnnxStep(_OnnxLoop):
    """A model of one step, called from Python for every sample, on buffers bound once.

    Two bindings take turns: what one writes as state, the other reads.
    """

    name: ClassVar[str] = "onnx-step"
    title: ClassVar[str] = "ONNX Runtime, one call a sample, inputs and outputs bound"

    def _ready(self) -> None:
        weights = loop_weights(self.config, self.tensors)
        row = self.conditions.bias
        self.session = self._session(onnx_graph.step_model(self.config, weights, row))
        b, config = self.streams, self.config
        self.states = [self._start(), self._start()]
        self.row = np.zeros((1, row.size), np.float32)
        self.numbers = np.zeros((b, numbers_size(config)), np.float32)
        self.drawn = np.zeros((b, 1), np.float32 if config.draws_values else np.int32)
        self.logits = np.zeros((b, config.logits_size), np.float32)
        self.bindings = [self._bind(*self.states), self._bind(*self.states[::-1])]

    def _bind(self, before: Any, after: Any) -> Any:
        from onnxruntime import OrtValue

        binding = self.session.io_binding()
        inputs = {"h": before[0], "x": before[1], "numbers": self.numbers}
        if self.config.n_mels:
            inputs["row"] = self.row
        outputs = {"h_next": after[0], "x_next": after[1]}
        outputs |= {"sample": self.drawn, "logits": self.logits}
        for name, array in inputs.items():
            binding.bind_ortvalue_input(name, OrtValue.ortvalue_from_numpy(array))
        for name, array in outputs.items():
            binding.bind_ortvalue_output(name, OrtValue.ortvalue_from_numpy(array))
        return binding

    def _run(
        self, state: Any, rows: Any, numbers: Any, keep: bool
    ) -> tuple[Any, NDArray[Any], NDArray[np.float32] | None]:
        for kept, given in zip(self.states[0], state, strict=True):
            kept[:] = given
        n, _, batch = numbers.shape
        samples = np.empty((n, batch), self.drawn.dtype)
        logits = np.empty((n, self.config.logits_size, batch), np.float32) if keep else None
        run, many = self.session.run_with_iobinding, len(rows) > 1
        for t in range(n):
            self.numbers[:] = numbers[t].T
            if many:
                self.row[0] = rows[t, :, 0]
            run(self.bindings[t % 2])
            samples[t] = self.drawn[:, 0]
            if logits is not None:
                logits[t] = self.logits.T
        return [part.copy() for part in self.states[n % 2]], samples, logits


class OnnxScan(_OnnxLoop):
    """The whole loop as one Scan operator: no Python runs between samples."""

    name: ClassVar[str] = "onnx-scan"
    title: ClassVar[str] = "ONNX Runtime, the whole loop as a Scan operator"

    def _ready(self) -> None:
        self.sessions: dict[bool, Any] = {}
        self._loop(False)  # that with logits is made when it is asked for

    def _loop(self, keep: bool) -> Any:
        if keep not in self.sessions:
            weights = loop_weights(self.config, self.tensors)
            model = onnx_graph.scan_model(self.config, weights, self.conditions.bias, keep)
            self.sessions[keep] = self._session(model)
        return self.sessions[keep]

    def _run(
        self, state: Any, rows: Any, numbers: Any, keep: bool
    ) -> tuple[Any, NDArray[Any], NDArray[np.float32] | None]:
        given = {"h_first": state[0], "x_first": state[1]}
        given["numbers_all"] = np.ascontiguousarray(numbers.transpose(0, 2, 1))
        if self.config.n_mels:
            given["row_all"] = np.ascontiguousarray(rows.transpose(0, 2, 1))
        h, x, samples, *logits = self._loop(keep).run(None, given)
        return (h, x), samples[:, :, 0], logits[0].transpose(0, 2, 1) if keep else None
