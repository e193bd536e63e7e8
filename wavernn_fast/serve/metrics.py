"""What Prometheus reads from ``/metrics``; one registry an application."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from .admission import Hall

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_LATENCY = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)  # seconds
_RTF = (0.05, 0.1, 0.2, 0.35, 0.5, 0.75, 1.0, 1.5, 2.0, 4.0, 8.0, 16.0)


class Metrics:
    """Counters of one application.

    Parameters
    ----------
    hall : Hall
        Its numbers are read when the metrics are.
    """

    def __init__(self, hall: Hall) -> None:
        self.registry = CollectorRegistry()
        self.stalled: Callable[[], int] = lambda: 0  # set by who has the engine
        self._gauges(hall)
        self.requests = Counter(
            "wavernn_requests_total",
            "Requests by route and status; a WebSocket counts with its close code when it ends.",
            ["route", "status"],
            registry=self.registry,
        )
        self.audio = Counter(
            "wavernn_audio_seconds_total", "Seconds of audio made.", registry=self.registry
        )
        self.first_chunk = Histogram(
            "wavernn_first_chunk_seconds",
            "From a place at the engine and the first frames to the first audio.",
            buckets=_LATENCY,
            registry=self.registry,
        )
        self.real_time_factor = Histogram(
            "wavernn_real_time_factor",
            "Seconds that a second of audio took, of whole utterances; below 1 is faster.",
            buckets=_RTF,
            registry=self.registry,
        )

    def _gauges(self, hall: Hall) -> None:
        read = {
            "wavernn_streams_live": ("Utterances that sound now.", lambda: hall.live),
            "wavernn_streams_stalled": (
                "Of those, how many are left out until their clients read.",
                lambda: self.stalled(),
            ),
            "wavernn_queue": ("Requests that wait or send their body.", lambda: hall.waiting),
            "wavernn_engine_dead": ("1 if the engine has failed.", lambda: int(bool(hall.dead))),
            "wavernn_draining": ("1 while the service ends.", lambda: int(hall.draining)),
        }
        for name, (text, function) in read.items():
            Gauge(name, text, registry=self.registry).set_function(function)

    def ended(self, samples: int, sample_rate: int, took: float, first: float | None) -> None:
        """Count one utterance: its samples, the seconds it took and those to its first chunk."""
        seconds = samples / sample_rate
        self.audio.inc(seconds)
        if first is not None:
            self.first_chunk.observe(first)
        if seconds:
            self.real_time_factor.observe(took / seconds)

    def text(self) -> bytes:
        """All of it in the text format of Prometheus."""
        return generate_latest(self.registry)
