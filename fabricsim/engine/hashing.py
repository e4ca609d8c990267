"""The hash of docs/physics.md, section 1, on integers and on int64 arrays alike."""

from __future__ import annotations

from typing import Any

MASK32 = 0xFFFFFFFF
TIE, FLOW, FIRST_PLANE = 1, 2, 4  #: the uses of a hash


def mix32(x: Any) -> Any:
    """Mix 32-bit words held in int64; the products stay below 2**63."""
    x = x ^ (x >> 16)
    x = (x * 0x21F0AAAD) & MASK32
    x = x ^ (x >> 15)
    x = (x * 0x735A2D97) & MASK32
    return x ^ (x >> 15)


def hash_words(*arguments: Any) -> Any:
    """Return H(arguments): each argument, an integer or an int64 array, gives its low and its high word."""
    x: Any = 0
    for argument in arguments:
        for word in (argument & MASK32, (argument >> 32) & MASK32):
            x = mix32(x ^ word)
    return x
