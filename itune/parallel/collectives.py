"""What a compiled program sends between devices, read out of its text (XLA's HLO)."""

from __future__ import annotations

import collections
import dataclasses
import math
import re
from collections.abc import Iterator

import numpy as np
from jax.sharding import Mesh

KINDS = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute")
_COMPUTATION = re.compile(r"^(?:ENTRY )?%?([\w.\-]+) \(")
_OP = re.compile(rf"= (.*?) ({'|'.join(KINDS)})(?:-start)?\(")
# Between slices a TPU's program hands arrays to the host's network.
_SLICES = re.compile(
    r"= \((.*?)\) send\(.*_xla_megascale_target=\"\{([\d,]+)\}.*_xla_megascale_transfer_type=\"(\w+)\""
)
_CALLED = re.compile(r"(?:calls|to_apply|condition|branch_computations|called_computations)=(\{[^}]*\}|%?[\w.\-]+)")
_CONDITION, _BODY = (re.compile(rf"{word}=%?([\w.\-]+)") for word in ("condition", "body"))
_SHAPE = re.compile(r"(pred|[suf]\d+|bf16|f8\w+)\[([\d,]*)\]")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Collective:
    """kind: of KINDS.  axes: of the mesh, "fsdp" or "data+fsdp".  shapes: of what each device has after it.

    times: how often a step runs it, loops counted.  moved: bytes that a device sends at least, each time (ring).
    where: the operation that it comes of, "jit(train_step)/.../dot_general".
    """

    kind: str
    axes: str
    shapes: tuple[tuple[str, tuple[int, ...]], ...]
    times: int
    moved: int
    where: str


def collectives(text: str, mesh: Mesh) -> list[Collective]:
    """Of `compiled.as_text()`, a program on `mesh`. A channel is one collective, in how many pieces it may be done."""
    bodies = _computations(text)
    times = _times(bodies)
    found: dict[object, Collective] = {}
    for name, lines in bodies.items():
        scatters = "all-reduce-scatter" in name  # TPU's fusion of an all-reduce of which each device keeps a part
        for line in lines:
            if (match := _SLICES.search(line)) is not None:
                one = _between_slices(match, times.get(name, 1))
                found[name, one.kind, len(found)] = one
            if (match := _OP.search(line)) is None:
                continue
            kind = "reduce-scatter" if scatters and match[2] == "all-reduce" else match[2]
            shapes = tuple((d, tuple(int(n) for n in s.split(",") if n)) for d, s in _SHAPE.findall(match[1]))
            if "-start(" in line and kind == "all-gather":
                shapes = shapes[len(shapes) // 2 :]  # operands stand before results
            if kind == "collective-permute":
                shapes = shapes[:1]
            size, axes = _group(line, mesh)
            channel = re.search(r"channel_id=(\d+)", line)
            where = re.search(r'op_name="([^"]*)"', line)
            key = (channel[1], kind, axes, shapes, where and where[1]) if channel else (name, kind, len(found))
            made = Collective(
                kind=kind,
                axes=axes,
                shapes=shapes,
                times=times.get(name, 1),
                moved=_moved(kind, sum(_bytes(s) for s in shapes), size, scatters),
                where=where[1] if where else "",
            )
            old = found.get(key)
            if size > 1 and (old is None or made.times > old.times):
                found[key] = made
    return list(found.values())


def _between_slices(match: re.Match[str], times: int) -> Collective:
    """Slices lie along the mesh's first axis."""
    shapes = tuple((d, tuple(int(n) for n in s.split(",") if n)) for d, s in _SHAPE.findall(match[1])[:1])
    kind = match[3].lower().replace("_", "-")
    moved = _moved(kind, _bytes(shapes[0]), len(match[2].split(",")), False)
    return Collective(kind=kind, axes="data", shapes=shapes, times=times, moved=moved, where="between slices")


def by_kind(found: list[Collective]) -> dict[tuple[str, str], tuple[int, int]]:
    """{(kind, axes): (times a step, bytes a device sends in a step)}, most bytes first."""
    sums: dict[tuple[str, str], list[int]] = collections.defaultdict(lambda: [0, 0])
    for one in found:
        sums[one.kind, one.axes][0] += one.times
        sums[one.kind, one.axes][1] += one.times * one.moved
    return {key: (n, size) for key, (n, size) in sorted(sums.items(), key=lambda item: -item[1][1])}


def _bytes(shape: tuple[str, tuple[int, ...]]) -> int:
    dtype, sizes = shape
    bits = re.search(r"\d+", dtype.replace("bf16", "f16").split("e")[0])
    return math.prod(sizes) * (int(bits[0]) if bits else 8) // 8


def _moved(kind: str, size: int, group: int, scatters: bool) -> int:
    """By a ring. size: bytes of the results (of TPU's scattering all-reduce: of the whole)."""
    share = (group - 1) / max(1, group)
    if kind == "all-reduce":
        return int(2 * size * share)
    if kind == "reduce-scatter" and not scatters:
        return int(size * (group - 1))
    return size if kind == "collective-permute" else int(size * share)


def _computations(text: str) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    lines: list[str] = []
    for line in text.splitlines():
        if line.startswith(" "):
            lines.append(line)
        elif (match := _COMPUTATION.match(line)) is not None:
            lines = found.setdefault(match[1], [])
    return found


def _times(bodies: dict[str, list[str]]) -> dict[str, int]:
    """How often each computation runs: a while loop's body as often as its condition's constant says."""
    calls: dict[str, list[tuple[str, int]]] = {}
    called: set[str] = set()
    for name, lines in bodies.items():
        for line in lines:
            found = [(callee, 1) for group in _CALLED.findall(line) for callee in re.findall(r"[\w.\-]+", group)]
            if " while(" in line and (body := _BODY.search(line)) and (condition := _CONDITION.search(line)):
                found.append((body[1], _trips(line, bodies.get(condition[1], []))))
            found = [(callee, trips) for callee, trips in found if callee in bodies]
            calls.setdefault(name, []).extend(found)
            called.update(callee for callee, _ in found)
    times: dict[str, int] = collections.defaultdict(int)

    def visit(name: str, count: int) -> None:
        times[name] += count
        for callee, trips in calls.get(name, []):
            visit(callee, count * trips)

    for name in bodies:
        if name not in called:
            visit(name, 1)
    return times


def _trips(line: str, condition: list[str]) -> int:
    if (known := re.search(r'known_trip_count":\{"n":"(\d+)"', line)) is not None:
        return int(known[1])
    constants = [int(n) for text in condition for n in re.findall(r"s32\[\]\S* constant\((\d+)\)", text)]
    return max(constants, default=1)


def _group(line: str, mesh: Mesh) -> tuple[int, str]:
    """(devices that take part together, the mesh's axes along which they lie)."""
    ids = next(_groups(line), list(range(mesh.size)))
    places = np.array(np.unravel_index(np.array(ids), tuple(mesh.shape.values())))
    axes = [name for name, along in zip(mesh.axis_names, places, strict=True) if len(set(along.tolist())) > 1]
    return len(ids), "+".join(axes)


def _groups(line: str) -> Iterator[list[int]]:
    """Groups of device numbers, in each of the ways in which XLA writes them."""
    if (match := re.search(r"(?:replica_groups|source_target_pairs)=\{\{([\d,]+)\}", line)) is not None:
        yield [int(n) for n in match[1].split(",")]
    elif (match := re.search(r"replica_groups=\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?", line)) is not None:
        shape, sizes = ([int(n) for n in match[k].split(",")] for k in (1, 2))
        ids = np.arange(math.prod(sizes)).reshape(sizes)
        if match[3]:
            ids = ids.transpose([int(n) for n in match[3].split(",")])
        yield ids.reshape(shape)[0].tolist()
    elif (match := re.search(r"replica_groups=mesh\[([^\]]*)\] \{([^}]*)\}", line)) is not None:
        sizes = [int(n) for n in re.findall(r"=(\d+)", match[1])]
        names = re.findall(r"'(\w+)'=", match[1])
        chosen = re.findall(r"'(\w+)'", match[2])
        ids = np.arange(math.prod(sizes)).reshape(sizes)
        ids = np.moveaxis(ids, [names.index(name) for name in chosen], range(-len(chosen), 0))
        yield ids.reshape(-1, math.prod(sizes[names.index(name)] for name in chosen))[0].tolist()
