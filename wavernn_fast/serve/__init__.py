"""A service over HTTP and WebSocket: mels or recordings in, speech out while it is being made.

Needs the extra ``wavernn-fast[serve]``; nothing of it is imported before `create_app` is called.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from ..errors import MissingDependencyError
from .limits import Limits

if TYPE_CHECKING:
    from fastapi import FastAPI

    from ..vocoder import Vocoder
    from .engine import Pool

__all__ = ["Limits", "create_app", "require_extra"]

# Before it, a WebSocket was sent to without waiting for a slow client: memory had no bound.
_LEAST_UVICORN = (0, 52, 1)


def create_app(
    voc: Vocoder,
    limits: Limits | None = None,
    *,
    voice: str | None = None,
    pool: Pool | None = None,
) -> FastAPI:
    """Make the ASGI application that serves one model.

    Parameters
    ----------
    voc : Vocoder
        The model; all requests share its engine.
    limits : Limits, optional
        What a client may ask for; by default what `Limits` says.
    voice : str, optional
        Name of the voice of the package that `voc` is: its sentence is then offered.
    pool : Pool, optional
        What sounds the streams; by default a `live.LivePool` of `voc`. The application closes
        it when it ends.

    Returns
    -------
    FastAPI
        Routes: docs/service.md. ``app.state.hall`` is its `admission.Hall`.

    Raises
    ------
    MissingDependencyError
        If the extra is not installed.
    InputError
        If the model needs no mel, or a speaker, which this service has no way to receive; or if it
        cannot sound before its mel is whole.
    """
    require_extra()
    from .app import build

    return build(voc, limits or Limits(), voice, pool)


def require_extra() -> None:
    """Say how to install what the service needs, where it is missing.

    Raises
    ------
    MissingDependencyError
        Naming the package that is missing, or older than the service can be run with.
    """
    try:
        import fastapi  # noqa: F401
        import prometheus_client  # noqa: F401
        import uvicorn
        import websockets  # noqa: F401
    except ImportError as error:
        raise MissingDependencyError(
            f'The service needs {error.name}: pip install "wavernn-fast[serve]".'
        ) from error
    found = tuple(map(int, re.findall(r"\d+", uvicorn.__version__)[:3]))
    if found < _LEAST_UVICORN:
        least = ".".join(map(str, _LEAST_UVICORN))
        raise MissingDependencyError(
            f"The service needs uvicorn {least} or newer, and {uvicorn.__version__} is installed: "
            'pip install "wavernn-fast[serve]".'
        )
