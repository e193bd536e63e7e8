"""What no tensor tells: presets for checkpoints, and what is assumed where none is named."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..config import ModelConfig
from ..errors import InputError, ModelError
from ..preset import Preset
from ..presets import fitting_presets, get_preset, with_preset
from . import fatchord
from .layout import Converted, Dialect

_log = logging.getLogger("wavernn_fast")

_GAUSSIAN_WRAPPER = "model"  # of coqui and its kin, which know no beta distribution


def sizes(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Pick what decides which presets fit."""
    found = {name: fields.get(name, 0) for name in ("head", "hop_length", "n_mels")}
    return found | {
        "embedded": fields.get("core") == "embedded",
        "bands": fields.get("bands", 1),
    }


def default_preset(dialect: Dialect, wrapper: str, converted: Converted) -> str | None:
    """Choose the preset that a checkpoint most likely goes with; None if none fits its sizes."""
    fields, tensors = converted
    fitting = [n for n in fitting_presets(**sizes(fields)) if n in dialect.presets]
    if dialect.name == "fatchord" and "geneing" in fitting and "rtvc" in fitting:
        # The single-GRU model stored in this layout has a second GRU of zeros.
        single = not any(tensors[f"gru2.{part}"].any() for part in ("w_input", "w_recurrent"))
        return "geneing" if single and wrapper != "model_state" else "rtvc"
    labels = fields["n_classes"] if fields["head"] == "softmax" else 0

    def unlikely(name: str) -> tuple[bool, bool]:
        preset = get_preset(name)
        bits = preset.bits is not None and labels != 2**preset.bits
        return preset.wrapper not in (None, wrapper), bits

    return min(fitting, key=unlikely, default=None)  # the first of equals


def complete(
    dialect: Dialect,
    wrapper: str,
    converted: Converted,
    preset: str | None,
    told: Mapping[str, Any],
) -> Converted:
    """Fill in what no tensor tells, a hop length or which of two heads: `told`, or from a preset.

    Raises
    ------
    ModelError
        If it must be told and is not, naming the presets that fit.
    """
    fields = dict(converted.fields)
    for name in ("head", "hop_length"):
        fields[name] = fields[name] or told.get(name, fields[name])
    if fields["head"] is None and wrapper == _GAUSSIAN_WRAPPER:
        fields["head"] = "gaussian"
    found = []
    every = fitting_presets(**sizes(fields))
    fitting = [name for name in every if name in dialect.presets] or every
    if preset is not None and preset in every:
        convention = get_preset(preset)
        fields["head"] = fields["head"] or next(
            h for h in convention.heads if h in ("gaussian", "beta")
        )
        fields["hop_length"] = fields["hop_length"] or convention.hop_length
    named = f"Presets that fit: {', '.join(fitting) or 'none'}."
    if fields["head"] is None:
        found.append(
            "the last layer has two outputs, of a gaussian or of a beta distribution, which the "
            f"file does not tell; name a preset (--preset). {named}"
        )
    if not fields["hop_length"]:
        found.append(
            "the mel is interpolated linearly, so the samples of a frame are not in the file; name "
            f"a preset (--preset). {named}"
        )
    if found:
        raise ModelError("The file does not say all that the model needs:", found)
    return Converted(fields, converted.tensors)


def without_preset(dialect: Dialect, fields: Mapping[str, Any]) -> ModelConfig:
    """Take sample rate and output rule from the family; its mel convention is not known."""
    kin = _kin(dialect, fields)
    return ModelConfig(**fields, sample_rate=kin.sample_rate, output=dialect.output or kin.output)


def _kin(dialect: Dialect, fields: Mapping[str, Any]) -> Preset:
    """The preset whose sample rate and output are the best guess where none fits."""
    values = fields["head"] in ("mol", "gaussian", "beta")
    names = dialect.presets or fatchord.DIALECT.presets
    return get_preset("fatchord-mol" if values else names[0])


def configure(path: Path, dialect: Dialect, wrapper: str, converted: Converted) -> ModelConfig:
    """Complete the configuration with the assumed preset, and say what was assumed."""
    config = without_preset(dialect, converted.fields)
    name = default_preset(dialect, wrapper, converted)
    if name is None:
        _log.warning(
            "%s: no preset has %d samples a frame and %d mel bins; assuming %d Hz and the output "
            "rule of %s, with an unknown mel convention.",
            path,
            config.hop_length,
            config.n_mels,
            config.sample_rate,
            _kin(dialect, converted.fields).name if dialect.output is None else dialect.name,
        )
        return config
    _log.info(
        "%s: %s checkpoint; assuming preset %s (--preset overrides).", path, dialect.name, name
    )
    return with_preset(config, name)


def refuse_unfitting(path: Path, fields: Mapping[str, Any], name: str) -> None:
    """Say why a preset does not fit, before what it does not tell is missed."""
    problems = get_preset(name).problems(**sizes(fields))
    if problems:
        fitting = ", ".join(fitting_presets(**sizes(fields))) or "none"
        raise InputError(
            f"{path}: Preset {name!r} does not fit this model: {'; '.join(problems)}. "
            f"Presets that fit: {fitting}."
        )


def apply_preset(path: Path, config: ModelConfig, name: str) -> ModelConfig:
    """`presets.with_preset`; an error names the file."""
    try:
        return with_preset(config, name)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
