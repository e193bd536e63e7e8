"""fatchord's residual model, which Real-Time-Voice-Cloning and many others share.

The dialects `coqui`, `begeekmyfriend`, `scwavernn` and `multiband` are variants of it: what they
have in common is here, switched by a `Variant`.

Two residual GRUs and three layers over the sample, the upsampled mel and four slices of an
auxiliary network (reference: fatchord/WaveRNN, models/fatchord_version.py). Every size is read
off the shapes. Not told by the tensors, and left to a preset: mu-law, sample rate, mel settings.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

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
_MAX_BLOCKS = 256
LINEAR_GAIN = 0.045  # of the mel after linear upsampling, in the program that has it
_NORM = ("weight", "bias", "running_mean", "running_var")


class Variant(NamedTuple):
    """In what a published layout differs from fatchord's."""

    blocks: int | None  # residual blocks of the auxiliary network; None: there is none
    stages: int  # filters of the upsampling; 0: linear interpolation
    biases: bool = False  # of the filters and of all convolutions
    hears_aux: bool = True  # False: the auxiliary network is in the file, but nothing reads it
    speaker: int = 0  # numbers of a speaker's vector at the end of the input layer's columns
    bands: int = 1  # sub-bands, whose last samples the input layer hears; each has a head fc3k

    @property
    def heads(self) -> list[str]:
        """Names of the last layers, band 0 first."""
        return ["fc3"] if self.bands == 1 else [f"fc3{k}" for k in range(self.bands)]


def last_index(pattern: re.Pattern[str], names: Iterable[str]) -> int:
    """Return the largest number that group 1 of `pattern` has in any of the names, or -1."""
    return max((int(m[1]) for m in map(pattern.match, names) if m), default=-1)


def _core_layout(variant: Variant) -> Layout:
    """R hidden units, K units of the layers, M mel bins, A channels of one slice, C outputs."""
    plus = "+A" if variant.blocks is not None and variant.hears_aux else ""
    speaker = f"+{variant.speaker}" if variant.speaker else ""
    columns = f"{variant.bands}+M{plus}{speaker}"
    layout = {"I.weight": f"R {columns}", "I.bias": "R"}
    for name, inputs in (("rnn1", "R"), ("rnn2", f"R{plus}")):
        layout[f"{name}.weight_ih_l0"] = f"3R {inputs}"
        layout[f"{name}.weight_hh_l0"] = "3R R"
        layout[f"{name}.bias_ih_l0"] = "3R"
        layout[f"{name}.bias_hh_l0"] = "3R"
    for name, rows, inputs in (
        ("fc1", "K", f"R{plus}"),
        ("fc2", "K", f"K{plus}"),
        *((head, "C", "K") for head in variant.heads),
    ):
        layout[f"{name}.weight"] = f"{rows} {inputs}"
        layout[f"{name}.bias"] = rows
    return layout


def _resnet_layout(blocks: int, biases: bool) -> Layout:
    """W channels throughout, T frames seen by the first convolution."""
    layout = {f"{_RESNET}conv_in.weight": "W M T"}
    if biases:
        layout[f"{_RESNET}conv_in.bias"] = "W"
    norms = [f"{_RESNET}batch_norm"]
    for i in range(blocks):
        for k in (1, 2):
            layout[f"{_RESNET}layers.{i}.conv{k}.weight"] = "W W 1"
            if biases:
                layout[f"{_RESNET}layers.{i}.conv{k}.bias"] = "W"
            norms.append(f"{_RESNET}layers.{i}.batch_norm{k}")
    layout.update({f"{norm}.{part}": "W" for norm in norms for part in _NORM})
    layout[f"{_RESNET}conv_out.weight"] = "4A W 1"
    layout[f"{_RESNET}conv_out.bias"] = "4A"
    return layout


def layout_of(variant: Variant) -> Layout:
    """Every tensor of the layout."""
    layout = _core_layout(variant)
    if variant.blocks is not None:
        layout.update(_resnet_layout(variant.blocks, variant.biases))
    for k in range(variant.stages):
        name = f"upsample.up_layers.{2 * k + 1}"  # even numbers are the repetitions: no weights
        layout[f"{name}.weight"] = f"1 1 1 S{k}"
        if variant.biases:
            layout[f"{name}.bias"] = "1"
    return layout


def layout_for(blocks: int | None, stages: int) -> Layout:
    """Every tensor of fatchord's own; `blocks` is None for a model without auxiliary network."""
    return layout_of(Variant(blocks, stages))


def stages_of(state: State, prefix: str) -> int:
    """How many filters the upsampling has: one stands behind every repetition of a list."""
    last = last_index(re.compile(rf"{re.escape(prefix)}\.(\d+)\.weight$"), state)
    names = [f"{prefix}.{2 * k + 1}.weight" for k in range(min((last + 1) // 2, fir.MAX_STAGES))]
    return fir.expected_stages([state[n].size // 2 if n in state else 0 for n in names])


def variant_of(state: State) -> Variant:
    """Count what a state dict of fatchord's own layout has."""
    aux = any(name.startswith(_RESNET) for name in state)
    blocks = min(last_index(_BLOCK, state) + 1, _MAX_BLOCKS) if aux else None
    return Variant(blocks, stages_of(state, "upsample.up_layers"))


def _layout(state: State) -> Layout:
    return layout_of(variant_of(state))


def head_of(n_classes: int) -> str | None:
    """Softmax for a power of two, mixture of logistics for 3 values a mixture, else None.

    Two outputs are a gaussian's or a beta's, which only a preset tells.
    """
    if n_classes >= 4 and n_classes & (n_classes - 1) == 0:
        return "softmax"
    return "mol" if n_classes % 3 == 0 else None


def size_problems(sizes: Mapping[str, int]) -> list[str]:
    """List sizes that no such model has, and upsampling that cannot be one kernel."""
    found = []
    classes = sizes.get("C", 4)
    if head_of(classes) is None and classes != 2:
        found.append(
            f"the last layer has {classes} outputs, expected a power of two (softmax), three a "
            "mixture (logistics) or two (gaussian, beta)"
        )
    if sizes.get("T", 1) % 2 == 0:
        found.append(f"the first convolution sees {sizes['T']} frames, expected an odd number")
    taps = fir.taps_of(sizes)
    if any(n % 2 == 0 or n < 3 for n in taps):
        found.append(f"upsampling filters have {taps} taps, expected odd numbers 2s + 1 from 3 up")
        return found
    if not taps:
        if sizes.get("T", 3) < 3:
            found.append("the model interpolates linearly, but pads no frames to cut off again")
        return found
    scales = [n // 2 for n in taps]
    found += fir.few_problems(scales)
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
    conv_in = f"{_RESNET}conv_in"
    tensors["aux.conv_in.weight"], tensors["aux.conv_in.bias"] = fold_batch_norm(
        state[f"{conv_in}.weight"], norm(f"{_RESNET}batch_norm"), state.get(f"{conv_in}.bias")
    )
    for i in range(blocks):
        for k in (1, 2):
            ours, theirs = f"aux.blocks.{i}.conv{k}", f"{_RESNET}layers.{i}"
            weight = state[f"{theirs}.conv{k}.weight"][:, :, 0]
            tensors[f"{ours}.weight"], tensors[f"{ours}.bias"] = fold_batch_norm(
                weight, norm(f"{theirs}.batch_norm{k}"), state.get(f"{theirs}.conv{k}.bias")
            )
    tensors["aux.conv_out.weight"] = float32(state[f"{_RESNET}conv_out.weight"][:, :, 0])
    tensors["aux.conv_out.bias"] = float32(state[f"{_RESNET}conv_out.bias"])
    return tensors


def _core(state: State, heads: list[str]) -> Tensors:
    """PyTorch stacks gates r, z, n: reset, update, candidate, as the canonical form does."""
    tensors = {f"input.{part}": float32(state[f"I.{part}"]) for part in ("weight", "bias")}
    for n in (1, 2):
        tensors[f"gru{n}.w_input"] = float32(state[f"rnn{n}.weight_ih_l0"])
        tensors[f"gru{n}.w_recurrent"] = float32(state[f"rnn{n}.weight_hh_l0"])
        tensors[f"gru{n}.b_input"] = float32(state[f"rnn{n}.bias_ih_l0"])
        tensors[f"gru{n}.b_recurrent"] = float32(state[f"rnn{n}.bias_hh_l0"])
    for part in ("weight", "bias"):
        for n in (1, 2):
            tensors[f"fc{n}.{part}"] = float32(state[f"fc{n}.{part}"])
        tensors[f"fc3.{part}"] = float32(np.concatenate([state[f"{h}.{part}"] for h in heads]))
    return tensors


def convert_checked(
    state: State, sizes: Mapping[str, int], source: str, variant: Variant | None = None
) -> Converted:
    """Convert a state that is known to be the layout, with the sizes that were solved from it."""
    variant = variant_of(state) if variant is None else variant
    tensors = _core(state, variant.heads)
    fields: dict[str, Any] = {
        "core": "residual",
        "hidden_size": sizes["R"],
        "fc_size": sizes["K"],
        "head": head_of(sizes["C"]),  # None: to be told by a preset
        "n_classes": sizes["C"],
        "n_mels": sizes["M"],
        "source": source,
    }
    if variant.stages:
        fields.update(_filters(state, sizes["M"], variant.bands, tensors))
    else:
        fields.update(_linear(sizes, tensors))
    if variant.bands > 1:
        fields["bands"] = variant.bands
    if variant.speaker:
        fields["speaker_size"] = variant.speaker
    if variant.blocks is not None and variant.hears_aux:
        tensors.update(_auxiliary(state, variant.blocks))
        fields.update(
            aux_size=sizes["A"],
            aux_channels=sizes["W"],
            aux_blocks=variant.blocks,
            aux_kernel=sizes["T"],
        )
    return Converted(fields, tensors)


def _filters(state: State, n_mels: int, bands: int, tensors: Tensors) -> dict[str, Any]:
    """Fields of the upsampling; adds its kernel, and its biases to those of the input layer."""
    names = [name for name in state if _FIR.match(name)]
    names.sort(key=lambda name: int(name.split(".")[2]))
    filters = [state[name].reshape(-1) for name in names]
    upsampler = fir.compose([len(taps) // 2 for taps in filters], filters)
    tensors["upsample.kernel"] = float32(upsampler.kernel)
    # What a filter adds passes through those after it; inside an utterance it is a constant, the
    # same for all mel bins, and beyond the padding nothing is heard.
    added = 0.0
    for name, taps in zip(names, filters, strict=True):
        bias = state.get(f"{name.removesuffix('.weight')}.bias")
        added = added * float(taps.astype(np.float64).sum()) + (0.0 if bias is None else bias[0])
    if added:
        heard = tensors["input.weight"][:, bands : bands + n_mels].astype(np.float64).sum(axis=1)
        tensors["input.bias"] = float32(tensors["input.bias"] + added * heard)
    return {
        "hop_length": bands * len(upsampler.kernel),  # filters lead to steps, of a sample a band
        "upsample_left": upsampler.left,
        "upsample_right": upsampler.right,
    }


def _linear(sizes: Mapping[str, int], tensors: Tensors) -> dict[str, Any]:
    """Fields of linear upsampling; puts the factor of the mel into the input layer."""
    columns = slice(1, 1 + sizes["M"])
    weight = tensors["input.weight"]
    weight[:, columns] = float32(weight[:, columns].astype(np.float64) * LINEAR_GAIN)
    return {
        "hop_length": 0,  # to be told by a preset
        "upsample": "linear",
        "upsample_left": 1,
        "upsample_right": 1,
        "upsample_pad": sizes["T"] // 2,
    }


def sizes_of(state: State) -> dict[str, int]:
    """Sizes implied by the shapes: R, K, M, A, C, W, T and the taps S0, S1, ..."""
    return solve(_layout(state), state)


def convert_variant(
    state: State,
    variant: Variant,
    dialect: str,
    more: Callable[[Mapping[str, int]], list[str]] = size_problems,
) -> Converted:
    """Check a state against the layout of a variant and turn it into canonical weights.

    Parameters
    ----------
    state : mapping of str to array
        Tensors as stored, ``module.`` stripped. ``step`` and the batch-norm counters are ignored.
    variant : Variant
    dialect : str
        Its name.
    more : callable
        Lists sizes that no such model has.

    Raises
    ------
    ModelError
        Listing every missing, extra, misshapen or not finite tensor and every unusable size.
    """
    layout = layout_of(variant)
    optional = [*batch_norm_counters(layout), "step"]
    sizes = checked_sizes(dialect, layout, optional, state, more)
    try:
        return convert_checked(state, sizes, dialect, variant)
    except KeyError as error:  # a layout this module allows but does not read: a fault of ours
        raise ModelError(f"The {dialect} loader did not find {error} after checking it.") from error


def convert(state: State) -> Converted:
    """Turn a fatchord state dict into canonical weights; see `convert_variant`."""
    return convert_variant(state, variant_of(state), DIALECT.name)


NAMES = re.compile(
    r"(I|rnn[12]|fc[123]|upsample\.up_layers|"
    r"upsample\.resnet\.(conv_in|batch_norm|layers|conv_out))\.|step$"
)

DIALECT = Dialect(
    name="fatchord",
    names=NAMES,
    presets=(
        *("fatchord-raw9", "fatchord-mol", "tomiinek-raw10", "rtvc", "geneing", "forwardtacotron"),
        *("coqui", "mozilla-libritts", "gwang-gauss", "gwang-beta", "gwang-mol", "gwang-bits"),
        "gwang-mulaw",
    ),
    sizes=sizes_of,
    convert=convert,
)
