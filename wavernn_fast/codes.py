"""Features of models over codes: vectors of codes and of a speaker in place of a mel.

ZeroSpeech and VectorQuantizedCPC (van Niekerk et al. 2020) hear, in place of mel frames, the
vectors of discrete units of 20 ms, each repeated to two frames, and behind each the vector of a
speaker.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import arrays
from .config import ModelConfig
from .errors import InputError
from .network_config import CodesConfig

TABLES = ("codes.weight", "speakers.weight")  # tensors that features are made of


def features(
    config: ModelConfig, tensors: Mapping[str, NDArray[np.float32]], codes: Any, speaker: Any
) -> NDArray[np.float32]:
    """Features of a sequence of codes spoken by a speaker; see `Vocoder.features`."""
    if config.codes is None:
        raise InputError("This model hears a mel, no codes; call generate(mel).")
    vectors = _vectors(config.codes, tensors.get("codes.weight"), codes)
    voice = _speaker(config.codes, tensors["speakers.weight"], speaker)
    frames = np.repeat(vectors, config.codes.repeat, axis=0)
    beside = np.broadcast_to(voice, (len(frames), len(voice)))
    return np.ascontiguousarray(np.concatenate([frames, beside], axis=1).T, dtype=np.float32)


def _vectors(
    config: CodesConfig, table: NDArray[np.float32] | None, codes: Any
) -> NDArray[np.float32]:
    """Vectors [n, size] of codes [n], or of vectors [size, n]."""
    given, _ = arrays.to_array(codes, "sequence of codes")
    if given.ndim == 2 and given.dtype.kind == "f" and given.shape[0] == config.size:
        if not np.isfinite(given).all():
            raise InputError("The vectors of the codes hold values that are not finite.")
        return given.T.astype(np.float32)
    if table is None:
        raise InputError(
            f"This model holds no vectors of codes: give them, floats [{config.size}, n], not "
            f"{given.dtype} {list(given.shape)}."
        )
    if given.size == 0 and given.ndim == 1:  # an empty list is one of floats
        given = given.astype(np.int64)
    if given.ndim != 1 or given.dtype.kind not in "iu":
        raise InputError(
            f"The codes are {given.dtype} {list(given.shape)}, expected integers [n] or their "
            f"vectors, floats [{config.size}, n]."
        )
    wrong = (given < 0) | (given >= config.count)
    if wrong.any():
        at = int(np.argmax(wrong))
        raise InputError(f"Code {at} is {int(given[at])}, expected 0 to {config.count - 1}.")
    return table[given.astype(np.int64)]


def _speaker(config: CodesConfig, table: NDArray[np.float32], speaker: Any) -> NDArray[np.float32]:
    """Vector [speaker_size] of a speaker's number, or the vector that was given."""
    given, _ = arrays.to_array(speaker, "speaker")
    if given.ndim == 0 and given.dtype.kind in "iu":
        if not 0 <= int(given) < config.speakers:
            raise InputError(
                f"Speaker {int(given)} does not exist; expected 0 to {config.speakers - 1}."
            )
        vector: NDArray[np.float32] = table[int(given)]
        return vector
    if given.shape == (config.speaker_size,) and given.dtype.kind == "f":
        if not np.isfinite(given).all():
            raise InputError("The speaker's vector holds values that are not finite.")
        return given.astype(np.float32)
    raise InputError(
        f"The speaker is {speaker!r}, expected a number from 0 to {config.speakers - 1} or a "
        f"vector of {config.speaker_size} floats."
    )
