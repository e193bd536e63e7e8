"""What gets imported: nothing heavy before it is needed."""

from __future__ import annotations

import subprocess
import sys

import pytest

import wavernn_fast
from wavernn_fast.cli import _COMMANDS

# Names in sys.modules, without parts of packages, that are not of the standard library.
_REPORT = """
import sys
names = {name.partition(".")[0] for name in sys.modules} - set(sys.stdlib_module_names)
print("LOADED", " ".join(sorted(n for n in names if not n.startswith(("_", "sitecustomize")))))
"""


def loaded_by(code: str) -> set[str]:
    """Packages outside the standard library that a fresh interpreter has after `code`."""
    result = subprocess.run(
        [sys.executable, "-c", code + _REPORT], capture_output=True, text=True, check=True
    )
    [line] = [line for line in result.stdout.splitlines() if line.startswith("LOADED")]
    return set(line.split()[1:]) - loaded_at_start()


def loaded_at_start() -> set[str]:
    """Packages that site hooks of this interpreter load anyway."""
    result = subprocess.run(
        [sys.executable, "-c", _REPORT], capture_output=True, text=True, check=True
    )
    return set(result.stdout.split()[1:])


def test_importing_the_package_loads_only_numpy():
    assert loaded_by("import wavernn_fast") <= {"wavernn_fast", "numpy"}


def test_importing_every_public_name_loads_only_numpy():
    assert loaded_by("from wavernn_fast import *") == {"wavernn_fast", "numpy"}


def test_importing_the_drop_in_classes_loads_only_numpy():
    code = "from wavernn_fast.compat import acceleration, fatchord, rtvc, torchaudio"
    assert loaded_by(code) == {"wavernn_fast", "numpy"}


def test_importing_the_service_loads_nothing_of_its_extra():
    code = "from wavernn_fast.serve import Limits, create_app, require_extra"
    assert loaded_by(code) <= {"wavernn_fast", "numpy"}


def run_command(*arguments: str) -> str:
    """Code that runs the command and goes on after it exits."""
    return (
        "from wavernn_fast.cli import main\n"
        f"try: main({list(arguments)!r})\n"
        "except SystemExit as end: assert not end.code\n"
    )


def test_help_loads_only_click_besides():
    assert loaded_by(run_command("--help")) == {"wavernn_fast", "click"}


@pytest.mark.parametrize("command", _COMMANDS)
def test_help_of_a_command_loads_no_library_it_works_with(command):
    loaded = loaded_by(run_command(command, "--help"))
    assert {"wavernn_fast", "click"} <= loaded
    assert loaded <= {"wavernn_fast", "click", "numpy"}


def test_generating_from_a_canonical_file_needs_no_torch(tmp_path):
    from voices import save_voice

    model = str(save_voice(tmp_path))
    code = (
        "import sys\n"
        "for name in ('torch', 'soundfile', 'soxr', 'tqdm', 'click'): sys.modules[name] = None\n"
        "import numpy, wavernn_fast\n"
        f"voc = wavernn_fast.Vocoder.from_pretrained({model!r})\n"
        "assert voc.generate(numpy.full((80, 3), 0.5, 'f')).shape == (550,)\n"
        "for name in ('torch', 'soundfile', 'soxr', 'tqdm', 'click'): del sys.modules[name]\n"
    )
    assert loaded_by(code) == {"wavernn_fast", "numpy", "safetensors"}


def test_drop_in_classes_play_a_canonical_file_without_torch(tmp_path):
    from voices import save_voice

    model = str(save_voice(tmp_path))
    code = (
        "import sys\n"
        "for name in ('torch', 'soundfile', 'soxr', 'tqdm', 'click'): sys.modules[name] = None\n"
        "import numpy\n"
        "from wavernn_fast.compat import fatchord, torchaudio\n"
        f"player = fatchord.WaveRNN.from_checkpoint({model!r}, seed=None)\n"
        "mel = numpy.full((80, 3), 0.5, 'f')\n"
        f"assert player.generate(mel, {str(tmp_path / 'a.wav')!r}).shape == (550,)\n"
        "vocoder = torchaudio.Vocoder(torchaudio.WaveRNN(player.vocoder))\n"
        "assert vocoder(mel[None], [3])[0].shape == (1, 825)\n"
        "for name in ('torch', 'soundfile', 'soxr', 'tqdm', 'click'): del sys.modules[name]\n"
    )
    assert loaded_by(code) == {"wavernn_fast", "numpy", "safetensors"}


def test_every_public_name_is_there():
    for name in wavernn_fast.__all__:
        assert getattr(wavernn_fast, name) is not None
    assert wavernn_fast.__version__ == "0.1.0"
    assert dir(wavernn_fast) == sorted(wavernn_fast.__all__)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'Sampler'"):
        _ = wavernn_fast.Sampler
