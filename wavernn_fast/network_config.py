"""The network between the mel and an embedded core, and what such a core needs to be possible."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from .config import ModelConfig


@dataclass(frozen=True, kw_only=True)
class NetworkConfig:
    """Layers over mel frames whose output, held for a frame, conditions an embedded core.

    "gru": bidirectional GRUs, so that every frame hears the whole utterance.
    "conv": convolutions, a tanh after each; nothing is padded between them.
    """

    kind: Literal["gru", "conv"]
    layers: int  # 1 to 16
    size: int  # channels of a layer; gru: units of each direction
    kernel: int = 1  # frames that a convolution sees (odd); gru: 1

    @property
    def out_size(self) -> int:
        """Channels of the output."""
        return 2 * self.size if self.kind == "gru" else self.size

    @property
    def radius(self) -> int:
        """Frames on each side that an output frame hears; 0 where it hears the whole utterance."""
        return self.layers * (self.kernel // 2)

    @property
    def hears_whole(self) -> bool:
        """Whether every frame of the output depends on every frame of the mel."""
        return self.kind == "gru"

    def in_size(self, layer: int, n_mels: int) -> int:
        """Channels that a layer reads."""
        return n_mels if layer == 0 else self.out_size

    def problems(self, n_mels: int) -> list[str]:
        """What is impossible about it, a sentence each."""
        need = (
            (n_mels > 0, "a conditioning network needs mel frames (n_mels is 0)"),
            (1 <= self.layers <= 16, f"network layers is {self.layers}, must be 1 to 16"),
            (self.size > 0, f"network size is {self.size}, must be positive"),
            (
                self.kernel > 0 and self.kernel % 2 == 1,
                f"network kernel is {self.kernel}, must be odd",
            ),
            (
                self.kind == "conv" or self.kernel == 1,
                f"a network of GRUs sees one frame at a time, kernel is {self.kernel}",
            ),
        )
        return [sentence for ok, sentence in need if not ok]


def embedded_problems(config: ModelConfig) -> list[str]:
    """What contradicts itself about an embedded core, or about its fields in another core."""
    if config.core != "embedded":
        if config.network is None and not config.embedding_size and not config.first_label:
            return []
        return [f"a {config.core} core has no embedding_size, first_label or network"]
    need = [
        (config.head == "softmax", f"an embedded core has head softmax, not {config.head}"),
        (
            config.embedding_size > 0,
            f"embedding_size is {config.embedding_size}, must be positive",
        ),
        (
            0 <= config.first_label < config.n_classes,
            f"first_label is {config.first_label}, not a label (0 to {config.n_classes - 1})",
        ),
        (
            config.aux_size == 0 and config.upsample_left == 0 and config.upsample_right == 0,
            "an embedded core has no auxiliary network and no upsampling filters",
        ),
        (
            config.pad == "zeros" or config.network is None or not config.network.hears_whole,
            "a network of GRUs reads no frames beyond the ends (pad 'zeros')",
        ),
    ]
    for name in ("hidden_size", "fc_size"):
        size = getattr(config, name)
        need.append((size % 16 == 0, f"{name} is {size}, not a multiple of 16"))
    found = [sentence for ok, sentence in need if not ok]
    return found + ([] if config.network is None else config.network.problems(config.n_mels))
