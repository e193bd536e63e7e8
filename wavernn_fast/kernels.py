"""Kernels compiled beforehand: what ships in a wheel, so that its users need no NVRTC.

    python -m wavernn_fast.kernels FOLDER

compiles the persistent kernel for the usual models on every GPU that plans are known for.
`setup.py` does it for a wheel when WAVERNN_FAST_PACKAGE_KERNELS=1 is set and NVRTC is installed.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from . import _C, nvrtc
from .errors import DeviceError, WaveRNNError


class Usual(NamedTuple):
    """Sizes that a kernel is compiled for."""

    hidden: int
    fc: int  # width of the output layers
    mels: int  # 0: unconditioned
    outputs: int = 0  # of the last layer, of each band; 0: a dual model
    kind: str = ""  # gaussian, beta, 4 bands, embedded; else a power of two is labels, 30 mixtures


# The paper's, and the voice of the package; fatchord's 9 and 10 bits and its mixture, torchaudio's
# 8 bits, the real heads of coqui and G-Wang, Multiband-WaveRNN; univoc 0.2 and 0.1, ZeroSpeech.
USUAL: tuple[Usual, ...] = (
    Usual(256, 256, 80),
    Usual(512, 256, 0),
    Usual(512, 256, 80),
    Usual(896, 448, 0),
    Usual(896, 448, 80),
    Usual(512, 512, 80, 512),
    Usual(512, 512, 80, 1024),
    Usual(512, 512, 80, 256),
    Usual(512, 512, 80, 30),
    Usual(512, 512, 80, 2, "gaussian"),
    Usual(512, 512, 80, 2, "beta"),
    Usual(512, 512, 80, 512, "4 bands"),
    Usual(896, 256, 80, 1024, "embedded"),
    Usual(896, 256, 80, 512, "embedded"),
    Usual(896, 256, 80, 256, "embedded"),
)


def target_of(arch: int) -> str:
    """Name a compute capability as the compiler does: 90 is sm_90."""
    return f"sm_{arch}"


def compile_usual(folder: str, models: Iterable[tuple[Any, ...]] = USUAL) -> list[str]:
    """Compile and store the kernels of usual models.

    In fp32, which ``dtype="auto"`` is; where a GPU has no room for that, in fp16. GPUs whose plans
    are the same share a file.

    Parameters
    ----------
    folder : str
        Where files go; it is made if it is not there, and what else it holds stays.
    models : iterable of Usual, or tuples of its fields

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
    logs: dict[tuple[Any, ...], str] = {}  # of plain kernels, by target and macros
    for model in (Usual(*fields) for fields in models):
        config = plan_config(*model)
        for gpu in _C.known_gpus():
            found = planned(config, gpu)
            if found is None:
                continue  # too large for this one
            dtype, plan = found
            target = target_of(plan["arch"])
            same = (target, *plan["macros"])
            if same not in logs:
                plain, _ = (
                    _C.compile_plan(
                        config,
                        target,
                        nvrtc=paths[0],
                        gpu=gpu,
                        dtype=dtype,
                        full=full,
                        folder=folder,
                    )[1]
                    for full in (False, True)  # full: forced labels, greedy draws, logits
                )
                logs[same] = plain
            registers, spilled = usage(logs[same])
            lines.append(
                f"{title(model)}, {model.mels} mels, {gpu} ({target}), {dtype}: "
                f"{registers} registers, {spilled} bytes spilled"
            )
    return lines


def planned(config: dict[str, Any], gpu: str) -> tuple[str, dict[str, Any]] | None:
    """Number format and plan for a known GPU; None if it has no room in any format."""
    for dtype in ("fp32", "fp16"):
        try:
            return dtype, _C.gpu_plan(config, gpu=gpu, dtype=dtype)
        except DeviceError:
            continue
    return None


def title(model: Usual) -> str:
    """Sizes of a model in one word or two: ``896/256/1024 embedded``."""
    sizes = [model.hidden, model.fc, *([model.outputs] if model.outputs else [])]
    return "/".join(map(str, sizes)) + (f" {model.kind}" if model.kind else "")


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


def plan_config(
    hidden: int, fc: int, mels: int, outputs: int = 0, kind: str = ""
) -> dict[str, Any]:
    """Return what a plan of these sizes (`Usual`) depends on, for `_C.gpu_plan`.

    Mels pass through an upsampling kernel of one tap, as in models trained here, in residual models
    of five; an embedded model hears them as they are.
    """
    sizes = {"hidden_size": hidden, "fc_size": fc, "n_mels": mels}
    rest = {"aux_size": 0, "first_input": 0.0, "bands": 1, "feedback": "linear"}
    frames = {"hop_length": 240 if mels else 1, "upsample_left": 0, "upsample_right": 0}
    if not outputs:
        return sizes | frames | rest | {"core": "dual", "head": "dual_softmax", "n_classes": 256}
    rest |= {"n_classes": outputs}
    if kind == "embedded":
        labels = {"embedding_size": 256, "first_label": outputs // 2}
        return sizes | frames | rest | labels | {"core": "embedded", "head": "softmax"}
    frames |= {"upsample_left": 2, "upsample_right": 2}
    if kind == "4 bands":
        rest |= {"bands": 4}
    real = kind in ("gaussian", "beta")
    labels_head = "softmax" if outputs & (outputs - 1) == 0 else "mol"
    head = kind if real else labels_head
    return sizes | frames | rest | {"core": "residual", "head": head, "aux_size": 32}


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
