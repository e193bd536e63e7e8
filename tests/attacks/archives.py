"""Zip archives that unpack to more than they have, or to something else than they say."""

from __future__ import annotations

import io
import struct
import zipfile
import zlib

import torch

from . import pickles
from .kinds import Attack


def checkpoint(state: object) -> bytes:
    stream = io.BytesIO()
    torch.save(state, stream)
    return stream.getvalue()


def _parts(content: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def _archive(parts: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", compression) as archive:
        for name, data in parts.items():
            archive.writestr(name, data)
    return stream.getvalue()


def with_program(program: bytes) -> bytes:
    """A checkpoint whose data.pkl is another program, with a checksum that fits."""
    parts = _parts(checkpoint({"a": torch.zeros(4)}))
    name = next(n for n in parts if n.endswith("data.pkl"))
    return _archive({**parts, name: program})


def _overlapping(copies: int) -> bytes:
    """Many entries of the directory that point at the same bytes."""
    one = zipfile.ZipInfo("a/data.pkl")
    data = bytes(1 << 16)
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr(one, data)
        archive.filelist.extend([one] * (copies - 1))
    return stream.getvalue()


def _with_size(content: bytes, size: int) -> bytes:
    """The sizes in the directory of the largest entry changed, the rest as it is."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        entry = max(archive.infolist(), key=lambda e: e.file_size)
        start = archive.start_dir
    name = entry.filename.encode()
    at = content.index(name, start) - 46
    sizes = struct.pack("<II", size, size)
    return content[: at + 20] + sizes + content[at + 28 :]


def _altered(content: bytes) -> bytes:
    """One bit of a weight, which nothing but the checksum shows."""
    at = content.index(struct.pack("<f", 0.71875))
    return content[: at + 2] + bytes([content[at + 2] ^ 1]) + content[at + 3 :]


def attacks() -> list[Attack]:
    sound = checkpoint({"a": torch.full((100,), 0.71875)})
    zeros = {"a/data.pkl": bytes(1 << 20), "a/version": b"3\n"}
    bomb = _archive({**zeros, "a/data/0": bytes(64 << 20)}, zipfile.ZIP_DEFLATED)
    nested = _archive({"a/data.pkl": bomb}, zipfile.ZIP_DEFLATED)
    programs = [
        Attack(f"zip_{a.name}", with_program(a.content), f"{a.words}|no tensors")
        for a in pickles.attacks()
    ]
    encrypted = bytearray(sound)
    for mark, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        encrypted[sound.index(mark) + offset] |= 1
    return [
        *programs,
        Attack("bomb", bomb, "compressed archive"),
        Attack("bomb_in_a_bomb", nested, "compressed archive"),
        Attack("bzip2", _archive(zeros, zipfile.ZIP_BZIP2), "compressed archive"),
        Attack("lzma", _archive(zeros, zipfile.ZIP_LZMA), "compressed archive"),
        Attack("overlap", _overlapping(2000), "its parts overlap"),
        Attack("many_parts", _overlapping(9000), "parts; limits are"),
        Attack("size_beyond_the_file", _with_size(sound, 1 << 30), "overlap|damaged"),
        Attack("size_beyond_the_limit", _with_size(sound, 0xFFFFFFF0), "unpacks to|damaged"),
        Attack("size_of_nothing", _with_size(sound, 0), "damaged"),
        Attack("encrypted", bytes(encrypted), "damaged"),
        Attack("altered_weight", _altered(sound), "damaged"),
        Attack("no_program", _archive({"a/version": b"3\n"}), "damaged"),
        Attack("paths", _archive({"../../a/data.pkl": b"\x80\x02}."}), "damaged|no tensors"),
        Attack("empty_archive", _archive({}), "unknown kind|damaged"),
        Attack("gzip", zlib.compress(sound), "unknown kind|not a model"),
    ]
