"""What the vendor's programming guide says of the chips that plans are made for."""

from __future__ import annotations

# Architectures to compile for, by the name of a planned GPU: its own and its next of kin.
TARGETS = {
    "P100": (60, 61),
    "V100": (70,),
    "T4": (75,),
    "A100": (80,),
    "RTX 3090": (86,),
    "RTX 4090": (89,),
    "H200": (90,),
    "B200": (100, 120),
}
SHARED_LIMIT = {  # bytes a block may have
    60: 48 * 1024,
    70: 96 * 1024,
    75: 64 * 1024,
    80: 163 * 1024,
    86: 99 * 1024,
    89: 99 * 1024,
    90: 227 * 1024,
    100: 227 * 1024,
}
