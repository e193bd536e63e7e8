"""What is late once is tried again; what is always late, or wrong, fails."""

from __future__ import annotations

import time

import pytest
from patience import TRIES, Late, soon, within


def test_late_once_is_not_late(tmp_path):
    seen = []

    @soon
    def trial(tmp_path):
        seen.append(tmp_path)
        within(10.0, time.monotonic() - (20.0 if len(seen) == 1 else 0.0))

    trial(tmp_path=tmp_path)
    assert len(set(seen)) == 2
    assert all(path.is_dir() for path in seen)


def test_always_late_is_late():
    seen = []

    @soon
    def trial():
        seen.append(None)
        within(1.0, time.monotonic() - 2.0)

    with pytest.raises(Late, match=r"2\.\d+ s, not within 1\.0 s"):
        trial()
    assert len(seen) == TRIES


def test_wrong_is_wrong_at_once():
    seen = []

    @soon
    def trial():
        seen.append(None)
        raise AssertionError("wrong")

    with pytest.raises(AssertionError, match="wrong"):
        trial()
    assert len(seen) == 1
