"""What a client is told when something goes wrong: a sentence, a status and an id, no more."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Iterable
from http import HTTPStatus
from typing import Any

from ..errors import DeviceError, EngineError, InputError

logger = logging.getLogger("wavernn_fast.serve")

# Close codes of RFC 6455 and its registry with the meaning of the statuses beside them.
_CLOSE_CODES = {
    HTTPStatus.BAD_REQUEST: 1007,  # invalid payload data
    HTTPStatus.FORBIDDEN: 1008,  # policy violation
    HTTPStatus.REQUEST_TIMEOUT: 1008,
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE: 1009,  # message too big
    HTTPStatus.UNSUPPORTED_MEDIA_TYPE: 1003,  # unsupported data
    HTTPStatus.UNPROCESSABLE_ENTITY: 1007,
    HTTPStatus.TOO_MANY_REQUESTS: 1013,  # try again later
    HTTPStatus.INTERNAL_SERVER_ERROR: 1011,  # internal error
    HTTPStatus.SERVICE_UNAVAILABLE: 1012,  # service restart
    HTTPStatus.GATEWAY_TIMEOUT: 1008,
}


class Problem(Exception):  # noqa: N818 (what a client is told, not what went wrong inside)
    """Ends a request with a sentence that a client may read.

    Parameters
    ----------
    status : int
        Of HTTP; `close_code` has the same meaning for a WebSocket.
    sentence : str
        What is wrong and what to do; no path, no value of another request.
    retry_after : int, optional
        Seconds after which it makes sense to try again.
    """

    def __init__(self, status: int, sentence: str, retry_after: int | None = None) -> None:
        super().__init__(sentence)
        self.status = HTTPStatus(status)
        self.sentence = sentence
        self.retry_after = retry_after

    @property
    def close_code(self) -> int:
        """Close code of a WebSocket."""
        return _CLOSE_CODES.get(self.status, 1011)


class Gone(Exception):  # noqa: N818
    """The client has left or takes nothing: there is nobody to tell."""


def new_id() -> str:
    """Id of a request: 12 hexadecimal digits, the same in the reply and in the log."""
    return secrets.token_hex(6)


def as_problem(error: BaseException, request_id: str) -> Problem:
    """Turn any error into what may be told; what may not goes to the log under the id."""
    if isinstance(error, Problem):
        return error
    if isinstance(error, InputError):  # speaks of the caller's values only
        return Problem(HTTPStatus.UNPROCESSABLE_ENTITY, str(error))
    if isinstance(error, DeviceError):
        logger.error("request %s: the engine failed: %s", request_id, error)
        return Problem(HTTPStatus.SERVICE_UNAVAILABLE, "The engine of this service has failed.")
    if isinstance(error, EngineError):
        logger.error("request %s: %s", request_id, error)
        return Problem(
            HTTPStatus.INTERNAL_SERVER_ERROR,
            "The model gave no finite number for this input; the stream has ended.",
        )
    logger.error("request %s failed", request_id, exc_info=error)
    return Problem(HTTPStatus.INTERNAL_SERVER_ERROR, "This request failed inside the service.")


def sentence_of(errors: Iterable[Any]) -> str:
    """Say in one sentence what pydantic found, without repeating what the client sent."""
    found = []
    for error in errors:
        place = ".".join(str(part) for part in error["loc"] if part not in ("query", "body"))
        found.append(f"{place or 'message'}: {error['msg']}")
    return f"Unusable values: {'; '.join(found)}."
