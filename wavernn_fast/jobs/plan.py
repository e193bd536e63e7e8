"""What of a job is still to be done, decided by content: no clock, no date of a file."""

from __future__ import annotations

import logging
import os
import stat
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from ..errors import InputError, WaveRNNError
from . import names
from .identity import file_hash, has_content, identity, model_hash
from .items import Item
from .journal import History, Record, history, journals
from .settings import Settings
from .stop import Stop

logger = logging.getLogger("wavernn_fast")

REFUSE, RESUME, SKIP, OVERWRITE = "refuse", "resume", "skip", "overwrite"
_THREADS = 4  # that look at files; most of the time they wait for a network


@dataclass
class Plan:
    """Items of a job by what is to become of them."""

    todo: list[Item] = field(default_factory=list)
    skipped: list[Item] = field(default_factory=list)  # finished before


def refuse_existing(items: Sequence[Item], root: str | os.PathLike[str], existing: str) -> None:
    """Refuse outputs that are there, unless the user has said what is to become of them.

    Raises
    ------
    InputError
        Listing them. With `RESUME` too, where no journal says that they are of a job.
    """
    if existing in (SKIP, OVERWRITE) or (existing == RESUME and journals(root)):
        return
    there = [repr(item.target) for item in items if os.path.lexists(item.target)]
    unknown = ", and no journal says what made them" if existing == RESUME else ""
    names.refuse(
        f"{len(there)} of {len(items)} outputs exist already{unknown}:",
        there,
        "Choose another folder with -o, or give --resume to go on with a job (it redoes what is "
        "missing or differs), --skip-existing to leave them as they are, or --overwrite.",
    )


def make_plan(
    items: Sequence[Item], settings: Settings, root: str | Path, existing: str, stop: Stop
) -> Plan:
    """Divide the items; see `refuse_existing`, which must have passed."""
    if existing == SKIP:
        there = {item.name for item in items if os.path.lexists(item.target)}
        return Plan(
            [item for item in items if item.name not in there],
            [item for item in items if item.name in there],
        )
    if existing != RESUME or not journals(root):
        return Plan(list(items))
    return _missing(items, settings, history(root), stop)


def _missing(items: Sequence[Item], settings: Settings, past: History, stop: Stop) -> Plan:
    model, known, plan = model_hash(settings.model), past.records, Plan()
    digests: dict[tuple[int | None, str | None], str] = {}
    for item in items:
        key = item.seed, item.speaker
        if item.name in known and key not in digests:
            try:
                digests[key] = settings.of(item).digest()
            except WaveRNNError:  # of a speaker's file; the worker will say so
                digests[key] = ""

    def is_done(item: Item) -> bool:
        if stop.requested:
            return False
        made = model, digests.get((item.seed, item.speaker))
        records = [r for r in known.get(item.name, ()) if (r.model, r.settings) == made]
        return _is_done(item, records, item.name in past.doubtful)

    with ThreadPoolExecutor(_THREADS) as pool:
        for item, done in zip(items, pool.map(is_done, items), strict=True):
            (plan.skipped if done else plan.todo).append(item)
    others = sum(1 for item in plan.todo if item.name in known)
    if others and not stop.requested:
        logger.warning(
            "%d finished outputs are made again: their input, model or settings are others now, "
            "or the file is gone or has another length.",
            others,
        )
    return plan


def _is_done(item: Item, records: Sequence[Record], doubtful: bool) -> bool:
    """Whether a record of the same model and settings holds: the output's length, the input.

    Of a doubtful one all bytes of the output are looked at.
    """
    try:
        facts = os.lstat(item.target)
    except (OSError, ValueError):
        return False
    fitting = [r for r in records if stat.S_ISREG(facts.st_mode) and r.bytes == facts.st_size]
    if not fitting or not has_content(item.source):
        return False
    try:
        if doubtful:
            digest = file_hash(item.target)
            fitting = [record for record in fitting if record.sha256 == digest]
        return bool(fitting) and identity(item.source) in {record.input for record in fitting}
    except WaveRNNError:  # the worker will say so
        return False


def check_folder(root: Path) -> None:
    """Make an output folder, and see that it can be written, before any work.

    Raises
    ------
    InputError
        Naming the folder and the system's reason.
    """
    try:
        root.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"The output folder {str(root)!r} cannot be made ({error.strerror}); "
            "choose another one with -o."
        ) from error
    if not os.access(root, os.W_OK | os.X_OK):
        raise InputError(
            f"The output folder {str(root)!r} cannot be written; choose another one with -o."
        )
