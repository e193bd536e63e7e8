"""bshall/ZeroSpeech and bshall/VectorQuantizedCPC: univoc's model over codes of 20 ms.

A decoder alone (``mu_embedding``, or ``embedding`` of other versions), or below ``decoder.`` of the
whole model, whose ``codebook.embedding`` has the vectors of the codes then and whose encoder, which
makes the codes, is left out; the last version has that codebook in its encoder and saves both side
by side. VectorQuantizedCPC has them in ``code_embedding`` (model.py of both).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from numpy.typing import NDArray

from ..network_config import CodesConfig, NetworkConfig
from ..presets import get_preset
from . import embedded
from .layout import Converted, Dialect, Layout, State, checked_sizes, float32, solve

_NETWORK, _REPEAT = "rnn1", 2
_SPEAKERS, _CODES = "speaker_embedding.weight", "code_embedding.weight"
_NAMES = embedded.Names((_NETWORK,), "mu_embedding", "rnn2", "fc1", "fc2")


def upgraded(state: State) -> dict[str, NDArray[Any]]:
    """The decoder alone under the names of VectorQuantizedCPC."""
    found: dict[str, NDArray[Any]] = {}
    for name, array in state.items():
        part, _, rest = name.partition(".")
        if part == "decoder":
            found[rest] = array
        elif name in ("codebook.embedding", "codebook.embedding.weight"):
            found[_CODES] = array
        elif part not in ("encoder", "codebook"):
            found[name] = array
    if "embedding.weight" in found:
        found[f"{_NAMES.embedding}.weight"] = found.pop("embedding.weight")
    return found


def _layout(state: State) -> Layout:
    """M: code Z and speaker S; P speakers, K codes where their vectors are there."""
    layers = {_NETWORK: embedded.gru_layers(_NETWORK, state)}
    layout = embedded.network_layout(_NAMES, layers) | embedded.core_layout(_NAMES, "E+2D")
    layout[_SPEAKERS] = "P S"
    if _CODES in state:
        layout[_CODES] = "K Z"
    return layout


def _size_problems(sizes: Mapping[str, int]) -> list[str]:
    found = embedded.size_problems(sizes)
    mels, speaker, code = (sizes.get(symbol) for symbol in "MSZ")
    if mels is not None and speaker is not None:
        if code is not None and code + speaker != mels:
            found.append(
                f"{_NETWORK} hears {mels} features, expected {code} of a code and {speaker} of a "
                "speaker"
            )
        elif mels <= speaker:
            found.append(f"{_NETWORK} hears {mels} features, expected more than {speaker}")
    return found


def sizes_of(state: State) -> dict[str, int]:
    """Sizes implied by the shapes: C, E, R, F, D, M, S, P, and Z and K of codes."""
    state = upgraded(state)
    return solve(_layout(state), state)


def convert(state: State) -> Converted:
    """Turn a state dict of either program into canonical weights.

    Raises
    ------
    ModelError
        Listing every missing, extra, misshapen or not finite tensor and every unusable size.
    """
    state = upgraded(state)
    sizes = checked_sizes("zerospeech", _layout(state), (), state, _size_problems)
    layers = {_NETWORK: embedded.gru_layers(_NETWORK, state)}
    tensors = embedded.core_tensors(state, _NAMES, sizes["E"])
    tensors |= embedded.network_tensors(state, _NAMES, layers)
    tensors["speakers.weight"] = float32(state[_SPEAKERS])
    if _CODES in state:
        tensors["codes.weight"] = float32(state[_CODES])
    codes = CodesConfig(
        count=sizes.get("K", 0),
        size=sizes["M"] - sizes["S"],
        speakers=sizes["P"],
        speaker_size=sizes["S"],
        repeat=_REPEAT,
    )
    return embedded.converted(
        sizes,
        tensors,
        NetworkConfig(kind="gru", layers=layers[_NETWORK], size=sizes["D"]),
        codes=codes,
        first_label=sizes["C"] // 2,
        hop_length=get_preset("zerospeech").hop_length,
        source=DIALECT.name,
    )


def _fits(state: Mapping[str, NDArray[Any]]) -> bool:
    """Univoc has some of the same names, but no speakers."""
    own = re.compile(r"(decoder\.)?(speaker|code|mu)_embedding\.")
    return any(own.match(name) for name in state)


DIALECT = Dialect(
    name="zerospeech",
    names=re.compile(
        r"(decoder\.)?(speaker_embedding|code_embedding|mu_embedding|embedding|rnn[12]|fc[12])\."
        r"|encoder\.|codebook\."
    ),
    presets=("zerospeech",),
    sizes=sizes_of,
    convert=convert,
    fits=_fits,
)
