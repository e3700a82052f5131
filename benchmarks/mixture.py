"""The synthetic mixture of data.py, the same on both sides: FLAN-like sizes and lengths. numpy only."""

from __future__ import annotations

import numpy as np


def draw_sizes(tasks: int, cap: int) -> list[int]:
    """Examples of each task: log-normal between 100 and 100,000, as FLAN's are, and at most `cap`."""
    sizes = np.random.default_rng(0).lognormal(7, 1.2, tasks).clip(100, 100_000)
    return sizes.clip(max=cap).astype(int).tolist()


def draw_lengths(number: int, examples: int, length: int) -> np.ndarray:
    """Tokens of each example of task `number`: log-normal, median 134, from 8 to `length`."""
    return np.random.default_rng(number).lognormal(4.9, 0.9, examples).clip(8, length).astype(int)


def draw_pairs(number: int, examples: int, inputs: int, targets: int) -> tuple[np.ndarray, np.ndarray]:
    """int32 tokens of prompts and of answers: log-normal, medians 134 and 16; most answers are short, some are not."""
    rng = np.random.default_rng(number)
    prompts = rng.lognormal(4.9, 0.9, examples).clip(8, inputs)
    return prompts.astype(np.int32), rng.lognormal(2.8, 1.0, examples).clip(2, targets).astype(np.int32)
