"""A job on a Ray cluster: `map_batches` of Ray Data with a pool of actors that hold an engine.

Ray deals out batches of items, replaces an actor that dies and gives its batch to another. Only
names travel; mels are read and files written by the actors (`ray_actor`), below an output root that
all machines see. The file `.wavernn-fast/ray-<token>.job` holds a job together: an actor that does
not find it is on a machine without that file system, and one that finds it no longer stops.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import os
import secrets
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..errors import DeviceError, InputError, MissingDependencyError
from ..files import number_of
from . import parts
from .items import Item
from .places import Care
from .ray_actor import EngineActor, Task, raise_again
from .settings import Settings
from .stop import Stop
from .work import Outcome, Times, Worker

logger = logging.getLogger("wavernn_fast")

_STORE_BYTES = 100 << 20  # of a cluster started here; items and outcomes are short
_BATCHES = 4  # of an actor at least, so that all end at about the same time
_MOST_BATCH = 256  # items, where not very many run side by side
_LOOK_SECONDS = 0.2  # between two looks at whether to stop
_LOOPBACK = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"  # "0" before Ray is imported: no other machine


@dataclass(frozen=True)
class RayOptions:
    """Where the actors run and what each gets.

    Parameters
    ----------
    address : str, optional
        Of a running cluster, "auto" to find one; by default RAY_ADDRESS, or a new one on this
        machine.
    workers : int, optional
        Actors; by default as many as the cluster has GPUs, or processors for.
    batch : int, optional
        Items that an actor gets at once; by default by the number of items and actors.
    care : Care
        Of the engine's process in each actor.
    """

    address: str | None = None
    workers: int | None = None
    batch: int | None = None
    care: Care = dataclasses.field(default_factory=Care)


class RayWorker:
    """A `Worker` whose work is done by actors of a Ray cluster.

    Parameters
    ----------
    settings : Settings
    root : str
        The output root; all machines see it under this path.
    name : str
        Begins the names of the actors' journals.
    stop : Stop
    options : RayOptions

    Raises
    ------
    MissingDependencyError
        If Ray is not installed.
    InputError
        If a GPU is asked for by its number.
    """

    def __init__(
        self, settings: Settings, root: str, name: str, *, stop: Stop, options: RayOptions
    ) -> None:
        self.times = Times()  # of all actors together, in the last run
        self._ray = _import_ray(options.address or os.environ.get("RAY_ADDRESS"))
        settings = replace(
            settings,
            device=_any_gpu(settings.device),
            model=_everywhere(settings.model),
            speaker=settings.speaker and _everywhere(settings.speaker),
        )
        token = secrets.token_hex(4)
        self._task = Task(settings, os.path.abspath(root), name, token, options.care)
        self._stop, self._options, self._lost = stop, options, ""

    def run(self, items: Iterable[Item]) -> Iterator[Outcome]:
        """Do all items; outcomes of a batch come when it has ended.

        Raises
        ------
        DeviceError
            If the cluster has not what the actors need, or items are left that no device did.
        InputError
            If a machine of it does not see the output root, or settings have no meaning.
        ModelError
            If a machine cannot use the model.
        OSError
            If a journal cannot be written; a full disk makes a `Stop.request` instead.
        """
        left = {item.name: _travelling(item) for item in items}
        if not left:
            return
        folders = sorted({Path(item.target).parent for item in left.values()})
        self.times = Times()
        started = self._connect()
        try:
            self._task.job_file.parent.mkdir(parents=True, exist_ok=True)
            self._task.job_file.write_text(self._task.token)
            with self._watching():
                yield from self._passes(left)
        finally:
            for file in [*self._task.job_file.parent.glob(f"{self._task.job_file.stem}.*")]:
                file.unlink(missing_ok=True)
            if started:
                self._ray.shutdown()
            parts.remove_stale(folders, self._is_mine)  # of actors that were killed

    def _passes(self, left: dict[str, Item]) -> Iterator[Outcome]:
        """All items with the actors of the cluster; what lost its device, again with others."""
        before = len(left) + 1
        while left and len(left) < before and not self._stop.requested:
            before = len(left)
            for outcome in self._outcomes(list(left.values())):
                left.pop(outcome.name, None)
                yield outcome
        if left and not self._stop.requested:
            raise DeviceError(
                f"{len(left)} items are left that no actor could do: "
                f"{self._lost or 'no actor answered'}. "
                "What is finished is kept; go on with --resume."
            )

    @contextlib.contextmanager
    def _watching(self) -> Iterator[None]:
        """Meanwhile, a stop removes the job's file, and batches that have been begun end early."""
        over = threading.Event()

        def watch() -> None:
            while not over.wait(_LOOK_SECONDS):
                if self._stop.requested:
                    self._task.job_file.unlink(missing_ok=True)

        thread = threading.Thread(target=watch, name="wavernn_fast ray", daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()

    def _is_mine(self, worker: str) -> bool:
        return worker.startswith(f"{self._task.name}-{self._task.token}-")

    # --- the cluster ---

    def _connect(self) -> bool:
        """Join a cluster, or start one on this machine; whether that was done here."""
        ray = self._ray
        logging.getLogger("ray.data").setLevel(logging.ERROR)
        if ray.is_initialized():
            return False
        address = self._options.address or os.environ.get("RAY_ADDRESS")
        quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
        if address:
            ray.init(address=address, **quiet)
        else:
            ray.init(
                include_dashboard=False,
                object_store_memory=_STORE_BYTES,
                runtime_env={"env_vars": {"PYTHONPATH": os.pathsep.join(_import_path())}},
                **quiet,
            )
        return True

    def _actors(self) -> tuple[int, dict[str, int]]:
        """How many actors, and what each needs."""
        has = {name: int(count) for name, count in self._ray.cluster_resources().items()}
        task = self._task
        if task.settings.device == "auto":
            device = "cuda" if has.get("GPU") else "cpu"
            self._task = task = replace(task, settings=replace(task.settings, device=device))
        resource, each = ("GPU", 1) if task.on_gpu else ("CPU", task.settings.threads or 1)
        needs = {"num_gpus": 1, "num_cpus": 1} if task.on_gpu else {"num_cpus": each}
        most = has.get(resource, 0) // each
        workers = self._options.workers or most
        if not 0 < workers <= most:
            raise DeviceError(
                f"The Ray cluster has {has.get(resource, 0)} {resource}s: enough for {most} "
                f"workers with {each}, not for {workers or 'any'}. Give fewer --workers, fewer "
                "--threads, or another --ray-address."
            )
        return workers, needs

    # --- the data ---

    def _outcomes(self, todo: Sequence[Item]) -> Iterator[Outcome]:
        """One pass over items; some may get no outcome."""
        data: Any = self._ray.data
        workers, needs = self._actors()
        context = data.DataContext.get_current()
        context.enable_progress_bars = False
        rows = [{"item": json.dumps(dataclasses.asdict(item))} for item in todo]
        results = data.from_items(
            rows, override_num_blocks=self._batches(len(rows), workers)
        ).map_batches(
            EngineActor,
            fn_constructor_kwargs={"task": self._task},
            compute=data.ActorPoolStrategy(size=workers),
            batch_size=None,
            batch_format="pyarrow",
            **needs,
        )
        for batch in _told(results.iter_batches(batch_size=None, batch_format="pyarrow")):
            for line in map(json.loads, batch["outcome"].to_pylist()):
                if "times" in line:
                    self.times.add(line["times"])
                elif "error" not in line:
                    yield Outcome(**line)
                elif line.get("errno") in parts.FULL:  # batches that have been begun end early
                    self._stop.request(f"The journal cannot be written ({line['strerror']}).")
                elif not self._stop.requested:
                    raise_again(line)
                    self._lost = line["error"]
                    logger.warning("An actor did not do its batch: %s", self._lost)

    def _batches(self, items: int, workers: int) -> int:
        """Batches of many times what runs side by side, and some of them for every actor."""
        settings = self._task.settings
        most = max(_MOST_BATCH, 8 * (settings.streams or settings.gpu_streams))
        size = self._options.batch or max(1, min(-(-items // (_BATCHES * workers)), most))
        return -(-items // size)


def ray_worker(options: RayOptions) -> Callable[[Settings, Path, str, Stop], Worker]:
    """A factory of `RayWorker`, as `job.Job` takes one."""

    def make(settings: Settings, root: Path, name: str, stop: Stop) -> Worker:
        return RayWorker(settings, str(root), name, stop=stop, options=options)

    return make


def _any_gpu(device: str) -> str:
    """The device of every actor: Ray chooses its GPU."""
    kind, _, which = device.partition(":")
    if kind == "cuda" and which not in ("", "all"):
        raise InputError(
            f"Device {device!r}: on a Ray cluster Ray chooses the GPUs; give --device cuda, and "
            "their number with --workers."
        )
    return kind


def _everywhere(path: str) -> str:
    """A file's path from any folder; the name of a voice of the package stays."""
    return os.path.abspath(path) if os.path.exists(path) else path


def _speaker(named: str) -> str:
    """A speaker's file from any folder; a number stays."""
    return os.path.abspath(named) if number_of(named) is None else named


def _travelling(item: Item) -> Item:
    return replace(
        item,
        source=os.path.abspath(item.source),
        target=os.path.abspath(item.target),
        speaker=item.speaker and _speaker(item.speaker),
    )


def _told(batches: Iterable[Any]) -> Iterator[Any]:
    """What comes from the cluster; what goes wrong in it as an error of ours."""
    try:
        yield from batches
    except Exception as error:
        raise DeviceError(f"The Ray cluster ended the job: {error}") from error


def _import_path() -> list[str]:
    """Where the actors of a cluster on this machine find the package."""
    here = str(Path(__file__).resolve().parents[2])
    return [here, *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]


def _import_ray(address: str | None) -> Any:
    if not address and "ray" not in sys.modules:
        os.environ.setdefault(_LOOPBACK, "0")  # a cluster of this machine alone listens to no other
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise MissingDependencyError(
            f"--engine ray needs Ray Data, which cannot be imported ({error}). "
            'Install it with: pip install "wavernn-fast[ray]"'
        ) from error
    return ray
