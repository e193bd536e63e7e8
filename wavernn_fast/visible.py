"""Text of unknown origin made visible: file names and messages may hold anything."""

from __future__ import annotations

import unicodedata

# Cc: controls; Cf: formats, among them those that turn the direction of writing; Cs: half of a
# pair, which Python uses for undecodable bytes; Zl, Zp: line and paragraph ends; Cn, Co: nothing.
_HIDDEN = frozenset(("Cc", "Cf", "Cs", "Zl", "Zp", "Cn", "Co"))


def visible(text: str, limit: int = 0) -> str:
    r"""Escape what a reader cannot see, as Python does: "\\n", "\\x1b", "\\xff", "\\u202e".

    Parameters
    ----------
    text : str
        Bytes that are no UTF-8 may stand in it as `os.fsdecode` has them (U+DC80 to U+DCFF).
    limit : int
        Of a longer text its first and last characters remain, with "..." between; 0: no limit.

    Returns
    -------
    str
        Printable, and encodable as UTF-8; a backslash stays as it is.
    """
    if limit and len(text) > limit:
        head = (limit - 3) // 2
        text = text[:head] + "..." + text[head + 3 - limit :]
    if text.isascii() and text.isprintable():
        return text
    return "".join(c if unicodedata.category(c) not in _HIDDEN else _escape(c) for c in text)


def _escape(character: str) -> str:
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:
        return f"\\x{code - 0xDC00:02x}"
    return character.encode("unicode_escape").decode("ascii")
