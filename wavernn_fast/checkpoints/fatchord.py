"""fatchord's residual model, which Real-Time-Voice-Cloning and many others share.

Two residual GRUs and three layers over the sample, the upsampled mel and four slices of an
auxiliary network (reference: fatchord/WaveRNN, models/fatchord_version.py). Every size is read
off the shapes. Not told by the tensors, and left to a preset: mu-law, sample rate, mel settings.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping

import numpy as np
from numpy.typing import NDArray

from ..canonical import Tensors
from ..errors import ModelError
from . import fir
from .layout import (
    Converted,
    Dialect,
    Layout,
    State,
    batch_norm_counters,
    checked_sizes,
    float32,
    fold_batch_norm,
    solve,
)

_RESNET = "upsample.resnet."
_BLOCK = re.compile(r"upsample\.resnet\.layers\.(\d+)\.")
_FIR = re.compile(r"upsample\.up_layers\.(\d+)\.weight$")
_STAGES = 3  # of the published models; a file with fewer has lost some
_MAX_BLOCKS = 256
_NORM = ("weight", "bias", "running_mean", "running_var")


def last_index(pattern: re.Pattern[str], names: Iterable[str]) -> int:
    """Return the largest number that group 1 of `pattern` has in any of the names, or -1."""
    return max((int(m[1]) for m in map(pattern.match, names) if m), default=-1)


def _core_layout(aux: bool) -> Layout:
    """R hidden units, K units of the layers, M mel bins, A channels of one slice, C outputs."""
    plus = "+A" if aux else ""
    layout = {"I.weight": f"R 1+M{plus}", "I.bias": "R"}
    for name, inputs in (("rnn1", "R"), ("rnn2", f"R{plus}")):
        layout[f"{name}.weight_ih_l0"] = f"3R {inputs}"
        layout[f"{name}.weight_hh_l0"] = "3R R"
        layout[f"{name}.bias_ih_l0"] = "3R"
        layout[f"{name}.bias_hh_l0"] = "3R"
    for name, rows, inputs in (
        ("fc1", "K", f"R{plus}"),
        ("fc2", "K", f"K{plus}"),
        ("fc3", "C", "K"),
    ):
        layout[f"{name}.weight"] = f"{rows} {inputs}"
        layout[f"{name}.bias"] = rows
    return layout


def _resnet_layout(blocks: int) -> Layout:
    """W channels throughout, T frames seen by the first convolution."""
    layout = {f"{_RESNET}conv_in.weight": "W M T"}
    norms = [f"{_RESNET}batch_norm"]
    for i in range(blocks):
        for k in (1, 2):
            layout[f"{_RESNET}layers.{i}.conv{k}.weight"] = "W W 1"
            norms.append(f"{_RESNET}layers.{i}.batch_norm{k}")
    layout.update({f"{norm}.{part}": "W" for norm in norms for part in _NORM})
    layout[f"{_RESNET}conv_out.weight"] = "4A W 1"
    layout[f"{_RESNET}conv_out.bias"] = "4A"
    return layout


def layout_for(blocks: int | None, stages: int) -> Layout:
    """Every tensor of the layout; `blocks` is None for a model without auxiliary network."""
    layout = _core_layout(aux=blocks is not None)
    if blocks is not None:
        layout.update(_resnet_layout(blocks))
    # Even numbers are the repetitions, which have no weights.
    layout.update({f"upsample.up_layers.{2 * k + 1}.weight": f"1 1 1 S{k}" for k in range(stages)})
    return layout


def _layout(state: State) -> Layout:
    aux = any(name.startswith(_RESNET) for name in state)
    blocks = min(last_index(_BLOCK, state) + 1, _MAX_BLOCKS) if aux else None
    stages = min((last_index(_FIR, state) + 1) // 2, 8)
    return layout_for(blocks, max(stages, _STAGES))


def head_of(n_classes: int) -> str | None:
    """Softmax for a power of two, mixture of logistics for 3 values a mixture, else None."""
    if n_classes >= 4 and n_classes & (n_classes - 1) == 0:
        return "softmax"
    return "mol" if n_classes % 3 == 0 else None


def size_problems(sizes: Mapping[str, int]) -> list[str]:
    """List sizes that no such model has, and upsampling that cannot be one kernel."""
    found = []
    classes = sizes.get("C", 4)
    if head_of(classes) is None:
        found.append(
            f"the last layer has {classes} outputs, expected a power of two (softmax) or three a "
            "mixture (logistics); gaussian and beta heads are not supported"
        )
    if sizes.get("T", 1) % 2 == 0:
        found.append(f"the first convolution sees {sizes['T']} frames, expected an odd number")
    taps = [size for name, size in sorted(sizes.items()) if re.fullmatch(r"S\d", name)]
    if any(n % 2 == 0 or n < 3 for n in taps):
        found.append(f"upsampling filters have {taps} taps, expected odd numbers 2s + 1 from 3 up")
        return found
    scales = [n // 2 for n in taps]
    hop, radius = math.prod(scales), fir.radius_in_samples(scales, scales)
    if hop > fir.MAX_HOP:
        found.append(f"the filters imply {hop} samples a frame, limit {fir.MAX_HOP}")
    if "T" in sizes and sizes["T"] // 2 * hop < radius:
        found.append(
            f"the model pads {sizes['T'] // 2} frames ({sizes['T'] // 2 * hop} samples), but its "
            f"upsampling filters reach {radius} samples: it sounds different at the ends of an "
            "utterance, which one kernel cannot express"
        )
    return found


def _auxiliary(state: State, blocks: int) -> Tensors:
    def norm(prefix: str) -> dict[str, NDArray[np.float32]]:
        return {part: state[f"{prefix}.{part}"] for part in _NORM}

    tensors: Tensors = {}
    conv_in = state[f"{_RESNET}conv_in.weight"]
    tensors["aux.conv_in.weight"], tensors["aux.conv_in.bias"] = fold_batch_norm(
        conv_in, norm(f"{_RESNET}batch_norm")
    )
    for i in range(blocks):
        for k in (1, 2):
            ours, theirs = f"aux.blocks.{i}.conv{k}", f"{_RESNET}layers.{i}"
            weight = state[f"{theirs}.conv{k}.weight"][:, :, 0]
            tensors[f"{ours}.weight"], tensors[f"{ours}.bias"] = fold_batch_norm(
                weight, norm(f"{theirs}.batch_norm{k}")
            )
    tensors["aux.conv_out.weight"] = float32(state[f"{_RESNET}conv_out.weight"][:, :, 0])
    tensors["aux.conv_out.bias"] = float32(state[f"{_RESNET}conv_out.bias"])
    return tensors


def _core(state: State) -> Tensors:
    """PyTorch stacks gates r, z, n: reset, update, candidate, as the canonical form does."""
    tensors = {f"input.{part}": float32(state[f"I.{part}"]) for part in ("weight", "bias")}
    for n in (1, 2):
        tensors[f"gru{n}.w_input"] = float32(state[f"rnn{n}.weight_ih_l0"])
        tensors[f"gru{n}.w_recurrent"] = float32(state[f"rnn{n}.weight_hh_l0"])
        tensors[f"gru{n}.b_input"] = float32(state[f"rnn{n}.bias_ih_l0"])
        tensors[f"gru{n}.b_recurrent"] = float32(state[f"rnn{n}.bias_hh_l0"])
    for n in (1, 2, 3):
        for part in ("weight", "bias"):
            tensors[f"fc{n}.{part}"] = float32(state[f"fc{n}.{part}"])
    return tensors


def convert_checked(state: State, sizes: Mapping[str, int], source: str) -> Converted:
    """Convert a state that is known to be the layout, with the sizes that were solved from it."""
    stages = sum(1 for name in state if _FIR.match(name))
    filters = [state[f"upsample.up_layers.{2 * k + 1}.weight"].reshape(-1) for k in range(stages)]
    upsampler = fir.compose([len(taps) // 2 for taps in filters], filters)
    tensors = _core(state)
    tensors["upsample.kernel"] = float32(upsampler.kernel)
    fields = {
        "core": "residual",
        "hidden_size": sizes["R"],
        "fc_size": sizes["K"],
        "head": head_of(sizes["C"]),
        "n_classes": sizes["C"],
        "hop_length": len(upsampler.kernel),
        "n_mels": sizes["M"],
        "upsample_left": upsampler.left,
        "upsample_right": upsampler.right,
        "source": source,
    }
    if "A" in sizes:
        blocks = last_index(_BLOCK, state) + 1
        tensors.update(_auxiliary(state, blocks))
        fields.update(
            aux_size=sizes["A"],
            aux_channels=sizes["W"],
            aux_blocks=blocks,
            aux_kernel=sizes["T"],
        )
    return Converted(fields, tensors)


def sizes_of(state: State) -> dict[str, int]:
    """Sizes implied by the shapes: R, K, M, A, C, W, T and the taps S0, S1, S2."""
    return solve(_layout(state), state)


def convert(state: State) -> Converted:
    """Turn a fatchord state dict into canonical weights.

    Parameters
    ----------
    state : mapping of str to array
        Tensors as stored, ``module.`` stripped. ``step`` and the batch-norm counters are ignored.

    Raises
    ------
    ModelError
        Listing every missing, extra, misshapen or not finite tensor and every unusable size.
    """
    layout = _layout(state)
    optional = [*batch_norm_counters(layout), "step"]
    sizes = checked_sizes("fatchord", layout, optional, state, size_problems)
    try:
        return convert_checked(state, sizes, DIALECT.name)
    except KeyError as error:  # a layout this module allows but does not read: a fault of ours
        raise ModelError(f"The fatchord loader did not find {error} after checking it.") from error


DIALECT = Dialect(
    name="fatchord",
    names=re.compile(
        r"(I|rnn[12]|fc[123]|upsample\.up_layers|"
        r"upsample\.resnet\.(conv_in|batch_norm|layers|conv_out))\.|step$"
    ),
    presets=("fatchord-raw9", "fatchord-mol", "rtvc", "geneing"),
    sizes=sizes_of,
    convert=convert,
)
