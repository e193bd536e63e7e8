"""Work of a team: dealt out beforehand, taken over from a member that is slow."""

from __future__ import annotations

import dataclasses
import os
import threading

import cases
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wavernn_fast import _C
from wavernn_fast.conditioning_network import make_conditioner


@given(st.lists(st.integers(0, 9), min_size=1, max_size=4), st.data())
def test_whoever_comes_every_item_is_handed_out_once(counts, data):
    shares = _C.Shares(len(counts))
    for _ in range(2):  # what is used up can be opened again
        for member, count in enumerate(counts):
            shares.open(member, count)
        found: list[list[int]] = [[] for _ in counts]
        for _ in range(sum(counts)):
            left = [m for m, count in enumerate(counts) if len(found[m]) < count]
            member = data.draw(st.sampled_from(left))
            take = data.draw(st.sampled_from([shares.next, shares.last]))
            found[member].append(take(member))
        assert [sorted(items) for items in found] == [list(range(count)) for count in counts]
        for member in range(len(counts)):
            assert shares.next(member) == shares.last(member) == -1


def test_a_member_begins_at_the_first_of_its_own_and_others_at_its_last():
    shares = _C.Shares(2)
    shares.open(0, 5)
    shares.open(1, 0)
    assert shares.next(1) == -1
    assert [shares.next(0), shares.last(0), shares.next(0), shares.last(0)] == [0, 4, 1, 3]
    assert [shares.last(0), shares.last(0), shares.next(0)] == [2, -1, -1]


def _model(core: str):
    return {
        "dual": cases.dual_config(384, 64),  # output layers small enough for a team of four
        "residual": cases.residual_config(192, 32, bits=5),
        "embedded": cases.embedded_config(192, 32, 5),
    }[core]


@pytest.mark.parametrize("threads", [2, 4])
@pytest.mark.parametrize("core", ["dual", "residual", "embedded"])
def test_teams_whose_processors_are_taken_away_give_the_bits_of_one_thread(core, threads):
    """Somebody else works meanwhile, so that members are late and others do their share."""
    config, n = _model(core), 1500
    tensors = cases.random_tensors(config)
    interp = hold = None
    if config.n_mels:
        mel = cases.random_mel(config, -(-n // config.hop_length))
        interp, hold = make_conditioner(config, tensors).window(mel, 0, mel.shape[1])

    def draw(threads: int):
        engine = _C.Engine(dataclasses.asdict(config), tensors, threads=threads)
        beside = "output layers beside the next recurrent product" in engine.describe()
        assert beside == (threads > 1)
        [(labels, logits)] = engine.run([engine.open(7)], [n], [interp], [hold], return_logits=True)
        return labels, logits

    labels, logits = draw(1)
    over = threading.Event()

    def burn() -> None:
        weights = np.ones((256, 256), np.float32)
        while not over.is_set():
            weights @ weights  # without the lock of Python

    others = [threading.Thread(target=burn) for _ in range(os.cpu_count() or 1)]
    for other in others:
        other.start()
    try:
        found = draw(threads)
    finally:
        over.set()
        for other in others:
            other.join()
    assert np.array_equal(found[0], labels)
    assert np.array_equal(found[1], logits)
