"""Speeds that others have published, for scale: not measured here, each with its source.

They are of other machines, other models and mostly of other tasks: a network that makes a whole
utterance at once has no chain of samples. Nothing here may stand in a column with a measurement.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

MARK = "published, not measured here"

_WAVERNN = "Kalchbrenner et al. 2018, arXiv 1802.08435"
_VOCOS = "Siuzdak 2023, arXiv 2306.00814, table 5: batches of 16 clips of one second"
_HIFIGAN = "Kong et al. 2020, arXiv 2010.05646, abstract"
_NV_WAVENET = "NVIDIA/nv-wavenet on GitHub, issue 18"
_A100, _EPYC = "NVIDIA A100", "AMD EPYC 7542"


@dataclass(frozen=True)
class Published:
    """One published speed.

    One of `samples_per_s` and `x_realtime` is what the source says; the other follows from the
    sample rate, if that is known.
    """

    system: str
    kind: str  # "sample by sample", or "whole utterance"
    hardware: str
    source: str
    sample_rate: int | None = None  # Hz
    said_samples_per_s: float | None = None  # of all streams together
    said_x_realtime: float | None = None
    note: str = ""

    @property
    def samples_per_s(self) -> float | None:
        """As said, or derived."""
        if self.said_samples_per_s is None and self.said_x_realtime and self.sample_rate:
            return self.said_x_realtime * self.sample_rate
        return self.said_samples_per_s

    @property
    def x_realtime(self) -> float | None:
        """As said, or derived."""
        if self.said_x_realtime is None and self.said_samples_per_s and self.sample_rate:
            return self.said_samples_per_s / self.sample_rate
        return self.said_x_realtime


def _chain(system: str, hardware: str, samples_per_s: float, note: str = "") -> Published:
    """A row of the WaveRNN paper, which speaks of samples/s at 24 kHz."""
    return Published(
        system, "sample by sample", hardware, _WAVERNN, 24000, samples_per_s, note=note
    )


def _at_once(system: str, hardware: str, x_realtime: float, source: str, **more: Any) -> Published:
    return Published(
        system, "whole utterance", hardware, source, said_x_realtime=x_realtime, **more
    )


PUBLISHED: tuple[Published, ...] = (
    _chain("WaveRNN-896, one persistent kernel", "NVIDIA P100", 96000),
    _chain("WaveRNN-896, one persistent kernel", "NVIDIA P100", 156000, "4 streams together"),
    _chain("WaveRNN-896, TensorFlow", "a GPU", 1600, "about"),
    _chain("WaveNet, persistent kernel", "NVIDIA P100", 8000),
    _chain("WaveNet, TensorFlow", "a GPU", 170, "about"),
    _chain("Subscale WaveRNN-1024, 16 rows, TensorFlow", "NVIDIA V100", 24000, "about"),
    Published(
        "Fused WaveRNN, 2 samples a step", "sample by sample", "NVIDIA P100", _WAVERNN, 24000,
        said_x_realtime=10.0,
    ),
    _chain(
        "Sparse WaveRNN, 95 %, blocks of 16x1", "Snapdragon 835, 2 cores", 31400,
        "1024 units as computed; table 2",
    ),
    _chain(
        "Sparse WaveRNN, 95 %, blocks of 16x1", "Snapdragon 808, 2 cores", 21600,
        "1024 units as computed; table 2",
    ),
    Published(
        "nv-wavenet, medium, persistent kernel", "sample by sample", "NVIDIA V100, fp16",
        _NV_WAVENET, None, 42800,
    ),
    _at_once("HiFi-GAN V1", "NVIDIA V100", 167.9, _HIFIGAN, sample_rate=22050),
    _at_once(
        "HiFi-GAN, the small version", "CPU, unnamed", 13.4, _HIFIGAN, sample_rate=22050
    ),
    _at_once("HiFi-GAN, 14.0M weights", _A100, 495.54, _VOCOS),
    _at_once("HiFi-GAN, 14.0M weights", _EPYC, 5.84, _VOCOS),
    _at_once("iSTFTNet, 13.3M weights", _A100, 1045.94, _VOCOS),
    _at_once("iSTFTNet, 13.3M weights", _EPYC, 14.44, _VOCOS),
    _at_once("BigVGAN, 14.0M weights", _A100, 98.61, _VOCOS),
    _at_once("BigVGAN, 14.0M weights", _EPYC, 0.40, _VOCOS),
    _at_once("Vocos, 13.5M weights", _A100, 6696.52, _VOCOS),
    _at_once("Vocos, 13.5M weights", _EPYC, 169.63, _VOCOS),
    _at_once(
        "BigVGAN, 112M weights", "a GPU, unnamed", 44.72,
        "Lee et al. 2022, arXiv 2206.04658", sample_rate=24000,
    ),
    Published(
        "WaveGlow", "whole utterance", "NVIDIA V100, fp16",
        "Prenger et al. 2018, arXiv 1811.00002, section 3.5; NVIDIA/waveglow issue 10",
        22050, 520000, note="an utterance of 10 s",
    ),
    _at_once(
        "WaveFlow, 5.9M weights", "NVIDIA V100", 42.6,
        "Ping et al. 2020, arXiv 1912.01219, abstract", sample_rate=22050,
    ),
    _at_once(
        "Parallel WaveGAN, 1.44M weights", "a GPU, unnamed", 28.68,
        "Yamamoto et al. 2020, arXiv 1910.11480, abstract", sample_rate=24000,
    ),
)  # fmt: skip


def published_rows() -> list[dict[str, Any]]:
    """All rows, JSON-ready, each with `mark`, `samples_per_s` and `x_realtime`."""
    return [
        {
            **asdict(row),
            "samples_per_s": row.samples_per_s,
            "x_realtime": row.x_realtime,
            "mark": MARK,
        }
        for row in PUBLISHED
    ]


def published_markdown(rows: Sequence[Published] = PUBLISHED) -> str:
    """A table; what follows from the source by arithmetic stands in brackets."""
    lines = [
        f"| system ({MARK}) | made | hardware | samples/s | x real time | note | source |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        cells = (
            row.system,
            row.kind,
            row.hardware,
            _figure(row.samples_per_s, row.said_samples_per_s, ",.0f"),
            _figure(row.x_realtime, row.said_x_realtime, ",.4g"),
            row.note,
            row.source,
        )
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _figure(value: float | None, said: float | None, form: str) -> str:
    if value is None:
        return ""
    text = format(value if said is not None else float(f"{value:.3g}"), form)
    return text if said is not None else f"({text})"
