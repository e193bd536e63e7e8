"""Whose voice a command speaks with, for a model that hears one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from ..config import ModelConfig

option = click.option(
    "--speaker",
    metavar="FILE|NUMBER",
    help="Whose voice, for a model that hears one: a vector as .npy, or a number of its speakers.",
)


def read(named: str | None, config: ModelConfig) -> Any:
    """What `--speaker` names, checked against the model; None for one that hears no speaker.

    Raises
    ------
    InputError, AudioError
        If the model needs one and there is none, or the other way round, or it is unusable.
    """
    from .. import arrays, audio

    value = None if named is None else audio.read_speaker(named)
    return arrays.to_speaker(value, config, "--speaker")
