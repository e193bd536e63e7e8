"""Rows made ahead are those made when asked for, in any order that goes forward, on any thread."""

from __future__ import annotations

import os
import signal
import threading

import numpy as np
import pytest
from fakes import python
from hypothesis import given, settings
from hypothesis import strategies as st
from voices import CONDITIONED, mel, same_bits, voice

from wavernn_fast import rows_ahead
from wavernn_fast.rows_ahead import FRAMES, RowsAhead


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("name", sorted(CONDITIONED))
@settings(deadline=None)
@given(st.integers(12, 150), st.lists(st.tuples(st.integers(0, 40), st.integers(1, 70))))
def test_any_walk_gives_the_rows_of_one_window(name, threads, n_frames, steps):
    config = CONDITIONED[name]
    conditioner = voice(config).conditioner
    frames = mel(config, n_frames)
    total = config.n_output_frames(n_frames)
    context = config.upsample_left + config.upsample_right
    whole = conditioner.window(frames, 0, total)
    ahead, first = RowsAhead(conditioner.of(frames), total, context, threads), 0
    for skip, count in [(0, 1), *steps, (0, 2)]:
        first = min(first + skip, total - 1)
        count = min(count, total - first)
        if count % 3:  # a caller may ask, or not
            ahead.ask(first, count)
        interp, hold = ahead.rows(first, count)
        for found, rows, extra in ((interp, whole[0], context), (hold, whole[1], 0)):
            if rows is None:
                assert found is None
            else:
                assert same_bits(found, rows[first : first + count + extra])


def test_windows_are_made_by_another_thread_one_at_a_time():
    made: list[tuple[int, str]] = []
    busy = threading.Lock()

    def window(first, count):
        assert busy.acquire(blocking=False)
        made.append((first, threading.current_thread().name))
        busy.release()
        return None, np.arange(first, first + count, dtype=np.float32)[:, None]

    ahead = RowsAhead(window, 5 * FRAMES + 3, 0)
    for first in range(0, 5 * FRAMES + 3, 7):
        count = min(9, 5 * FRAMES + 3 - first)
        assert ahead.rows(first, count)[1][:, 0].tolist() == list(range(first, first + count))
    assert [first for first, _ in made] == [number * FRAMES for number in range(6)]
    assert [name.startswith("wavernn-fast-rows") for _, name in made] == [False] + [True] * 5


def test_rows_of_several_utterances_are_made_side_by_side():
    """Each thread waits until all of them are at work."""
    together = threading.Barrier(3, timeout=60)

    def window(first, count):
        together.wait()
        return None, np.full((count, 1), first, np.float32)

    several = [RowsAhead(window, FRAMES, 0, threads=3) for _ in range(3)]
    for one in several:
        one.ask(0, 5)
    assert [one.rows(0, 5)[1][4, 0] for one in several] == [0.0] * 3


def test_what_a_window_raises_is_raised_to_who_asks():
    def window(first, count):
        if first:
            raise MemoryError
        return None, np.zeros((count, 1), np.float32)

    ahead = RowsAhead(window, 3 * FRAMES, 0)
    ahead.rows(0, 3)
    with pytest.raises(MemoryError):
        ahead.rows(FRAMES, 3)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_a_forked_child_has_a_thread_of_its_own():
    config = CONDITIONED["dual"]
    frames = mel(config, 200)
    expected = voice(config).generate(frames)
    assert rows_ahead._pools
    child = os.fork()
    if child == 0:
        code = 1
        signal.alarm(30)  # else it would wait for ever for a thread that is not there
        try:
            ahead = RowsAhead(voice(config).conditioner.of(frames), 100, 3)
            for first in range(0, 100, 10):
                ahead.rows(first, 10)
            code = 0
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    assert same_bits(voice(config).generate(frames), expected)


INTERRUPTED = """
import threading
from wavernn_fast import rows_ahead

begin = threading.Thread.start

def start(self):
    begin(self)
    raise KeyboardInterrupt  # as a signal may, while the caller waits for the thread to be there

threading.Thread.start = start
try:
    rows_ahead._submit(1, list)
except KeyboardInterrupt:
    print("interrupted")
threading.Thread.start = begin
print(rows_ahead._submit(1, lambda: ["rows"]).result())
"""


def test_an_interrupt_while_a_thread_starts_leaves_none_that_the_process_waits_for():
    done = python(INTERRUPTED)
    assert (done.returncode, done.stdout) == (0, "interrupted\n['rows']\n"), done.stderr
