"""Keyed 64-bit hashes: every choice that looks random is a pure function of a key and of what is chosen from.

Strings become keys by BLAKE2b; arrays of keys are mixed by SplitMix64's finaliser (Steele, Lea & Flood 2014, "Fast
splittable pseudorandom number generators"), vectorised over numpy. Results are the same on every machine and numpy
version.
"""

from __future__ import annotations

import hashlib

import numpy as np

_GAMMA = np.uint64(0x9E3779B97F4A7C15)
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)


def key64(*parts: int | str) -> int:
    """A 64-bit key of some parts, in order: `key64("order", seed, "natural_questions", epoch)`.

    Parts carry their type and length, so ("ab", "c"), ("a", "bc") and (1, "1") are all different.
    """
    digest = hashlib.blake2b(digest_size=8, person=b"itune-key")
    for part in parts:
        data = str(part).encode()
        digest.update(f"{type(part).__name__}{len(data)}:".encode() + data)
    return int.from_bytes(digest.digest(), "little")


def splitmix64(x: np.ndarray) -> np.ndarray:
    """A bijection of uint64 [n] in which every input bit reaches every output bit."""
    z = np.asarray(x, np.uint64) + _GAMMA
    z = (z ^ (z >> np.uint64(30))) * _MIX_1
    z = (z ^ (z >> np.uint64(27))) * _MIX_2
    return z ^ (z >> np.uint64(31))


def hash64(key: int, values: np.ndarray) -> np.ndarray:
    """uint64 [n]: the keyed hash of each value. For one key a bijection, so distinct values never collide."""
    # Mixed before the key comes in as well as after: neither nearby keys nor nearby values give related hashes.
    keyed = splitmix64(np.asarray(values, np.uint64)) ^ np.uint64(key)
    return splitmix64(keyed)


def keyed_order(key: int, values: np.ndarray) -> np.ndarray:
    """int64 [n]: the indices of `values` in the key's order, which depends on the values alone.

    Equal values stay as they stood; removing some values leaves the others' order unchanged.
    """
    return np.argsort(hash64(key, values), kind="stable")


def permutation(key: int, n: int) -> np.ndarray:
    """int64 [n]: a keyed permutation of 0..n-1."""
    return keyed_order(key, np.arange(n, dtype=np.uint64))
