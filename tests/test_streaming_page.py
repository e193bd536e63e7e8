"""What docs/streaming.md shows can be run, and does what it says."""

from __future__ import annotations

import ast
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from cli_runner import run
from quick import first_is_quick
from voices import joined, same_bits

from wavernn_fast import Vocoder, voices
from wavernn_fast.audio import quantize

PAGE = (Path(__file__).resolve().parents[1] / "docs/streaming.md").read_text()
PROGRAMS = [b for b in re.findall(r"```python\n(.*?)```", PAGE, re.S) if ">>>" not in b]
COMMANDS = re.findall(r"^(?:acoustic-model \| )?(wavernn-fast stream [^|\n]*)", PAGE, re.M)


@pytest.fixture(scope="module")
def voc():
    return Vocoder.from_pretrained("kerstin")


@pytest.fixture(scope="module")
def mel():
    return voices.mel("kerstin")[:, :40]


@pytest.mark.parametrize("program", first_is_quick(PROGRAMS), ids=["pull", "push", "many"])
def test_the_programs_play_the_whole(program, voc, mel):
    heard = []
    exec(program, {"voc": voc, "mel": mel, "play": heard.append})
    whole = voc.generate(mel, seed=0)
    times = 2 if "voc.stream(" in program else 1
    assert same_bits(joined(heard), np.concatenate([whole] * times))


def test_the_facts_are_those_of_the_voice(voc):
    [shown] = re.findall(r">>> voc.stream_facts\(\).*?\n(.*?)```", PAGE, re.S)
    told = {k: round(v, 2) for k, v in voc.stream_facts().to_dict().items()}
    assert ast.literal_eval(shown) == told


@pytest.mark.parametrize("line", COMMANDS)
def test_the_commands_play_the_whole(line, voc, mel, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.save("mel.npy", mel)
    words = shlex.split(line.replace("voice.safetensors", "kerstin"))[1:]
    given = mel.T.astype("<f4").tobytes() if "--raw-mel" in words else None
    done = run(*words, input=given)
    assert done.exit_code == 0, done.stderr
    out = Path("out.wav")
    sound = out.read_bytes() if out.exists() else done.stdout_bytes
    assert sound.endswith(quantize(voc.generate(mel, seed=0), "PCM_16"))
    assert "lookahead" in done.stderr or "lookahead" in done.stdout


def test_every_command_was_tried():
    assert len(COMMANDS) == 4
    assert {"--raw", "--raw-mel", "--realtime", "--json"} <= set(" ".join(COMMANDS).split())
