"""How good a model is on recordings: likelihood, and copy synthesis beside the original."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from . import arrays, features, likelihood, metrics, utterance
from .errors import InputError, MissingDependencyError
from .scoring import negative_log_likelihood
from .vocoder import Vocoder

if TYPE_CHECKING:
    from .config import ModelConfig
    from .models.eager import EagerModel

Wave = NDArray[np.float32]

TORCH_SECONDS = 5.0  # PyTorch holds the logits of so much audio at once: about 1 GB
TORCH_TOLERANCE = 1e-4  # nats per sample between the engine in fp32 and PyTorch
_BLOCK = 4096  # logits turned into nats at once


@dataclass(frozen=True)
class Settings:
    """What is measured and how the copy is made."""

    dtypes: Sequence[str] = ("fp32",)  # of the likelihoods
    dtype: str = "auto"  # of the copy synthesis
    device: str = "auto"
    threads: int | None = None
    seed: int = 0
    temperature: float = 1.0
    greedy: bool = False
    fold: utterance.Fold = None
    with_torch: bool = True  # score by PyTorch too, where it is installed
    speaker: Any = None  # of a model that hears one: a vector [speaker_size], or a number


@dataclass(frozen=True)
class Evaluation:
    """One recording under one model; None where a figure does not exist."""

    seconds: float  # of the recording
    nll: Mapping[str, float]  # dtype -> nats per sample
    nll_torch: float | None = None  # nats per sample of the first `TORCH_SECONDS`
    torch_difference: float | None = None  # |engine fp32 - PyTorch| on those, nats per sample
    mel_correlation: float | None = None
    lsd_db: float | None = None  # log-spectral distance
    mcd_db: float | None = None  # mel-cepstral distortion
    stoi: float | None = None
    rtf: float | None = None  # seconds of synthesis for one second of audio
    samples_per_s: float | None = None
    original: Wave = field(default_factory=lambda: np.zeros(0, np.float32), repr=False)  # [n]
    copy: Wave | None = field(default=None, repr=False)  # [n], aligned with the original

    def to_dict(self) -> dict[str, Any]:
        """All figures, without the waveforms."""
        row = {name: getattr(self, name) for name in FIGURES}
        return {"seconds": self.seconds, "nll": dict(self.nll), **row}


FIGURES = (
    "nll_torch", "torch_difference", "mel_correlation", "lsd_db", "mcd_db", "stoi", "rtf",
    "samples_per_s",
)  # fmt: skip


class Evaluator:
    """A model ready to be judged by recordings.

    Parameters
    ----------
    config : ModelConfig
    tensors : canonical tensors
    settings : Settings

    Attributes
    ----------
    notes : list of str
        Sentences about figures that are left out, and why.

    Raises
    ------
    InputError
        If the model hears mels but has no convention to make them by, or a speaker and none fits.
    ModelError, DeviceError
        As `Vocoder`.
    """

    def __init__(
        self, config: ModelConfig, tensors: Mapping[str, Wave], settings: Settings | None = None
    ) -> None:
        self.settings = settings or Settings()
        self.notes: list[str] = []
        if config.n_mels and config.mel is None:
            raise InputError(
                "The model has no mel convention, so no mel can be made for it; name one with "
                "--preset ('wavernn-fast inspect' lists those that fit)."
            )
        self._speaker = arrays.to_speaker(self.settings.speaker, config)
        self.config = config
        self._engines = {dtype: self._vocoder(tensors, dtype) for dtype in self.settings.dtypes}
        self.voc = self._engines.get(self.settings.dtype) or self._vocoder(
            tensors, self.settings.dtype
        )
        self._torch = self._make_torch(tensors)
        self._with_stoi = config.n_mels > 0 and self._has_stoi()
        if not config.n_mels:
            self.notes.append(
                "The model is unconditioned: it is scored, but there is no copy synthesis."
            )

    @property
    def sample_rate(self) -> int:
        """Hz that recordings must have."""
        return self.config.sample_rate

    def evaluate(self, wave: Wave, progress: Callable[[int], None] | None = None) -> Evaluation:
        """Score one recording, make its copy and compare the two.

        The copy is made without the fade-out that some presets end with, which would count as
        an error of the model.

        Parameters
        ----------
        wave : float32 [n_samples]
            In [-1, 1] at `sample_rate`.
        progress : callable, optional
            Called with the number of samples of the copy drawn so far.

        Raises
        ------
        InputError
            If the recording is empty, not finite, or too short for one frame.
        EngineError
            If a logit became NaN or infinite.
        """
        wave = np.asarray(features.check_wave(wave), dtype=np.float32)
        with warnings.catch_warnings():
            # the mel is made by the model's own convention
            warnings.simplefilter("ignore", features.MelRangeWarning)
            mel = self._mel(wave)
            likelihoods = self._likelihoods(mel, wave)
            if mel is None:
                return Evaluation(**likelihoods, original=wave)
            started = time.perf_counter()
            copy = self._synthesise(mel, progress)
            took = time.perf_counter() - started
        start = self._first_frame * self.config.hop_length
        original = wave[start : start + len(copy)]
        speed: dict[str, Any] = {
            "rtf": took * self.sample_rate / len(copy),
            "samples_per_s": len(copy) / took,
        }
        copy = copy[: len(original)]
        return Evaluation(
            **likelihoods, **self._distances(original, copy), **speed, original=original, copy=copy
        )

    # --- helpers ---

    def _vocoder(self, tensors: Mapping[str, Wave], dtype: str) -> Vocoder:
        return Vocoder(
            self.config,
            tensors,
            device=self.settings.device,
            dtype=dtype,
            cpu_threads=self.settings.threads,
        )

    def _make_torch(self, tensors: Mapping[str, Wave]) -> EagerModel | None:
        if not self.settings.with_torch:
            return None
        from .models.eager import make_eager

        try:
            model = make_eager(self.config, tensors)
        except MissingDependencyError as error:
            self.notes.append(f"The likelihood by PyTorch is left out. {error}")
            return None
        if (speaker := self._speaker) is not None:
            numbered = speaker.ndim == 0
            model.hear(tensors["speakers.weight"][int(speaker)] if numbered else speaker)
        return model

    def _has_stoi(self) -> bool:
        try:
            metrics.require_stoi()
        except MissingDependencyError as error:
            self.notes.append(f"STOI is left out. {error}")
            return False
        return True

    @property
    def _first_frame(self) -> int:
        """Frame of the recording that the first sample of the copy belongs to."""
        return self.config.lookback_frames if self.config.pad == "none" else 0

    def _mel(self, wave: Wave) -> Wave | None:
        """Mel [n_mels, n_frames] that gives at least one sample; None if unconditioned."""
        if not self.config.n_mels:
            if not wave.size:
                raise InputError("The recording is empty.")
            return None
        assert self.config.mel is not None  # checked when the evaluator was made
        mel = features.log_mel(wave, self.config.mel)
        if (
            self.config.n_samples(mel.shape[1]) <= 0
            or wave.size <= self._first_frame * self.config.hop_length
        ):
            raise InputError(
                f"The recording is too short: {wave.size} samples at {self.sample_rate} Hz give "
                "no frame that the model can sound."
            )
        return mel

    def _synthesise(self, mel: Wave, progress: Callable[[int], None] | None) -> Wave:
        settings = self.settings
        wave: Wave = self.voc.generate(
            mel,
            seed=settings.seed,
            temperature=settings.temperature,
            greedy=settings.greedy,
            fold=settings.fold,
            speaker=self._speaker,
            fade_out=False,
            progress=progress,
        )
        return wave

    def _likelihoods(self, mel: Wave | None, wave: Wave) -> dict[str, Any]:
        samples = len(wave) if mel is None else None
        request = utterance.make_request(self.config, mel, samples, 0, speaker=self._speaker)
        targets = likelihood.forced_targets(self.config, request, wave)
        first = min(len(targets), int(TORCH_SECONDS * self.sample_rate))
        first -= first % self.config.bands  # whole steps
        found = {
            dtype: _engine_nll(voc, request, targets, first) for dtype, voc in self._engines.items()
        }
        by_torch, difference = None, None
        if self._torch is not None:
            heard = self._first_frames(mel, first)
            by_torch = self._torch_nll(targets, first, heard)
            if "fp32" in found:
                ours = found["fp32"][1]
                if heard is not None and mel is not None and heard.shape[1] < mel.shape[1]:
                    ours = self._nll_of_first(ours, targets[:first], heard)
                difference = abs(ours - by_torch)
        return {
            "seconds": len(wave) / self.sample_rate,
            "nll": {dtype: whole for dtype, (whole, _) in found.items()},
            "nll_torch": by_torch,
            "torch_difference": difference,
        }

    def _first_frames(self, mel: Wave | None, first: int) -> Wave | None:
        """The mel without what comes after the frames that the `first` samples hear."""
        if mel is None:
            return None
        context = self.config.lookback_frames + self.config.lookahead_frames
        samples = first + self.config.horizon_samples
        return mel[:, : -(-samples // self.config.hop_length) + context]

    def _nll_of_first(self, ours: float, targets: NDArray[Any], heard: Wave) -> float:
        """Nats per sample of the engine for `targets` where the utterance ends with `heard`.

        Those in the whole utterance, `ours`, but for a model whose frames depend on all others, or
        on their number: PyTorch hears the first frames alone, and so must the engine beside it.
        """
        config = self.config
        network = config.network
        if config.upsample != "linear" and (network is None or not network.hears_whole):
            return ours
        request = utterance.make_request(config, heard, None, 0, speaker=self._speaker)
        return _engine_nll(self._engines["fp32"], request, targets, len(targets))[0]

    def _torch_nll(self, targets: NDArray[Any], first: int, mel: Wave | None) -> float:
        """Nats per sample of the `first` targets, under PyTorch."""
        from .models.eager import torch_threads

        assert self._torch is not None
        targets = targets[: first + self.config.horizon_samples]  # with those that they hear of
        with torch_threads(self.voc.cpu_threads):
            logits = self._torch.teacher_forced_logits(targets, mel)
        parts = _blocks(self.config, logits[:first], targets[:first])
        return sum(float(part.sum()) for part in parts) / first

    def _distances(self, original: Wave, copy: Wave) -> dict[str, Any]:
        assert self.config.mel is not None
        before, after = (features.log_mel(w, self.config.mel) for w in (original, copy))
        rate = self.sample_rate
        return {
            "mel_correlation": metrics.mel_correlation(before, after),
            "lsd_db": metrics.log_spectral_distance(original, copy),
            "mcd_db": metrics.mel_cepstral_distortion(original, copy, rate),
            "stoi": metrics.stoi(original, copy, rate) if self._with_stoi else None,
        }


def _engine_nll(
    voc: Vocoder, request: utterance.Request, targets: NDArray[Any], first: int
) -> tuple[float, float]:
    """Nats per sample of all targets, and of the `first` of them."""
    total, total_first = 0.0, 0.0
    for numbers, part in likelihood.forced_nll(voc.voice(), request, targets):
        total += float(part.sum())
        total_first += float(part[numbers < first].sum())
    return total / len(targets), total_first / first


def _blocks(
    config: ModelConfig, logits: NDArray[Any], targets: NDArray[Any]
) -> Iterator[NDArray[np.float64]]:
    for i in range(0, len(targets), _BLOCK):
        yield negative_log_likelihood(config, logits[i : i + _BLOCK], targets[i : i + _BLOCK])
