"""The network between the mel and a core with one GRU, and what makes such a core possible."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from .config import ModelConfig


_MAX_DILATED = 10  # layers that double their reach: it is 1023 frames then


@dataclass(frozen=True, kw_only=True)
class NetworkConfig:
    """Layers over mel frames whose output, held for a frame, conditions the core.

    "gru": bidirectional GRUs, so that every frame hears the whole utterance (embedded core).
    "conv": convolutions, a tanh after each; nothing is padded between them (embedded core).
    "residual_conv": convolutions of as many channels as the mel has, zeros beside the utterance for
    each of them, a tanh after each; their output plus the mel goes through two dense layers with a
    tanh, and then through LSTM layers, if there are any (dual core).
    "dilated_conv": a dense layer, then x + conv(relu x), 2**i frames apart in layer i, with zeros
    beside the utterance for each of them (embedded core).
    "bottleneck_conv": the same with x + conv3 relu conv2 relu conv1 relu(gain x + shift), of size
    // 4 channels between; conv2 is the dilated one (embedded core).
    """

    kind: Literal["gru", "conv", "residual_conv", "dilated_conv", "bottleneck_conv"]
    layers: int  # 1 to 16, dilated 1 to 10; residual_conv: the convolutions
    size: int  # channels of a layer; gru: units of each direction; residual_conv: of the dense ones
    kernel: int = 1  # frames that a convolution sees (odd); gru: 1
    lstm_layers: int = 0  # residual_conv: LSTMs of `size` units behind it, from the first frame on

    @property
    def out_size(self) -> int:
        """Channels of the output."""
        return 2 * self.size if self.kind == "gru" else self.size

    @property
    def radius(self) -> int:
        """Frames on each side that an output frame hears; 0 where it hears the whole utterance.

        With LSTM layers it hears all frames before it as well.
        """
        reach = 2**self.layers - 1 if self.dilated else self.layers
        return reach * (self.kernel // 2)

    @property
    def dilated(self) -> bool:
        """Whether frames of its layers lie 1, 2, 4, ... apart."""
        return self.kind in ("dilated_conv", "bottleneck_conv")

    @property
    def hears_whole(self) -> bool:
        """Whether every frame of the output depends on every frame of the mel."""
        return self.kind == "gru"

    @property
    def hears_speaker(self) -> bool:
        """Whether its first layer may hear a speaker's vector behind every frame."""
        return self.kind == "gru" or self.dilated

    def in_size(self, layer: int, n_mels: int) -> int:
        """Channels that a layer reads; the first also a speaker's vector, if there is one."""
        return n_mels if layer == 0 else self.out_size

    def problems(self, n_mels: int) -> list[str]:
        """What is impossible about it, a sentence each."""
        need = (
            (n_mels > 0, "a conditioning network needs mel frames (n_mels is 0)"),
            (1 <= self.layers <= 16, f"network layers is {self.layers}, must be 1 to 16"),
            (
                not self.dilated or (self.layers <= _MAX_DILATED and self.kernel == 3),
                f"a dilated network has 1 to {_MAX_DILATED} layers and kernel 3, not {self.layers} "
                f"and {self.kernel}",
            ),
            (self.size > 0, f"network size is {self.size}, must be positive"),
            (
                self.kind != "bottleneck_conv" or self.size >= 4,
                f"network size is {self.size}, a bottleneck has a quarter of it",
            ),
            (
                self.kernel > 0 and self.kernel % 2 == 1,
                f"network kernel is {self.kernel}, must be odd",
            ),
            (
                self.kind != "gru" or self.kernel == 1,
                f"a network of GRUs sees one frame at a time, kernel is {self.kernel}",
            ),
            (0 <= self.lstm_layers <= 16, f"lstm_layers is {self.lstm_layers}, must be 0 to 16"),
            (
                self.lstm_layers == 0 or self.kind == "residual_conv",
                f"LSTM layers stand behind residual convolutions, not behind kind {self.kind}",
            ),
        )
        return [sentence for ok, sentence in need if not ok]


@dataclass(frozen=True, kw_only=True)
class CodesConfig:
    """What the features of a model over codes are made of; see `codes.features`.

    A frame is the vector of a code, repeated, and behind it the vector of a speaker.
    """

    count: int  # codes with a vector in the model; 0: their vectors are given
    size: int  # of the vector of a code
    speakers: int  # with a vector in the model
    speaker_size: int  # of the vector of a speaker
    repeat: int  # frames of a code

    def problems(self, config: ModelConfig) -> list[str]:
        """What is impossible about it, a sentence each."""
        need = (
            (config.core == "embedded", f"a {config.core} core has no codes"),
            (self.count >= 0, f"codes count is {self.count}, must not be negative"),
            (
                min(self.size, self.speakers, self.speaker_size, self.repeat) > 0,
                "codes size, speakers, speaker_size and repeat must be positive",
            ),
            (
                self.size + self.speaker_size == config.n_mels,
                f"codes and speakers make {self.size + self.speaker_size} features, n_mels is "
                f"{config.n_mels}",
            ),
            (config.mel is None, "a model over codes has no mel convention"),
            (config.speaker_size == 0, "the speaker of a model over codes is in its features"),
        )
        return [sentence for ok, sentence in need if not ok]


def embedded_problems(config: ModelConfig) -> list[str]:
    """What contradicts itself about an embedded core, or about its fields in another core."""
    if config.core != "embedded":
        found = [] if config.network is None else _beside_a_dual_core(config, config.network)
        if config.embedding_size or config.first_label:
            found.append(f"a {config.core} core has no embedding_size and no first_label")
        return found
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
            config.network is None or config.network.kind != "residual_conv",
            "a network of residual convolutions conditions a dual core",
        ),
        (
            config.pad == "zeros" or config.network is None or not config.network.hears_whole,
            "a network of GRUs reads no frames beyond the ends (pad 'zeros')",
        ),
        (
            config.network is None
            or not config.network.dilated
            or (config.pad == "zeros" and config.pad_value == 0),
            "dilated convolutions pad their inputs with zeros (pad 'zeros', pad_value 0)",
        ),
    ]
    for name in ("hidden_size", "fc_size"):
        size = getattr(config, name)
        need.append((size % 16 == 0, f"{name} is {size}, not a multiple of 16"))
    found = [sentence for ok, sentence in need if not ok]
    return found + ([] if config.network is None else config.network.problems(config.n_mels))


def _beside_a_dual_core(config: ModelConfig, network: NetworkConfig) -> list[str]:
    """What keeps a core that is not embedded from being conditioned by a network."""
    if config.core != "dual" or network.kind != "residual_conv":
        return [f"a {config.core} core is not conditioned by a network of kind {network.kind}"]
    need = (
        (
            config.aux_size == 0 and config.upsample_left == 0 and config.upsample_right == 0,
            "a network stands in place of the auxiliary one and of upsampling filters",
        ),
        (
            config.pad == "zeros" and config.pad_value == 0,
            "residual convolutions pad their inputs with zeros (pad 'zeros', pad_value 0)",
        ),
        (config.subscale is None, "a subscale model is conditioned by no such network"),
    )
    return [sentence for ok, sentence in need if not ok] + network.problems(config.n_mels)


def speaker_problems(config: ModelConfig) -> list[str]:
    """What contradicts itself about the speaker that a model hears."""
    residual = config.core == "residual" and config.n_mels > 0 and config.aux_size > 0
    network = config.network if config.core == "embedded" else None
    need = (
        (config.speaker_size >= 0, f"speaker_size is {config.speaker_size}, must not be negative"),
        (
            config.speaker_size == 0 or residual or (network is not None and network.hears_speaker),
            "a speaker's vector needs a residual core with an auxiliary network, or an embedded "
            "core behind GRUs or dilated convolutions",
        ),
        (
            config.speakers == 0 or (config.speakers > 0 and config.speaker_size > 0),
            f"speakers is {config.speakers} and speaker_size {config.speaker_size}, but speakers "
            "have vectors",
        ),
    )
    return [sentence for ok, sentence in need if not ok]
