"""fatchord's model with linear upsampling: coqui-ai/TTS, mozilla/TTS and erogol/WaveRNN.

With ``use_upsample_net`` false the file has no filters: the padded mel and the output of the
auxiliary network are interpolated over the whole utterance, and the mel is multiplied by 0.045
(`wavernn_fast.upsampling`). The auxiliary network is in the file even with ``use_aux_net`` false,
when nothing reads it. The hop length is in no tensor: a preset tells it. Models of these programs
with filters have fatchord's layout.
"""

from __future__ import annotations

from . import fatchord
from .layout import Converted, Dialect, State, solve


def _variant(state: State) -> fatchord.Variant:
    """Whether the slices of the auxiliary network are heard: the widths of four matrices vote."""
    blocks = fatchord.variant_of(state).blocks
    sizes = solve(fatchord.layout_of(fatchord.Variant(blocks, 0, hears_aux=False)), state)
    widths = {"I": 1 + sizes.get("M", 0), "fc1": sizes.get("R", 0), "fc2": sizes.get("K", 0)}
    votes = []
    for name, width in {**widths, "rnn2": sizes.get("R", 0)}.items():
        weight = state.get(f"{name}.weight_ih_l0" if name == "rnn2" else f"{name}.weight")
        if weight is not None and weight.ndim == 2:
            votes.append(weight.shape[1] != width)
    return fatchord.Variant(blocks, 0, hears_aux=2 * sum(votes) > len(votes))


def _fits(state: State) -> bool:
    """No filter at all, but an auxiliary network."""
    has_filters = any(name.startswith("upsample.up_layers.") for name in state)
    return not has_filters and any(name.startswith("upsample.resnet.") for name in state)


def sizes_of(state: State) -> dict[str, int]:
    """Sizes implied by the shapes, with fatchord's letters."""
    return solve(fatchord.layout_of(_variant(state)), state)


def convert(state: State) -> Converted:
    """Turn a state dict into canonical weights; see `fatchord.convert_variant`."""
    return fatchord.convert_variant(state, _variant(state), DIALECT.name)


DIALECT = Dialect(
    name="coqui",
    names=fatchord.NAMES,
    presets=("coqui", "mozilla-libritts", "erogol-universal"),
    sizes=sizes_of,
    convert=convert,
    fits=_fits,
)
