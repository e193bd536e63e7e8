"""What a preset is: one published convention of mel, labels and output."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from .config import Head, MelConfig, OutputConfig


@dataclass(frozen=True, kw_only=True)
class Preset:
    """One published convention.

    Attributes
    ----------
    mel : MelConfig or None
        How frames are made; None for an unconditioned model, or (of an embedded core) for features
        that the user of a published program chose.
    value_range : tuple of float
        Lowest and highest mel value; (0, 0) for an unconditioned model.
    heads : tuple of str
        Output heads the convention goes with.
    wrapper : str or None
        Key under which its program saves the weights, "" for none; None: not a hint.
    bits : int or None
        Of the labels of the published model. A hint as well: the convention goes with any number.
    bands : int
        Sub-bands that a step of its models draws; it goes with no other number.
    feedback : str
        What its models hear of a label; see `ModelConfig`.
    """

    name: str
    summary: str
    sample_rate: int  # Hz
    hop_length: int  # samples per frame
    heads: tuple[Head, ...]
    value_range: tuple[float, float]
    mel: MelConfig | None
    output: OutputConfig
    wrapper: str | None = None
    bits: int | None = None
    embedded: bool = False  # for models with an embedded core, and for no others
    bands: int = 1
    feedback: Literal["linear", "mu_law"] = "linear"

    def problems(
        self,
        *,
        head: str | None,
        hop_length: int,
        n_mels: int,
        embedded: bool = False,
        bands: int = 1,
    ) -> list[str]:
        """List what keeps a model of these sizes from using the preset; empty if it fits.

        A head of None and a hop length of 0 are not known yet, and fit. An embedded core repeats
        its frames, so it takes the hop length of any preset for it.
        """
        ours = 0 if self.mel is None else self.mel.n_mels
        found = []
        if head is None and not {"gaussian", "beta"}.intersection(self.heads):
            found.append(f"it has two outputs, the preset is for {' or '.join(self.heads)}")
        elif head is not None and head not in self.heads:
            found.append(f"its output head is {head}, the preset is for {' or '.join(self.heads)}")
        if embedded != self.embedded:
            kind = "an embedded core" if self.embedded else "other cores"
            found.append(
                f"it has {'an' if embedded else 'no'} embedded core, the preset is for {kind}"
            )
        if bands != self.bands:
            found.append(f"it draws {_bands(bands)}, the preset is for {_bands(self.bands)}")
        if not embedded and hop_length not in (0, self.hop_length):
            found.append(f"it has {hop_length} samples a frame, the preset {self.hop_length}")
        any_features = self.embedded and self.mel is None
        if n_mels != ours and not any_features:
            found.append(f"it takes {n_mels} mel bins, the preset makes {ours}")
        return found


def _bands(count: int) -> str:
    return "one band" if count == 1 else f"{count} bands"
