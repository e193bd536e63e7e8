"""What a model is: sizes, mel convention, output rule. Frozen, printable, stored in the file.

Units and ranges stand beside every field. `ModelConfig.to_json` / `from_json` are the form kept
in the metadata of a canonical safetensors file (docs/formats.md).
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from typing import Literal

from .config_checks import choice_problems, output_problems
from .config_json import build
from .errors import ModelError
from .network_config import CodesConfig, NetworkConfig, embedded_problems, speaker_problems
from .subscale_config import SubscaleConfig

Core = Literal["dual", "residual", "embedded"]
Head = Literal["dual_softmax", "softmax", "mol", "gaussian", "beta"]
Crossfade = Literal["constant_power", "legacy"]  # fold.fade_curves

FORMAT_VERSION = 1  # of the canonical file; raised when a reader of the old one would go wrong


@dataclass(frozen=True, kw_only=True)
class MelConfig:
    """How log-mel frames are made from a waveform.

    The value of one bin is ``clip(scale * (log(max(floor, mel)) - ref_db) + offset, *clip)`` where
    ``log`` is ``20 log10`` ("db"), ``ln`` ("ln") or ``log10`` ("log10").
    """

    preset: str = "custom"  # name of the preset it came from
    sample_rate: int  # Hz
    n_fft: int  # samples
    hop_length: int  # samples per frame
    win_length: int  # samples, Hann (periodic), centred in n_fft
    n_mels: int  # bins
    f_min: float  # Hz
    f_max: float  # Hz
    power: float = 1.0  # exponent of the STFT magnitude: 1 magnitude, 2 power
    mel_scale: Literal["slaney", "htk"] = "slaney"
    # of the filters: "slaney" area in Hz, "sum" of the weights over FFT bins
    mel_norm: Literal["slaney", "none", "sum"] = "slaney"
    center: bool = True  # pad n_fft // 2 on both sides before framing
    pad_mode: Literal["reflect", "constant"] = "reflect"
    preemphasis: float = 0.0  # y[t] = x[t] - preemphasis * x[t-1]; 0 is off
    log: Literal["db", "ln", "log10"] = "db"
    floor: float = 1e-5  # smallest mel value before the logarithm
    ref_db: float = 0.0  # subtracted after the logarithm
    scale: float = 1.0
    offset: float = 0.0
    clip: tuple[float, float] | None = None  # (lowest, highest) value, or None


@dataclass(frozen=True, kw_only=True)
class OutputConfig:
    """What happens between the drawn classes and the waveform."""

    mu_law: bool = False  # softmax labels are mu-law companded, mu = n_classes - 1
    # "float32" rounds as PyTorch programs do, "torchaudio" truncates too, as its bundle does; for
    # the others see `samples.LABEL_RULES`
    label_decode: Literal["exact", "float32", "torchaudio", "univoc", "gibiansky", "yukarin"] = (
        "exact"
    )
    dual_scale: Literal["int16", "symmetric"] = "int16"  # int16: (k - 32768) / 32768; symmetric:
    #                                                      k / 32767.5 - 1, k = 256 coarse + fine
    decode_before_crossfade: bool = True  # False: folds are joined in the companded domain
    crossfade: Crossfade = "constant_power"
    fold_target: int = 11000  # samples; used when folding is asked for without sizes
    fold_overlap: int = 550  # samples
    deemphasis: float = 0.0  # y[t] = x[t] + deemphasis * y[t-1]; 0 is off
    length: Literal["frames", "frames_minus_one"] = "frames"  # samples = hop * n or hop * (n - 1)
    fade_out_frames: int = 0  # linear ramp over the last so many frames; skipped when shorter
    limit: float = 0.0  # the waveform is clipped to [-limit, limit] at the end; 0: it is not


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Everything about a model that is not a weight.

    Raises
    ------
    ModelError
        Listing every field that contradicts another.
    """

    core: Core
    hidden_size: int  # GRU units; dual: first half coarse, second half fine
    fc_size: int  # width of the output hidden layers
    head: Head
    n_classes: int  # dual_softmax: 256 a half; softmax: labels; mol: 3 * mixtures; gaussian,
    #                beta: 2
    sample_rate: int  # Hz
    hop_length: int  # samples per frame; 1 when unconditioned
    n_mels: int = 0  # mel bins; 0: unconditioned
    aux_size: int = 0  # channels of one slice of the auxiliary network; 0: no such network
    aux_channels: int = 0  # width of the auxiliary network
    aux_blocks: int = 0  # residual blocks of the auxiliary network
    aux_kernel: int = 0  # frames seen by its first convolution (odd)
    upsample_left: int = 0  # frames before the current one that the upsampling kernel reads
    upsample_right: int = 0  # frames after the current one
    upsample: Literal["kernel", "linear"] = "kernel"  # linear: between frames, see `upsampling`
    upsample_pad: int = 0  # linear: frames beyond each end that are interpolated as well
    pad: Literal["zeros", "none"] = "zeros"  # "none": output covers only frames with full context
    pad_value: float = 0.0  # of the mel beyond its ends, where it is padded
    # numbers of the speaker's vector that the input layer, or that of `network`, hears; 0: none
    speaker_size: int = 0
    speakers: int = 0  # whose vectors are in the model, so that a number is enough
    # of label k of C: 2 k / (C - 1) - 1, or that with mu-law undone, mu = C - 1 (residual, softmax)
    feedback: Literal["linear", "mu_law"] = "linear"
    first_input: float = 0.0  # fed back at step 0 (dual: as coarse and as fine), in [-1, 1]
    block_shape: tuple[int, int] | None = None  # (rows, columns) of the blocks of a pruned model
    pruned: tuple[str, ...] = ()  # tensors that have a mask of such blocks
    subscale: SubscaleConfig | None = None  # None: one sample after the other
    embedding_size: int = 0  # embedded: values of the embedding of a label
    first_label: int = 0  # embedded: fed back at step 0
    bands: int = 1  # sub-bands that a step draws a sample of each of; they come out interleaved
    network: NetworkConfig | None = None  # over the mel; None: the mel itself is heard
    codes: CodesConfig | None = None  # embedded: what its features are made of, if of codes
    mel: MelConfig | None = None
    output: OutputConfig = field(default_factory=OutputConfig)
    source: str = "native"  # the checkpoint dialect it came from
    preset: str = "custom"

    def __post_init__(self) -> None:
        problems = self._problems()
        if problems:
            raise ModelError("The model configuration contradicts itself:", problems)

    def _problems(self) -> list[str]:
        found: list[str] = []

        def need(ok: bool, sentence: str) -> None:
            if not ok:
                found.append(sentence)

        found.extend(choice_problems(self))
        found.extend(output_problems(self.output))
        found.extend(embedded_problems(self))
        found.extend(speaker_problems(self))
        found.extend([] if self.codes is None else self.codes.problems(self))
        for name in ("hidden_size", "fc_size", "n_classes", "sample_rate", "hop_length"):
            need(getattr(self, name) > 0, f"{name} is {getattr(self, name)}, must be positive")
        for name in ("n_mels", "aux_size", "aux_blocks", "upsample_left", "upsample_right"):
            need(getattr(self, name) >= 0, f"{name} is {getattr(self, name)}, must not be negative")
        need(self.aux_blocks <= 256, f"aux_blocks is {self.aux_blocks}, limit 256")
        need(-1 <= self.first_input <= 1, f"first_input is {self.first_input}, not in [-1, 1]")
        if self.core == "dual":
            need(self.head == "dual_softmax", f"a dual core has head dual_softmax, not {self.head}")
            need(self.hidden_size % 32 == 0, f"hidden_size {self.hidden_size} not divisible by 32")
            need(self.n_classes == 256, f"a dual core has 256 classes a half, not {self.n_classes}")
        elif self.core == "residual":
            need(
                self.head in ("softmax", "mol", "gaussian", "beta"),
                f"a residual core has no head {self.head!r}",
            )
            need(self.head != "mol" or self.n_classes % 3 == 0, "mol needs 3 outputs a mixture")
            need(
                self.head not in ("gaussian", "beta") or self.n_classes == 2,
                f"a {self.head} head has 2 outputs, not {self.n_classes}",
            )
            for name in ("hidden_size", "fc_size"):
                size = getattr(self, name)
                need(size % 16 == 0, f"{name} is {size}, not a multiple of 16")
        need(
            self.head != "softmax" or self.n_classes != 1, "one label is no choice: n_classes is 1"
        )
        found += self._family_problems()
        found += self._band_problems()
        if self.n_mels == 0:
            need(self.aux_size == 0, "an auxiliary network needs mel frames (n_mels is 0)")
            need(self.hop_length == 1, "an unconditioned model has hop_length 1")
        if self.aux_size:
            need(self.aux_kernel % 2 == 1, f"aux_kernel {self.aux_kernel} must be odd")
            need(self.aux_channels > 0, f"aux_channels is {self.aux_channels}, must be positive")
        need(
            (self.block_shape is None) == (not self.pruned),
            f"block_shape is {self.block_shape} but the pruned tensors are {self.pruned}",
        )
        if self.block_shape is not None:
            need(min(self.block_shape) > 0, f"block_shape is {self.block_shape}, must be positive")
        if self.subscale is not None:
            need(self.core == "dual", f"a {self.core} core has no subscale form")
            need(
                self.upsample_left + self.upsample_right == 0 and self.pad == "zeros",
                "a subscale model hears a mel that is constant over a frame and padded with zeros",
            )
            need(
                self.output.length == "frames",
                "a subscale model makes all frames sound (length 'frames'), as its rows look ahead",
            )
            convention = self.n_mels > 0 and self.mel is not None
            found += self.subscale.problems(self.hop_length, self.n_mels > 0, convention)
        if self.mel is not None:
            for name in ("sample_rate", "hop_length", "n_mels"):
                ours, theirs = getattr(self, name), getattr(self.mel, name)
                need(ours == theirs, f"{name} is {ours} but the mel preset has {theirs}")
        return found

    def _family_problems(self) -> list[str]:
        """What is impossible about the switches that some residual models have."""
        linear, padded = self.upsample == "linear", self.pad == "zeros"
        taps = (self.upsample_left, self.upsample_right)
        residual = self.core == "residual" and self.n_mels > 0
        need = (
            (not linear or residual, "linear upsampling needs a residual core that hears a mel"),
            (not linear or taps == (1, 1), f"linear upsampling reads a frame a side, not {taps}"),
            (not linear or padded, "linear upsampling needs a padded mel (pad 'zeros')"),
            (
                (self.upsample_pad > 0) == linear and self.upsample_pad >= 0,
                f"upsample_pad is {self.upsample_pad}; linear upsampling, and that alone, needs it",
            ),
            (
                self.feedback == "linear"
                or (self.core == "residual" and self.head == "softmax" and self.bands == 1),
                "mu-law feedback needs a residual core with a softmax head and one band",
            ),
            (padded or self.pad_value == 0, "pad_value is of no use where the mel is not padded"),
            (
                self.subscale is None or self.pad_value == 0,
                "a subscale model pads its mel with zeros",
            ),
        )
        return [sentence for ok, sentence in need if not ok]

    def _band_problems(self) -> list[str]:
        """What is impossible about a model that draws several sub-bands at once."""
        if self.bands == 1:
            return []
        need = (
            (self.bands in (2, 4), f"bands is {self.bands}, must be 1, 2 or 4"),
            (
                self.core == "residual" and self.head == "softmax" and self.n_classes % 16 == 0,
                "several bands need a residual core, a softmax head and a multiple of 16 classes",
            ),
            (
                self.bands < 1 or self.hop_length % self.bands == 0,
                f"hop_length {self.hop_length} is not a multiple of the {self.bands} bands",
            ),
            (
                self.n_mels > 0 and self.upsample == "kernel" and self.speaker_size == 0,
                "several bands need a mel that is upsampled by a kernel, and no speaker's vector",
            ),
            (not self.pruned, "a model of several bands is not pruned"),
            (
                self.output.decode_before_crossfade and self.output.deemphasis == 0,
                "several bands are decoded before folds are joined, and have no de-emphasis",
            ),
            (
                self.output.length == "frames",
                "a model of several bands makes all frames sound (length 'frames')",
            ),
        )
        return [sentence for ok, sentence in need if not ok]

    @property
    def draws_per_step(self) -> int:
        """Uniform numbers used for one sample: dual 2 (coarse, fine), mol 2, other heads 1."""
        return 2 if self.head in ("dual_softmax", "mol") else 1

    @property
    def draws_values(self) -> bool:
        """Whether the outcome of a step is a value in [-1, 1], not a class."""
        return self.head in ("mol", "gaussian", "beta")

    @property
    def logits_size(self) -> int:
        """Values of the output layers per sample: dual 512 (coarse then fine), else n_classes."""
        return 512 if self.core == "dual" else self.n_classes

    @property
    def subscale_factor(self) -> int:
        """Samples of one utterance that are drawn side by side; 1 without subscale."""
        return 1 if self.subscale is None else self.subscale.factor

    @property
    def horizon_samples(self) -> int:
        """Samples on each side of a column that the rows of a subscale model hear; 0 without."""
        return 0 if self.subscale is None else self.subscale.factor * self.subscale.horizon

    @property
    def conditioning_size(self) -> int:
        """Values a frame or sample whose products are added to the gates of a core with one GRU.

        With a network its output; else dual: mel, auxiliary, subscale network; embedded: the mel.
        """
        if self.network is not None:
            return self.network.out_size
        between = 0 if self.subscale is None else self.subscale.heard_size
        return self.n_mels + self.aux_size + between

    @property
    def aux_radius(self) -> int:
        """Frames on each side that the auxiliary network, or `network`, reads."""
        if self.network is not None:
            return self.network.radius
        return self.aux_kernel // 2 if self.aux_size else 0

    @property
    def lookahead_frames(self) -> int:
        """Frames after the current one that must be known before it can sound.

        Where `network` hears the whole utterance, all must be (`network.hears_whole`).
        """
        return max(self.upsample_right, self.aux_radius)

    @property
    def lookback_frames(self) -> int:
        """Frames before the current one that the conditioning reads."""
        return max(self.upsample_left, self.aux_radius)

    def n_output_frames(self, n_frames: int) -> int:
        """Frames of sound made from `n_frames` mel frames, before the length rule."""
        if self.pad == "zeros":
            return n_frames
        return max(0, n_frames - self.lookback_frames - self.lookahead_frames)

    def n_samples(self, n_frames: int) -> int:
        """Samples of sound made from `n_frames` mel frames, after the length rule."""
        frames = self.n_output_frames(n_frames)
        if self.output.length == "frames_minus_one":
            frames -= 1
        return max(0, frames) * self.hop_length

    def to_json(self) -> str:
        """Serialise for the metadata of a canonical file."""
        return json.dumps(dataclasses.asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> ModelConfig:
        """Read what `to_json` wrote.

        Raises
        ------
        ModelError
            If the text is not JSON, a field is missing, unknown, or of the wrong type.
        """
        try:
            raw = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise ModelError(f"The model configuration is not valid JSON ({error}).") from error
        if not isinstance(raw, dict):
            raise ModelError("The model configuration is not a JSON object.")
        mel, output = raw.pop("mel", None), raw.pop("output", None)
        subscale, network = raw.pop("subscale", None), raw.pop("network", None)
        codes = raw.pop("codes", None)
        config: ModelConfig = build(
            cls,
            raw,
            mel=None if mel is None else build(MelConfig, mel),
            output=OutputConfig() if output is None else build(OutputConfig, output),
            subscale=None if subscale is None else build(SubscaleConfig, subscale),
            network=None if network is None else build(NetworkConfig, network),
            codes=None if codes is None else build(CodesConfig, codes),
        )
        return config
