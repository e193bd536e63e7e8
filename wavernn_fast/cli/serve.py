"""`wavernn-fast serve`: one model over HTTP and WebSocket."""

from __future__ import annotations

import logging
from typing import Any

import click

from .. import voices
from . import common

_LOOPBACK = ("127.0.0.1", "::1", "localhost")


@click.command(
    "serve",
    epilog=common.examples(
        "wavernn-fast serve",
        "wavernn-fast serve -m voice.safetensors --dtype int8 --port 8080 --max-streams 32",
        "wavernn-fast serve --allow-origin https://example.org --allow-host speech.example.org",
    ),
)
@common.voice_options
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option(
    "--port", default=8017, show_default=True, type=click.IntRange(0, 65535), help="0: a free one."
)
@click.option(
    "--max-streams",
    default=16,
    show_default=True,
    type=click.IntRange(1, 4096),
    help="Utterances that sound side by side.",
)
@click.option(
    "--max-queue",
    default=32,
    show_default=True,
    type=click.IntRange(0, 65536),
    help="Requests that may wait beside them; one more is told to try again.",
)
@click.option(
    "--max-body",
    default=16.0,
    show_default=True,
    type=click.FloatRange(0.01, 2048),
    help="MiB of a request.",
)
@click.option(
    "--max-seconds",
    default=60.0,
    show_default=True,
    type=click.FloatRange(0.1, 86400),
    help="Audio of one utterance.",
)
@click.option(
    "--timeout",
    default=120.0,
    show_default=True,
    type=click.FloatRange(0.1, 604800),
    help="Seconds that a request may take, waiting included.",
)
@click.option(
    "--idle",
    default=20.0,
    show_default=True,
    type=click.FloatRange(0.1, 86400),
    help="Seconds that a client may be silent when it is its turn.",
)
@click.option(
    "--stall",
    default=10.0,
    show_default=True,
    type=click.FloatRange(0.1, 86400),
    help="Seconds that a client may leave audio untaken.",
)
@click.option(
    "--drain",
    default=10.0,
    show_default=True,
    type=click.FloatRange(0, 86400),
    help="Seconds that running streams get to end after SIGTERM or Ctrl-C.",
)
@click.option(
    "--allow-origin",
    "allow_origins",
    multiple=True,
    metavar="ORIGIN",
    help="A web site whose pages may use this service, such as https://example.org.",
)
@click.option(
    "--allow-host",
    "allow_hosts",
    multiple=True,
    metavar="NAME",
    help="A name that requests may give, as behind a proxy. [default: the loopback names; any, "
    "where --host is another address]",
)
@click.pass_context
def command(ctx: click.Context, /, host: str, port: int, **options: Any) -> None:
    """Serve a model: mels or recordings in, speech out while it is being made.

    http://127.0.0.1:8017/ has a page to try it, /docs the routes. It listens on this machine only;
    there is no login and no encryption, so put a proxy in front of it before others may reach it.
    SIGTERM and Ctrl-C let running streams end. Exit code 3 if the engine failed.
    """
    from .. import serve

    serve.require_extra()
    from ..serve.run import listen, run

    limits = _limits(host, options)
    name = options["model"]
    voice = name if voices.find(name) and voices.resolve(name) == voices.find(name) else None
    app = serve.create_app(common.load_vocoder(options), limits, voice=voice)
    server = listen(host, port, limits.stall)
    _log_requests_failed()
    if host not in _LOOPBACK:
        click.echo(
            f"wavernn-fast: warning: listening on {host}, which other machines may reach; anybody "
            "who does can use this service, unencrypted and without a password.",
            err=True,
        )
    dead = run(app, server, lambda: click.echo(_address(server), err=True))
    if dead:
        click.echo(f"wavernn-fast: the engine failed: {dead}", err=True)
        ctx.exit(3)


def _limits(host: str, options: dict[str, Any]) -> Any:
    from ..serve.limits import LOOPBACK_HOSTS, MIB, Limits

    hosts = (*LOOPBACK_HOSTS, *options["allow_hosts"])
    if host not in _LOOPBACK:
        hosts = tuple(options["allow_hosts"])
    plain = ("max_streams", "max_queue", "max_seconds", "timeout", "idle", "stall", "drain")
    return Limits(
        **{key: options[key] for key in plain},
        max_body=round(options["max_body"] * MIB),
        allow_origins=options["allow_origins"],
        allow_hosts=hosts,
    )


def _address(server: Any) -> str:
    host, port = server.getsockname()[:2]
    return f"wavernn-fast: serving at http://{f'[{host}]' if ':' in host else host}:{port}/"


def _log_requests_failed() -> None:
    """Errors of uvicorn go where those of the package go."""
    log = logging.getLogger("uvicorn")
    log.handlers = logging.getLogger("wavernn_fast").handlers
    log.setLevel(logging.ERROR)
