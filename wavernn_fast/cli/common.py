"""What the subcommands share: options, the model, input lists, output names, progress."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from .. import audio, voices
from ..errors import InputError
from .outputs import is_file, make_folders

if TYPE_CHECKING:
    from ..vocoder import Vocoder

F = TypeVar("F", bound=Callable[..., Any])

PIPE = "-"
DTYPES = ("auto", "fp32", "fp16", "bf16", "int8", "int8-fast")
SUBTYPES = ("PCM_16", "PCM_24", "FLOAT")  # see audio.quantize
MEL_ENDINGS = (".npy", ".npz", ".safetensors", ".pt", ".pth")
READ_AUDIO = audio.READ_SUFFIXES
WRITTEN_AUDIO = audio.AUDIO_SUFFIXES
_NO_SUBTYPES = (
    ((".flac",), ("FLOAT",), "FLAC has no FLOAT; write .wav or use PCM_24."),
    ((".ogg", ".oga"), ("PCM_24", "FLOAT"), "Ogg holds Vorbis; leave --subtype out."),
)


def stack(*options: Callable[[F], F]) -> Callable[[F], F]:
    """Join click options into one decorator, kept in reading order."""

    def decorate(function: F) -> F:
        for option in reversed(options):
            function = option(function)
        return function

    return decorate


def examples(*lines: str) -> str:
    """Epilog of a command: one example a line, left as it is by the help formatter."""
    return "\n".join(["\b", "Examples:", *(f"  {line}" for line in lines)])


def temperature(
    ctx: click.Context, parameter: click.Parameter, value: float | None
) -> float | None:
    """Refuse what is no temperature."""
    from ..scalars import to_temperature

    greedy = "--greedy" if any(p.name == "greedy" for p in ctx.command.params) else ""
    return None if value is None else to_temperature(value, greedy)


gpu_cluster_option = click.option(
    "--gpu-cluster",
    type=click.IntRange(0, 16),
    default=0,
    show_default=True,
    help="On a GPU of compute capability 9.0 or newer, blocks that hand on values within a "
    "cluster, such as 8; 0: the planner's choice.",
)
engine_options = stack(
    click.option(
        "--device",
        default="auto",
        show_default=True,
        help="auto, cpu, cuda, emu; GPUs by number: cuda:1, cuda:0,1 or cuda:all.",
    ),
    click.option(
        "--dtype",
        default="auto",
        show_default=True,
        type=click.Choice(DTYPES),
        help="How weights are stored; auto is fp32, the closest to PyTorch.",
    ),
    click.option(
        "--threads",
        type=click.IntRange(1),
        help="CPU threads. [default: WAVERNN_FAST_THREADS, or all allowed here]",
    ),
    click.option(
        "--gpu-streams",
        type=click.IntRange(0, 65536),
        default=1,
        show_default=True,
        help="On a GPU, utterances that the engine is made for side by side (0: as many as are "
        "fastest); more than one is fp16, another kernel and so other samples.",
    ),
    gpu_cluster_option,
    click.option(
        "--conditioning",
        type=click.Choice(("host", "device")),
        default="host",
        show_default=True,
        help="Where mels become what the kernel hears; device: on the GPU, by CuPy or PyTorch.",
    ),
)
_preset_option = click.option(
    "--preset", help="Mel and output rules when the checkpoint does not say (see 'inspect')."
)
model_options = stack(
    click.option("-m", "--model", required=True, metavar="FILE", help="Checkpoint to load."),
    _preset_option,
    engine_options,
)
voice_options = stack(  # for a command that makes its own mels, which any voice can take
    click.option(
        "-m", "--model", default=voices.DEFAULT, show_default=True, metavar="FILE|VOICE",
        help="Checkpoint to load, or a voice of the package.",
    ),
    _preset_option,
    engine_options,
)  # fmt: skip
sampling_options = stack(
    click.option(
        "--seed",
        default=0,
        show_default=True,
        type=click.IntRange(0, 2**64 - 1),
        help="Seed of every file: its audio does not depend on the other files.",
    ),
    click.option(
        "--temperature",
        default=1.0,
        show_default=True,
        type=float,
        callback=temperature,
        help="Above 0; less than 1 is safer and duller.",
    ),
    click.option("--greedy", is_flag=True, help="Take the likeliest class; no chance at all."),
)
output_options = stack(
    click.option(
        "--streams",
        type=click.IntRange(1, 4096),
        help="Files (or folds) run side by side on each device; changes the speed, not the "
        "audio. [default: as many as the device is best with]",
    ),
    click.option(
        "--subtype",
        default="PCM_16",
        show_default=True,
        type=click.Choice(SUBTYPES),
        help="Sample format of the written file.",
    ),
    click.option("--skip-existing", is_flag=True, help="Leave finished outputs as they are."),
)
json_option = click.option("--json", "as_json", is_flag=True, help="Result as JSON on stdout.")
quiet_option = click.option("-q", "--quiet", is_flag=True, help="No progress bar.")


def engine_arguments(options: dict[str, Any]) -> dict[str, Any]:
    """What `Vocoder` takes of the values of `engine_options`."""
    names = ("device", "dtype", "gpu_streams", "gpu_cluster", "conditioning")
    return {"cpu_threads": options["threads"], **{name: options[name] for name in names}}


def load_vocoder(options: dict[str, Any]) -> Vocoder:
    """`Vocoder.from_pretrained` from the values of `model_options`."""
    from ..vocoder import Vocoder

    return Vocoder.from_pretrained(
        options["model"],
        preset=options["preset"],
        **engine_arguments(options),
    )


def dtype_list(ctx: click.Context, parameter: click.Parameter, value: str) -> list[str]:
    """Parse "fp32,int8", as a callback of an option."""
    parts = [part.strip() for part in value.split(",")]
    for part in parts:
        if part not in DTYPES[1:]:
            raise click.BadParameter(f"{part!r} is none of {', '.join(DTYPES[1:])}.")
    return parts


def is_quiet(ctx: click.Context, options: dict[str, Any]) -> bool:
    """Whether -q was given, before or after the name of the command."""
    return bool(options.get("quiet") or (ctx.obj or {}).get("quiet"))


@dataclass(frozen=True)
class Item:
    """One thing to do: where it is read and where its result goes ("-" is a pipe)."""

    source: str
    target: str


def collect(
    inputs: Sequence[str], output: str, *, reads: Iterable[str], writes: str, single: Iterable[str]
) -> list[Item]:
    """Pair every input with an output name; nothing is read or written yet.

    Parameters
    ----------
    inputs : sequence of str
        Files, folders (searched through, their layout is kept) or "-".
    output : str
        A folder, or for one input a file whose ending is in `single`, or "-".
    reads : iterable of str
        Endings looked for in folders, such as ".npy".
    writes : str
        Ending of the outputs in a folder.

    Raises
    ------
    InputError
        For a missing input, a folder that is empty or cannot be read, two inputs with one output
        name, an output that would overwrite an input, or one that is no file of this command.
    """
    to_file = is_file(output, single)
    found = expand(inputs, reads)
    if to_file:
        if len(found) != 1:
            raise InputError(
                f"The output {output!r} is one file but there are {len(found)} inputs; "
                "give a folder with -o."
            )
        items = [Item(found[0][0], output)]
    else:
        items = [Item(src, str(Path(output) / rel.with_suffix(writes))) for src, rel in found]
    _refuse_clashes(items)
    return items


def expand(inputs: Sequence[str], reads: Iterable[str]) -> list[tuple[str, Path]]:
    """Every input with its path below the folder that it was found in; see `collect`.

    Raises
    ------
    InputError
        For a missing input, or a folder that is empty or cannot be read.
    """
    endings = {ending.lower() for ending in reads}
    return [pair for name in inputs for pair in _expand(name, endings)]


def _expand(name: str, endings: set[str]) -> list[tuple[str, Path]]:
    if name == PIPE:
        return [(PIPE, Path("stdin"))]
    path = Path(name)
    if os.path.isdir(path):
        from ..jobs.items import walk

        files = sorted(Path(folder, file) for folder, file in walk(name, endings))
        if not files:
            raise InputError(
                f"The folder {name!r} holds no file ending in {', '.join(sorted(endings))}."
            )
        return [(str(p), p.relative_to(path)) for p in files]
    if not os.path.exists(path):
        raise InputError(f"The input {name!r} does not exist.")
    return [(name, Path(path.name))]


def _refuse_clashes(items: Sequence[Item]) -> None:
    taken: dict[str, str] = {}
    sources = {os.path.realpath(item.source) for item in items if item.source != PIPE}
    for item in items:
        if item.target == PIPE:
            continue
        # case-folded: two names that differ only in case are one file on many systems
        key = os.path.realpath(item.target).casefold()
        if key in taken:
            raise InputError(
                f"Both {taken[key]!r} and {item.source!r} would be written to {item.target!r}; "
                "rename one of them or use two runs."
            )
        if os.path.realpath(item.target) in sources:
            raise InputError(f"The output {item.target!r} is also an input; choose another -o.")
        taken[key] = item.source


def check_outputs(items: Sequence[Item], options: dict[str, Any]) -> None:
    """Refuse what can only fail after the work: mixed output on stdout, FLAC with floats."""
    if options.get("as_json") and any(item.target == PIPE for item in items):
        raise click.UsageError("'-o -' and --json both write to stdout; use one of them.")
    subtype = options.get("subtype")
    for endings, refused, advice in _NO_SUBTYPES:
        found = [item.target for item in items if item.target.lower().endswith(endings)]
        if found and subtype in refused:
            raise click.UsageError(f"{found[0]!r}: {advice}")


def prepare_folders(items: Sequence[Item]) -> None:
    """Make the folders of items; see `outputs.make_folders`."""
    make_folders(item.target for item in items if item.target != PIPE)


@dataclass
class Progress:
    """A tqdm bar on stderr: files/s, seconds of audio per second, real-time factor, ETA."""

    total: int
    quiet: bool
    unit: str = "file"
    audio_seconds: float = 0.0
    _started: float = field(default_factory=time.perf_counter)
    _bar: Any = None

    def __enter__(self) -> Progress:
        from tqdm import tqdm

        # disable=None: tqdm shows nothing when stderr is not a terminal
        self._bar = tqdm(
            total=self.total,
            unit=self.unit,
            file=sys.stderr,
            miniters=0,  # redraw by time: one long file is many updates
            disable=self.quiet or sys.stderr is None or None,
        )
        return self

    def __exit__(self, *exc: object) -> None:
        self._bar.close()

    def audio(self, seconds: float) -> None:
        """Count `seconds` of finished audio."""
        self.audio_seconds += seconds
        if seconds and (took := self.elapsed) > 0:
            rate = self.audio_seconds / took
            text = f"{self.audio_seconds:.1f} s audio, {rate:.2f} audio s/s, RTF {1 / rate:.2f}"
            self._bar.set_postfix_str(text, refresh=False)
            self._bar.update(0)

    def done(self, files: int = 1) -> None:
        """Count finished files."""
        self._bar.update(files)

    @property
    def elapsed(self) -> float:
        """Seconds since the start."""
        return time.perf_counter() - self._started


@dataclass
class Report:
    """What a job did, for people (stderr) and machines (`--json`, stdout)."""

    done: list[dict[str, Any]] = field(default_factory=list)
    failed: list[dict[str, Any]] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    stopped: str = ""  # why the job ended before all items were tried
    left: list[str] = field(default_factory=list)  # sources of those

    def fail(self, item: Item, error: Exception) -> None:
        """Note that `item` failed; the job goes on."""
        self.failed.append({"source": item.source, "error": str(error)})

    def finish(self, progress: Progress, as_json: bool, **extra: Any) -> int:
        """Print the summary and return the exit code: 0, or 1 if anything failed."""
        for entry in self.failed:
            tell(f"failed: {entry['source']}: {entry['error']}")
        if self.failed:
            total = len(self.done) + len(self.failed)
            tell(f"{len(self.failed)} of {total} items failed.")
        if self.stopped:
            tell(f"{self.stopped} {len(self.done)} done, {len(self.left)} left.")
        if as_json:
            print_json(self.to_dict(progress, **extra))
        return 1 if self.failed or self.left else 0

    def to_dict(self, progress: Progress, **extra: Any) -> dict[str, Any]:
        """All of it, and `extra`, ready for JSON."""
        wall, audio = progress.elapsed, progress.audio_seconds
        return {
            "done": self.done,
            "failed": self.failed,
            "skipped": self.skipped,
            "left": self.left,
            "audio_seconds": audio,
            "wall_seconds": wall,
            "x_realtime": audio / wall if wall > 0 else 0.0,
            **extra,
        }


def tell(text: str) -> None:
    """A line on stderr; where nobody can read it (a full disk, a terminal that is gone), none."""
    with contextlib.suppress(OSError):
        click.echo(text, err=True)


def print_json(value: object, *, err: bool = False) -> None:
    """One JSON document on stdout, or on stderr."""
    click.echo(json.dumps(value, indent=2, sort_keys=True, allow_nan=False), err=err)
