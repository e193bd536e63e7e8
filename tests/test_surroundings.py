"""Around a process: old processors, few cores, little memory, forks, odd names, its own end."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import cases
import numpy as np
import pytest
from voices import LABELS, mel, preset_mel, save_voice, voice

from wavernn_fast import Vocoder

TESTS = Path(__file__).resolve().parent
ROOT = TESTS.parent


def python(program: str, *command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a program that sees the package and the tests."""
    paths = os.pathsep.join([str(ROOT), str(TESTS), *filter(None, sys.path)])
    return subprocess.run(
        [*(command or (sys.executable,)), "-c", program],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "PYTHONPATH": paths, **environment},
    )


# --- processors -----------------------------------------------------------------------------------

SPEAK = """
import hashlib
from voices import LABELS, mel, voice
voc = voice(LABELS, threads=2)
print(voc.isa, hashlib.sha256(voc.generate(mel(LABELS, 40)).tobytes()).hexdigest())
"""


@pytest.mark.slow
@pytest.mark.parametrize(("cpu", "isa"), [("Nehalem", "scalar"), ("Haswell", "avx2")])
def test_an_old_processor_speaks_the_same_bits(cpu, isa):
    qemu = shutil.which("qemu-x86_64")
    if qemu is None or os.uname().machine != "x86_64":
        pytest.skip("needs qemu-x86_64 (Debian: qemu-user)")
    done = python(SPEAK, qemu, "-cpu", cpu, os.path.realpath(sys.executable), WAVERNN_FAST_ISA="")
    assert done.returncode == 0, done.stderr[-2000:]
    here = hashlib.sha256(voice(LABELS, threads=2).generate(mel(LABELS, 40)).tobytes()).hexdigest()
    assert done.stdout.split() == [isa, here]


def test_threads_are_as_many_as_the_process_may_use_and_none_is_pinned():
    program = """
import os
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
from voices import LABELS, mel, cases
from wavernn_fast import Vocoder
one = Vocoder(LABELS, cases.random_tensors(LABELS))
two = Vocoder(LABELS, cases.random_tensors(LABELS), cpu_threads=2)
two.generate(mel(LABELS, 40))
allowed = {
    line.split(":")[1].strip()
    for task in os.listdir("/proc/self/task")
    for line in open(f"/proc/self/task/{task}/status")
    if line.startswith("Cpus_allowed_list")
}
print(one.cpu_threads, two.cpu_threads, len(os.listdir("/proc/self/task")) > 1, len(allowed))
"""
    done = python(program, WAVERNN_FAST_THREADS="")
    assert done.stdout.split() == ["1", "2", "True", "1"], done.stderr


# --- processes ------------------------------------------------------------------------------------


def speak(n_frames: int) -> bytes:
    """With the voice of the process, which a forked child inherits."""
    return voice(LABELS, threads=2).generate(mel(LABELS, n_frames)).tobytes()


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_a_child_process_speaks_however_it_was_started(method):
    expected = speak(30)  # and there are threads to be lost in a fork
    with multiprocessing.get_context(method).Pool(1) as pool:
        assert pool.apply_async(speak, (30,)).get(timeout=100) == expected
    assert speak(30) == expected


LIMITED = """
import os, resource, signal, threading, warnings
import cases
import numpy as np
from engine_work import Work
from wavernn_fast import _C
from wavernn_fast.errors import DeviceError

def limit(more):
    pages = int(open("/proc/self/statm").read().split()[0])
    least = pages * os.sysconf("SC_PAGE_SIZE") + more
    resource.setrlimit(resource.RLIMIT_AS, (more and least, resource.RLIM_INFINITY))

def no_limit():
    resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY,) * 2)

signal.alarm(60)
work = Work(cases.small_configs()[0], 60)
engine = work.engine(threads=8)
expected = work.run(engine)[0]
"""

TOO_MANY_THREADS = """
limit(1 << 30)
try:
    work.engine(threads=512)
except DeviceError as error:
    print(error)
no_limit()
print(np.array_equal(work.run(work.engine(threads=2))[0], expected))
"""

# Threads that wait keep the stacks that the C library would give to new ones.
TOO_MANY_IN_A_CHILD = """
warnings.simplefilter("ignore", DeprecationWarning)  # of Python 3.12: a fork beside threads
pid = os.fork()
if pid == 0:
    over = threading.Event()
    for _ in range(16):
        threading.Thread(target=over.wait, daemon=True).start()
    limit(1 << 20)
    try:
        work.run(engine)
    except DeviceError as error:
        print(error)
    no_limit()
    print(np.array_equal(work.run(engine)[0], expected), flush=True)
    os._exit(0)
os._exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"""


@pytest.mark.parametrize(
    ("program", "wanted"), [(TOO_MANY_THREADS, 512), (TOO_MANY_IN_A_CHILD, 8)], ids=["new", "child"]
)
def test_threads_that_cannot_be_started_are_an_error_and_not_the_end(program, wanted):
    done = python(LIMITED + program)
    message, after = done.stdout.splitlines()
    assert re.match(rf"only \d+ of {wanted} threads could be started \(.*\): ask for", message)
    assert (after, done.stderr, done.returncode) == ("True", "", 0)


# Each time buffers count as large enough that the time before had no memory for.
NO_MEMORY = """
many = [[engine.open(5) for _ in range(12_000)] for _ in range(2)]
nothing, ones = [None] * 12_000, [1] * 12_000
run = lambda streams: engine.run(streams, ones, nothing, nothing, lanes=len(streams))
failed = 0
for more in range(22, 27):
    limit(1 << more)
    try:
        run(many[0])
    except MemoryError:
        failed += 1
    except RuntimeError as error:  # of pybind11, where there is none for a Python object
        failed += isinstance(error.__cause__, MemoryError)
limit(1 << 28)
try:
    _C.probe("read", 1 << 33, 2, 0.01)
except MemoryError:
    print("no memory")
no_limit()
print(failed > 0, all(labels[0] == expected[0] for labels, _ in run(many[1])))
"""


def test_memory_that_is_not_there_is_an_error_and_not_the_end():
    done = python(LIMITED + NO_MEMORY)
    assert done.stdout.splitlines() == ["no memory", "True True"]
    # The interpreter, too, may have missed some, of which it says so.
    assert (done.returncode, "terminate" in done.stderr) == (0, False), done.stderr


@pytest.mark.parametrize("how", ["a thread at work", "a stream half read", "a batch that was left"])
def test_a_process_ends_at_once_and_quietly_whatever_still_runs(how):
    program = f"""
import sys, threading, time, types
import numpy as np
from cases import random_tensors
from engine_work import make
from voices import LABELS, UNCONDITIONED, voice
voc, frames = voice(LABELS, threads=2), np.zeros((LABELS.n_mels, 3_000_000), np.float32)
if {how!r} == "a thread at work":
    begun = threading.Event()
    engine = make(UNCONDITIONED, random_tensors(UNCONDITIONED), threads=1)
    work = lambda: engine.run([engine.open(0)], [12_000_000], None, None, interrupt=begun.set)
    threading.Thread(target=work, daemon=True).start()
    assert begun.wait(60)
    class Last:  # gone late: the thread asks for Python's lock while the interpreter ends
        def __del__(self, sleep=time.sleep): sleep(0.3)
    sys.modules["last"] = types.ModuleType("last")
    sys.modules["last"].last = Last()
elif {how!r} == "a stream half read":
    stream = voc.stream(frames)
    next(stream)
else:
    class Enough(Exception): pass
    def stop(n): raise Enough
    try: voc.generate_batch([frames, frames], progress=stop)
    except Enough: pass
print(time.monotonic(), flush=True)
"""
    done = python(program)
    assert time.monotonic() - float(done.stdout) < 5.0  # one clock for all processes
    assert (done.returncode, done.stderr) == (0, "")


# --- memory ---------------------------------------------------------------------------------------


MANY_THREADS = """
import dataclasses
import cases
from engine_work import make
config = cases.dual_config(32, 1024)
engine = make(config, cases.random_tensors(config), threads=32, dtype="int8")
resident = lambda: int(open("/proc/self/statm").read().split()[1]) * 4096 / 2**20
before, streams = resident(), [engine.open(0) for _ in range(engine.lanes)]
nothing = [None] * len(streams)
engine.run(streams, [20] * len(streams), nothing, nothing)
print(resident() - before)
"""


def test_threads_that_work_apart_need_memory_for_their_own_streams_alone():
    """24 MB for 1024 streams; 88 MB where each also had what a team of all threads would use."""
    done = python(MANY_THREADS)
    assert done.stderr == ""
    assert float(done.stdout) < 50.0


@pytest.mark.slow
def test_two_hours_of_mel_need_the_memory_of_a_slice_beside_mel_and_wave():
    """As many frames as two hours have at a hop of 275; rows of all frames would take 220 MB.

    A sample a frame is enough: the memory of samples is not what grows fastest.
    """
    program = """
import dataclasses, os, resource
import numpy as np
from voices import DUAL, mel, voice
config = dataclasses.replace(DUAL, hop_length=1)
voc = voice(config)
voc.generate(mel(config, 3000))
frames = np.zeros((5, 577_000), np.float32)
held = int(open("/proc/self/statm").read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
resource.setrlimit(resource.RLIMIT_AS, (held + 100_000_000,) * 2)
wave = voc.generate(frames)
print(len(wave), len(wave) > 576_000)
"""
    done = python(program, MALLOC_ARENA_MAX="1")
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.split()[1] == "True"


# --- names ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("locale", ["C", "C.UTF-8"])
def test_names_that_are_no_text_are_files_like_others(tmp_path, locale):
    (tmp_path / "mels").mkdir()
    names = {
        b"\xff\xfe": b"\xff\xfe",
        "語".encode(): "語".encode(),
        b"a\nb": b"a_b",
        b"con": b"_con",
    }
    for name in names:
        with open(os.fsencode(tmp_path / "mels") + b"/" + name + b".npy", "wb") as file:
            np.save(file, preset_mel(2))
    model, out = save_voice(tmp_path), tmp_path / "out"
    program = (
        "import sys\nfrom wavernn_fast.cli import main\n"
        f"main(['vocode', {str(tmp_path / 'mels')!r}, '-m', {str(model)!r}, '-o', {str(out)!r},"
        " '--json', '-q'])"
    )
    settings = {"LC_ALL": locale, "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    done = python(program, **settings)
    assert done.returncode == 0, done.stderr
    made = {name for name in os.listdir(os.fsencode(out)) if name.endswith(b".wav")}
    assert made == {name + b".wav" for name in names.values()}
    assert "a\nb" not in done.stderr
    json.loads(done.stdout)


def test_the_engine_does_not_share_what_it_is_given():
    """The caller's arrays may change or go as soon as a call has returned."""
    tensors = cases.random_tensors(LABELS)
    voc, frames = Vocoder(LABELS, tensors), mel(LABELS, 20)
    expected = voc.generate(frames)
    for array in tensors.values():
        array[...] = np.nan
    assert np.array_equal(voc.generate(frames), expected)
