"""Pages of other sites may not use a service on this machine through the visitor's browser."""

from __future__ import annotations

import json

import pytest
from serving import WAIT, Running, mel, npy, running
from websockets.exceptions import InvalidStatus

NPY = "application/x-npy"


@pytest.fixture(scope="module")
def server():
    with running() as found:
        yield found


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost", 200),
        ("127.0.0.1:9999", 200),
        ("[::1]:80", 200),
        ("LOCALHOST.", 200),
        ("rebound.example", 403),
        ("localhost.evil.example", 403),
        ("127.0.0.1.evil.example:80", 403),
        ("", 403),
    ],
)
def test_a_name_that_is_not_this_machine_is_refused(server: Running, host: str, status: int):
    assert server.request("GET", "/v1/model", headers={"Host": host}).status_code == status


@pytest.mark.parametrize(
    ("origin", "status"),
    [
        (None, 200),
        ("own", 200),
        ("https://evil.example", 403),
        ("null", 403),
        ("http://127.0.0.1", 403),  # another port is another site
        ("http://localhost:1", 403),
    ],
)
def test_a_page_of_another_site_may_not_post(server: Running, origin: str | None, status: int):
    headers = {"Content-Type": NPY}
    if origin:
        headers["Origin"] = server.url if origin == "own" else origin
    reply = server.request("POST", "/v1/vocode", content=npy(mel(3)), headers=headers)
    assert reply.status_code == status
    assert "access-control-allow-origin" not in reply.headers


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://localhost:1"])
def test_a_page_of_another_site_may_not_open_a_socket(server: Running, origin: str):
    with pytest.raises(InvalidStatus) as caught, server.socket(origin=origin):
        pass
    assert caught.value.response.status_code == 403


def test_a_page_of_the_service_may_open_a_socket(server: Running):
    with server.socket(origin=server.url) as socket:
        socket.send("{}")
        assert json.loads(socket.recv(WAIT))["type"] == "ready"


def test_a_foreign_host_may_not_open_a_socket(server: Running):
    import websockets.sync.client as client

    with (
        pytest.raises(InvalidStatus),
        server.raw() as raw,
        client.connect("ws://rebound.example/v1/stream", sock=raw, proxy=None),
    ):
        pass


def test_an_allowed_origin_may_post_and_read():
    friend = "https://friend.example"
    with running(allow_origins=(friend,), allow_hosts=()) as server:
        preflight = server.request(
            "OPTIONS",
            "/v1/vocode",
            headers={"Origin": friend, "Access-Control-Request-Method": "POST"},
        )
        assert preflight.status_code == 204
        assert "POST" in preflight.headers["access-control-allow-methods"]
        headers = {"Origin": friend, "Content-Type": NPY, "Host": "any.example"}
        reply = server.request("POST", "/v1/vocode", content=npy(mel(3)), headers=headers)
        assert reply.status_code == 200
        assert reply.headers["access-control-allow-origin"] == friend
        assert "X-Real-Time-Factor" in reply.headers["access-control-expose-headers"]
        headers["Origin"] = "https://evil.example"
        reply = server.request("POST", "/v1/vocode", content=npy(mel(3)), headers=headers)
        assert reply.status_code == 403
        with server.socket(origin=friend) as socket:
            socket.send("{}")
            assert json.loads(socket.recv(WAIT))["type"] == "ready"
