"""Training, in plain PyTorch; never imports the engine. Imported by the commands that train.

The modules import torch when they are imported; call `need_torch` before.
"""

from __future__ import annotations

from ..errors import MissingDependencyError


def need_torch() -> None:
    """Say which extra is missing where PyTorch is not installed.

    Raises
    ------
    MissingDependencyError
        If torch cannot be imported.
    """
    try:
        import torch  # noqa: F401
    except ImportError as error:
        raise MissingDependencyError(
            'Training needs PyTorch, which is not installed: pip install "wavernn-fast[torch]".'
        ) from error
