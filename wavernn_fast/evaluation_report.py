"""What an evaluation says: means, a table, a report of it all."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from . import evaluation, metrics

# key of a row -> (head of the column, format)
_COLUMNS: dict[str, tuple[str, str]] = {
    "nll_torch": ("NLL PyTorch", ".4f"),
    "mel_correlation": ("mel correlation", ".3f"),
    "lsd_db": ("LSD, dB", ".2f"),
    "mcd_db": ("MCD, dB", ".2f"),
    "stoi": ("STOI", ".3f"),
    "rtf": ("RTF", ".3f"),
    "samples_per_s": ("samples/s", ",.0f"),
}

LEGEND = (
    "NLL: nats per sample of the recording, teacher forced, by dtype of the engine; by PyTorch "
    f"(float32) of at most the first {evaluation.TORCH_SECONDS:g} s. The copy is generated from "
    "the mel of the recording and compared with it, aligned and without the preset's fade-out. Mel "
    "correlation: Pearson, over all bins and frames of the model's log-mel. LSD: mean over frames "
    f"of the RMS over bins of 20 log10(X/Y), STFT {metrics.N_FFT}/{metrics.HOP}, floor -100 dB. "
    f"MCD: mean over frames of 10/ln 10 sqrt(2 sum (c - c')^2), coefficients 1 to "
    f"{metrics.N_CEPSTRA} of the DCT-II of the ln of {metrics.N_MELS} mel energies, no time "
    "warping. STOI: Taal et al. 2011, empty where there is too little speech. RTF: seconds of "
    "synthesis for one second of audio. Means are over the recordings that have the figure."
)


def mean_row(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Mean of every figure over the rows that have it; None where none has."""

    def mean(values: list[float | None]) -> float | None:
        known = [value for value in values if value is not None]
        return statistics.fmean(known) if known else None

    dtypes = list(rows[0]["nll"]) if rows else []
    result = {key: mean([row[key] for row in rows]) for key in ("seconds", *evaluation.FIGURES)}
    return {**result, "nll": {dtype: mean([row["nll"][dtype] for row in rows]) for dtype in dtypes}}


def largest_difference(rows: Sequence[Mapping[str, Any]]) -> float | None:
    """Largest distance between engine (fp32) and PyTorch in nats per sample; None if unknown."""
    known = [row["torch_difference"] for row in rows if row["torch_difference"] is not None]
    return max(known, default=None)


def difference_line(largest: float) -> str:
    """One sentence about `largest_difference`."""
    verdict = "within" if largest <= evaluation.TORCH_TOLERANCE else "BEYOND"
    return (
        f"Largest difference between engine (fp32) and PyTorch: {largest:.2g} nats per sample, "
        f"{verdict} the tolerance {evaluation.TORCH_TOLERANCE:g}."
    )


def to_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Markdown: one line a recording and one of means; columns without any figure are left out."""
    if not rows:
        return "No recording could be evaluated."
    mean = mean_row(rows)
    dtypes = list(rows[0]["nll"])
    shown = {key: column for key, column in _COLUMNS.items() if mean[key] is not None}
    heads = ["recording", "seconds", *(f"NLL {d}" for d in dtypes), *(h for h, _ in shown.values())]

    def line(name: str, row: Mapping[str, Any]) -> str:
        cells = [name.replace("|", "\\|"), f"{row['seconds']:.2f}"]
        cells += [f"{row['nll'][dtype]:.4f}" for dtype in dtypes]
        cells += [
            "" if row[key] is None else format(row[key], form) for key, (_, form) in shown.items()
        ]
        return "| " + " | ".join(cells) + " |"

    return "\n".join(
        [
            "| " + " | ".join(heads) + " |",
            "|---|" + "---:|" * (len(heads) - 1),
            *(line(row["source"], row) for row in rows),
            line(f"mean of {len(rows)}", mean),
        ]
    )


def to_markdown(report: Mapping[str, Any]) -> str:
    """The whole report: how it was made, the table, what the figures mean, what failed."""
    rows = report["done"]
    parts = [
        "# Evaluation",
        f"Model `{report['model']}`, {report['engine']}. Copy synthesis in {report['dtype']}, "
        f"seed {report['seed']}, temperature {report['temperature']:g}"
        f"{', greedy' if report['greedy'] else ''}, "
        f"{'folded' if report['fold'] else 'not folded'}.",
        to_table(rows),
    ]
    if report["largest_torch_difference"] is not None:
        parts.append(difference_line(report["largest_torch_difference"]))
    parts += [*report["notes"], LEGEND]
    if report["failed"]:
        parts += ["## Failed"]
        parts += ["\n".join(f"- `{e['source']}`: {e['error']}" for e in report["failed"])]
    return "\n\n".join(parts) + "\n"
