"""One training run from its options to its files: data, model, trainer, resume."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .. import voices, weights
from ..config import ModelConfig
from ..errors import AudioError, InputError, ModelError
from ..files import write_atomic
from ..presets import get_preset
from ..subscale_config import MAX_PREDICTED_FROM, SubscaleConfig
from . import state
from .corpus import Corpus, Recording, Skipped, find_recordings, read_recordings, split
from .loop import MODEL, Trainer, segment_frames
from .processes import Processes
from .settings import TrainSettings

SETTINGS = "run.json"  # in the folder of the run: for people; state.pt is what is resumed
_HELD_OUT_SHARE, _HELD_OUT_MOST = 0.04, 16
_PREDICTION_REACH = 2  # columns; what more would bring is little, and a frame costs its cube

Bar = Callable[[Iterable[Path]], Iterable[Path]]


@dataclass(frozen=True, kw_only=True)
class ModelSizes:
    """Sizes of a new model; see `ModelConfig`."""

    preset: str = "native-22k"
    hidden_size: int = 256
    fc_size: int | None = None  # default: hidden_size
    aux_size: int = 128
    aux_channels: int = 192
    aux_blocks: int = 3
    aux_kernel: int = 5
    conditioned: bool = True
    subscale: int = 1  # rows; 1: one sample after the other
    horizon: int = 8  # columns
    subscale_channels: int = 64
    subscale_blocks: int | None = None  # default: as many as leave the first layer one column
    subscale_prediction: int | None = None  # columns; default: 2, or what the horizon allows

    def config(self) -> ModelConfig:
        """Configuration of a dual model with these sizes.

        Raises
        ------
        InputError
            If the preset is of another kind of model.
        ModelError
            Listing the sizes that are impossible.
        """
        preset = get_preset(self.preset)
        if "dual_softmax" not in preset.heads or (self.conditioned and preset.mel is None):
            raise InputError(
                f"Preset {self.preset!r} does not go with a conditioned dual-softmax model; "
                "native-22k and mkotha do."
            )
        common = {
            "core": "dual",
            "head": "dual_softmax",
            "hidden_size": self.hidden_size,
            "fc_size": self.hidden_size if self.fc_size is None else self.fc_size,
            "n_classes": 256,
            "sample_rate": preset.sample_rate,
            "output": preset.output,
            "subscale": self._subscale(),
        }
        if not self.conditioned:
            return ModelConfig(**common, hop_length=1)  # type: ignore[arg-type]
        assert preset.mel is not None
        return ModelConfig(
            **common,  # type: ignore[arg-type]
            hop_length=preset.hop_length,
            n_mels=preset.mel.n_mels,
            aux_size=self.aux_size,
            aux_channels=self.aux_channels if self.aux_size else 0,
            aux_blocks=self.aux_blocks if self.aux_size else 0,
            aux_kernel=self.aux_kernel if self.aux_size else 0,
            mel=preset.mel,
            preset=preset.name,
        )

    def _subscale(self) -> SubscaleConfig | None:
        if self.subscale == 1:
            return None
        blocks = self.subscale_blocks
        if blocks is None:
            blocks = max(1, self.horizon).bit_length() - 1
        reach = self.subscale_prediction
        if reach is None:
            most = (MAX_PREDICTED_FROM // max(1, self.subscale) - 1) // 2
            wanted = _PREDICTION_REACH if self.conditioned else 0
            reach = max(0, min(wanted, self.horizon, most))
        return SubscaleConfig(
            factor=self.subscale,
            horizon=self.horizon,
            channels=self.subscale_channels,
            blocks=blocks,
            prediction_reach=reach,
        )


@dataclass(frozen=True, kw_only=True)
class Data:
    """Where the recordings are."""

    train: Path
    valid: Path | None = None  # default: some of `train`
    held_out: int | None = None  # how many; default: 4 %, at least 1 and at most 16


@dataclass(frozen=True)
class Loaded:
    """What was read."""

    train: list[Recording]
    valid: list[Recording]
    skipped: list[Skipped]
    data: Data | None = None  # where they were looked for


def load(data: Data, config: ModelConfig, settings: TrainSettings, bar: Bar = iter) -> Loaded:
    """Read all recordings of a run.

    Raises
    ------
    InputError
        If there is none to train on, or none of those given as held out can be used; the message
        lists why each was left out.
    ModelError
        If the model does not say how its mel is made.
    """
    if config.n_mels and config.mel is None:
        raise ModelError(
            "The model does not say how its mel is made from a recording; write it again with "
            "'wavernn-fast convert --preset NAME'."
        )
    paths = find_recordings(data.train)
    if data.valid is not None:
        train_paths, valid_paths = paths, find_recordings(data.valid)
    else:
        share = max(1, min(_HELD_OUT_MOST, round(_HELD_OUT_SHARE * len(paths))))
        held_out = share if data.held_out is None else data.held_out
        train_paths, valid_paths = (paths, []) if not held_out else split(paths, held_out)
    frames = total_frames(config, settings)
    train, skipped = read_recordings(train_paths, config, frames, bar)
    valid, more = read_recordings(valid_paths, config, frames, bar)
    for found, reasons, what in ((train, skipped, "trained on"), (valid, more, "held out")):
        if not found and (what == "trained on" or data.valid is not None):
            listed = "\n  - ".join(f"{s.path}: {s.reason}" for s in reasons)
            raise InputError(f"No recording can be {what}:\n  - {listed}")
    return Loaded(train, valid, skipped + more, data)


def total_frames(config: ModelConfig, settings: TrainSettings) -> int:
    """Frames of a segment with its warm-up."""
    warmup = segment_frames(config, settings.warmup) if settings.warmup else 0
    return warmup + segment_frames(config, settings.segment)


def make_trainer(
    folder: Path,
    config: ModelConfig,
    settings: TrainSettings,
    loaded: Loaded,
    processes: Processes,
) -> Trainer:
    """Trainer of a new run in `folder`."""
    frames = total_frames(config, settings)
    context = config.aux_radius
    train = Corpus(loaded.train, config, frames, context)
    valid = Corpus(loaded.valid, config, frames, context) if loaded.valid else None
    trainer = Trainer(folder, config, settings, (train, valid), processes)
    trainer.source = facts_of(loaded)
    return trainer


def facts_of(loaded: Loaded) -> dict[str, Any]:
    """What a checkpoint says of the recordings of its run, and of what was held out."""
    data = loaded.data
    return {
        "train": _known_by(loaded.train),
        "held_out": _known_by(loaded.valid),
        "asked_held_out": None if data is None else data.held_out,
        "asked_valid": None if data is None or data.valid is None else str(data.valid),
    }


def _known_by(recordings: list[Recording]) -> dict[str, Any]:
    """Number, samples, and a hash of names and lengths in their order, which batches depend on."""
    lengths = [len(one.samples) for one in recordings]
    names = (Path(one.name).name for one in recordings)
    text = json.dumps(list(zip(names, lengths, strict=True)))
    digest = hashlib.sha256(text.encode()).hexdigest()
    return {"recordings": len(recordings), "samples": sum(lengths), "sha256": digest}


def same_data(saved: state.State, data: Data) -> Data:
    """Where a resumed run looks: what it was told to hold out, if it is told nothing now."""
    if data.valid is not None or data.held_out is not None:
        return data
    valid, held_out = saved.data.get("asked_valid"), saved.data.get("asked_held_out")
    return dataclasses.replace(
        data, valid=None if valid is None else Path(valid), held_out=held_out
    )


def check_same_data(saved: state.State, loaded: Loaded) -> None:
    """Refuse to resume a run on other recordings: what was held out might be trained on.

    Raises
    ------
    InputError
        Naming what differs.
    """
    now = facts_of(loaded)
    problems = []
    for key, what in (("train", "to train on"), ("held_out", "held out")):
        before, after = saved.data.get(key), now[key]
        if before is None or before == after:
            continue
        counts = [f"{one['recordings']} ({one['samples']} samples)" for one in (before, after)]
        if counts[0] == counts[1]:
            problems.append(f"other names or another order {what}")
        else:
            problems.append(f"{what} there were {counts[0]} and are now {counts[1]}")
    if problems:
        raise InputError(
            f"The run cannot be resumed with other recordings: {'; '.join(problems)}. Give the "
            "same DATA, --valid and --held-out as before (run.json has them), or start a new run "
            "with --from."
        )


def prepare_folder(folder: Path, resume: bool) -> None:
    """Make the folder of a run, and refuse one that holds another run.

    Raises
    ------
    InputError
        If it cannot be made, or holds a run that is not to be resumed.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"The folder {str(folder)!r} cannot be made ({error.strerror}); choose another -o."
        ) from error
    if (folder / state.NAME).exists() and not resume:
        raise InputError(
            f"{str(folder)!r} holds a training run. Go on with it by --resume, or choose another "
            "folder with -o."
        )


@contextmanager
def prepared(folder: Path, resume: bool) -> Iterator[None]:
    """Make the folder of a run (`prepare_folder`); what stays empty by failure goes again."""
    new = [path for path in (folder, *folder.parents) if not os.path.exists(path)]
    prepare_folder(folder, resume)
    try:
        yield
    except BaseException:
        for path in new:  # the folder, then those above it
            with suppress(OSError):  # holds something by now
                path.rmdir()
        raise


@contextmanager
def alone(folder: Path, rank: int) -> Iterator[None]:
    """Keep other runs out of the folder of a run; the system ends it with the process.

    Where a file system cannot lock a folder, nothing is checked.

    Raises
    ------
    InputError
        If another run works there.
    """
    if rank:  # of a run whose first process holds it
        yield
        return
    import fcntl

    handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise InputError(
                f"Another training run works in {str(folder)!r}. Wait for it or stop it, or choose "
                "another folder with -o."
            ) from error
        except OSError:  # as on some network file systems
            pass
        yield
    finally:
        os.close(handle)


def check_same(saved: state.State, config: ModelConfig, settings: TrainSettings) -> None:
    """Refuse to resume a run with other sizes or numbers; only `steps` may change.

    It may not fall below the steps that are done already.

    Raises
    ------
    InputError
        Naming everything that differs.
    """
    problems = _differences(dataclasses.asdict(saved.config), dataclasses.asdict(config))
    before, now = dataclasses.asdict(saved.settings), dataclasses.asdict(settings)
    if now["steps"] >= saved.step:
        before.pop("steps"), now.pop("steps")
    problems += _differences(before, now)
    if problems:
        raise InputError(
            f"The run cannot be resumed with other numbers: {'; '.join(problems)}. Give the same "
            "options as before (run.json has them), or start a new run with --from."
        )


def _differences(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    return [
        f"{name} was {before.get(name)!r} and is now {now[name]!r}"
        for name in now
        if before.get(name) != now[name]
    ]


def describe(folder: Path, facts: dict[str, Any]) -> None:
    """Write what a run is, for people and for its model card.

    Raises
    ------
    ModelError
        If it cannot be written.
    """
    text = json.dumps(facts, indent=2, sort_keys=True) + "\n"
    try:
        write_atomic(folder / SETTINGS, [text.encode()])
    except AudioError as error:
        raise ModelError(f"{str(folder / SETTINGS)!r} cannot be written ({error}).") from error


def read_start(path: str | os.PathLike[str]) -> tuple[ModelConfig, Any]:
    """Model to start from: a canonical file, the folder of a run, or a voice of the package.

    What is there comes before a voice of the same name, as for every command; a folder is there
    only if it has a model, so that one of recordings or outputs hides nothing.

    Raises
    ------
    ModelError
        If it is none of these, or the file cannot be used.
    """
    found = Path(path, MODEL)
    if not os.path.isdir(path) or not found.exists():
        found = voices.resolve(path)
        if os.path.isdir(found):
            raise ModelError(
                f"{os.fspath(path)!r} is a folder without {MODEL}, so no run that can be started "
                "from; give a run, a canonical model or a voice."
            )
    return weights.read(found)
