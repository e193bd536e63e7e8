"""`wavernn-fast stream`: mel frames in as they come, sound out as it is made."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import click
import numpy as np
from numpy.typing import NDArray

from .. import audio, files
from ..errors import AudioError, InputError
from . import common, forget_stdout, speaker

if TYPE_CHECKING:
    from ..stream_facts import StreamFacts
    from ..vocoder import Vocoder

RAW = {"s16le": "PCM_16", "f32le": "FLOAT"}  # ffmpeg's names of headerless formats
Wave = NDArray[np.float32]


@click.command(
    "stream",
    epilog=common.examples(
        "wavernn-fast stream mel.npy -m kerstin -o - | aplay",
        "wavernn-fast stream mel.npy -m kerstin --raw s16le -o - | aplay -f S16_LE -r 22050",
        "acoustic-model | wavernn-fast stream - --raw-mel -m voice.safetensors -o - | aplay",
        "wavernn-fast stream mel.npy -m voice.safetensors -o out.wav --realtime --json",
    ),
)
@click.argument("mel", metavar="MEL")
@click.option("-o", "--output", required=True, metavar="OUT", help="A .wav file, a pipe or '-'.")
@common.model_options
@click.option(
    "--raw-mel",
    is_flag=True,
    help="MEL is frames one after the other, float32 little-endian [n_mels], without a header; "
    "each is used as it comes.",
)
@click.option(
    "--realtime", is_flag=True, help="Let the frames of MEL come at the speed of their sound."
)
@click.option("--raw", type=click.Choice(sorted(RAW)), help="Samples without a header, not WAV.")
@click.option(
    "--subtype",
    default="PCM_16",
    show_default=True,
    type=click.Choice(common.SUBTYPES),
    help="Sample format of a WAV.",
)
@click.option("--chunk-frames", type=click.IntRange(1), help="Frames of sound in a chunk.")
@click.option(
    "--chunk-ms",
    type=click.FloatRange(0, min_open=True),
    help="The same in milliseconds, rounded to frames. [default: about 50]",
)
@click.option("--no-fade-out", is_flag=True, help="Neither fade the end nor hold it back for that.")
@common.sampling_options
@speaker.option
@click.option(
    "--json",
    "as_json",
    is_flag=True,
    help="Report as JSON: on stdout, or on stderr where that is the sound.",
)
@common.quiet_option
@click.pass_context
def command(ctx: click.Context, /, mel: str, output: str, **options: Any) -> None:
    """Turn one mel into sound while it is coming.

    MEL is a .npy, .npz or .safetensors file with one array [n_mels, n_frames], '-' for one on
    stdin, or with --raw-mel frames as they come. Sound is written as soon as it is made; a regular
    file gets its name when it is complete. Afterwards stderr tells how long the first sound took
    and whether a player would have run dry. When the reader of the sound goes away, the command
    ends.
    """
    if options["chunk_frames"] and options["chunk_ms"]:
        raise click.UsageError("--chunk-frames and --chunk-ms say the same; give one of them.")
    is_wav = output == common.PIPE or output.lower().endswith((".wav", ".wave"))
    if os.path.isdir(output):
        raise click.UsageError(f"-o is {output!r}, which is a folder; give a file, a pipe or '-'.")
    if not (is_wav or options["raw"] or _is_special(output)):
        raise click.UsageError(f"-o is {output!r}; give a .wav file, a pipe or '-', or --raw.")
    common.prepare_folders([common.Item(mel, output)])
    voc = common.load_vocoder(options)
    chunk = _chunk_frames(voc, options)
    facts = voc.stream_facts(chunk, fade_out=not options["no_fade_out"])
    clock = Clock(voc.sample_rate)
    try:
        with _sink(output, voc.sample_rate, options) as write:
            _play(_chunks(voc, mel, chunk, clock, options), write, clock)
        report = clock.report()
    except BrokenPipeError:
        forget_stdout()
        report = {**clock.report(), "reader_left": True}
    _tell(ctx, facts, report, output, options)


def _is_special(path: str) -> bool:
    return os.path.exists(path) and not os.path.isfile(path) and not os.path.isdir(path)


def _chunk_frames(voc: Vocoder, options: dict[str, Any]) -> int:
    if options["chunk_ms"]:
        chunk_samples: float = options["chunk_ms"] / 1000.0 * voc.sample_rate
        return max(1, round(chunk_samples / voc.config.hop_length))
    return voc.chunk_frames(options["chunk_frames"])


# --- time -----------------------------------------------------------------------------------------


@dataclass
class Clock:
    """When chunks were there, and what a player would have made of it.

    The player starts with the first chunk and plays at the sample rate; a chunk that is not there
    when the one before has been played is an underrun, and the player goes on when it comes. Time
    that writing waits for whoever reads the sound is nobody's delay.
    """

    sample_rate: int
    begun: float | None = None  # when the first frame, or the whole mel, was there
    waited: float = 0.0  # for frames
    blocked: float = 0.0  # in writing
    first: float = 0.0  # seconds from the beginning to the first chunk
    samples: int = 0
    underruns: int = 0
    silence: float = 0.0  # seconds that the player had nothing to play
    delay: float = 0.0  # seconds by which one that never runs dry begins later
    last: float = 0.0  # when the last chunk was there
    _dry: float = field(default=0.0, repr=False)  # when the player will have played all

    def now(self) -> float:
        """Seconds, less those that writing was blocked."""
        return time.perf_counter() - self.blocked

    def begin(self) -> None:
        """The first frame is there."""
        if self.begun is None:
            self.begun = self.last = self.now()

    def chunk(self, n_samples: int) -> None:
        """A chunk is there."""
        now = self.last = self.now()
        assert self.begun is not None
        if self.samples == 0:
            self.first, self._dry = now - self.begun, now
        played = self.samples / self.sample_rate  # by one that never runs dry, before this chunk
        self.delay = max(self.delay, now - (self.begun + self.first) - played)
        if now > self._dry:
            self.underruns += 1
            self.silence += now - self._dry
            self._dry = now
        self.samples += n_samples
        self._dry += n_samples / self.sample_rate

    def report(self) -> dict[str, Any]:
        """What came of it."""
        seconds = self.samples / self.sample_rate
        wall = self.last - self.begun if self.begun is not None else 0.0
        return {
            "samples": self.samples,
            "sample_rate": self.sample_rate,
            "audio_seconds": seconds,
            "wall_seconds": wall,
            "first_chunk_seconds": self.first,
            "rtf": (wall - self.waited) / seconds if seconds else 0.0,
            "underruns": self.underruns,
            "silence_seconds": self.silence,
            "player_delay_seconds": self.delay,
            "reader_left": False,
        }


# --- frames in ------------------------------------------------------------------------------------


def _chunks(
    voc: Vocoder, source: str, chunk: int, clock: Clock, options: dict[str, Any]
) -> Iterator[Wave]:
    """The sound of the mel named on the command line."""
    said = {name: options[name] for name in ("seed", "temperature", "greedy")}
    said |= {"fade_out": not options["no_fade_out"], "chunk_frames": chunk}
    said["speaker"] = speaker.read(options["speaker"], voc.config)
    if options["raw_mel"]:
        frames = _raw_frames(source, voc.config.n_mels)
    else:
        mel = voc.check_mel(audio.read_mel(source))
        if not options["realtime"]:
            clock.begin()
            yield from voc.stream(mel, **said)
            return
        frames = iter(mel.T)
    if options["realtime"]:
        frames = _in_time(frames, voc.config.hop_length / voc.sample_rate)
    yield from voc.stream(_timed(frames, clock), **said)


def _raw_frames(source: str, n_mels: int) -> Iterator[Wave]:
    """Frames [n_mels] of a file or of stdin, each as soon as it has come."""
    if n_mels == 0:
        raise InputError("This model takes no mel.")
    size = 4 * n_mels
    with _opened(source) as file:
        for number in range(2**62):
            data = file.read(size)
            if not data:
                return
            if len(data) < size:
                raise AudioError(
                    f"{files.label(source)} ends in the middle of frame {number}: {len(data)} "
                    f"bytes of {size} (float32 of {n_mels} bins); is it of this model?"
                )
            yield np.frombuffer(data, dtype="<f4")


@contextmanager
def _opened(source: str) -> Iterator[IO[bytes]]:
    if source == common.PIPE:
        yield files.standard_input()
        return
    try:
        with Path(source).open("rb") as file:
            yield file
    except AudioError:
        raise
    except OSError as error:
        raise AudioError(
            f"{files.label(source)} cannot be read ({error.strerror or error})."
        ) from error


def _in_time(frames: Iterable[Wave], seconds: float) -> Iterator[Wave]:
    """Frames, each not before the sound of those before it would have ended."""
    begun = time.monotonic()
    for number, frame in enumerate(frames):
        time.sleep(max(0.0, begun + number * seconds - time.monotonic()))
        yield frame


def _timed(frames: Iterable[Wave], clock: Clock) -> Iterator[Wave]:
    """Frames; what is waited for them is counted, from the first on."""
    source = iter(frames)
    while True:
        asked = time.perf_counter()
        try:
            frame = next(source)
        except StopIteration:
            clock.begin()
            return
        finally:
            if clock.begun is not None:
                clock.waited += time.perf_counter() - asked
        clock.begin()
        yield frame


# --- sound out ------------------------------------------------------------------------------------


def _play(chunks: Iterator[Wave], write: Any, clock: Clock) -> None:
    for chunk in chunks:
        clock.chunk(len(chunk))
        before = time.perf_counter()
        write(chunk)
        clock.blocked += time.perf_counter() - before


@contextmanager
def _sink(output: str, rate: int, options: dict[str, Any]) -> Iterator[Any]:
    """What takes chunks to `output`, each at once."""
    subtype: Any = RAW[options["raw"]] if options["raw"] else options["subtype"]
    with _target(output) as (file, is_regular):
        header = b"" if options["raw"] else audio.wav_header(None, rate, subtype)
        written = 0

        def put(data: bytes) -> None:
            file.write(data)
            file.flush()

        def write(chunk: Wave) -> None:
            nonlocal written
            put(audio.quantize(chunk, subtype))
            written += len(chunk)

        put(header)
        yield write
        if header and is_regular:
            with suppress(AudioError):  # over 4 GiB: the header stays that of a stream
                header = audio.wav_header(written, rate, subtype)
            file.seek(0)
            put(header)


@contextmanager
def _target(output: str) -> Iterator[tuple[IO[bytes], bool]]:
    """The file to write, and whether it is a regular one."""
    try:
        if output == common.PIPE:
            yield files.standard_output(), False
        elif _is_special(output):
            with Path(output).open("wb") as file:
                yield file, False
        else:
            with files.replacing(Path(output)) as file:
                yield file, True
    except (AudioError, BrokenPipeError):
        raise
    except OSError as error:
        raise AudioError(
            f"{files.label(output)} cannot be written ({error.strerror or error})."
        ) from error


# --- report ---------------------------------------------------------------------------------------


def _tell(
    ctx: click.Context,
    facts: StreamFacts,
    report: dict[str, Any],
    output: str,
    options: dict[str, Any],
) -> None:
    to_stderr = output == common.PIPE
    if options["as_json"]:
        common.print_json({**report, "facts": facts.to_dict()}, err=to_stderr)
    elif not common.is_quiet(ctx, options):
        click.echo("\n".join(_lines(facts, report)), err=True)


def _lines(facts: StreamFacts, report: dict[str, Any]) -> Iterator[str]:
    if facts.hears_whole:
        yield "lookahead     the whole mel"
    else:
        yield (
            f"lookahead     {facts.lookahead_frames} frames ({facts.lookahead_ms:.0f} ms); first "
            f"sample after {facts.first_frames} frames ({facts.first_ms:.0f} ms)"
        )
    yield (
        f"chunk         {facts.chunk_frames} frames ({facts.chunk_ms:.0f} ms); "
        f"{facts.held_back_ms:.0f} ms held back until the end"
    )
    yield f"first chunk   after {1000 * report['first_chunk_seconds']:.0f} ms"
    yield (
        f"sound         {report['audio_seconds']:.2f} s in {report['wall_seconds']:.2f} s, "
        f"real-time factor {report['rtf']:.3f}"
    )
    yield f"underruns     {report['underruns']}" + (
        f", {report['silence_seconds']:.2f} s of silence; a player that begins "
        f"{1000 * report['player_delay_seconds']:.0f} ms later hears none"
        if report["underruns"]
        else ""
    )
    if report["reader_left"]:
        yield "stopped       whoever read the sound has gone"
