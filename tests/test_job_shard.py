"""Shards: every item belongs to one, whoever asks."""

from __future__ import annotations

import random
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wavernn_fast.errors import InputError
from wavernn_fast.jobs.shard import Shard, parse_shard, part_of


@pytest.mark.slow
@given(st.lists(st.text(), unique=True), st.integers(1, 40))
def test_every_item_is_in_one_shard_whatever_the_order(names: list[str], count: int) -> None:
    items = [SimpleNamespace(name=name) for name in names]
    shards = [Shard(i, count).select(items) for i in range(count)]
    assert sorted(item.name for shard in shards for item in shard) == sorted(names)
    shuffled = random.Random(0).sample(items, len(items))
    for index, shard in enumerate(shards):
        assert all(Shard(index, count).owns(item.name) for item in shard)
        again = Shard(index, count).select(shuffled)
        assert {item.name for item in again} == {item.name for item in shard}
        assert [item.name for item in shard] == [n for n in names if part_of(n, count) == index]


def test_a_part_is_the_same_for_ever() -> None:
    """A job begun by one version must be finished by another."""
    assert [part_of(f"a/{i}.wav", 7) for i in range(8)] == [2, 6, 6, 0, 0, 4, 0, 2]
    assert part_of("\udcff.wav", 1000) == 625


def test_parts_are_about_equal() -> None:
    names = [f"speaker{i % 13}/{i:06d}.wav" for i in range(20_000)]
    sizes = [sum(Shard(i, 8).owns(name) for name in names) for i in range(8)]
    assert sum(sizes) == len(names)
    assert max(sizes) < 1.06 * len(names) / 8


@pytest.mark.parametrize(
    ("text", "environ", "expected"),
    [
        ("0/1", {}, Shard(0, 1)),
        ("2/3", {"RANK": "0", "WORLD_SIZE": "9"}, Shard(2, 3)),
        ("auto", {"RANK": "3", "WORLD_SIZE": "8"}, Shard(3, 8)),
        ("auto", {"SLURM_PROCID": "1", "SLURM_NTASKS": "2"}, Shard(1, 2)),
        (
            "auto",
            {
                "SLURM_ARRAY_TASK_ID": "14",
                "SLURM_ARRAY_TASK_MIN": "10",
                "SLURM_ARRAY_TASK_COUNT": "6",
                "RANK": "0",
                "WORLD_SIZE": "1",
            },
            Shard(4, 6),
        ),
        (
            "auto",
            {
                "SLURM_ARRAY_TASK_ID": "9",
                "SLURM_ARRAY_TASK_MIN": "1",
                "SLURM_ARRAY_TASK_STEP": "4",
                "SLURM_ARRAY_TASK_COUNT": "3",
            },
            Shard(2, 3),
        ),
    ],
)
def test_a_shard_is_read(text: str, environ: dict[str, str], expected: Shard) -> None:
    assert parse_shard(text, environ) == expected
    assert parse_shard(str(expected)) == expected


@pytest.mark.parametrize(
    ("text", "environ", "sentence"),
    [
        ("3/3", {}, "Shard '3/3': number 3 of 3; shards of 3 are numbered from 0 to 2"),
        ("0/0", {}, "number 0 of 0"),
        ("-1/3", {}, "'-1/3' is not understood; write i/n"),
        ("1", {}, "is not understood"),
        ("a/b", {}, "is not understood"),
        ("1/3/5", {}, "is not understood"),
        ("\u0661/3", {}, "is not understood"),
        ("auto", {}, "found none of SLURM_ARRAY_TASK_ID"),
        ("auto", {"RANK": "0"}, "found none of"),
        ("auto", {"RANK": "x", "WORLD_SIZE": "2"}, "RANK is 'x', which is no number"),
        ("auto", {"RANK": "2", "WORLD_SIZE": "2"}, "RANK/WORLD_SIZE: number 2 of 2"),
        ("auto", {"SLURM_ARRAY_TASK_ID": "1"}, "SLURM_ARRAY_TASK_MIN is '', which is no number"),
        (
            "auto",
            {
                "SLURM_ARRAY_TASK_ID": "5",
                "SLURM_ARRAY_TASK_MIN": "1",
                "SLURM_ARRAY_TASK_COUNT": "3",
            },
            "Task 5 of this SLURM array is none of 3 in steps of 1 from 1",
        ),
        (
            "auto",
            {
                "SLURM_ARRAY_TASK_ID": "4",
                "SLURM_ARRAY_TASK_MIN": "0",
                "SLURM_ARRAY_TASK_STEP": "3",
                "SLURM_ARRAY_TASK_COUNT": "3",
            },
            "none of 3 in steps of 3",
        ),
    ],
)
def test_what_is_no_shard_is_refused(text: str, environ: dict[str, str], sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        parse_shard(text, environ)


def test_names() -> None:
    assert (Shard().whole, Shard(0, 2).whole) == (True, False)
    assert Shard(1, 4).name == "1of4"
    assert str(Shard(1, 4)) == "1/4"
