"""Published speeds: each has a source, and none can be taken for a measurement."""

from __future__ import annotations

import re

from wavernn_fast.baselines.published import MARK, PUBLISHED, published_markdown, published_rows


def test_every_row_says_one_figure_and_where_it_stands() -> None:
    for row in PUBLISHED:
        said = [row.said_samples_per_s, row.said_x_realtime]
        assert sum(figure is not None for figure in said) == 1, row.system
        assert re.search(r"arXiv \d{4}\.\d{5}|GitHub, issue \d+", row.source), row.system
        assert row.hardware
        assert row.kind in ("sample by sample", "whole utterance")


def test_rows_are_marked_and_derived_figures_follow_from_the_rate() -> None:
    rows = published_rows()
    assert {row["mark"] for row in rows} == {MARK}
    by_name = {(row["system"], row["note"]): row for row in rows}
    persistent = by_name["WaveRNN-896, one persistent kernel", ""]
    assert persistent["samples_per_s"] == 96000  # 4 times real time at 24 kHz
    assert persistent["x_realtime"] == 4.0
    first = next(row for row in rows if row["system"] == "HiFi-GAN V1")
    assert round(first["samples_per_s"] / 1000) == 3702  # kHz, not times real time
    unknown = next(row for row in rows if row["sample_rate"] is None)
    assert None in (unknown["samples_per_s"], unknown["x_realtime"])


def test_the_table_says_what_it_is_and_brackets_what_was_derived() -> None:
    lines = published_markdown().splitlines()
    assert MARK in lines[0]
    assert len(lines) == 2 + len(PUBLISHED)
    assert "| 96,000 | (4) |" in lines[2]
    assert len({line.count("|") for line in lines}) == 1
