"""TPU topologies that are not here: their devices for the compiler, and what a chip can do.

`topology("v5e:16x16")` needs libtpu (the extra `tpu`, or TPU_LIBRARY_PATH) and no TPU.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from itune.errors import UserError, nearest

GIB = 2**30


@dataclasses.dataclass(frozen=True, kw_only=True)
class Chip:
    """As its maker publishes it, for one chip of `devices` devices.

    flops: of bfloat16 products a second.  hbm: bytes.  hbm_rate, link_rate: bytes a second, of the memory and of all
    links to other chips of the slice together.
    """

    flops: float
    hbm: int
    hbm_rate: float
    link_rate: float
    devices: int = 1


# Google Cloud's documentation of each version. Link rates: bidirectional, all links of a chip.
CHIPS = {
    "v4": Chip(flops=275e12, hbm=32 * GIB, hbm_rate=1228e9, link_rate=300e9),
    "v5e": Chip(flops=197e12, hbm=16 * GIB, hbm_rate=819e9, link_rate=200e9),
    "v5p": Chip(flops=459e12, hbm=95 * GIB, hbm_rate=2765e9, link_rate=600e9),
    "v6e": Chip(flops=918e12, hbm=32 * GIB, hbm_rate=1638e9, link_rate=400e9),
    "tpu7x": Chip(flops=2307e12, hbm=192 * GIB, hbm_rate=7380e9, link_rate=1200e9, devices=2),
}
SLICE_RATE = 25e9  # bytes a second of a chip to other slices, over the data centre's network: an assumption
_NAME = re.compile(r"([a-z0-9]+):(\d+(?:x\d+){1,2})(?:\*(\d+))?")


@dataclasses.dataclass(frozen=True)
class Topology:
    """Devices to compile for. name: "v5e:16x16", or "v5e:16x16*2" of two slices."""

    name: str
    chip: Chip
    slices: int
    devices: Sequence[Any]

    @property
    def chips(self) -> int:
        return len(self.devices) // self.chip.devices


def topology(name: str) -> Topology:
    """Raises: UserError for a name that is none, with the nearest; and where libtpu is not to be found."""
    match = _NAME.fullmatch(name)
    if match is None or match[1] not in CHIPS:
        hint = nearest(name.partition(":")[0], CHIPS) if ":" in name else ""
        raise UserError(f"--topology={name}: must be CHIP:AxB or CHIP:AxBxC, as v5e:4x4, v5p:2x2x1, v6e:16x16*2.{hint}")
    chip, slices = CHIPS[match[1]], int(match[3] or 1)
    _find_library()
    from jax.experimental import topologies

    said = f"{match[1]}:{match[2]}"
    try:
        more = {"num_slices": slices} if slices > 1 else {}
        found = topologies.get_topology_desc(platform="tpu", topology_name=said, **more)
    except Exception as error:  # whatever libtpu says of a shape that there is not
        raise UserError(f"--topology={name}: libtpu knows no such topology ({_first_line(error)})") from None
    return Topology(name, chip, slices, found.devices)


def compile_for_topology(lowered: Any) -> Any:
    """`lowered.compile()`, not kept on disk: what JAX wrote of devices that are not here it could not read again."""
    import jax

    name = "jax_persistent_cache_min_compile_time_secs"  # JAX asks once a process whether to keep anything at all
    before = getattr(jax.config, name)
    jax.config.update(name, 1e9)
    try:
        return lowered.compile()
    finally:
        jax.config.update(name, before)


def _find_library() -> None:
    """libtpu asks the machine which TPU it is, and complains that it is none: neither is wanted here."""
    for name, text in (
        ("TPU_SKIP_MDS_QUERY", "1"),
        ("ALLOW_MULTIPLE_LIBTPU_LOAD", "1"),
        ("TPU_STDERR_LOG_LEVEL", "3"),
        ("TPU_MIN_LOG_LEVEL", "3"),
        ("TPU_ACCELERATOR_TYPE", "v5litepod-1"),
        ("TPU_WORKER_HOSTNAMES", "localhost"),
    ):
        os.environ.setdefault(name, text)
    fetched = Path(__file__).parents[2] / ".libtpu" / "libtpu" / "libtpu.so"  # by `make libtpu`
    if fetched.is_file():
        os.environ.setdefault("TPU_LIBRARY_PATH", str(fetched))
    path = os.environ.get("TPU_LIBRARY_PATH")
    if path and not Path(path).is_file():
        raise UserError(f"TPU_LIBRARY_PATH={path}: there is no such file")
    if not path and importlib.util.find_spec("libtpu") is None:
        raise UserError(
            "--topology needs the TPU's compiler, which isn't here: run `make libtpu`, or pip install 'itune[tpu]'"
        )


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:200] if lines else type(error).__name__
