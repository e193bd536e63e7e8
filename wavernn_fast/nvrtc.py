"""Where this installation keeps NVIDIA's run-time compiler and kernels compiled beforehand.

Nothing of those packages is imported: the compiled engine opens the library by its path.
"""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

_LIBRARY = re.compile(r"libnvrtc\.so\.(\d+)(?:\.\d+)*$")  # not its helpers: builtins, alt


def libraries() -> list[str]:
    """Paths of the NVRTC libraries that pip installed, as NVIDIA's packages or PyTorch bring them.

    Returns
    -------
    list of str
        Lowest major version first: its kernels run on the most drivers and devices.
    """
    spec = importlib.util.find_spec("nvidia")
    found: dict[Path, int] = {}
    for folder in (spec.submodule_search_locations or []) if spec else []:
        for path in Path(folder).glob("*/lib/libnvrtc.so.*"):
            match = _LIBRARY.match(path.name)
            if match:
                found.setdefault(path.resolve(), int(match[1]))
    return [str(path) for path, _ in sorted(found.items(), key=lambda item: (item[1], item[0]))]


def packaged_kernels() -> str:
    """Folder of the kernels that ship in the package; empty if it ships none."""
    folder = Path(__file__).parent / "cubins"
    return str(folder) if folder.is_dir() else ""
