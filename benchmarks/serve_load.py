"""Many live WebSocket streams on one service: is it fair, bounded in memory, and polite when full?

Starts `wavernn-fast serve` on the loopback interface and talks to it as clients do, three times:

1. `--streams` clients at once, each with a sentence of the voice. Progress is looked at ten times
   a second while all of them sound.
2. One of them reads nothing, in two of four turns with one less: does it cost the others anything?
3. All places and the queue are taken: what do the next ones hear? Then the service is told to end.

    python benchmarks/serve_load.py --output results.json
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import shlex
import signal
import socket
import statistics
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from wavernn_fast import voices
from wavernn_fast.files import write_atomic
from wavernn_fast.machine import machine

PIECE = 50  # frames of a message
HEARD = 0.3  # seconds of audio that every stream must have before progress is compared
LIMIT = 180.0  # seconds that a run may take
SLOW_SECONDS = 150.0  # audio of the client that reads nothing: more than all buffers hold


@dataclass
class Client:
    """What one stream has seen."""

    samples: int = 0
    first: float | None = None  # seconds from its frames to its first audio
    ended: float | None = None  # when, on the clock of the run
    summary: dict[str, Any] = field(default_factory=dict)


@dataclass
class Service:
    """A service in a process of its own."""

    process: subprocess.Popen[str]
    url: str

    def get(self, path: str, data: bytes | None = None) -> tuple[int, bytes, dict[str, str]]:
        """Status, body and headers of a request."""
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        kind = {"Content-Type": "application/x-npy"}
        request = urllib.request.Request(self.url + path, data, kind if data else {})
        try:
            with opener.open(request, timeout=LIMIT) as reply:
                return reply.status, reply.read(), dict(reply.headers)
        except urllib.error.HTTPError as error:
            return error.code, error.read(), dict(error.headers)

    def metric(self, name: str) -> float:
        """One value of /metrics."""
        text = self.get("/metrics")[1].decode()
        lines = [line for line in text.splitlines() if line.startswith(name + " ")]
        return float(lines[0].split()[-1]) if lines else 0.0

    def rss(self) -> float:
        """Resident memory in MiB."""
        with open(f"/proc/{self.process.pid}/status", encoding="ascii") as file:
            [line] = [line for line in file if line.startswith("VmRSS")]
        return int(line.split()[1]) / 1024

    def cpu(self) -> float:
        """Seconds of processor time that it has used."""
        with open(f"/proc/{self.process.pid}/stat", encoding="ascii") as file:
            fields = file.read().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def socket(self, small: bool = False) -> Any:
        """A connection to /v1/stream; a small one keeps little that is not read."""
        address = self.url.replace("http", "ws") + "/v1/stream"
        options: dict[str, Any] = {"max_queue": 1} if small else {}
        if small:
            raw = socket.socket()
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            host, _, port = address.removeprefix("ws://").partition("/")[0].partition(":")
            raw.connect((host, int(port)))
            raw.setblocking(False)
            options["sock"] = raw
        return connect(address, proxy=None, ping_interval=None, open_timeout=LIMIT, **options)


def start(options: argparse.Namespace) -> Service:
    """Start a service on a free port."""
    command = [
        sys.executable, "-m", "wavernn_fast", "serve", "-m", options.voice, "--port", "0",
        "--max-streams", str(options.streams), "--max-queue", str(options.queue),
        "--timeout", "600", "--idle", "300", "--stall", str(options.stall), "--drain", "30",
        "--max-seconds", str(2 * SLOW_SECONDS),
        *(["--threads", str(options.threads)] if options.threads else []),
        *(["--dtype", options.dtype] if options.dtype else []),
    ]  # fmt: skip
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    line = process.stderr.readline()
    if "serving at" not in line:
        raise SystemExit(f"The service does not start: {line}{process.stderr.read()}")
    return Service(process, line.rpartition(" ")[2].strip().rstrip("/"))


# --- clients --------------------------------------------------------------------------------------


async def greet(connection: ClientConnection, **fields: Any) -> dict[str, Any]:
    """Say hello; returns the answer."""
    await connection.send(json.dumps(fields))
    answer: dict[str, Any] = json.loads(await connection.recv())
    return answer


async def speak(
    service: Service, mel: NDArray[np.float32], client: Client, go: asyncio.Event, seed: int
) -> None:
    """One client that reads as fast as audio comes."""
    async with service.socket() as connection:
        await greet(connection, seed=seed)
        await go.wait()
        begun = time.perf_counter()
        await send_frames(connection, mel)
        await connection.send('{"end": true}')
        while not isinstance(message := await connection.recv(), str):
            client.samples += len(message) // 2
            client.first = client.first or time.perf_counter() - begun
        client.summary = json.loads(message)
        client.ended = time.perf_counter()


async def ignore(service: Service, mel: NDArray[np.float32], stalled: asyncio.Event) -> float:
    """One client that sends a long mel and reads nothing; returns seconds until it was dropped.

    They count from when all buffers on the way are full, which `stalled` tells.
    """
    async with service.socket(small=True) as connection:
        await greet(connection, format="f32le")
        cut = 'wavernn_requests_total{route="/v1/stream",status="1006"}'
        before = await asyncio.to_thread(service.metric, cut)
        # beside the looks: once nothing is read of it, the service need not take all frames either
        sending = asyncio.ensure_future(send_frames(connection, mel))
        while not await asyncio.to_thread(service.metric, "wavernn_streams_stalled"):
            if await asyncio.to_thread(service.metric, cut) != before:
                raise SystemExit(
                    "The slow client was dropped before the engine had filled its buffer and left"
                    " it out; give more seconds with --stall."
                )
            await asyncio.sleep(0.05)
        stalled.set()
        begun = time.perf_counter()
        while await asyncio.to_thread(service.metric, cut) == before:
            await asyncio.sleep(0.1)
        took = time.perf_counter() - begun
        sending.cancel()
        await asyncio.gather(sending, return_exceptions=True)
        connection.transport.abort()  # the library would read to the end first
        return took


async def send_frames(connection: ClientConnection, mel: NDArray[np.float32]) -> None:
    """Send all frames of a mel, in pieces."""
    for first in range(0, mel.shape[1], PIECE):
        await connection.send(mel[:, first : first + PIECE].T.astype("<f4").tobytes())


# --- the three runs -------------------------------------------------------------------------------


@dataclass
class Watch:
    """Looks at progress and memory while a run lasts."""

    service: Service
    clients: Sequence[Client]
    least: float  # samples that every stream must have before progress is compared
    worst: float = 1.0  # largest ratio of most to least progress
    looks: int = 0
    peak: float = 0.0
    health: list[float] = field(default_factory=list)  # seconds of a health check

    async def run(self) -> None:
        """Until it is cancelled."""
        while True:
            self.peak = max(self.peak, self.service.rss())
            progress = [client.samples for client in self.clients]
            if min(progress) >= self.least and not any(client.ended for client in self.clients):
                self.worst = max(self.worst, max(progress) / min(progress))
                self.looks += 1
            begun = time.perf_counter()
            await asyncio.to_thread(self.service.get, "/healthz")
            self.health.append(time.perf_counter() - begun)
            await asyncio.sleep(0.1)


def lengthened(mel: NDArray[np.float32], service: Service) -> NDArray[np.float32]:
    """Frames of `SLOW_SECONDS` of audio."""
    facts = json.loads(service.get("/v1/model")[1])["model"]
    frames = int(SLOW_SECONDS * facts["sample_rate"] / facts["hop_length"])
    return np.tile(mel, (1, frames // mel.shape[1] + 1))[:, :frames]


async def together(
    service: Service, mel: NDArray[np.float32], count: int, slow: bool
) -> dict[str, Any]:
    """`count` streams at once, with `slow` one more that reads nothing."""
    rate = json.loads(service.get("/v1/model")[1])["model"]["sample_rate"]
    clients, go, stalled = [Client() for _ in range(count)], asyncio.Event(), asyncio.Event()
    watch = Watch(service, clients, HEARD * rate)
    before = service.rss()
    work = [speak(service, mel, client, go, i) for i, client in enumerate(clients)]
    tasks = [asyncio.ensure_future(one) for one in work]
    long = lengthened(mel, service)
    dropped = asyncio.ensure_future(ignore(service, long, stalled)) if slow else None
    if dropped is not None:
        seen = asyncio.ensure_future(stalled.wait())
        await asyncio.wait({seen, dropped}, timeout=LIMIT, return_when=asyncio.FIRST_COMPLETED)
        if dropped.done():
            dropped.result()  # what went wrong with it, at once
        if not seen.done():
            raise SystemExit(f"The slow client was not left out within {LIMIT:g} s.")
    while service.metric("wavernn_streams_live") < count + slow:
        await asyncio.sleep(0.05)
    watching = asyncio.ensure_future(watch.run())
    begun, cpu = time.perf_counter(), service.cpu()
    go.set()
    await asyncio.wait_for(asyncio.gather(*tasks), LIMIT)
    wall, cpu = time.perf_counter() - begun, service.cpu() - cpu
    watching.cancel()
    samples = sum(client.samples for client in clients)
    firsts = sorted(client.first or 0.0 for client in clients)
    ends = [(client.ended or 0.0) - begun for client in clients]
    return {
        "streams": count,
        "wall_seconds": wall,
        "cpu_seconds": cpu,
        "audio_seconds": samples / rate,
        "x_realtime": samples / rate / wall,
        "samples_per_s": samples / wall,
        "progress_ratio_worst": watch.worst,
        "progress_looks": watch.looks,
        "end_ratio": max(ends) / min(ends),
        "first_chunk_ms": {
            "median": 1e3 * statistics.median(firsts),
            "largest": 1e3 * firsts[-1],
        },
        "health_ms_largest": 1e3 * max(watch.health, default=0.0),
        "rss_mib": {"before": before, "peak": watch.peak, "growth": watch.peak - before},
        "slow_client_dropped_after_s": await asyncio.wait_for(dropped, LIMIT) if dropped else None,
    }


async def overload(service: Service, streams: int, queue: int) -> dict[str, Any]:
    """Take all places and the queue, and see what the next ones are told; then end the service."""
    body = b"\x93NUMPY"  # never read
    async with contextlib.AsyncExitStack() as stack:
        for i in range(streams + queue):
            connection = await stack.enter_async_context(service.socket())
            await connection.send("{}")
            if i < streams:
                await connection.recv()
        while service.metric("wavernn_queue") < queue:
            await asyncio.sleep(0.02)
        status, _, headers = await asyncio.to_thread(service.get, "/v1/vocode", body)
        code = await refused(service)
        service.process.send_signal(signal.SIGTERM)
        while service.metric("wavernn_draining") < 1:
            await asyncio.sleep(0.02)
        late, _, _ = await asyncio.to_thread(service.get, "/v1/vocode", body)
        late_code = await refused(service)
    code_of_exit = await asyncio.to_thread(service.process.wait, LIMIT)
    return {
        "places": streams,
        "queue": queue,
        "full": {"status": status, "retry_after": headers.get("retry-after"), "close_code": code},
        "ending": {"status": late, "close_code": late_code},
        "exit_code": code_of_exit,
    }


async def refused(service: Service) -> int | None:
    """Close code that a client too many gets."""
    async with service.socket() as connection:
        with contextlib.suppress(ConnectionClosed):
            while True:
                await connection.recv()
    code: int | None = connection.close_code
    return code


async def measure(options: argparse.Namespace) -> dict[str, Any]:
    """All runs."""
    mel = voices.mel(options.voice)
    frames = round(options.seconds / 3.352 * mel.shape[1])
    mel = np.tile(mel, (1, frames // mel.shape[1] + 1))[:, :frames]
    service = start(options)
    try:
        # once before anything is measured: memory that comes with the first use is not growth
        await together(service, mel[:, :40], min(4, options.streams), False)
        one_less, alone, beside = options.streams - 1, [], []
        for slow in (False, True, True, False):  # what else the machine does touches both
            (beside if slow else alone).append(await together(service, mel, one_less, slow))
        full = await together(service, mel, options.streams, False)
        told = await overload(service, options.streams, options.queue)
    finally:
        service.process.kill()
        service.process.wait()
    return {
        "all": full,
        "one_less": alone,
        "one_less_and_a_slow_one": beside,
        "slow_client_costs": {
            name: sum(run[name] for run in beside) / sum(run[name] for run in alone)
            for name in ("wall_seconds", "cpu_seconds")
        },
        "overload": told,
    }


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--voice", default=voices.DEFAULT)
    parser.add_argument("--streams", type=int, default=64)
    parser.add_argument("--queue", type=int, default=8)
    parser.add_argument("--threads", type=int, help="of the engine; all by default")
    parser.add_argument("--dtype", help="of the weights; what the service takes by default")
    parser.add_argument("--seconds", type=float, default=3.352, help="of audio a stream")
    parser.add_argument(
        "--stall", type=float, default=60.0, help="seconds until a client that reads nothing goes"
    )
    parser.add_argument("--output", help="JSON file")
    options = parser.parse_args(arguments)
    facts = machine()
    result = asyncio.run(measure(options))
    report = {
        "command": shlex.join(["python", "benchmarks/serve_load.py", *(arguments or sys.argv[1:])]),
        "machine": facts,
        "voice": options.voice,
        **result,
    }
    text = json.dumps(report, indent=2, sort_keys=True) + "\n"
    if options.output:
        write_atomic(options.output, [text.encode()])
    print(text, end="")


if __name__ == "__main__":
    main()
