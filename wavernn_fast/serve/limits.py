"""What a client of the service may ask for, and how long it may take."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

from ..errors import InputError

LOOPBACK_HOSTS = ("localhost", "127.0.0.1", "::1")
MIB = 2**20


@dataclasses.dataclass(frozen=True)
class Limits:
    """Bounds of a service; every one of them is enforced, none can be raised by a client.

    Parameters
    ----------
    max_streams : int
        Utterances that sound at the same time; more share the engine and each is slower.
    max_queue : int
        Requests that wait for a place or send their body, beyond those that sound; one more is
        refused (429, 1013).
    max_body : int
        Bytes of a request body or of all input of a WebSocket stream.
    max_seconds : float
        Seconds of audio of one utterance, and of a recording that is read.
    timeout : float
        Seconds that a request may take from its first byte to its last, waiting included.
    idle : float
        Seconds without a byte from a client whose turn it is.
    stall : float
        Seconds that a client may leave audio untaken before it is dropped.
    drain : float
        Seconds that running streams get to end after SIGTERM or Ctrl-C.
    allow_origins : sequence of str
        Origins such as "https://example.org" whose pages may use this service.
    allow_hosts : sequence of str
        Names that requests may give in ``Host``; empty allows every name.

    Raises
    ------
    InputError
        If a bound is out of range; all problems are listed.
    """

    max_streams: int = 16
    max_queue: int = 32
    max_body: int = 16 * MIB
    max_seconds: float = 60.0
    timeout: float = 120.0
    idle: float = 20.0
    stall: float = 10.0
    drain: float = 10.0
    allow_origins: Sequence[str] = ()
    allow_hosts: Sequence[str] = LOOPBACK_HOSTS

    def __post_init__(self) -> None:
        problems = [
            f"{name} is {value}, must be from {low} to {high}"
            for name, (low, high) in _RANGES.items()
            if not (math.isfinite(value := getattr(self, name)) and low <= value <= high)
        ]
        problems += [
            f"allow_origins has {origin!r}, expected scheme://host[:port] without a path"
            for origin in self.allow_origins
            if not _is_origin(origin)
        ]
        if problems:
            raise InputError(f"Unusable limits: {'; '.join(problems)}.")


_RANGES: dict[str, tuple[float, float]] = {
    "max_streams": (1, 4096),
    "max_queue": (0, 65536),
    "max_body": (1024, 2**31),
    "max_seconds": (0.01, 86400),
    "timeout": (0.01, 86400 * 7),
    "idle": (0.01, 86400),
    "stall": (0.01, 86400),
    "drain": (0, 86400),
}


def _is_origin(text: str) -> bool:
    scheme, mark, rest = text.partition("://")
    return bool(scheme in ("http", "https") and mark and rest) and not set(rest) & set("/?#@* ")
