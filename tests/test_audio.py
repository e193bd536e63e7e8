"""Audio and mel files: exact samples, one channel, clear errors, and never half a file."""

from __future__ import annotations

import errno
import io
import os
import stat
import struct
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

from wavernn_fast import audio, files
from wavernn_fast.encoding import encode
from wavernn_fast.errors import AudioError, InputError, MissingDependencyError

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
SUBTYPES = ("PCM_16", "PCM_24", "PCM_32", "FLOAT")


def tone(count: int = 1000) -> np.ndarray:
    return (0.5 * np.sin(np.arange(count) * 0.1)).astype(np.float32)


# --- writing --------------------------------------------------------------------------------------


@pytest.mark.parametrize("subtype", SUBTYPES)
@pytest.mark.parametrize("count", [0, 1, 2, 999, 1000])
def test_written_wav_is_what_soundfile_reads(tmp_path: Path, subtype: str, count: int) -> None:
    path = tmp_path / "tone.wav"
    audio.write_wav(path, tone(count), 22050, subtype)
    info = soundfile.info(path)
    assert (info.format, info.subtype) == ("WAV", subtype)
    assert (info.samplerate, info.channels, info.frames) == (22050, 1, count)
    wave, _ = soundfile.read(path, dtype="float64")
    step = {"PCM_16": 2.0**-15, "PCM_24": 2.0**-23, "PCM_32": 2.0**-31, "FLOAT": 1e-30}[subtype]
    assert np.abs(wave - tone(count)).max(initial=0.0) <= step / 2
    assert path.stat().st_size % 2 == 0
    assert struct.unpack("<I", path.read_bytes()[4:8])[0] == path.stat().st_size - 8


@pytest.mark.parametrize("subtype", ["PCM_16", "PCM_24"])
def test_written_flac_holds_the_samples_of_the_wav(tmp_path: Path, subtype: str) -> None:
    for name in ("tone.wav", "tone.flac"):
        audio.write_wav(tmp_path / name, tone(), 16000, subtype)
    wav, _ = soundfile.read(tmp_path / "tone.wav", dtype="int32")
    flac, rate = soundfile.read(tmp_path / "tone.flac", dtype="int32")
    assert soundfile.info(tmp_path / "tone.flac").subtype == subtype
    assert rate == 16000
    np.testing.assert_array_equal(flac, wav)


def test_all_sixteen_bit_values_survive_a_file(tmp_path: Path) -> None:
    wave = (np.arange(65536) - 32768) / 32768.0
    audio.write_wav(tmp_path / "all.wav", wave, 8000)
    found, rate = audio.read_wav(tmp_path / "all.wav")
    assert rate == 8000
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, wave)


@settings(max_examples=100, deadline=None)
@given(
    values=st.lists(st.floats(-3.0, 3.0, width=32), max_size=40),
    bits=st.sampled_from([16, 24, 32]),
)
def test_rounding_is_to_nearest_and_clipping_to_the_range(values: list[float], bits: int) -> None:
    data = audio.quantize(np.array(values, dtype=np.float64), f"PCM_{bits}")
    width, top = bits // 8, 2 ** (bits - 1)
    for i, value in enumerate(values):
        found = int.from_bytes(data[i * width : (i + 1) * width], "little", signed=True)
        if -top <= value * top <= top - 1:
            assert abs(found - value * top) <= 0.5
        else:
            assert found == (top - 1 if value > 0 else -top)


def test_float_files_keep_values_beyond_one(tmp_path: Path) -> None:
    audio.write_wav(tmp_path / "loud.wav", np.array([2.5, -3.0]), 8000, "FLOAT")
    assert audio.read_wav(tmp_path / "loud.wav")[0].tolist() == [2.5, -3.0]


@pytest.mark.parametrize(
    ("name", "wave", "rate", "subtype", "word"),
    [
        ("a.mp3", tone(), 8000, "PCM_16", "mp3"),
        ("a.wav", tone(), 8000, "PCM_8", "PCM_8"),
        ("a.flac", tone(), 8000, "FLOAT", "FLAC"),
        ("a.wav", tone(), 0, "PCM_16", "sample rate"),
        ("a.wav", tone(), 22050.0, "PCM_16", "22050.0, expected an integer"),
        ("a.wav", tone(), "22050", "PCM_16", "'22050', expected an integer"),
        ("a.wav", tone(), 2**30, "FLOAT", "at most 536870912"),
        ("a.flac", tone(), 700_000, "PCM_16", "sample rate"),
        ("a.ogg", tone(), 384_000, "PCM_16", "200000 Hz at most"),
        ("a.flac", np.zeros(0), 8000, "PCM_16", "one sample at least"),
        ("a.wav", np.array([np.nan]), 8000, "PCM_16", "NaN"),
        ("a.wav", np.zeros((2, 9)), 8000, "PCM_16", "one dimension"),
        ("a.wav", np.zeros(9, np.int16), 8000, "PCM_16", "int16"),
    ],
)
def test_unusable_request_writes_nothing(
    tmp_path: Path, name: str, wave: np.ndarray, rate: int, subtype: str, word: str
) -> None:
    with pytest.raises(InputError, match=word):
        audio.write_wav(tmp_path / name, wave, rate, subtype)  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("suffix", [".wav", ".ogg"])
def test_a_file_may_hold_no_samples(suffix: str) -> None:
    data = b"".join(encode(np.zeros(0), 16000, suffix))
    wave, rate = soundfile.read(io.BytesIO(data))
    assert (len(wave), rate) == (0, 16000)


def test_the_largest_rate_fits_the_header() -> None:
    assert struct.unpack_from("<II", audio.wav_header(9, 2**29, "FLOAT"), 24) == (2**29, 2**31)


def test_rates_of_numpy_are_rates() -> None:
    blocks = [b"".join(encode(tone(), rate)) for rate in (22050, np.int16(22050), np.int64(22050))]
    assert blocks[0] == blocks[1] == blocks[2]


@pytest.mark.parametrize("rate", [0, -1, 22050.5, "16000"])
def test_a_rate_that_is_none_is_refused_before_the_file_is_read(tmp_path: Path, rate: Any) -> None:
    audio.write_wav(tmp_path / "a.wav", tone(), 8000)
    with pytest.raises(InputError, match=f"sample rate is {rate!r}"):
        audio.read_wav(tmp_path / "a.wav", rate)


def test_wav_beyond_four_gibibytes_is_refused() -> None:
    with pytest.raises(AudioError, match="4 GiB"):
        audio.wav_header(2**31, 22050)
    assert len(audio.wav_header(None, 22050)) == 44


def test_header_of_unknown_length_is_read_to_the_end_of_the_data() -> None:
    data = audio.wav_header(None, 22050) + audio.quantize(tone(), "PCM_16")
    wave, rate = soundfile.read(io.BytesIO(data), dtype="float32")
    assert rate == 22050
    assert np.abs(wave - tone()).max() < 2.0**-15


def blocks_that_stop(error: BaseException):
    yield b"some"
    raise error


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space"), KeyboardInterrupt()])
def test_failure_leaves_the_old_file_and_nothing_else(tmp_path: Path, error: BaseException) -> None:
    path = tmp_path / "kept.wav"
    path.write_bytes(b"old")
    with pytest.raises((AudioError, KeyboardInterrupt)) as caught:
        files.write_atomic(path, blocks_that_stop(error))
    if isinstance(error, OSError):
        assert caught.value.errno == errno.ENOSPC
        assert "kept.wav" in str(caught.value)
    assert [p.name for p in tmp_path.iterdir()] == ["kept.wav"]
    assert path.read_bytes() == b"old"


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_any_failing_call_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, call, fail)
    with pytest.raises(AudioError, match="Input/output"):
        audio.write_wav(tmp_path / "a.wav", tone(), 8000)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full here")
def test_full_disk_is_named_with_its_number() -> None:
    with pytest.raises(AudioError, match="No space left") as caught:
        audio.write_wav("/dev/full", tone(), 8000)
    assert caught.value.errno == errno.ENOSPC
    assert stat.S_ISCHR(os.stat("/dev/full").st_mode)  # the device was not replaced by a file


def test_file_size_limit_leaves_nothing_behind(tmp_path: Path) -> None:
    code = (
        "import resource, signal, sys, numpy as np\n"
        "from wavernn_fast import audio, errors\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "sys.dont_write_bytecode = True\n"  # it would be cut, too
        "resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))\n"
        "try: audio.write_wav(sys.argv[1], np.zeros(100000), 8000)\n"
        "except errors.AudioError as error: print(error.errno)\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "big.wav")],
        env=os.environ | {"PYTHONPATH": str(Path(__file__).resolve().parents[1])},
        capture_output=True,
        text=True,
        check=True,
    )
    assert int(result.stdout) == errno.EFBIG
    assert list(tmp_path.iterdir()) == []


def test_folder_that_is_not_there_and_folder_as_target_are_named(tmp_path: Path) -> None:
    with pytest.raises(AudioError, match="No such file"):
        audio.write_wav(tmp_path / "none" / "a.wav", tone(), 8000)
    with pytest.raises(AudioError, match="directory"):
        audio.write_wav(tmp_path, tone(), 8000)


def test_finished_file_has_the_usual_permissions(tmp_path: Path) -> None:
    audio.write_wav(tmp_path / "a.wav", tone(), 8000)
    (tmp_path / "b").write_bytes(b"")
    assert (tmp_path / "a.wav").stat().st_mode == (tmp_path / "b").stat().st_mode


def test_long_names_can_be_written(tmp_path: Path) -> None:
    path = tmp_path / ("x" * 251 + ".wav")
    audio.write_wav(path, tone(), 8000)
    assert path.exists()


# --- reading --------------------------------------------------------------------------------------


def test_stereo_becomes_the_mean_or_the_channel_asked_for(tmp_path: Path) -> None:
    both = np.stack([tone(), -0.5 * tone()], axis=1)
    soundfile.write(tmp_path / "two.wav", both, 8000, subtype="FLOAT")
    np.testing.assert_allclose(audio.read_wav(tmp_path / "two.wav")[0], both.mean(axis=1))
    for channel in (0, 1):
        wave, _ = audio.read_wav(tmp_path / "two.wav", channel=channel)
        np.testing.assert_array_equal(wave, both[:, channel])
    with pytest.raises(AudioError, match="2 channels"):
        audio.read_wav(tmp_path / "two.wav", channel=2)


def test_other_rate_is_resampled(tmp_path: Path) -> None:
    t = np.arange(16000) / 16000.0
    audio.write_wav(tmp_path / "a.wav", 0.5 * np.sin(2 * np.pi * 440 * t), 16000, "FLOAT")
    wave, rate = audio.read_wav(tmp_path / "a.wav", 22050)
    assert rate == 22050
    assert wave.size == 22050
    assert wave.dtype == np.float32
    expected = 0.5 * np.sin(2 * np.pi * 440 * np.arange(22050) / 22050.0)
    assert np.abs(wave - expected)[500:-500].max() < 1e-3
    assert audio.read_wav(tmp_path / "a.wav", 16000)[0].size == 16000


@pytest.mark.parametrize(("module", "extra"), [("soxr", "audio"), ("soundfile", "soundfile")])
def test_missing_library_names_what_installs_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: str, extra: str
) -> None:
    audio.write_wav(tmp_path / "a.wav", tone(), 16000)
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingDependencyError, match=f"pip install.*{extra}"):
        audio.read_wav(tmp_path / "a.wav", 22050)


def test_wav_is_written_without_any_audio_library(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "soundfile", None)
    audio.write_wav(tmp_path / "a.wav", tone(), 16000)
    assert (tmp_path / "a.wav").stat().st_size == 2044


def test_unreadable_audio_is_refused_with_the_reason(tmp_path: Path) -> None:
    (tmp_path / "empty.wav").write_bytes(b"")
    (tmp_path / "text.wav").write_text("this is no audio")
    audio.write_wav(tmp_path / "silent.wav", np.zeros(0), 8000)
    soundfile.write(tmp_path / "nan.wav", np.array([0.0, np.nan]), 8000, subtype="FLOAT")
    cases = {
        "none.wav": "No such file",
        ".": "folder",
        "empty.wav": "empty",
        "text.wav": "cannot be read as audio",
        "silent.wav": "no samples",
        "nan.wav": "first at sample 1",
    }
    for name, word in cases.items():
        with pytest.raises(AudioError, match=word) as caught:
            audio.read_wav(tmp_path / name)
        assert str(tmp_path) in str(caught.value)


def test_length_in_a_header_is_not_believed(tmp_path: Path) -> None:
    data = audio.wav_header(2**30, 8000) + audio.quantize(tone(), "PCM_16")
    (tmp_path / "lie.wav").write_bytes(data)
    assert audio.read_wav(tmp_path / "lie.wav")[0].size == 1000


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_damaged_audio_is_read_or_refused_never_worse(data: st.DataObject) -> None:
    good = bytearray(audio.wav_header(300, 8000) + audio.quantize(tone(300), "PCM_16"))
    for _ in range(data.draw(st.integers(1, 6))):
        good[data.draw(st.integers(0, 60))] = data.draw(st.integers(0, 255))
    reader, writer = os.pipe()
    os.write(writer, bytes(good))
    os.close(writer)
    try:
        wave, rate = audio.read_wav(f"/dev/fd/{reader}")
        assert np.isfinite(wave).all()
        assert wave.size
        assert rate > 0
    except AudioError:
        pass
    finally:
        os.close(reader)


def test_pipes_carry_audio_and_mels(tmp_path: Path) -> None:
    code = (
        "import sys; from wavernn_fast import audio\n"
        "if sys.argv[1] == 'wav': audio.write_wav('-', *audio.read_wav('-'))\n"
        "else: audio.write_mel('-', audio.read_mel('-'))\n"
    )
    audio.write_wav(tmp_path / "in.wav", tone(), 8000)
    audio.write_mel(tmp_path / "in.npy", np.ones((3, 4)))
    for kind, name in (("wav", "in.wav"), ("mel", "in.npy")):
        source = (tmp_path / name).read_bytes()
        result = subprocess.run(
            [sys.executable, "-c", code, kind],
            env=os.environ | {"PYTHONPATH": str(Path(__file__).resolve().parents[1])},
            input=source,
            capture_output=True,
            check=True,
        )
        assert result.stdout == source


def test_named_pipe_is_read_once(tmp_path: Path) -> None:
    audio.write_wav(tmp_path / "a.wav", tone(), 8000)
    os.mkfifo(tmp_path / "pipe")
    feeder = threading.Thread(
        target=lambda: (tmp_path / "pipe").write_bytes((tmp_path / "a.wav").read_bytes())
    )
    feeder.start()
    assert audio.read_wav(tmp_path / "pipe")[0].size == 1000
    feeder.join()


@pytest.mark.skipif(not DATA.exists(), reason="the speech in ../shared/data is not here")
def test_real_speech_is_read(tmp_path: Path) -> None:
    path = sorted((DATA / "kerstin").glob("*.flac"))[0]
    wave, rate = audio.read_wav(path)
    assert rate == 22050
    assert wave.size > rate
    assert 0.05 < np.abs(wave).max() <= 1.0


# --- mels -----------------------------------------------------------------------------------------

MEL = np.arange(12, dtype=np.float32).reshape(3, 4)


def test_mel_is_read_from_every_kind_of_file(tmp_path: Path) -> None:
    audio.write_mel(tmp_path / "a.npy", MEL)
    np.save(tmp_path / "fortran.npy", np.asfortranarray(MEL))
    np.savez(tmp_path / "one.npz", whatever=MEL)
    np.savez_compressed(tmp_path / "named.npz", other=np.zeros(3), mel=MEL)
    save_file({"x": MEL}, tmp_path / "one.safetensors")
    save_file({"mel": MEL, "other": MEL + 1}, tmp_path / "named.safetensors")
    for path in tmp_path.iterdir():
        found = audio.read_mel(path)
        np.testing.assert_array_equal(found, MEL, err_msg=path.name)
        assert path.suffix in audio.MEL_SUFFIXES


def test_dtype_and_batch_axis_of_a_mel_file_are_kept(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", MEL[None].astype(np.float64))
    assert audio.read_mel(tmp_path / "a.npy").shape == (1, 3, 4)
    assert audio.read_mel(tmp_path / "a.npy").dtype == np.float64
    np.save(tmp_path / "b.npy", np.zeros((80, 0), np.float32))
    assert audio.read_mel(tmp_path / "b.npy").shape == (80, 0)


def header_of(shape: tuple[int, ...]) -> bytes:
    target = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        target, {"descr": "<f4", "fortran_order": False, "shape": shape}
    )
    return target.getvalue()


def test_unusable_mel_file_is_refused_with_the_reason(tmp_path: Path) -> None:
    np.save(tmp_path / "pickled.npy", np.array([{}], dtype=object), allow_pickle=True)
    np.savez(tmp_path / "two.npz", a=MEL, b=MEL)
    save_file({"a": MEL, "b": MEL}, tmp_path / "two.safetensors")
    (tmp_path / "text.npy").write_text("no array")
    (tmp_path / "text.safetensors").write_text("no tensors")
    (tmp_path / "empty.npy").write_bytes(b"")
    (tmp_path / "x.pt").write_bytes(b"torch")
    (tmp_path / "huge.npy").write_bytes(header_of((10**9, 10**9)))
    (tmp_path / "short.npy").write_bytes(header_of((3, 40)) + bytes(100))
    cases = {
        "pickled.npy": "pickled objects",
        "two.npz": "2 arrays .a, b.*'mel'",
        "two.safetensors": "2 arrays",
        "text.npy": "cannot be read as a mel",
        "text.safetensors": "cannot be read as a mel",
        "empty.npy": "empty",
        "none.npy": "No such file",
        "x.pt": "numpy.save",
        "huge.npy": "announces 4000000000000000000 bytes",
        "short.npy": "announces 480 bytes|ends early",
    }
    for name, words in cases.items():
        with pytest.raises(AudioError, match=words) as caught:
            audio.read_mel(tmp_path / name)
        assert name in str(caught.value)


@settings(max_examples=300, deadline=None)
@given(data=st.data(), kind=st.sampled_from(["npy", "npz"]))
def test_damaged_mel_is_read_or_refused_never_worse(data: st.DataObject, kind: str) -> None:
    target = io.BytesIO()
    np.save(target, MEL) if kind == "npy" else np.savez(target, mel=MEL)
    bad = bytearray(target.getvalue())
    bad = bad[: data.draw(st.integers(1, len(bad)))]
    for _ in range(data.draw(st.integers(0, 6))):
        bad[data.draw(st.integers(0, len(bad) - 1))] = data.draw(st.integers(0, 255))
    reader, writer = os.pipe()
    os.write(writer, bytes(bad))
    os.close(writer)
    try:
        assert isinstance(audio.read_mel(f"/dev/fd/{reader}"), np.ndarray)
    except AudioError:
        pass
    finally:
        os.close(reader)


def test_what_is_no_mel_is_not_written(tmp_path: Path) -> None:
    for bad in (np.zeros(3), np.zeros((3, 4), dtype=np.int32)):
        with pytest.raises(InputError, match="expected floats"):
            audio.write_mel(tmp_path / "a.npy", bad)
    assert list(tmp_path.iterdir()) == []


def test_importing_loads_no_audio_library() -> None:
    code = (
        "import sys; import wavernn_fast.audio, wavernn_fast.features, wavernn_fast.fold\n"
        "import wavernn_fast.conditioning, wavernn_fast.samples\n"
        "assert not {'soundfile', 'soxr', 'safetensors', 'torch', 'scipy'} & set(sys.modules)"
    )
    root = str(Path(__file__).resolve().parents[1])
    subprocess.run([sys.executable, "-c", code], env={"PYTHONPATH": root}, check=True)
