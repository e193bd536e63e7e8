"""How many threads a slice gets: the faster way, found whatever the machine does meanwhile."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from wavernn_fast import _C

Took = Callable[[int, int], float]  # seconds of a slice by its number and members


def slices(
    n: int,
    took: Took,
    *,
    threads: int = 2,
    lanes: Callable[[int], int] = lambda i: 1,
    held_up: Callable[[int, int], bool] = lambda i, members: False,
) -> list[int]:
    """The members of n slices."""
    choice, members = _C.TeamChoice(threads), []
    for i in range(n):
        members.append(choice.members)
        choice.record(lanes(i), took(i, members[-1]), held_up(i, members[-1]))
    return members


def cost(members: list[int], took: Took) -> float:
    return sum(took(i, m) for i, m in enumerate(members))


def test_one_thread_has_no_choice():
    assert slices(100, lambda i, m: 1.0, threads=1) == [1] * 100


@pytest.mark.parametrize("threads", [2, 3, 8])
def test_a_team_that_shares_its_work_is_hardly_left(threads):
    def took(i, m):
        return 1.0 / m

    found = slices(2000, took, threads=threads)
    assert found[0] == threads
    assert found[1] < threads  # it was tried
    assert cost(found, took) <= 1.01 * cost([threads] * 2000, took)
    assert cost(found[1000:], took) <= 1.006 * cost([threads] * 1000, took)


@pytest.mark.parametrize("threads", [3, 8, 64, 96])
@pytest.mark.parametrize("meeting", [0.0, 0.002, 0.02, 0.2])
def test_the_best_of_many_sizes_is_found(threads, meeting):
    """A meeting takes the longer the more come to it."""

    def took(i, m):
        return 1.0 / m + meeting * (m - 1)

    sizes = sorted({2**k for k in range(7) if 2**k < threads} | {threads})
    best = min(sizes, key=lambda m: took(0, m))
    found = slices(3000, took, threads=threads)
    assert set(found) <= set(sizes)
    assert best in found[:12]
    assert cost(found[40:], took) <= 1.02 * cost([best] * len(found[40:]), took)


@pytest.mark.parametrize("team", [1.02, 1.3, 3.0])
def test_one_thread_that_is_faster_is_found_at_once(team):
    def took(i, m):
        return team if m > 1 else 1.0

    found = slices(2000, took)
    assert found[1] == found[2] == 1
    assert cost(found, took) <= 1.02 * 2000


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize(("team", "alone"), [(1.0, 1.8), (1.3, 1.0), (1.0, 1.1), (1.1, 1.0)])
def test_noise_costs_little(team, alone, seed):
    """A third of the slices take up to twice as long, some many times, the same for both ways."""
    rng = np.random.default_rng(seed)
    noise = 1 + (rng.random(4000) < 0.3) * rng.random(4000) + (rng.random(4000) < 0.02) * 5

    def took(i, m):
        return float(noise[i]) * (team if m > 1 else alone)

    best = min(cost([2] * 4000, took), cost([1] * 4000, took))
    assert cost(slices(4000, took), took) <= 1.03 * best


def test_one_bad_slice_decides_nothing():
    """The first slice of one thread has cold caches: it is tried again soon."""

    def took(i, m):
        return 1.3 if m > 1 else (10.0 if i == 1 else 1.0)

    found = slices(40, took)
    assert found[1] == 1
    assert found[2] == 2
    assert found[-1] == 1


def test_a_stolen_core_is_noticed_and_its_return_too():
    def stolen(i):
        return 500 <= i < 1500

    def took(i, m):
        return (1.0 if not stolen(i) else 8.0) if m > 1 else 1.9

    found = slices(3000, took, held_up=lambda i, m: m > 1 and stolen(i))
    assert found[450:500].count(2) == 50
    assert found[560:1500].count(2) <= 10  # tries
    assert found[1800:].count(1) <= 12


def test_meetings_that_stay_slow_do_not_cause_a_try_each_time():
    found = slices(2000, lambda i, m: 1.0 if m > 1 else 1.5, held_up=lambda i, members: members > 1)
    assert found.count(1) <= 60


def test_slices_of_other_lanes_are_not_compared():
    """With four lanes a step takes longer than with one, whoever makes it."""

    def took(i, m):
        lanes = 4 if i < 100 else 1
        return lanes * (1.0 if m > 1 else 1.5)

    found = slices(1000, took, lanes=lambda i: 4 if i < 100 else 1)
    assert found[110:].count(1) <= 12


def test_lanes_that_always_change_cost_a_try_now_and_then():
    found = slices(800, lambda i, m: (1.0 if m > 1 else 1.5) * (i + 1), lanes=lambda i: i + 1)
    assert found.count(1) <= 100
