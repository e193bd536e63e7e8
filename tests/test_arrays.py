"""Arrays of other libraries at the border: values come in unchanged, the same kind goes back."""

from __future__ import annotations

import contextlib
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import torch

from wavernn_fast import arrays
from wavernn_fast.errors import InputError

VALUES = np.arange(6, dtype=np.float32).reshape(2, 3)


class OnGpu:
    """An array of a library that is neither CuPy nor PyTorch, in the memory of a GPU."""

    @property
    def __cuda_array_interface__(self) -> dict[str, object]:
        return {"shape": (2, 3), "typestr": "<f4", "data": (0, True), "version": 3}


class CupyArray:
    """What this test needs of cupy.ndarray."""

    __module__ = "cupy"
    device = contextlib.nullcontext()

    def __init__(self, values: np.ndarray) -> None:
        self.values = values

    def get(self) -> np.ndarray:
        return self.values


@pytest.fixture
def cupy(monkeypatch: pytest.MonkeyPatch) -> None:
    """A CuPy that takes arrays over as the real one does."""
    module = types.ModuleType("cupy")
    module.asarray = lambda x: CupyArray(VALUES if isinstance(x, OnGpu) else np.asarray(x))
    monkeypatch.setitem(sys.modules, "cupy", module)


@pytest.mark.usefixtures("cupy")
@pytest.mark.parametrize("value", [OnGpu(), CupyArray(VALUES)], ids=["cuda array", "cupy"])
def test_an_array_on_a_gpu_comes_in_and_cupy_goes_back(value: object) -> None:
    array, restore = arrays.to_array(value, "mel")
    np.testing.assert_array_equal(array, VALUES)
    back = restore(VALUES)
    assert type(back) is CupyArray
    np.testing.assert_array_equal(back.get(), VALUES)


def test_a_gpu_array_without_cupy_is_refused_with_the_way_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "cupy", None)
    with pytest.raises(InputError, match=r"mel lies on a GPU.*needs CuPy.*NumPy, CuPy or PyTorch"):
        arrays.to_array(OnGpu(), "mel")


class OnlyDlpack:
    """An array that no other protocol shows."""

    def __init__(self, values: torch.Tensor | None) -> None:
        self.values = values  # None: in the memory of a GPU

    def __dlpack__(self, **how: object) -> object:
        if self.values is None:
            raise BufferError("not on the host")
        return self.values.__dlpack__(**how)

    def __dlpack_device__(self) -> tuple[int, int]:
        return (2 if self.values is None else 1, 0)


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (torch.eye(3).to_sparse(), "to_dense"),
        (torch.zeros(2, 3, device="meta"), "no data"),
        (torch.zeros(2, dtype=torch.complex64).conj(), "resolve_conj"),
        (OnlyDlpack(torch.zeros(3, dtype=torch.bfloat16)), "dtype"),
        (OnlyDlpack(None), "not on the host"),
    ],
    ids=["sparse", "meta", "conjugate", "bfloat16 by DLPack", "GPU by DLPack"],
)
def test_an_array_that_numpy_cannot_have_is_an_input_error(value: object, reason: str) -> None:
    for read in (lambda: arrays.to_array(value, "mel"), lambda: arrays.take(value, "mel", "cuda")):
        with pytest.raises(InputError, match=rf"The mel cannot be read as an array \(.*{reason}"):
            read()


@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16, torch.float64, torch.float8_e5m2])
def test_a_tensor_comes_back_as_a_tensor(kind: torch.dtype) -> None:
    array, restore = arrays.to_array(torch.from_numpy(VALUES).to(kind), "mel")
    np.testing.assert_array_equal(array, VALUES)
    assert isinstance(restore(VALUES), torch.Tensor)


@pytest.mark.parametrize("vector", [["a", "b"], [None, None], [1j, 2.0]])
def test_a_speaker_that_is_no_numbers_is_an_input_error(vector: object) -> None:
    config = types.SimpleNamespace(speaker_size=2, speakers=0)
    with pytest.raises(InputError, match=r"speaker's vector has dtype .*, expected numbers"):
        arrays.to_speaker(vector, config)  # type: ignore[arg-type]


class OutOfReach:
    """What DLPack says of memory that the host cannot read."""

    def __dlpack__(self, **_: object) -> object:
        raise BufferError("the memory of a device")

    def __dlpack_device__(self) -> tuple[int, int]:
        return 2, 0


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("mel.npy", "The mel is 'mel.npy', a string; .*read it first"),
        (Path("mel.npy"), "The mel is 'mel.npy', a string; .*read it first"),
        (torch.zeros(2, 3).to_sparse(), "cannot be read as an array .*to_dense"),
        (torch.zeros(2, 3, device="meta"), "cannot be read as an array .*no data"),
        (OutOfReach(), "cannot be read as an array .the memory of a device"),
        ([[1.0, 2.0], [1.0]], "cannot be read as an array"),
    ],
    ids=["name", "path", "sparse", "meta", "out of reach", "ragged"],
)
def test_what_is_no_array_is_refused_in_a_sentence(value: object, words: str) -> None:
    with pytest.raises(InputError, match=words):
        arrays.to_array(value, "mel")
