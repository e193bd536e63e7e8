"""`wavernn-fast serve` as a process: where it listens, how it ends, with which exit code."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import cli_runner
import numpy as np
import pytest
from serving import WAIT, close_code, hello, rest
from voices import preset_mel, save_voice
from websockets.sync.client import connect

from wavernn_fast.errors import MissingDependencyError

# The command, with an engine whose device is lost at the tenth round.
LOST = """
import sys
from wavernn_fast import live_rounds
from wavernn_fast.cli import main
from wavernn_fast.errors import DeviceError

draw, calls = live_rounds.draw, []

def failing(*arguments, **options):
    calls.append(1)
    if len(calls) >= 10:
        raise DeviceError("CUDA error 700: an illegal memory access was encountered.")
    return draw(*arguments, **options)

live_rounds.draw = failing
main(sys.argv[1:])
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_voice(tmp_path_factory.mktemp("model"))


class Process:
    """The command, and what it says."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.said = ""
        assert process.stderr is not None
        while "serving at" not in self.said:
            line = process.stderr.readline()
            assert line, f"it ended with {process.wait()}: {self.said}"
            self.said += line
        [self.port] = map(int, re.findall(r"serving at http://\S+?:(\d+)/", self.said))

    def get(self, path: str) -> bytes:
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(f"http://127.0.0.1:{self.port}{path}", timeout=WAIT) as reply:
            return reply.read()

    def socket(self):
        address = f"ws://127.0.0.1:{self.port}/v1/stream"
        return connect(address, proxy=None, open_timeout=WAIT)

    def drains(self) -> None:
        """Wait until it takes no more requests."""
        while b"wavernn_draining 1.0" not in self.get("/metrics"):
            time.sleep(0.02)

    def end(self) -> tuple[int, str]:
        """Exit code and everything that was said."""
        rest = self.process.communicate(timeout=WAIT)[1]
        return self.process.returncode, self.said + rest


@contextmanager
def serve(
    model: Path, *options: object, script: tuple[str, ...] = ("-m", "wavernn_fast")
) -> Iterator[Process]:
    command = [sys.executable, *script, "serve", "-m", model, "--port", 0, "--threads", 1, *options]
    process = subprocess.Popen(
        [str(part) for part in command], stderr=subprocess.PIPE, text=True, env=os.environ.copy()
    )
    try:
        yield Process(process)
    finally:
        process.kill()
        process.wait()


def frames(count: int) -> bytes:
    return np.ascontiguousarray(preset_mel(count).T).astype("<f4").tobytes()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_lets_running_streams_end_and_the_process_too(model: Path, number: int):
    with serve(model) as server:
        assert json.loads(server.get("/v1/model"))["model"]["n_mels"] == 80
        with server.socket() as client:
            hello(client)
            client.send(frames(80))  # beyond what the fade-out holds back
            client.recv(WAIT)
            server.process.send_signal(number)
            server.drains()
            with server.socket() as late:
                assert rest(late, "<i2")[1]["type"] == "error"
                assert close_code(late) == 1012
            client.send(frames(20))
            client.send('{"end": true}')
            assert rest(client, "<i2")[1]["type"] == "end"
        code, said = server.end()
        assert code == 0
        assert "Traceback" not in said
        assert "warning" not in said.lower().replace("warning: ending", "")


def test_an_idle_service_ends_at_once(model: Path):
    with serve(model) as server:
        begun = time.monotonic()
        server.process.send_signal(signal.SIGTERM)
        code, said = server.end()
        assert code == 0
        assert time.monotonic() - begun < 5
        assert "Traceback" not in said


def test_a_second_interrupt_waits_for_nobody(model: Path):
    with serve(model, "--drain", 600) as server, server.socket() as client:
        hello(client)
        server.process.send_signal(signal.SIGINT)
        server.drains()
        server.process.send_signal(signal.SIGINT)
        code, said = server.end()
        assert code == 130
        assert "Traceback" not in said


def test_a_lost_device_ends_the_process_with_its_code(model: Path):
    with serve(model, script=("-c", LOST)) as server:
        with server.socket() as client:
            hello(client)
            client.send(frames(200))
            assert rest(client, "<i2")[1]["type"] == "error"
            assert close_code(client) == 1011
        with pytest.raises(urllib.error.HTTPError, match="503"):
            server.get("/healthz")
        code, said = server.end()
        assert code == 3
        assert "the engine failed: CUDA error 700" in said


def test_loopback_needs_no_warning_and_other_addresses_get_one(model: Path):
    with serve(model) as server:
        assert "other machines" not in server.said
        assert "serving at http://127.0.0.1:" in server.said
    with serve(model, "--host", "0.0.0.0") as server:
        assert "other machines may reach" in server.said
        assert server.said.count("\n") == 2


def test_an_address_that_is_taken_is_named(model: Path):
    with serve(model) as server:
        result = cli_runner.run("serve", "-m", model, "--port", server.port)
        assert result.exit_code == 2
        assert f"port {server.port} cannot be used" in result.stderr
        assert "--port" in result.stderr
        assert "Traceback" not in result.stderr


def test_a_missing_extra_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "fastapi", None)
    result = cli_runner.run("serve", "-m", "no/such/model")
    assert result.exit_code == 2
    assert 'pip install "wavernn-fast[serve]"' in result.stderr


@pytest.mark.parametrize(
    "options",
    [
        ("--max-streams", 0),
        ("--max-body", 0),
        ("--port", 70000),
        ("--timeout", -1),
        ("--allow-origin", "*"),
        ("--allow-origin", "example.org"),
        ("--allow-origin", "https://example.org/page"),
        ("--host", "no.such.host.invalid"),
    ],
)
def test_an_option_that_cannot_be_used_is_refused(model: Path, options: tuple[object, ...]):
    result = cli_runner.run("serve", "-m", model, "--port", 0, *options)
    assert result.exit_code == 2
    assert "Traceback" not in result.stderr


def test_help_has_examples_and_names_the_limits():
    text = cli_runner.run("serve", "--help").output
    for word in ("Examples:", "--max-streams", "--allow-origin", "Exit code 3", "127.0.0.1"):
        assert word in text


def test_a_server_that_is_too_old_is_refused_in_a_sentence(monkeypatch):
    """The extra asks for one that waits for slow clients; other packages may bring an older one."""
    import uvicorn

    from wavernn_fast import serve

    serve.require_extra()
    for version in ("0.30.6", "0.52", "0.52.0"):
        monkeypatch.setattr(uvicorn, "__version__", version)
        with pytest.raises(MissingDependencyError, match=rf"0\.52\.1 or newer, and {version} is"):
            serve.require_extra()
    for version in ("0.52.1", "0.53.0.dev1", "1.0"):
        monkeypatch.setattr(uvicorn, "__version__", version)
        serve.require_extra()
