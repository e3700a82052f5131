"""What both sides of a benchmark measure, and how: one clock, one loop, one definition of memory.

Standard library only: the peers import it from environments of their own.
"""

from __future__ import annotations

import resource
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

Step = Callable[[int], tuple[float, float]]  # number of the batch -> (loss before the update, norm of the gradient)


def measure(step: Step, num_steps: int, started: float) -> dict[str, Any]:
    """Runs `num_steps` steps and times each; a step ends when its loss is on the host and its update is made.

    started: time.perf_counter() at the top of the program, before anything heavy is imported.
    """
    ready = time.perf_counter() - started
    seconds, losses, norms = [], [], []
    for n in range(num_steps):
        begin = time.perf_counter()
        loss, norm = step(n)
        seconds.append(time.perf_counter() - begin)
        losses.append(loss)
        norms.append(norm)
    return {
        "ready_seconds": round(ready, 3),
        "step_seconds": [round(s, 4) for s in seconds],
        "losses": losses,
        "grad_norms": norms,
        "peak_memory_gb": round(peak_memory_gb(), 3),
    }


def peak_memory_gb() -> float:
    """Most physical memory that this process held at once, in 1e9 bytes."""
    status = Path("/proc/self/status")
    if status.exists():
        # Not ru_maxrss where it can be helped: on Linux a child starts with its parent's peak.
        lines = dict(line.split(":", 1) for line in status.read_text().splitlines() if ":" in line)
        return int(lines["VmHWM"].split()[0]) * 1024 / 1e9
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e9  # macOS: bytes


def matrix_gflops() -> float:
    """This machine's best rate of a 2-D float32 product by JAX, in 1e9 operations a second, at the sizes of a step."""
    import jax
    import jax.numpy as jnp

    best = 0.0
    for m, k, n in ((2048, 2048, 2048), (2048, 576, 1536), (2048, 1536, 576)):
        a, b, multiply = jnp.ones((m, k)), jnp.ones((k, n)), jax.jit(jnp.matmul)
        multiply(a, b).block_until_ready()
        for _ in range(10):
            begin = time.perf_counter()
            multiply(a, b).block_until_ready()
            best = max(best, 2 * m * k * n / (time.perf_counter() - begin) / 1e9)
    return round(best, 1)
