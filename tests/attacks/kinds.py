"""What an attack is."""

from __future__ import annotations

from typing import NamedTuple


class Attack(NamedTuple):
    """A file that must be refused."""

    name: str
    content: bytes
    words: str  # regular expression that its refusal must match
    suffix: str = ".pt"
