"""Block pruning by magnitude while training (Kalchbrenner et al. 2018, section 3.1).

The share of blocks that is zero follows::

    z(t) = Z (1 - (1 - (t - t0) / S)^3)      for t0 <= t <= t0 + S, and Z afterwards

and every `every` steps the blocks with the smallest mean magnitude are dropped until that share is
reached. A block is kept or dropped whole. What was dropped is the first to be dropped again.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..canonical import Tensors, mask_name, without_masks
from ..config import ModelConfig
from ..errors import InputError

RECURRENT = "gru.w_recurrent"
OUTPUTS = ("coarse_fc1.weight", "coarse_fc2.weight", "fine_fc1.weight", "fine_fc2.weight")
_GATES = ("reset", "update", "candidate")


@dataclass(frozen=True, kw_only=True)
class PruneSettings:
    """What is pruned, how far and when.

    Raises
    ------
    InputError
        Naming the value that is impossible.
    """

    sparsity: float  # Z, in [0, 1)
    block: tuple[int, int] = (16, 1)  # rows (outputs), columns (inputs)
    start: int = 1000  # t0, steps
    length: int = 200_000  # S, steps
    every: int = 500  # steps between renewals of the masks
    gates: Literal["separate", "stacked"] = "separate"  # the paper's; one threshold for all three
    outputs: bool = True  # O1 to O4 too

    def __post_init__(self) -> None:
        rows, columns = self.block
        problems = []
        if not 0.0 <= self.sparsity < 1.0:
            problems.append(f"the sparsity is {self.sparsity}, must lie in [0, 1)")
        if rows < 1 or columns < 1:
            problems.append(f"a block of {rows} x {columns} weights does not exist")
        if self.start < 0 or self.length < 1 or self.every < 1:
            problems.append(
                f"start {self.start}, length {self.length} and every {self.every} must be at "
                "least 0, 1 and 1 steps"
            )
        if self.gates not in ("separate", "stacked"):
            problems.append(f"gates is {self.gates!r}, must be separate or stacked")
        if problems:
            raise InputError(f"Pruning is not possible like this: {'; '.join(problems)}.")

    def share(self, step: int) -> float:
        """Share of blocks that is zero after `step` steps: z(t) above."""
        progress = (step - self.start) / self.length
        if progress <= 0.0:
            return 0.0
        return self.sparsity * (1.0 - (1.0 - min(progress, 1.0)) ** 3)

    def due(self, step: int) -> bool:
        """Whether the masks are renewed after `step` steps: every so often, and at the end."""
        if step < self.start:
            return False
        end = self.start + self.length
        return (step - self.start) % self.every == 0 if step < end else step == end


class Group(NamedTuple):
    """Rows of a matrix that share one threshold."""

    label: str  # for people: "gru.w_recurrent reset"
    name: str  # of the tensor
    first: int  # row
    last: int  # row behind the last


class Count(NamedTuple):
    """Blocks of one group."""

    label: str
    blocks: int
    kept: int
    weights: int  # that are not in a dropped block

    @property
    def sparsity(self) -> float:
        """Share of blocks that is dropped."""
        return 1.0 - self.kept / self.blocks

    def describe(self) -> str:
        """One line for people."""
        return (
            f"{self.label}: {self.kept} of {self.blocks} blocks kept, {self.weights} weights "
            f"({self.sparsity:.2%} pruned)"
        )

    def to_dict(self) -> dict[str, Any]:
        """All figures, ready for JSON."""
        return {**self._asdict(), "sparsity": self.sparsity}


def groups(shapes: Mapping[str, tuple[int, ...]], settings: PruneSettings) -> list[Group]:
    """What is pruned in a dual model with tensors of these shapes.

    Raises
    ------
    InputError
        Listing the matrices that the blocks do not divide.
    """
    rows = shapes[RECURRENT][0]
    found = [Group(RECURRENT, RECURRENT, 0, rows)]
    if settings.gates == "separate":
        size = rows // 3
        found = [
            Group(f"{RECURRENT} {gate}", RECURRENT, i * size, (i + 1) * size)
            for i, gate in enumerate(_GATES)
        ]
    if settings.outputs:
        found += [Group(name, name, 0, shapes[name][0]) for name in OUTPUTS]
    tall, wide = settings.block
    problems = [
        f"{g.label} has {g.last - g.first} x {shapes[g.name][1]} weights"
        for g in found
        if (g.last - g.first) % tall or shapes[g.name][1] % wide
    ]
    if problems:
        raise InputError(
            f"Blocks of {tall} x {wide} do not divide every matrix: {'; '.join(problems)}."
        )
    return found


def block_scores(matrix: Tensor, block: tuple[int, int]) -> Tensor:
    """Mean magnitude of every block of a matrix [R, C]: [R / rows, C / columns]."""
    rows, columns = block
    high, wide = matrix.shape[0] // rows, matrix.shape[1] // columns
    return matrix.abs().reshape(high, rows, wide, columns).mean(dim=(1, 3))


def block_mask(
    matrix: Tensor, block: tuple[int, int], share: float, kept: Tensor | None = None
) -> Tensor:
    """Which blocks stay when the weakest `share` of them goes: bool [R / rows, C / columns].

    Exactly ``round(share * blocks)`` go; of equal ones the first goes first. Those that `kept`
    (the mask so far) has dropped go before all others, even before a block that is zero by chance.
    """
    scores = block_scores(matrix, block)
    if kept is not None:
        scores = scores.masked_fill(~kept, -1.0)
    scores = scores.flatten()
    dropped = round(share * len(scores))
    mask = torch.ones(len(scores), dtype=torch.bool, device=matrix.device)
    mask[torch.argsort(scores, stable=True)[:dropped]] = False
    return mask.reshape(matrix.shape[0] // block[0], matrix.shape[1] // block[1])


def expand(mask: Tensor, block: tuple[int, int]) -> Tensor:
    """Block mask -> mask of single weights [R, C]."""
    return mask.repeat_interleave(block[0], dim=0).repeat_interleave(block[1], dim=1)


class Pruner:
    """Masks of a model in training.

    Parameters
    ----------
    tensors : mapping of str to Tensor
        Named parameters of a `WaveRNN`; those pruned are changed in place.
    settings : PruneSettings
    """

    def __init__(self, tensors: Mapping[str, Tensor], settings: PruneSettings) -> None:
        self.settings = settings
        self._tensors = tensors
        self._groups = groups({n: tuple(t.shape) for n, t in tensors.items()}, settings)
        rows, columns = settings.block
        self._dropped: dict[str, Tensor] = {}  # single weights; none before the first choice
        self.masks: dict[str, Tensor] = {}  # name -> bool [R / rows, C / columns]
        for name in dict.fromkeys(group.name for group in self._groups):
            shape = tensors[name].shape
            self.masks[name] = torch.ones(
                shape[0] // rows, shape[1] // columns, dtype=torch.bool,
                device=tensors[name].device,
            )  # fmt: skip

    def renew(self, share: float) -> None:
        """Choose the blocks that stay when `share` of every group is zero.

        A group that is sparser already (a pruned model is trained on) stays as sparse as it is.
        """
        rows = self.settings.block[0]
        counts = list(self.counts())
        with torch.no_grad():
            for group, count in zip(self._groups, counts, strict=True):
                matrix = self._tensors[group.name][group.first : group.last]
                kept = self.masks[group.name][group.first // rows : group.last // rows]
                target = max(share, count.sparsity)
                kept.copy_(block_mask(matrix, self.settings.block, target, kept))
        self._widen()

    def apply(self, tensors: Mapping[str, Tensor]) -> None:
        """Set dropped weights to exactly 0, in place."""
        with torch.no_grad():
            for name, dropped in self._dropped.items():
                tensors[name].masked_fill_(dropped, 0.0)

    def step(self, step: int) -> bool:
        """Renew the masks if they are due after `step` steps, and zero what is dropped."""
        due = self.settings.due(step)
        if due:
            self.renew(self.settings.share(step))
        self.apply(self._tensors)
        return due

    def load(self, masks: Mapping[str, Tensor]) -> None:
        """Go on with the masks of a checkpoint or of a pruned model; its zeros stay zero.

        Raises
        ------
        InputError
            If other tensors, or other blocks, were pruned.
        """
        ours = {name: tuple(mask.shape) for name, mask in self.masks.items()}
        theirs = {name: tuple(mask.shape) for name, mask in masks.items()}
        if ours != theirs:
            raise InputError(
                f"The model has masks {theirs or 'of nothing'}, pruning like this has {ours}; "
                "use the same blocks and the same matrices."
            )
        for name, mask in masks.items():
            self.masks[name].copy_(mask)
        self._widen()

    @property
    def sparsity(self) -> float:
        """Share of all blocks that is dropped now."""
        counts = list(self.counts())
        return 1.0 - sum(c.kept for c in counts) / sum(c.blocks for c in counts)

    def counts(self) -> Iterator[Count]:
        """Exact numbers of each group."""
        rows, columns = self.settings.block
        for label, name, first, last in self._groups:
            mask = self.masks[name][first // rows : last // rows]
            kept = int(mask.sum())
            yield Count(label, mask.numel(), kept, kept * rows * columns)

    def _widen(self) -> None:
        self._dropped = {n: ~expand(m, self.settings.block) for n, m in self.masks.items()}


def prune_once(
    config: ModelConfig, tensors: Tensors, settings: PruneSettings
) -> tuple[ModelConfig, Tensors, list[Count]]:
    """Drop blocks of a canonical dual model at once, without training.

    Returns
    -------
    config, tensors
        The pruned model, with masks; the ones given are not changed.
    counts : list of Count
    """
    state = {n: torch.from_numpy(a.copy()) for n, a in without_masks(tensors).items()}
    pruner = Pruner(state, settings)
    if config.pruned:
        pruner.load(stored_masks(config, tensors))
    pruner.renew(settings.sparsity)
    pruner.apply(state)
    return *with_masks(config, {n: t.numpy() for n, t in state.items()}, pruner), list(
        pruner.counts()
    )


def stored_masks(config: ModelConfig, tensors: Tensors) -> dict[str, Tensor]:
    """Masks of a pruned canonical model: name -> bool [R / rows, C / columns]."""
    return {name: torch.from_numpy(tensors[mask_name(name)] != 0.0) for name in config.pruned}


def with_masks(
    config: ModelConfig, tensors: Tensors, pruner: Pruner
) -> tuple[ModelConfig, Tensors]:
    """Add the masks of a pruner to a canonical model."""
    masks = {
        mask_name(name): mask.cpu().numpy().astype(np.float32)
        for name, mask in pruner.masks.items()
    }
    marked = dataclasses.replace(
        config, block_shape=pruner.settings.block, pruned=tuple(sorted(pruner.masks))
    )
    return marked, {**tensors, **masks}
