"""Kernels compiled beforehand: what ships in a wheel, so that its users need no NVRTC.

    python -m wavernn_fast.kernels FOLDER

compiles the persistent kernel for the usual models on every GPU that plans are known for.
`setup.py` does it for a wheel when WAVERNN_FAST_PACKAGE_KERNELS=1 is set and NVRTC is installed.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Sequence
from typing import Any

from . import _C, nvrtc
from .errors import DeviceError, WaveRNNError

# (hidden size, width of the output layers, mel bins): the paper's, and the voice of the package;
# with a fourth number, of what fc3 gives, a residual model: 9 bits, and ten logistics
USUAL: tuple[tuple[int, ...], ...] = (
    (256, 256, 80),
    (512, 256, 0),
    (512, 256, 80),
    (896, 448, 0),
    (896, 448, 80),
    (512, 512, 80, 512),
    (512, 512, 80, 30),
)


def target_of(arch: int) -> str:
    """Name a compute capability as the compiler does: 90 is sm_90."""
    return f"sm_{arch}"


def compile_usual(folder: str, models: Iterable[tuple[int, ...]] = USUAL) -> list[str]:
    """Compile and store the kernels of usual models.

    Parameters
    ----------
    folder : str
        Where files go; it is made if it is not there, and what else it holds stays.
    models : iterable of (hidden size, fc size, mel bins), or with outputs: see `plan_config`

    Returns
    -------
    list of str
        One line a model and GPU: registers and spilled bytes of its plain kernel, as the compiler
        reports them.

    Raises
    ------
    DeviceError
        If there is no NVRTC, or it refuses the kernel.
    InputError
        If the folder cannot be written.
    """
    paths = nvrtc.libraries()
    if not paths:
        raise DeviceError('NVRTC is not installed: pip install "wavernn-fast[cuda]".')
    lines = []
    for model in models:
        config = plan_config(*model)
        size = "/".join(map(str, (*model[:2], *model[3:])))
        for gpu in _C.known_gpus():
            try:
                arch = _C.gpu_plan(config, gpu=gpu)["arch"]
            except DeviceError:
                continue  # too large for this one
            plain, _ = (
                _C.compile_plan(
                    config, target_of(arch), nvrtc=paths[0], gpu=gpu, full=full, folder=folder
                )[1]
                for full in (False, True)  # full: forced labels, greedy draws, logits
            )
            registers, spilled = usage(plain)
            lines.append(
                f"{size}, {model[2]} mels, {gpu} ({target_of(arch)}): {registers} registers, "
                f"{spilled} bytes spilled"
            )
    return lines


def usage(log: str) -> tuple[int, int]:
    """Registers of a thread, and bytes it stores elsewhere for want of more, from a compiler's log.

    Raises
    ------
    DeviceError
        If the log does not say.
    """
    registers = re.search(r"Used (\d+) registers", log)
    spilled = re.search(r"(\d+) bytes spill stores", log)
    if registers is None or spilled is None:
        raise DeviceError(f"The compiler did not say what the kernel uses: {log!r}")
    return int(registers[1]), int(spilled[1])


def plan_config(hidden: int, fc: int, mels: int, outputs: int = 0) -> dict[str, Any]:
    """Return what a plan depends on, for `_C.gpu_plan`.

    Mels pass through an upsampling kernel of one tap, as in models trained here. With `outputs`,
    what fc3 gives, it is a residual model, whose kernel has five: a power of two is labels, else
    a third of them are logistics.
    """
    if outputs:
        labels = outputs & (outputs - 1) == 0
        return {
            "core": "residual",
            "head": "softmax" if labels else "mol",
            "hidden_size": hidden,
            "fc_size": fc,
            "n_classes": outputs,
            "n_mels": mels,
            "hop_length": 275,
            "aux_size": 32,
            "upsample_left": 2,
            "upsample_right": 2,
            "first_input": 0.0,
            "bands": 1,
            "feedback": "linear",
        }
    sizes = {"hidden_size": hidden, "fc_size": fc, "n_mels": mels, "n_classes": 256}
    frames = {"hop_length": 240 if mels else 1, "upsample_left": 0, "upsample_right": 0}
    rest = {"core": "dual", "head": "dual_softmax", "aux_size": 0, "first_input": 0.0, "bands": 1}
    return {**sizes, **frames, **rest, "feedback": "linear"}


def main(arguments: Sequence[str]) -> int:
    """Run as a program; returns its exit code, those of `wavernn-fast`."""
    if len(arguments) != 1 or arguments[0].startswith("-"):
        print("usage: python -m wavernn_fast.kernels FOLDER", file=sys.stderr)
        return 2
    try:
        print("\n".join(compile_usual(arguments[0])))
    except WaveRNNError as error:
        print(f"Error: {error}", file=sys.stderr)
        return 3 if isinstance(error, DeviceError) else 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
