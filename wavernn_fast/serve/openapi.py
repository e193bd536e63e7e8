"""What /openapi.json and the documentation page say beyond names and types."""

from __future__ import annotations

from typing import Any

DESCRIPTION = """\
Mel spectrograms or recordings in, speech out. One engine sounds all requests; the same input, seed
and settings give the same samples, whatever else it does.

WebSocket /v1/stream (not part of OpenAPI): send one JSON text, {"seed": 0, "temperature": 1.0,
"greedy": false, "format": "s16le" or "f32le", "input": "frames" or "file"}; every field may be left
out. When {"type": "ready"} comes, send binary messages of float32 little-endian frames [n, n_mels]
and then the text {"end": true}; or, with "input": "file", one binary message with a .npy mel or a
recording. Audio comes back in binary messages, at the end a JSON text with "type": "end" and close
code 1000. Errors are a JSON text with "type": "error", a sentence and an id, then a close code:
1003, 1007, 1008 or 1009 for what the client can mend, 1013 for try again later, 1012 for a service
that ends, 1011 for one that failed.
"""

_ERROR = {
    "application/json": {
        "schema": {
            "type": "object",
            "properties": {"error": {"type": "string"}, "id": {"type": "string"}},
            "required": ["error", "id"],
        }
    }
}
_BINARY = {"schema": {"type": "string", "format": "binary"}}


def _errors(**texts: str) -> dict[int | str, dict[str, Any]]:
    return {int(k[1:]): {"description": text, "content": _ERROR} for k, text in texts.items()}


VOCODE: dict[str, Any] = {
    "summary": "A mel or a recording in, speech out",
    "description": "A mel is float32 [n_mels, n_frames] of the model's convention. A recording is"
    " turned into one first (copy synthesis), resampled where needed. Without stream=true the"
    " reply has X-Real-Time-Factor, X-Wall-Seconds and X-First-Chunk-Ms.",
    "tags": ["speech"],
    "responses": {
        200: {
            "description": "The audio, one channel.",
            "content": {
                "audio/wav": _BINARY,
                "audio/flac": _BINARY,
                "application/octet-stream": _BINARY,
            },
        },
        **_errors(
            _400="An empty body.",
            _408="No byte came in time.",
            _413="More bytes or seconds than are taken.",
            _415="Not a kind of body that is taken.",
            _422="A body or a value that cannot be used.",
            _429="All places are taken and the queue is full; Retry-After says when to try.",
            _503="The service is ending, or its engine has failed.",
            _504="It took longer than it may.",
        ),
    },
    "openapi_extra": {
        "requestBody": {
            "required": True,
            "content": {
                "application/x-npy": _BINARY,
                "audio/wav": _BINARY,
                "audio/flac": _BINARY,
                "application/octet-stream": _BINARY,
            },
        }
    },
}
MODEL: dict[str, Any] = {
    "summary": "The model, the engine and the limits",
    "tags": ["facts"],
    "response_description": "Facts.",
}
SENTENCE: dict[str, Any] = {
    "summary": "Mel of a sentence of the voice, as .npy",
    "tags": ["facts"],
    "responses": {
        200: {"description": "The mel.", "content": {"application/x-npy": _BINARY}},
        **_errors(_404="The model is no voice of the package."),
    },
}
HEALTH: dict[str, Any] = {
    "summary": "200 while it works; 503 when it ends or the engine has failed",
    "tags": ["operation"],
    "responses": {
        code: {
            "description": text,
            "content": {
                "application/json": {
                    "schema": {
                        "type": "object",
                        "properties": {"status": {"enum": ["ok", "draining", "dead"]}},
                    }
                }
            },
        }
        for code, text in ((200, "It works."), (503, "It does not, or ends."))
    },
}
METRICS: dict[str, Any] = {
    "summary": "Counters in the text format of Prometheus",
    "tags": ["operation"],
    "responses": {200: {"description": "Text.", "content": {"text/plain": {}}}},
}
