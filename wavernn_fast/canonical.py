"""Canonical weights: the names and shapes every loader produces, and the checks they must pass.

All arrays are float32, C-contiguous, ``[out, in]``; the gates of a GRU are stacked in the order
reset, update, candidate. docs/formats.md lists every tensor with its meaning.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .config import ModelConfig
from .errors import ModelError
from .network_config import NetworkConfig

Tensors = dict[str, NDArray[np.float32]]

_MASK = ".mask"  # ending of the name of a mask


def _dual_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    gates, half, width = 3 * config.hidden_size, config.hidden_size // 2, config.fc_size
    shapes: dict[str, tuple[int, ...]] = {
        "gru.w_recurrent": (gates, config.hidden_size),
        "gru.b_recurrent": (gates,),
        "gru.b_input": (gates,),
        "gru.w_sample": (gates, 3),
    }
    if config.conditioning_size:
        shapes["gru.w_conditioning"] = (gates, config.conditioning_size)
    for part in ("coarse", "fine"):
        shapes[f"{part}_fc1.weight"] = (width, half)
        shapes[f"{part}_fc1.bias"] = (width,)
        shapes[f"{part}_fc2.weight"] = (config.n_classes, width)
        shapes[f"{part}_fc2.bias"] = (config.n_classes,)
    return shapes


def _residual_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    size, width, aux = config.hidden_size, config.fc_size, config.aux_size
    shapes: dict[str, tuple[int, ...]] = {
        "input.weight": (size, config.bands + config.n_mels + aux + config.speaker_size),
        "input.bias": (size,),
    }
    for name, inputs in (("gru1", size), ("gru2", size + aux)):
        shapes[f"{name}.w_input"] = (3 * size, inputs)
        shapes[f"{name}.w_recurrent"] = (3 * size, size)
        shapes[f"{name}.b_input"] = (3 * size,)
        shapes[f"{name}.b_recurrent"] = (3 * size,)
    layers = (
        ("fc1", width, size + aux),
        ("fc2", width, width + aux),
        ("fc3", config.bands * config.n_classes, width),
    )
    for name, rows, inputs in layers:
        shapes[f"{name}.weight"] = (rows, inputs)
        shapes[f"{name}.bias"] = (rows,)
    return shapes


def _embedded_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    size, width, classes = config.hidden_size, config.fc_size, config.n_classes
    shapes: dict[str, tuple[int, ...]] = {
        "embedding.weight": (classes, config.embedding_size),
        "gru.w_label": (3 * size, config.embedding_size),
        "gru.w_recurrent": (3 * size, size),
        "gru.b_input": (3 * size,),
        "gru.b_recurrent": (3 * size,),
        "fc1.weight": (width, size),
        "fc1.bias": (width,),
        "fc2.weight": (classes, width),
        "fc2.bias": (classes,),
    }
    if config.conditioning_size:
        shapes["gru.w_conditioning"] = (3 * size, config.conditioning_size)
    return shapes


def _network_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Of the network between the mel and a core with one GRU."""
    network = config.network
    if network is None:
        return {}
    if network.kind == "residual_conv":
        return _residual_conv_shapes(network, config.n_mels)
    if network.dilated:
        return _dilated_shapes(network, config.n_mels + config.speaker_size)
    shapes: dict[str, tuple[int, ...]] = {}
    for layer in range(network.layers):
        size, inputs = network.size, network.in_size(layer, config.n_mels + config.speaker_size)
        if network.kind == "conv":
            shapes[f"network.{layer}.weight"] = (size, inputs, network.kernel)
            shapes[f"network.{layer}.bias"] = (size,)
            continue
        for way in ("forward", "backward"):
            name = f"network.{layer}.{way}"
            shapes[f"{name}.w_input"] = (3 * size, inputs)
            shapes[f"{name}.w_recurrent"] = (3 * size, size)
            shapes[f"{name}.b_input"] = (3 * size,)
            shapes[f"{name}.b_recurrent"] = (3 * size,)
    return shapes


def _residual_conv_shapes(network: NetworkConfig, n_mels: int) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {}
    for layer in range(network.layers):
        shapes[f"network.{layer}.weight"] = (n_mels, n_mels, network.kernel)
        shapes[f"network.{layer}.bias"] = (n_mels,)
    for layer, inputs in enumerate((n_mels, network.size)):
        shapes[f"network.dense{layer}.weight"] = (network.size, inputs)
        shapes[f"network.dense{layer}.bias"] = (network.size,)
    for layer in range(network.lstm_layers):
        gates, name = 4 * network.size, f"network.lstm{layer}"
        shapes[f"{name}.w_input"] = shapes[f"{name}.w_recurrent"] = (gates, network.size)
        shapes[f"{name}.bias"] = (gates,)
    return shapes


def _dilated_shapes(network: NetworkConfig, inputs: int) -> dict[str, tuple[int, ...]]:
    size, narrow, kernel = network.size, network.size // 4, network.kernel
    shapes: dict[str, tuple[int, ...]] = {
        "network.pre.weight": (size, inputs),
        "network.pre.bias": (size,),
    }
    for layer in range(network.layers):
        name = f"network.{layer}"
        if network.kind == "dilated_conv":
            shapes[f"{name}.conv.weight"] = (size, size, kernel)
            shapes[f"{name}.conv.bias"] = (size,)
            continue
        shapes[f"{name}.gain"] = shapes[f"{name}.shift"] = (size,)
        shapes[f"{name}.conv1.weight"] = (narrow, size)
        shapes[f"{name}.conv2.weight"] = (narrow, narrow, kernel)
        shapes[f"{name}.conv3.weight"] = (size, narrow)
        for conv, rows in (("conv1", narrow), ("conv2", narrow), ("conv3", size)):
            shapes[f"{name}.{conv}.bias"] = (rows,)
    return shapes


def _codes_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    codes = config.codes
    if codes is None:
        return {}
    shapes: dict[str, tuple[int, ...]] = {"speakers.weight": (codes.speakers, codes.speaker_size)}
    if codes.count:
        shapes["codes.weight"] = (codes.count, codes.size)
    return shapes


_CORE_SHAPES = {"dual": _dual_shapes, "residual": _residual_shapes, "embedded": _embedded_shapes}


def _conditioner_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = _network_shapes(config)
    # What a network gives, and all conditioning of an embedded core, is held for a frame.
    held = config.core == "embedded" or config.network is not None
    if config.n_mels and not held and config.upsample == "kernel":
        taps = config.upsample_left + 1 + config.upsample_right
        shapes["upsample.kernel"] = (config.hop_length // config.bands, taps)
    if config.aux_size:
        wide = config.aux_channels
        out = config.aux_size * (4 if config.core == "residual" else 1)
        shapes["aux.conv_in.weight"] = (wide, config.n_mels, config.aux_kernel)
        shapes["aux.conv_in.bias"] = (wide,)
        for block in range(config.aux_blocks):
            for conv in ("conv1", "conv2"):
                shapes[f"aux.blocks.{block}.{conv}.weight"] = (wide, wide)
                shapes[f"aux.blocks.{block}.{conv}.bias"] = (wide,)
        shapes["aux.conv_out.weight"] = (out, wide)
        shapes["aux.conv_out.bias"] = (out,)
    return shapes


def _subscale_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    if config.subscale is None:
        return {}
    rows, wide = config.subscale.factor, config.subscale.channels
    columns = 2 * config.subscale.reach + 1
    shapes: dict[str, tuple[int, ...]] = {
        "subscale.input.weight": (rows, wide, rows, columns),
        "subscale.input.bias": (rows, wide),
    }
    for block in range(config.subscale.blocks):
        name = f"subscale.blocks.{block}"
        shapes[f"{name}.conv1.weight"] = (wide, wide, 3)
        shapes[f"{name}.conv1.bias"] = (wide,)
        shapes[f"{name}.conv2.weight"] = (wide, wide)
        shapes[f"{name}.conv2.bias"] = (wide,)
    return shapes


def expected_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Return every canonical tensor name of a model with its shape ([out, in] for matrices)."""
    core = _CORE_SHAPES[config.core](config)
    shapes = {**core, **_conditioner_shapes(config), **_subscale_shapes(config)}
    shapes |= _codes_shapes(config)
    if config.speakers:
        shapes["speakers.weight"] = (config.speakers, config.speaker_size)
    return {**shapes, **_mask_shapes(config, shapes)}


def mask_name(name: str) -> str:
    """Name of the mask of a pruned tensor."""
    return f"{name}{_MASK}"


def without_masks(tensors: Mapping[str, NDArray[np.float32]]) -> Tensors:
    """Only the weights: what an engine that does not look at masks takes."""
    return {name: array for name, array in tensors.items() if not name.endswith(_MASK)}


def _mask_shapes(
    config: ModelConfig, shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, tuple[int, ...]]:
    """One value a block; a matrix that the blocks do not divide is a contradiction.

    Raises
    ------
    ModelError
        Listing the tensors that cannot be pruned like this.
    """
    if config.block_shape is None:
        return {}
    rows, columns = config.block_shape
    found: dict[str, tuple[int, ...]] = {}
    wrong = []
    for name in config.pruned:
        shape = shapes.get(name, ())
        if len(shape) != 2 or shape[0] % rows or shape[1] % columns:
            wrong.append(f"{name} {show_shape(shape) if shape else '(no such tensor)'}")
        else:
            found[mask_name(name)] = (shape[0] // rows, shape[1] // columns)
    if wrong:
        raise ModelError(f"Blocks of {rows} x {columns} weights do not divide:", wrong)
    return found


def _mask_problem(
    config: ModelConfig, name: str, tensors: Mapping[str, NDArray[Any]]
) -> str | None:
    """A mask holds 0 (dropped) and 1 (kept), and dropped weights are 0."""
    assert config.block_shape is not None
    rows, columns = config.block_shape
    mask, weight = tensors[mask_name(name)], tensors[name]
    if not np.isin(mask, (0.0, 1.0)).all():
        return f"{mask_name(name)} holds values other than 0 and 1"
    wide = np.repeat(np.repeat(mask, rows, axis=0), columns, axis=1)
    count = int(np.count_nonzero(weight[wide == 0.0]))
    return f"{name} has {count} non-zero values in dropped blocks" if count else None


def show_shape(shape: Iterable[int]) -> str:
    """Write a shape as ``[3, 4]``; a scalar is ``[]``."""
    return "[" + ", ".join(str(n) for n in shape) + "]"


def shape_problems(
    expected: Mapping[str, tuple[int, ...]], found: Mapping[str, tuple[int, ...]]
) -> list[str]:
    """List missing, extra and misshapen tensors, each with the expected beside the found."""
    problems = [
        f"missing tensor {name}, expected shape {show_shape(shape)}"
        for name, shape in expected.items()
        if name not in found
    ]
    for name, shape in found.items():
        if name not in expected:
            problems.append(f"unexpected tensor {name} of shape {show_shape(shape)}")
        elif tuple(shape) != tuple(expected[name]):
            problems.append(
                f"{name} has shape {show_shape(shape)}, expected {show_shape(expected[name])}"
            )
    return problems


def nonfinite_problem(name: str, values: NDArray[Any]) -> str | None:
    """Say how many values of a tensor are NaN or infinite and where the first is; None if none."""
    bad = ~np.isfinite(values)
    count = int(np.count_nonzero(bad))
    if not count:
        return None
    first = tuple(int(i) for i in np.unravel_index(int(np.argmax(bad)), values.shape))
    kind = "NaN" if np.isnan(values[first]) else "infinite"
    return (
        f"{name} has {count} value{'s' if count > 1 else ''} not finite; "
        f"the first is {kind} at index {show_shape(first)}"
    )


def _coarse_column_problem(config: ModelConfig, w_sample: NDArray[np.float32]) -> str | None:
    """The coarse half must not see c_t, which is drawn from it: column 2 is zero there."""
    coarse = w_sample.reshape(3, config.hidden_size, 3)[:, : config.hidden_size // 2, 2]
    count = int(np.count_nonzero(coarse))
    if not count:
        return None
    return (
        f"gru.w_sample column 2 (c_t) has {count} non-zero values in the rows of the coarse half, "
        "expected 0: coarse units cannot see the coarse sample being drawn"
    )


def _subscale_problem(weight: NDArray[Any]) -> str | None:
    """A row may see the rows before it only: weights [row, channels, row seen, columns]."""
    rows = np.arange(len(weight))
    seen = weight.transpose(0, 2, 1, 3)[rows[None, :] >= rows[:, None]]
    count = int(np.count_nonzero(seen))
    if not count:
        return None
    return (
        f"subscale.input.weight has {count} non-zero values where a row would see itself or one "
        "after it, expected 0: those samples are drawn later"
    )


def problems(config: ModelConfig, tensors: Mapping[str, NDArray[Any]]) -> list[str]:
    """List everything that keeps `tensors` from being the weights of `config`."""
    expected = expected_shapes(config)
    found = shape_problems(expected, {name: array.shape for name, array in tensors.items()})
    for name, array in tensors.items():
        if name not in expected:
            continue
        if array.dtype != np.float32:
            found.append(f"{name} has dtype {array.dtype}, expected float32")
        if np.issubdtype(array.dtype, np.floating):
            sentence = nonfinite_problem(name, array)
            if sentence:
                found.append(sentence)
    if not found:
        sentences = (_mask_problem(config, name, tensors) for name in config.pruned)
        found += [sentence for sentence in sentences if sentence]
    w_sample = tensors.get("gru.w_sample")
    if w_sample is not None and w_sample.shape == expected.get("gru.w_sample"):
        sentence = _coarse_column_problem(config, w_sample)
        if sentence:
            found.append(sentence)
    if config.subscale is not None and config.n_mels:
        kernel = tensors.get("upsample.kernel")
        if kernel is not None and not (kernel == 1.0).all():
            found.append("upsample.kernel holds values other than 1, which a subscale model cannot")
    between = tensors.get("subscale.input.weight")
    if between is not None and between.shape == expected.get("subscale.input.weight"):
        sentence = _subscale_problem(between)
        if sentence:
            found.append(sentence)
    return found


def validate(config: ModelConfig, tensors: Mapping[str, NDArray[Any]]) -> None:
    """Check names, shapes, dtypes and values of canonical weights.

    Parameters
    ----------
    config : ModelConfig
    tensors : mapping of str to array
        Canonical weights, float32, shapes as in `expected_shapes`.

    Raises
    ------
    ModelError
        Listing all problems: missing, extra and misshapen tensors, wrong dtypes, NaN or infinite
        values, and for the dual core a coarse half that reads the coarse sample being drawn.
    """
    found = problems(config, tensors)
    if found:
        raise ModelError("The weights do not match the model configuration:", found)
