"""Options that fold long utterances: `--fold`, `--crossfade`, `--decode`."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import click

from .common import stack

if TYPE_CHECKING:
    from ..utterance import Fold

CROSSFADES = ("constant_power", "legacy")  # see fold.fade_curves
_ORDERS = {"before": True, "after": False}

options = stack(
    click.option(
        "--fold",
        metavar="yes|TARGET/OVERLAP",
        help="Cut long utterances into overlapping folds run side by side (faster, not exact).",
    ),
    click.option(
        "--crossfade",
        type=click.Choice(CROSSFADES),
        help="How folds are joined; 'legacy' has the hole in its middle of older programs. "
        "[default: as the preset says]",
    ),
    click.option(
        "--decode",
        type=click.Choice(tuple(_ORDERS)),
        help="Undo mu-law before or after the crossfade. [default: as the preset says]",
    ),
)


def parse(given: dict[str, Any]) -> Fold:
    """What the values of `options` mean: None, True, (target, overlap) or a `Folding`.

    Raises
    ------
    click.UsageError
        If a size is unreadable, or a way of joining is given for what is not folded.
    InputError
        If no utterance can be cut into such sizes.
    """
    sizes = _sizes(given["fold"])
    joining = {name: given[name] for name in ("crossfade", "decode") if given[name] is not None}
    if not joining:
        return sizes
    if sizes is None:
        names = " and ".join(f"--{name}" for name in joining)
        raise click.UsageError(f"{names} joins folds; give --fold as well.")
    from ..fold import Folding

    target, overlap = sizes if isinstance(sizes, tuple) else (None, None)
    return Folding(
        target=target,
        overlap=overlap,
        crossfade=given["crossfade"],
        decode_before_crossfade=_ORDERS.get(given["decode"]),
    )


def _sizes(text: str | None) -> bool | tuple[int, int] | None:
    """`--fold`: nothing, "yes" (the preset's sizes), "TARGET/OVERLAP" or "TARGET,OVERLAP"."""
    if text is None:
        return None
    if text.strip().lower() in ("yes", "true", "on"):
        return True
    parts = text.replace("/", ",").split(",")
    if len(parts) == 2 and all(part.strip().isdecimal() for part in parts):
        from ..fold import fold_plan

        sizes = int(parts[0]), int(parts[1])
        fold_plan(0, *sizes)  # refuses sizes that no utterance can be cut into
        return sizes
    raise click.UsageError(f"--fold is {text!r}; write 'yes' or two sizes, such as 11000/550.")


def describe(fold: Fold) -> Any:
    """For JSON: null, true, [target, overlap], or an object."""
    if fold is None or isinstance(fold, (bool, tuple)):
        return fold
    return dataclasses.asdict(fold)
