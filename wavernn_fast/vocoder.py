"""`Vocoder`: a loaded model that turns mel spectrograms into speech."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from . import arrays, likelihood, scalars, utterance
from .arriving import check_arrivals
from .batch import Batch, BatchReport, each_request, make_requests, run_batch, run_each
from .errors import InputError
from .features import check_wave
from .loaded import LoadedModel

if TYPE_CHECKING:
    from .stream import PushStream
    from .stream_facts import StreamFacts

CHUNK_SECONDS = 0.05  # of a streamed chunk, when the caller does not say


class Vocoder(LoadedModel):
    """A WaveRNN model ready to sound; make one with `Vocoder.from_pretrained`.

    The same model, mel, seed and dtype give the same samples bit for bit, whatever else runs in
    the batch, however the audio is streamed and however many threads work. One object may be used
    from several Python threads.

    Parameters
    ----------
    config : ModelConfig
    tensors : mapping of str to float32 array
        Canonical weights (docs/formats.md).
    device, dtype, cpu_threads, gpu_streams, gpu_cluster, conditioning
        As in `from_pretrained`.

    Raises
    ------
    ModelError
        If the weights do not match the configuration, listing every difference.
    DeviceError, InputError
        As in `from_pretrained`.
    """

    def generate(
        self,
        mel: Any = None,
        *,
        speaker: Any = None,
        n_samples: int | None = None,
        seed: int = 0,
        temperature: float = 1.0,
        greedy: bool = False,
        fold: utterance.Fold = None,
        fade_out: bool = True,
        progress: Callable[[int], None] | None = None,
    ) -> Any:
        """Turn one mel spectrogram into a waveform.

        Parameters
        ----------
        mel : array [n_mels, n_frames] or [1, n_mels, n_frames]
            Of floats: numpy, torch, cupy or anything with DLPack or `__cuda_array_interface__`;
            the result is of the same kind on the same device (numpy, or CuPy for an array on a GPU,
            where it is of another library). Values as the model's mel
            convention (`config.mel`) makes them. With device "cuda", a mel of CuPy or PyTorch on
            that GPU stays there, with any strides (docs/cuda.md).
        speaker : array [speaker_size], of floats, or int
            Whose voice it is, for a model that hears one (SC-WaveRNN: 256 numbers of its speaker
            encoder); a number where the model has their vectors (``config.speakers``, as
            yukarin_wavernn's). Others take none.
        n_samples : int
            For an unconditioned model, in place of `mel`: samples to make.
        seed : int
            0 to 2**64 - 1. The same seed gives the same samples.
        temperature : float
            Above 0; 1 is what the model learned, less is safer and duller. Of a subscale model it
            is that of the first row; `subscale.row_temperature` has the others'.
        greedy : bool
            Take the likeliest class at every step; seed and temperature are then without effect.
        fold : bool, (target, overlap) or Folding, optional
            Cut the utterance into overlapping folds that run side by side and are crossfaded:
            faster on long audio, but not the samples of the unfolded run. True folds as the
            model's preset says, numbers are samples; a `Folding` also says how folds are joined.
        fade_out : bool
            False leaves out the fade at the end that some presets ask for.
        progress : callable, optional
            Called with the number of samples drawn so far, several times a second.

        Returns
        -------
        array, float32 [n_samples]
            ``config.n_samples(n_frames)`` samples; empty for a mel without frames. In [-1, 1],
            but where the model de-emphasises (``config.output.deemphasis``, as native ones do) or
            folds are crossfaded loud samples may lie beyond, as in the original programs: clip them
            before you make integers of them, as `audio.write_wav` does.

        Raises
        ------
        InputError
            If the mel or another argument is unusable.
        EngineError
            If a logit became NaN or infinite.
        """
        one = self._request(mel, n_samples, seed, speaker)
        sampling = utterance.Sampling(temperature, greedy, utterance.fold_sizes(self._config, fold))
        batch = Batch(self.voice(fade_out, fold), sampling)
        return run_batch(batch, [one], progress=progress)[0]

    def generate_batch(
        self,
        mels: Iterable[Any],
        seeds: Sequence[int] | None = None,
        *,
        speakers: Sequence[Any] | None = None,
        temperature: float = 1.0,
        greedy: bool = False,
        fold: utterance.Fold = None,
        fade_out: bool = True,
        streams: int | None = None,
        progress: Callable[[int], None] | None = None,
        report: Callable[[BatchReport], None] | None = None,
    ) -> list[Any]:
        """Turn many mels of any lengths into waveforms, several side by side.

        A place is refilled the moment its utterance ends, so a mixture of lengths is as fast as
        equal ones; memory beside mels and waveforms does not grow with the lengths.

        Parameters
        ----------
        mels : iterable of arrays [n_mels, n_frames]
        seeds : sequence of int, optional
            One for each mel; by default item i has seed i.
        speakers : sequence of arrays [speaker_size] or of int, optional
            One for each mel, for a model that hears one.
        streams : int, optional
            Utterances (or folds) run side by side at most on each device; changes the speed, never
            the samples. Default: as many as the engine is best with (`engine.lanes`), 16 at least.
        temperature, greedy, fold, fade_out, progress
            As in `generate`; progress counts the samples of all items together.
        report : callable, optional
            Called once, at the end, with a `batch.BatchReport`: samples, seconds, occupancy of the
            places, real-time factor.

        Returns
        -------
        list of float32 arrays
            Item i equals ``generate(mels[i], seed=seeds[i])`` bit for bit.

        Raises
        ------
        InputError, EngineError
            As in `generate`; the message names the item.
        """
        requests = make_requests(self._config, mels, seeds, self._batch_memory, speakers)
        sampling = utterance.Sampling(temperature, greedy, utterance.fold_sizes(self._config, fold))
        batch = self._batch(self.voice(fade_out, fold), sampling, streams)
        return run_batch(batch, requests, progress=progress, report=report)

    def generate_each(
        self,
        mels: Iterable[Any],
        seeds: Iterable[int] | None = None,
        *,
        speakers: Iterable[Any] | None = None,
        temperature: float = 1.0,
        greedy: bool = False,
        fold: utterance.Fold = None,
        fade_out: bool = True,
        streams: int | None = None,
        progress: Callable[[int], None] | None = None,
        report: Callable[[BatchReport], None] | None = None,
    ) -> Iterator[tuple[int, Any]]:
        """Turn mels into waveforms as they come, and hand each out the moment it ends.

        `generate_batch` for more mels than memory holds: mels are asked for as places become free
        (some are looked ahead at, and the longest of them begun first), so that no place is idle
        from the first mel to the last.

        Parameters
        ----------
        mels : iterable of arrays [n_mels, n_frames]
            Copied as they come, so an iterator may fill one array again and again. With several
            devices it runs on their threads, one at a time; closing what is returned does not wait
            for an iterator that waits itself (its thread ends when it yields, and asks no more).
        seeds, speakers : iterable, optional
            One for each mel; by default item i has seed i.
        streams, temperature, greedy, fold, fade_out, progress, report
            As in `generate_batch`; the time between two waveforms that the caller takes is not in
            the report.

        Yields
        ------
        int, float32 array
            Number of the mel, counted from 0, and its waveform, which equals
            ``generate(mel, seed=seed)`` bit for bit. In the order in which they end.

        Raises
        ------
        InputError, EngineError
            As in `generate`; the message names the item. Waveforms that had not been handed out
            are lost.
        """
        requests = map(
            utterance.owned, each_request(self._config, mels, seeds, self._batch_memory, speakers)
        )
        sampling = utterance.Sampling(temperature, greedy, utterance.fold_sizes(self._config, fold))
        batch = self._batch(self.voice(fade_out, fold), sampling, streams)
        return run_each(batch, requests, progress=progress, report=report)

    def stream(
        self,
        mel: Any = None,
        *,
        speaker: Any = None,
        n_samples: int | None = None,
        seed: int = 0,
        chunk_frames: int | None = None,
        temperature: float = 1.0,
        greedy: bool = False,
        fade_out: bool = True,
    ) -> Iterator[Any]:
        """Make the waveform of `generate` chunk by chunk; joined, the chunks equal it bit for bit.

        Parameters
        ----------
        mel : array [n_mels, n_frames], or iterator of arrays [n_mels] or [n_mels, any]
            A whole mel gives its first chunk at once. From an iterator, a frame can sound when
            the frames that the model looks ahead to (`lookahead_frames`) have come; and as the end
            is not known before the iterator ends, so much is held back as the length rule cuts (one
            frame in some presets) and the fade-out covers (``fade_out=False`` holds none of it
            back): `stream_facts` tells all of it. Where the network hears the whole utterance
            (``config.network.hears_whole``, as univoc's), nothing sounds before the iterator has
            ended, which is logged at level WARNING.
        chunk_frames : int, optional
            Frames of sound in a chunk; the last may be shorter. Default: about 50 ms.
        speaker, n_samples, seed, temperature, greedy, fade_out
            As in `generate`.

        Returns
        -------
        iterator of float32 arrays [n]
            Work is done as chunks are asked for; arguments are checked at once, except what an
            iterator yields.

        Raises
        ------
        InputError, EngineError
            As in `generate`.
        """
        from . import stream as streaming

        sampling = utterance.Sampling(temperature, greedy, None)
        frames = self.chunk_frames(chunk_frames)
        voice = self.voice(fade_out)
        if isinstance(mel, Iterator):
            if n_samples is not None:
                raise InputError("The mel says how long the audio is; give no n_samples beside it.")
            check_arrivals(self._config)
            who = arrays.to_speaker(speaker, self._config)
            return streaming.from_frames(voice, mel, scalars.to_seed(seed), sampling, frames, who)
        one = self._request(mel, n_samples, seed, speaker)
        one = utterance.owned(one)  # before the last chunk the caller may use the array again
        chunks = streaming.from_mel(voice, one, sampling, frames * self._config.hop_length)
        return map(one.restore, chunks)

    def open_stream(
        self,
        *,
        speaker: Any = None,
        seed: int = 0,
        temperature: float = 1.0,
        greedy: bool = False,
        fade_out: bool = True,
    ) -> PushStream:
        """Begin an utterance whose frames are pushed: `push(frames)` and `finish()` give samples.

        Joined, they equal `generate` of all frames bit for bit. For many at a time see
        `live.LivePool`, which draws them side by side.

        Parameters
        ----------
        speaker, seed, temperature, greedy, fade_out
            As in `generate`.

        Returns
        -------
        stream.PushStream

        Raises
        ------
        InputError
            If an argument is unusable, or the model cannot sound before its mel is whole.

        Examples
        --------
        >>> sound = voc.open_stream(seed=0)  # doctest: +SKIP
        >>> for frame in frames:  # doctest: +SKIP
        ...     play(sound.push(frame))
        >>> play(sound.finish())  # doctest: +SKIP
        """
        from .stream import PushStream

        sampling = utterance.Sampling(temperature, greedy, None)
        who = arrays.to_speaker(speaker, self._config)
        return PushStream(self.voice(fade_out), scalars.to_seed(seed), sampling, who)

    def stream_facts(
        self, chunk_frames: int | None = None, *, fade_out: bool = True
    ) -> StreamFacts:
        """How long a stream of this model waits: lookahead, held back samples, size of a chunk."""
        from . import stream_facts as facts

        return facts.stream_facts(self.voice(fade_out), self.chunk_frames(chunk_frames))

    @property
    def lookahead_frames(self) -> int:
        """Frames after a frame that must have come before it can sound; see `stream_facts`."""
        return self._config.lookahead_frames

    @property
    def lookahead_ms(self) -> float:
        """The same in milliseconds of sound."""
        return self.stream_facts().lookahead_ms

    def score(self, mel: Any, wav: Any, *, speaker: Any = None) -> float:
        """Negative log-likelihood of a recording under the model, teacher forced.

        Parameters
        ----------
        mel : array [n_mels, n_frames], or None for an unconditioned model
        wav : array, float [n_samples] or [1, n_samples] in [-1, 1]
            The waveform that the mel was made from, at the model's sample rate. What both cover
            is scored; they may differ by the few frames that framing adds.
        speaker : array [speaker_size] or int
            As in `generate`.

        Returns
        -------
        float
            Nats per sample: dual: coarse plus fine; mol, gaussian, beta: of the 16-bit bin
            around each sample.

        Raises
        ------
        InputError
            If an argument is unusable or the lengths do not belong together.
        """
        wave = check_wave(arrays.to_array(wav, "waveform")[0])
        unconditioned = mel is None and self._config.n_mels == 0
        one = self._request(mel, len(wave) if unconditioned else None, 0, speaker)
        return likelihood.score(self.voice(False), one, wave)

    def chunk_frames(self, chunk_frames: int | None = None) -> int:
        """Frames of a chunk where so many are asked for; by default about 50 ms.

        Raises
        ------
        InputError
            If it is no integer of at least 1.
        """
        if chunk_frames is not None:
            return scalars.to_count(chunk_frames, "chunk_frames", 1)
        return max(1, round(CHUNK_SECONDS * self.sample_rate / self._config.hop_length))

    @property
    def _batch_memory(self) -> arrays.Memory:
        """Where the mels of a batch may lie: what is on one GPU is of no use to another."""
        return arrays.HOST_MEMORY if len(self._devices) > 1 else self._memory

    def _batch(
        self, voice: utterance.Voice, sampling: utterance.Sampling, streams: int | None
    ) -> Batch:
        most = None if streams is None else scalars.to_count(streams, "streams", 1)
        return Batch(voice, sampling, most, devices=self._devices)
