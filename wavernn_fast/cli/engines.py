"""Where the engine of a job runs, in this process, in children or on a cluster; and its shard."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import click

from ..devices import resolve_devices
from ..errors import InputError
from ..jobs.shard import Shard, parse_shard
from ..machine import allowed_cpus
from .common import PIPE, stack

if TYPE_CHECKING:
    from ..jobs.items import Item
    from ..jobs.job import WorkerFactory
    from ..jobs.settings import Settings

OnSamples = Callable[[int], None]
_LOCAL, _RAY = "local", "ray"

options = stack(
    click.option(
        "--shard",
        metavar="I/N",
        help="Do part I (from 0) of N of the job, by the names of the outputs; 'auto' asks SLURM "
        "(array or task) or torchrun.",
    ),
    click.option(
        "--isolate",
        is_flag=True,
        help="Run the engine in a child process that is replaced when it dies. [always, on GPUs "
        "and on Ray]",
    ),
    click.option(
        "--workers",
        type=click.IntRange(1, 100_000),
        metavar="N",
        help="Engines at work at the same time, each in a process of its own. [default: one for "
        "each GPU; with --engine ray, as many as the cluster has place for]",
    ),
    click.option(
        "--stall-seconds",
        type=click.FloatRange(1.0),
        default=300.0,
        show_default=True,
        help="Replace a child process that has done nothing for so long.",
    ),
    click.option(
        "--engine",
        type=click.Choice((_LOCAL, _RAY)),
        default=_LOCAL,
        show_default=True,
        help="Run here, or on a Ray cluster (docs/scale.md).",
    ),
    click.option(
        "--ray-address",
        metavar="ADDRESS",
        help="Of a running cluster; 'auto' finds one. [default: RAY_ADDRESS, or a new one here]",
    ),
)
_FOR_FOLDERS = ("shard", "isolate", "workers", "ray_address")


def refuse_for_one_file(given: dict[str, Any], output: str) -> None:
    """Refuse what only a job into a folder can do."""
    names = [name for name in _FOR_FOLDERS if given[name]]
    names += ["engine"] if given["engine"] != _LOCAL else []
    if names:
        raise click.UsageError(
            f"--{names[0].replace('_', '-')} is for a folder of outputs; {output!r} is one file."
        )


def shard_of(given: dict[str, Any]) -> Shard:
    """The part of the job that this process does; raises as `parse_shard`."""
    return Shard() if given["shard"] is None else parse_shard(given["shard"])


def away(
    given: dict[str, Any], settings: Settings, items: Sequence[Item]
) -> Callable[[OnSamples | None], WorkerFactory] | None:
    """What makes the worker, where its engine is not to run in this process; None if it is.

    Raises
    ------
    DeviceError, InputError
        If a device is not available, or the number of workers does not fit it.
    """
    from ..jobs.places import Care

    care = Care(stall_seconds=given["stall_seconds"])
    if any(item.source == PIPE for item in items):  # no other process can read our input
        names = [name for name in ("isolate", "workers") if given[name]]
        names += ["engine ray"] if given["engine"] == _RAY else []
        if names:
            raise click.UsageError(f"--{names[0]} cannot be used with '-' as an input.")
        return None
    if given["engine"] == _RAY:
        from ..jobs.ray_engine import RayOptions, ray_worker

        options = RayOptions(given["ray_address"], given["workers"], care=care)
        return lambda on_samples: ray_worker(options)
    if given["ray_address"]:
        raise click.UsageError("--ray-address is for --engine ray.")
    devices = _devices(settings.device, given["workers"], given["isolate"])
    if not devices:
        return None
    from ..jobs.child import child_worker

    threads = settings.threads
    if threads is None and devices[0] == "cpu":
        threads = max(1, allowed_cpus() // len(devices))
    shared = dataclasses.replace(settings, threads=threads)

    def make(on_samples: OnSamples | None) -> WorkerFactory:
        factory = child_worker(devices, care, on_samples)
        return lambda settings, root, name, stop: factory(shared, root, name, stop)

    return make


def _devices(device: str, workers: int | None, isolate: bool) -> tuple[str, ...]:
    """The device of each child; empty: no child is needed."""
    targets = resolve_devices(device)
    if targets[0].kind == "cpu":
        return ("cpu",) * (workers or 1) if isolate or (workers or 1) > 1 else ()
    if workers not in (None, len(targets)):
        raise InputError(
            f"--workers {workers} does not fit --device {device}, which is {len(targets)}; each is "
            "driven by one process."
        )
    if targets[0].kind == "emu" and not isolate and workers is None:
        return ()
    if device == "auto":  # which may still turn to the CPU
        return (device,)
    return tuple(target.name for target in targets)
