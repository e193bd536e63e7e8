"""`accelerate`: our engine behind the `generate` or `infer` of a live PyTorch module."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import logging
from collections.abc import Iterator
from typing import Any, NamedTuple

from .. import checkpoints
from ..canonical import Tensors
from ..config import ModelConfig, OutputConfig
from ..devices import resolve_devices
from ..errors import ModelError
from ..presets import fitting_presets, with_preset
from ..vocoder import Vocoder
from . import coqui, fatchord, rtvc, torchaudio, univoc
from .player import Player

_log = logging.getLogger("wavernn_fast")

_BATCH_NORM_EPS = 1e-5  # that the converters fold in
_FOLDS = ("mels", "batched", "target", "overlap")  # what every program takes
_GENERATE = (*_FOLDS, "mu_law")  # and all but mozilla's and coqui's
_FIRST_UNIVOC = ("mel", "batched", "target", "overlap")  # and `mel` alone, before it folded
# The later versions of begeekmyfriend's class: all frames sound, without a ramp.
_WHOLE = dataclasses.replace(fatchord.FLAVOURS["fatchord"], length="frames", fade_out_frames=0)
_ABSENT = object()


def accelerate(
    module: Any,
    *,
    device: str = "auto",
    dtype: str = "auto",
    preset: str | None = None,
    cpu_threads: int | None = None,
    seed: int | None = 0,
    flavour: str | OutputConfig | None = None,
) -> Accelerated:
    """Put the compiled engine behind the sampling method of a live PyTorch module.

    The module is a WaveRNN of fatchord's class or one that shares its names
    (Real-Time-Voice-Cloning, MockingBird, mozilla/TTS, coqui-ai/TTS), a
    ``torchaudio.models.WaveRNN``, or the ``Vocoder`` of univoc 0.1 or 0.2: it is known by the names
    of its tensors and the parameters of its method, not by its type. The instance's `generate`,
    `infer` or `inference` is replaced by one with the same parameters; the module's weights are
    copied now, so what is trained or loaded into it afterwards is not heard before `accelerate` is
    called again.
    The module itself, `forward` and `state_dict` stay as they are.

    Parameters
    ----------
    module : torch.nn.Module
    device, dtype, cpu_threads
        As in `Vocoder.from_pretrained`.
    preset : str, optional
        Convention of mel and sample rate; by default the likeliest one for the tensors' sizes,
        which is logged to logger ``wavernn_fast`` and is the result's `preset`.
    seed : int or None
        Of every call; None: a new one a call from PyTorch's global generator. See
        `compat.player.Player`.
    flavour : str or OutputConfig, optional
        What follows the draws of `generate`: see `compat.fatchord.WaveRNN`. By default "fatchord"
        if the method takes a `save_path`, "coqui" if it takes no `mu_law`, else "rtvc"; for the
        class of begeekmyfriend that has a `pad_val`, fatchord's without cut and ramp.

    Returns
    -------
    Accelerated
        Brings the original back: ``restore()``, or at the end of a ``with`` block.

    Raises
    ------
    ModelError
        If the module is none that can be read, listing every problem.
    InputError, DeviceError
        As `Vocoder.from_pretrained`.

    Examples
    --------
    >>> with wavernn_fast.accelerate(model):  # doctest: +SKIP
    ...     wave = model.generate(mels, "out.wav", True, 11000, 550, True)
    """
    if device != "auto":
        resolve_devices(device)  # before any work
    face, (config, tensors) = _read(module, preset)
    voc = Vocoder(config, tensors, device=device, dtype=dtype, cpu_threads=cpu_threads)
    options: dict[str, Any] = {"seed": seed}
    if face.player is coqui.Wavernn:
        options["mulaw"] = coqui.setting(module, "mulaw")
    if issubclass(face.player, fatchord.WaveRNN):
        rate = getattr(module, "sample_rate", None)
        options["sample_rate"] = rate if isinstance(rate, int) else None
        if flavour is None and _has_later_ends(module, config):
            flavour = _WHOLE
        if flavour is not None:
            options["flavour"] = flavour
    handle = Accelerated(module, face.method, face.player(voc, **options))
    _log.info("%s", handle)
    return handle


class Accelerated:
    """A module whose sampling method is ours until `restore`; made by `accelerate`.

    Attributes
    ----------
    module : torch.nn.Module
    method : str
        Name of the replaced method: "generate", "infer" or "inference".
    player : compat.fatchord.WaveRNN, .rtvc.WaveRNN, .coqui.Wavernn, .torchaudio.WaveRNN or
        .univoc.Vocoder or .univoc.FirstVocoder
        What plays instead.
    """

    def __init__(self, module: Any, method: str, player: Player) -> None:
        self.module, self.method, self.player = module, method, player
        self._before = module.__dict__.get(method, _ABSENT)
        self._active = True
        sample = getattr(player, method)

        @functools.wraps(sample)
        def ours(*args: Any, **kwargs: Any) -> Any:
            return sample(*args, **kwargs)

        ours.accelerated = self  # type: ignore[attr-defined]  # read by `restore`
        module.__dict__[method] = ours

    def __repr__(self) -> str:
        kind = type(self.module).__name__
        return f"{kind}.{self.method} of {self.vocoder!r}, preset {self.preset}"

    @property
    def vocoder(self) -> Vocoder:
        """The engine's model."""
        return self.player.vocoder

    @property
    def preset(self) -> str:
        """Convention that was given or assumed; "custom" if none fits the tensors' sizes."""
        return self.vocoder.config.preset

    @property
    def active(self) -> bool:
        """Whether it has not been restored."""
        return self._active

    def restore(self) -> None:
        """Give the module its own method back; a second call does nothing.

        A module that was accelerated again since keeps the later engine until that is restored.
        """
        self._active = False
        found = self.module.__dict__.get(self.method, _ABSENT)
        while (handle := getattr(found, "accelerated", None)) is not None and not handle.active:
            found = handle._before
        if found is _ABSENT:
            self.module.__dict__.pop(self.method, None)
        else:
            self.module.__dict__[self.method] = found

    def __enter__(self) -> Accelerated:
        return self

    def __exit__(self, *exc: object) -> None:
        self.restore()


# --- reading a module -----------------------------------------------------------------------------


class _Face(NamedTuple):
    """How a module is asked for sound."""

    method: str
    player: type[Any]


def _face_of(module: Any) -> _Face | None:
    """Tell the family by the parameters of its methods; None if they are of none."""
    for method in ("generate", "infer", "inference"):
        try:
            taken = set(inspect.signature(getattr(module, method)).parameters)
        except (AttributeError, TypeError, ValueError):  # there is none, or it is not a function
            continue
        if method == "infer" and {"specgram", "lengths"} <= taken:
            return _Face(method, torchaudio.WaveRNN)
        if method == "generate" and taken == {"mel"} and hasattr(module, "sr"):
            return _Face(method, univoc.Vocoder)
        first = taken in ({"mel"}, set(_FIRST_UNIVOC)) and hasattr(module, "quantization_channels")
        if method == "generate" and first:
            return _Face(method, univoc.FirstVocoder)
        if method != "infer" and taken == set(_FOLDS):
            return _Face(method, coqui.Wavernn)
        if method == "generate" and taken.issuperset(_GENERATE):
            return _Face(method, fatchord.WaveRNN if "save_path" in taken else rtvc.WaveRNN)
    return None


def _read(module: Any, preset: str | None) -> tuple[_Face, tuple[ModelConfig, Tensors]]:
    """Family, configuration and weights of a module.

    Raises
    ------
    ModelError
        Listing all that is wrong with it: method, tensors, attributes.
    """
    label = f"module {type(module).__name__}"
    if not callable(getattr(module, "state_dict", None)):
        raise ModelError(
            f"{label} is no PyTorch module, as it has no state_dict(); a checkpoint file is loaded "
            "by Vocoder.from_pretrained."
        )
    face, model = _face_of(module), None
    found = [] if face is not None else [_no_face(module)]
    found += _wrong_parts(module)
    try:
        told, wrapper = None, ""
        if face is not None and face.player is coqui.Wavernn:
            told, wrapper = coqui.told(module), coqui.WRAPPER
        model = checkpoints.load_state(module.state_dict(), label, preset, told, wrapper)
    except ModelError as error:
        found += error.problems or [str(error).removeprefix(f"{label}: ")]
    else:
        found += _contradictions(module, model[0])
        found += _other_faces(model[0])
    if found or face is None or model is None:
        raise ModelError(f"{label} cannot be accelerated:", found)
    config, tensors = model
    if config.core == "embedded":
        return face, (_with_own_rates(module, config), tensors)
    if config.source == "begeekmyfriend":  # padded with the floor of its mels, at first with zeros
        config = dataclasses.replace(config, pad_value=float(getattr(module, "pad_val", 0.0)))
    sizes = {"head": config.head, "hop_length": config.hop_length, "n_mels": config.n_mels}
    if preset is None and face.player is rtvc.WaveRNN and "rtvc" in fitting_presets(**sizes):  # type: ignore[arg-type]
        config = with_preset(config, "rtvc")  # the method tells what the sizes do not
    return face, (config, tensors)


def _other_faces(config: ModelConfig) -> Iterator[str]:
    """What the classes of this package have no place for."""
    if config.bands > 1:
        yield (
            f"it draws {config.bands} bands a step, and its class has an end of the pipe of its "
            "own; load its checkpoint by Vocoder.from_pretrained"
        )
    if config.speaker_size:
        yield (
            "it hears a speaker, which its method takes at a place of its own; load its checkpoint "
            "by Vocoder.from_pretrained, and give generate(mel, speaker=...)"
        )


def _has_later_ends(module: Any, config: ModelConfig) -> bool:
    return config.source == "begeekmyfriend" and hasattr(module, "pad_val")


def _with_own_rates(module: Any, config: ModelConfig) -> ModelConfig:
    """Samples a frame and a second as the module has them: no tensor of an embedded core does.

    That of univoc 0.1 does not know its rate either; its preset does. At other rates than the
    preset's, how its mel is made is not known.
    """
    own = {
        "hop_length": int(getattr(module, "hop_length", config.hop_length)),
        "sample_rate": int(getattr(module, "sr", config.sample_rate)),
    }
    if all(getattr(config, name) == value for name, value in own.items()):
        return config
    return dataclasses.replace(config, **own, mel=None, preset="custom")  # type: ignore[arg-type]


def _no_face(module: Any) -> str:
    """Say why nothing can be put in place of the module's methods."""
    if callable(getattr(getattr(module, "module", None), "state_dict", None)):
        return "it is wrapped, as by DataParallel; hand over what it wraps, its `.module`"
    return (
        f"it has neither generate({', '.join(_GENERATE)}, ...) as fatchord's class, nor "
        f"inference({', '.join(_FOLDS)}) as coqui's, nor "
        "generate(mel) and sr as univoc's, nor generate(mel, batched, target, overlap) as the one "
        "before, nor infer(specgram, lengths) as torchaudio's"
    )


def _wrong_parts(module: Any) -> Iterator[str]:
    """What the tensors do not tell: a compiled module, another epsilon."""
    if type(module).__module__.startswith("torch.jit"):
        yield "it is compiled to TorchScript, whose methods are fixed; hand over the Python module"
    if hasattr(module, "_orig_mod"):
        yield "it is wrapped by torch.compile; hand over what it wraps, its `._orig_mod`"
    for name, part in getattr(module, "named_modules", dict)():
        eps = getattr(part, "eps", _BATCH_NORM_EPS)
        if hasattr(part, "running_var") and eps != _BATCH_NORM_EPS:
            yield f"{name} adds {eps:g} to variances, expected {_BATCH_NORM_EPS:g}"


def _contradictions(module: Any, config: ModelConfig) -> Iterator[str]:
    """Attributes of the module that say something else than its tensors."""
    expected = {
        "n_classes": config.n_classes,
        "rnn_dims": config.hidden_size,
        "n_rnn": config.hidden_size,
        "rnn_size": config.hidden_size,
        "rnn_channels": config.hidden_size,
        "quantization_channels": config.n_classes,
    }
    if config.core != "embedded":  # whose frames may have any length
        expected["hop_length"] = config.hop_length
    if config.aux_size:
        expected |= {"aux_dims": config.aux_size, "n_aux": config.aux_size}
        expected |= {"pad": config.aux_radius, "_pad": config.aux_radius}
    for name, ours in expected.items():
        theirs = getattr(module, name, ours)
        if isinstance(theirs, int) and theirs != ours:
            yield f"its {name} is {theirs}, but its tensors say {ours}"
    mode = getattr(module, "mode", None)
    logistics = config.head == "mol"
    if isinstance(mode, str) and mode.upper().startswith("MOL") != logistics:
        yield f"its mode is {mode!r}, but its last layer has {config.n_classes} outputs"
