"""One utterance on its way through the engine: conditioning in, drawn classes out, waveform."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from . import arrays, places, scalars, upsampling
from .errors import InputError
from .fold import Folding, FoldPlan, fold_plan, join_folds, to_samples, whole
from .lanes import Drawn, Lane
from .mel_rows import MelRows, SampleRows
from .samples import OutputDecoder
from .subscale import row_temperature

if TYPE_CHECKING:
    from . import _C
    from .conditioning import Conditioner
    from .config import ModelConfig
    from .subscale_network import SubscaleNetwork

_DECODED_AT_ONCE = 1 << 15  # samples: a call has its price, and temporary arrays theirs


class Elsewhere(NamedTuple):
    """What works on arrays that lie in a place other than the host."""

    conditioner: Conditioner | None
    network: SubscaleNetwork | None


@dataclass(frozen=True)
class Voice:
    """What all utterances of a call share."""

    config: ModelConfig
    engine: _C.Engine
    conditioner: Conditioner | None  # None: unconditioned
    elsewhere: dict[places.Place, Elsewhere] = field(default_factory=dict)  # made when needed
    memory: arrays.Memory = arrays.HOST_MEMORY
    network: SubscaleNetwork | None = None  # of a subscale model
    row_threads: int = 1  # that make rows of all utterances; more where the engine leaves them

    def open(self, seed: int, sampling: Sampling, *, fold: int = 0, start: int = 0) -> _C.Stream:
        """Start a stream with a fresh state at sample `start` of the utterance.

        The folds of a subscale model are its rows.
        """
        rows = self.config.subscale_factor
        return self.engine.open(
            seed,
            fold=fold,
            temperature=row_temperature(sampling.temperature, fold % rows, rows),
            greedy=sampling.greedy,
            start=start,
        )

    def conditioner_in(self, place: places.Place) -> Conditioner:
        """The conditioner whose weights lie in a place; brought there once."""
        assert self.conditioner is not None  # the caller has checked
        conditioner = self.conditioner if place is places.HOST else self._there(place).conditioner
        assert conditioner is not None
        return conditioner

    def network_in(self, place: places.Place) -> SubscaleNetwork:
        """The network of a subscale model, likewise."""
        assert self.network is not None  # the caller has checked
        network = self.network if place is places.HOST else self._there(place).network
        assert network is not None
        return network

    def _there(self, place: places.Place) -> Elsewhere:
        if place not in self.elsewhere:
            with place.scope():
                network = None if self.network is None else self.network.on(place.xp)
                conditioner = None
                if self.conditioner is not None:
                    # The cell of a subscale model reads no rows of `hold`: it adds its own biases.
                    bias = self.engine.hold_bias if network is None else None
                    conditioner = self.conditioner.on(place.xp, bias)
                self.elsewhere[place] = Elsewhere(conditioner, network)
        return self.elsewhere[place]

    def source(self, request: Request) -> MelRows | None:
        """Conditioning of the whole mel of a request, where it lies."""
        return self.sources(request)()

    def sources(self, request: Request) -> Callable[[], MelRows | None]:
        """Conditioning of the same mel for each of several lanes: a call makes that of one."""
        if self.conditioner is None or request.mel is None:
            return lambda: None
        conditioner, mel, place = self.conditioner_in(request.place), request.mel, request.place
        with place.scope():
            if request.speaker is not None:
                conditioner = conditioner.of_speaker(request.speaker)
            windows = conditioner.shared(mel)
        rows = MelRows if self.config.upsample == "kernel" else SampleRows
        return lambda: rows(conditioner, mel, place, self.row_threads, windows())

    @property
    def hop_length(self) -> int:
        """Samples that hear one row: of a frame, or 1 where every sample has its own."""
        return self.config.hop_length if self.config.upsample == "kernel" else 1

    @property
    def slice_steps(self) -> int | None:
        """Samples of a lane drawn at once at most, where rows of a sample need more memory."""
        return None if self.config.upsample == "kernel" else upsampling.SLICE_STEPS


class Sampling:
    """How outcomes are drawn; checked here."""

    def __init__(self, temperature: Any, greedy: bool, fold: tuple[int, int] | None) -> None:
        self.temperature = scalars.to_temperature(temperature)
        self.greedy = bool(greedy)
        self.fold = fold  # (target, overlap) in samples, None: unfolded


@dataclass(frozen=True)
class Request:
    """One utterance asked for, checked."""

    mel: Any  # float32 [n_mels, n_frames] in its place; None: unconditioned
    n_drawn: int  # samples of all its frames, before the length rule
    seed: int
    restore: arrays.Restore = field(default=arrays.as_it_is)
    place: places.Place = places.HOST
    speaker: NDArray[np.float64] | None = None  # [speaker_size] of a model that hears one


# No, as the preset says, (target, overlap) in samples, or in every respect.
Fold = bool | tuple[int, int] | Folding | None


def fold_sizes(config: ModelConfig, fold: Fold) -> tuple[int, int] | None:
    """Check `fold`: (target, overlap) in samples, or None for unfolded.

    Raises
    ------
    InputError
        If the sizes or the way of joining have no meaning, or the model is a subscale one.
    """
    if fold is None or fold is False:
        return None
    if config.subscale is not None:
        raise InputError(
            f"A subscale model draws {config.subscale.factor} samples of an utterance side by side "
            "already; leave fold out."
        )
    output = _folding(fold).applied(config).output
    return output.fold_target, output.fold_overlap


def _folding(fold: Any) -> Folding:
    """What is asked for by any of the forms of `Fold` that mean yes."""
    if isinstance(fold, Folding):
        return fold
    if fold is True:
        return Folding()
    try:
        target, overlap = fold
    except (TypeError, ValueError):
        raise InputError(
            f"fold is {fold!r}; give True, (target, overlap) in samples, or a Folding."
        ) from None
    return Folding(target=to_samples(target, "target"), overlap=to_samples(overlap, "overlap"))


def make_request(
    config: ModelConfig,
    mel: Any,
    n_samples: int | None,
    seed: Any,
    memory: arrays.Memory = arrays.HOST_MEMORY,
    speaker: Any = None,
) -> Request:
    """Check what one utterance is asked for with: a mel, or for some models a number of samples.

    A mel in the memory of the engine's device stays there, another goes to its home
    (`arrays.to_mel`). A model that hears a speaker needs the speaker's vector [speaker_size].

    Raises
    ------
    InputError
        If the wrong one of the two is given, or it or the seed is unusable.
    """
    voice = arrays.to_speaker(speaker, config)
    if config.n_mels == 0 and mel is None:
        if n_samples is None:
            raise InputError("This model is unconditioned; give n_samples=...")
        return Request(None, scalars.to_count(n_samples, "n_samples"), scalars.to_seed(seed))
    if mel is None:
        raise InputError(
            f"This model is conditioned: give a mel [{config.n_mels}, n_frames] and no n_samples."
        )
    checked, restore, place = arrays.to_mel(mel, config, memory)
    if n_samples is not None:
        raise InputError("The mel says how long the audio is; give no n_samples beside it.")
    frames = config.n_output_frames(checked.shape[1])
    n_drawn = frames * config.hop_length
    return Request(checked, n_drawn, scalars.to_seed(seed), restore, place, voice)


def owned(request: Request) -> Request:
    """The same with a mel of its own: the caller may use the array again before it is read."""
    if request.mel is None:
        return request
    with request.place.scope():
        return dataclasses.replace(request, mel=request.place.own(request.mel))


class Job:
    """One request of `generate`: its lanes (one, or one a fold) and its result."""

    def __init__(self, voice: Voice, request: Request, sampling: Sampling) -> None:
        self.request = request
        self._voice = voice
        self._sampling = sampling
        self._plan: FoldPlan | None = None
        if sampling.fold is not None:
            self._plan = fold_plan(request.n_drawn, *sampling.fold)
            self._folds: list[list[Drawn]] = [[] for _ in self._plan.lengths]
        else:
            self._decoder = OutputDecoder(voice.config, request.n_drawn)
            self._chunks: list[NDArray[np.float32]] = []
            self._drawn: list[Drawn] = []  # not decoded yet
            self._waiting = 0  # samples of those
        self._taken = [0] * self.n_lanes  # samples of each lane

    @property
    def n_lanes(self) -> int:
        """How many `lanes` there are."""
        return 1 if self._plan is None else self._plan.num_folds

    @property
    def n_samples(self) -> int:
        """Samples that all of them draw."""
        if self._plan is None:
            return sounding_samples(self._voice, self.request)
        return sum(self._plan.lengths)

    @property
    def complete(self) -> bool:
        """Whether all has been drawn, on whatever threads."""
        return sum(self._taken) == self.n_samples

    def lanes(self) -> Iterator[Lane]:
        """Lanes to be drawn, made when asked for."""
        sources = self._voice.sources(self.request)
        if self._plan is None:
            length = sounding_samples(self._voice, self.request)
            yield self._lane(0, (0, length), sources(), self._decoded)
            return
        for i, span in enumerate(zip(self._plan.starts, self._plan.lengths, strict=True)):
            yield self._lane(i, span, sources(), self._folds[i].append)

    def _decoded(self, drawn: Drawn) -> None:
        self._drawn.append(drawn)
        self._waiting += len(drawn)
        if self._waiting >= _DECODED_AT_ONCE:
            self._decode()

    def _decode(self) -> None:
        if self._drawn:
            drawn: Any = np.concatenate(self._drawn)  # all of one kind, or there is no whole
            self._chunks.append(self._decoder.push(drawn))
            self._drawn, self._waiting = [], 0

    def _lane(
        self,
        fold: int,
        span: tuple[int, int],
        source: MelRows | None,
        take: Callable[[Drawn], None],
    ) -> Lane:
        start, length = span

        def counted(drawn: Drawn) -> None:
            take(drawn)
            self._taken[fold] += len(drawn)  # after it: whoever sees all counted may read all

        return Lane(
            stream=self._voice.open(self.request.seed, self._sampling, fold=fold, start=start),
            source=source,
            position=start,
            remaining=length,
            take=counted,
        )

    def result(self) -> NDArray[np.float32]:
        """Waveform, once all lanes have been drawn."""
        empty = np.zeros(0, dtype=np.float32)
        if self._plan is None:
            self._decode()
            return np.concatenate([empty, *self._chunks])
        if self.request.n_drawn == 0:
            return empty
        folds: list[Any] = [np.concatenate(parts) for parts in self._folds]
        return join_folds(folds, self._plan, self._voice.config)


class Drawing(NamedTuple):
    """What was drawn for one utterance, before decoding."""

    plan: FoldPlan  # `fold.whole` where it was not folded
    folds: list[Drawn]  # [num_folds], `plan.lengths[i]` long; see `samples.decode_samples`


class DrawnJob(Job):
    """A job for callers with an end of the pipe of their own: its result is a `Drawing`.

    All samples of the mel are drawn, whatever the length rule says.
    """

    def __init__(self, voice: Voice, request: Request, sampling: Sampling) -> None:
        super().__init__(voice, request, sampling)
        if self._plan is None:
            self._plan, self._folds = whole(request.n_drawn), [[]]
            self._taken = [0]

    def result(self) -> Any:
        """`Drawing`, once all lanes have been drawn."""
        assert self._plan is not None
        empty: Drawn = np.zeros(0, dtype=np.int32)
        folds: list[Any] = [np.concatenate(parts) if parts else empty for parts in self._folds]
        return Drawing(self._plan, folds)


def sounding_samples(voice: Voice, request: Request) -> int:
    """Samples that are heard: those that the length rule drops at the end need not be drawn."""
    config = voice.config
    if request.mel is None:
        return request.n_drawn
    return config.n_samples(request.mel.shape[1])


def in_chunks(waves: Iterable[NDArray[np.float32]], size: int) -> Iterator[NDArray[np.float32]]:
    """The same samples in chunks of `size`, the last shorter; nothing is asked for early.

    However many pieces make a chunk, they are joined once.
    """
    pending: list[NDArray[np.float32]] = []
    count = 0  # samples of it
    for wave in waves:
        pending.append(wave)
        count += len(wave)
        if count < size:
            continue
        joined = np.concatenate(pending)
        rest = count // size * size
        for first in range(0, rest, size):
            yield joined[first : first + size].copy()
        pending, count = [joined[rest:].copy()], count - rest
    if count:
        yield np.concatenate(pending)
