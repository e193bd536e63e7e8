"""Other ways to sample the same models: what the engine is compared with.

A baseline is the fastest honest form of one way to run a model: a loop in numpy, PyTorch's modules
as the original projects call them, PyTorch without autograd and with everything made ahead, the
same compiled or captured, ONNX Runtime. Each is checked against the readable engine before it is
timed (`wavernn_fast.bench`), and against the float64 reference in the tests.
"""

from .base import Baseline, Made

__all__ = ["Baseline", "Made"]
