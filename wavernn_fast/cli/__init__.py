"""The command `wavernn-fast`: one module per subcommand, imported when that command runs."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import sys
import threading
from collections.abc import Iterator
from importlib import import_module
from types import FrameType
from typing import Any

import click

from .. import __version__
from ..errors import DeviceError, EngineError, WaveRNNError

EXIT_SOME_FAILED, EXIT_USAGE, EXIT_DEVICE, EXIT_INTERRUPTED = 1, 2, 3, 130

# name -> (module, line in the overview); kept here so that `--help` imports no subcommand
_COMMANDS = {
    "demo": ("demo", "speak a sentence with the voice of the package"),
    "vocode": ("vocode", "mel spectrograms -> speech"),
    "stream": ("stream", "one mel -> speech while its frames are coming"),
    "resynth": ("resynth", "recordings -> mel -> speech again, with a quality figure"),
    "mel": ("mel", "recordings -> mel spectrograms"),
    "convert": ("convert", "any supported checkpoint -> one canonical .safetensors file"),
    "inspect": ("inspect", "what is in a checkpoint: layout, sizes, mel convention"),
    "eval": ("evaluate", "judge a model by recordings: likelihood, quality of its copies, speed"),
    "plot": ("plot", "pictures of recordings, mels, speeds, training curves; reports of jobs"),
    "verify": ("verify", "compare the engine with PyTorch, step by step"),
    "bench": ("bench", "measure speed beside eager PyTorch and the hardware floor"),
    "train": ("train", "recordings -> a 16-bit WaveRNN, dense or pruned"),
    "prune": ("prune", "zero the weakest blocks of a model"),
    "serve": ("serve", "the model over HTTP and WebSocket, with a page to try it"),
    "doctor": ("doctor", "report on this machine and test the engine"),
}


class _Commands(click.Group):
    """A group that imports a subcommand when it is used and turns errors into exit codes."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        command = import_module(f".{_COMMANDS[cmd_name][0]}", __name__).command
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in _COMMANDS.items()])

    def main(self, *args: Any, **kwargs: Any) -> Any:
        """Run the command; what cannot be printed, as on a full disk, ends it with a sentence."""
        try:
            return super().main(*args, **kwargs)
        except OSError as error:
            if error.filename is not None:  # of a file, which its command knows better
                raise
            forget_stdout()
            reason = error.strerror or error
            with contextlib.suppress(OSError):
                click.echo(f"wavernn-fast: The output cannot be written ({reason}).", err=True)
            sys.exit(EXIT_SOME_FAILED)

    def invoke(self, ctx: click.Context) -> object:
        try:
            with _ended_by_sigterm():
                return super().invoke(ctx)
        except WaveRNNError as error:
            click.echo(f"wavernn-fast: {error}", err=True)
            ctx.exit(exit_code(error))
        except KeyboardInterrupt:
            click.echo("wavernn-fast: interrupted", err=True)
            ctx.exit(EXIT_INTERRUPTED)


@contextlib.contextmanager
def _ended_by_sigterm() -> Iterator[None]:
    """Meanwhile SIGTERM ends the command as Ctrl-C does, without its files in the making.

    A second one ends it at once. Commands that end in a way of their own (jobs, the service) take
    the signal themselves. A process that was forked and has kept the handler dies as before.
    """
    before, process = signal.getsignal(signal.SIGTERM), os.getpid()
    is_main = threading.current_thread() is threading.main_thread()
    if not is_main or before is not signal.SIG_DFL:
        yield
        return

    def end(number: int, frame: FrameType | None) -> None:
        signal.signal(number, signal.SIG_DFL)
        if os.getpid() != process:
            os.kill(os.getpid(), number)
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def forget_stdout() -> None:
    """Nobody reads it any more: the interpreter shall not complain when it flushes."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def exit_code(error: WaveRNNError) -> int:
    """Exit code of a whole command stopped by `error` (one failed item of many counts as 1)."""
    if isinstance(error, DeviceError):
        return EXIT_DEVICE
    return EXIT_SOME_FAILED if isinstance(error, EngineError) else EXIT_USAGE


class _ToStderr(logging.Handler):
    """Writes to whatever stderr is now (a StreamHandler keeps the one it was made with)."""

    def emit(self, record: logging.LogRecord) -> None:
        if sys.stderr is None:  # closed; print would take standard output, which may be the sound
            return
        try:
            print(self.format(record), file=sys.stderr)
        except Exception:  # a log on a full disk, a reader that has gone: the work goes on
            self.handleError(record)


def _fill_closed_descriptors() -> None:
    """Put the null device where a standard stream was closed before the program began.

    The next file that is opened would get its number, and whatever a library or a child process
    prints would stand in that file.
    """
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # the lowest that is free


def _set_up_logging(verbose: int, quiet: bool) -> None:
    level = logging.ERROR if quiet else (logging.WARNING, logging.INFO, logging.DEBUG)[verbose]
    named = logging.getLevelName(os.environ.get("WAVERNN_FAST_LOG", "").upper())
    logger = logging.getLogger("wavernn_fast")
    logger.setLevel(named if isinstance(named, int) else level)
    handler = _ToStderr()
    handler.setFormatter(logging.Formatter("wavernn-fast: %(levelname)s: %(message)s"))
    logger.handlers = [handler]  # replaced, not added: one process may run several commands


@click.group(
    cls=_Commands,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Exit codes: 0 done, 1 some items failed, 2 wrong usage or unusable model, "
    "3 device, 130 interrupted (Ctrl-C, SIGTERM). 'wavernn-fast COMMAND --help' has examples.",
)
@click.version_option(__version__, prog_name="wavernn-fast")
@click.option("-v", "--verbose", count=True, type=click.IntRange(0, 2, clamp=True), help="More.")
@click.option("-q", "--quiet", is_flag=True, help="Errors only, no progress bar.")
@click.pass_context
def main(ctx: click.Context, verbose: int, quiet: bool) -> None:
    """WaveRNN vocoding: mel spectrograms in, speech out."""
    ctx.obj = {"quiet": quiet}
    _fill_closed_descriptors()
    _set_up_logging(verbose, quiet)
