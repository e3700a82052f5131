"""Flags of the compilers by name, for `--xla_flags=NAME`: data, applied before JAX loads and never by an import.

An unknown flag ends a process without a word of ours, so each preset is tested against the pinned jaxlib and libtpu.
"""

from __future__ import annotations

import dataclasses
import os
import sys

from itune.errors import UserError, nearest


@dataclasses.dataclass(frozen=True, kw_only=True)
class Preset:
    """variable: of the environment: XLA_FLAGS of jaxlib's compilers, LIBTPU_INIT_ARGS of libtpu's."""

    variable: str
    about: str
    flags: tuple[str, ...]


PRESETS = {
    "gpu": Preset(
        variable="XLA_FLAGS",
        about="GPUs: what is sent between devices is hidden behind products",
        flags=("--xla_gpu_enable_latency_hiding_scheduler=true",),
    ),
    "gpu_many": Preset(
        variable="XLA_FLAGS",
        about="GPUs of several hosts: also pipelined collectives, joined into larger ones",
        flags=(
            "--xla_gpu_enable_latency_hiding_scheduler=true",
            "--xla_gpu_enable_pipelined_all_gather=true",
            "--xla_gpu_enable_pipelined_reduce_scatter=true",
            "--xla_gpu_enable_pipelined_all_reduce=true",
            "--xla_gpu_enable_while_loop_double_buffering=true",
            "--xla_gpu_all_gather_combine_threshold_bytes=1073741824",
            "--xla_gpu_reduce_scatter_combine_threshold_bytes=1073741824",
            "--xla_gpu_all_reduce_combine_threshold_bytes=1073741824",
        ),
    ),
    "gpu_exact": Preset(
        variable="XLA_FLAGS",
        about="GPUs: the same bits in every run, slower",
        flags=("--xla_gpu_deterministic_ops=true", "--xla_gpu_autotune_level=0"),
    ),
    "tpu": Preset(
        variable="LIBTPU_INIT_ARGS",
        about="TPUs: gathers and scatters run beside products",
        flags=(
            "--xla_tpu_enable_async_collective_fusion=true",
            "--xla_tpu_enable_async_collective_fusion_fuse_all_gather=true",
            "--xla_tpu_enable_async_collective_fusion_multiple_steps=true",
            "--xla_tpu_overlap_compute_collective_tc=true",
            "--xla_enable_async_all_gather=true",
        ),
    ),
}


def use_preset(name: str) -> None:
    """Puts a preset's flags before those that the environment has, which win. Raises: UserError for an unknown name."""
    if name not in PRESETS:
        raise UserError(f"--xla_flags={name}: presets are {', '.join(PRESETS)}.{nearest(name, PRESETS)}")
    if "jax" in sys.modules:
        raise RuntimeError("XLA flags must be set before JAX is loaded")
    preset = PRESETS[name]
    given = os.environ.get(preset.variable, "").split()
    os.environ[preset.variable] = " ".join([*preset.flags, *given])
