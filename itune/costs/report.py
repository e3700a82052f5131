"""What an estimate says, in words, as JSON and as a picture."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any
from xml.sax.saxutils import escape

from itune.costs.estimate import EFFICIENCY, Estimate
from itune.costs.generation import Generation
from itune.parallel.topology import GIB, SLICE_RATE

COLOURS = {
    "parameters": "#4269d0",
    "optimizer": "#6cc5b0",
    "frozen": "#9c6b4e",
    "batch": "#efb118",
    "cache": "#a463f2",
    "slots": "#ff8ab7",
    "temporaries": "#ff725c",
    "program": "#97bbf5",
}


def lines(found: Estimate, *, steps: int, price: float) -> list[str]:
    """One topology, in full. price: of a chip's hour; 0 for none."""
    e = found
    mesh = " x ".join(f"{name} {size}" for name, size in e.mesh.items())
    devices = f" {e.devices} devices on {e.chips} chips," if e.chip else ""
    said = [
        f"{e.topology}:{devices} mesh {mesh}, {e.rows} rows a step"
        + (f" in {e.accumulation} parts" if e.accumulation > 1 else "")
        + f", remat {e.remat}",
        f"  {'fits' if e.fits else 'DOES NOT FIT'}: {_gib(e.used)} of {_gib(e.limit)} a device"
        f" (compiled in {e.compile_seconds:.0f} s)",
        "  memory: " + _kinds(e.memory),
        f"  products: {e.flops:.3g} FLOPs a step by formula, {e.executed:.3g} executed"
        + (f"; the compiler counts {e.counted:.3g} a device, loops once" if math.isfinite(e.counted) else ""),
    ]
    for (kind, axes), (times, size) in e.sent.items():
        said.append(f"  {kind} over {axes}: {times} times, {_gib(size)} sent by a device")
    if e.chip is None:
        return said
    parts = ", ".join(f"{name} {_seconds(seconds)}" for name, seconds in e.least.items())
    said.append(f"  least time of a step: {_seconds(e.bound)} ({parts})")
    said.append(
        f"  to be expected: {_seconds(e.expected)}, MFU {e.mfu:.1%}, {e.load.tokens / e.expected:,.0f} tokens/s;"
        f" {steps:,} steps take {_hours(e.expected * steps)}"
        + (f" and cost {e.expected * steps / 3600 * e.chips * price:,.2f}" if price else "")
    )
    return said


def generation_lines(found: Generation) -> list[str]:
    """Below those of the step."""
    g, p = found, found.prompts
    took = ", ".join(f"{name} {_gib(size)}" for name, size in g.temporaries.items())
    beside = "fits" if not g.limit or g.beside_optimizer <= g.limit else "does not fit"
    return [
        f"  generation, {p.batch} prompts of {p.length:,} tokens and {p.new:,} new ones each: "
        f"{'fits' if g.fits else 'DOES NOT FIT'}: {_gib(g.used)} of {_gib(g.limit)} a device"
        f" (compiled in {g.compile_seconds:.0f} s)",
        f"    memory: {_kinds(g.memory)} (temporaries: {took})",
        f"    beside the run's optimizer, as when a run evaluates: {_gib(g.beside_optimizer)}, {beside}",
    ]


def generation_json(found: Generation) -> dict[str, Any]:
    """Every field, and the sum."""
    return dataclasses.asdict(found) | {"used": found.used}


def assumptions(found: Sequence[Estimate]) -> list[str]:
    """Once, below all."""
    said = []
    if any(e.chip for e in found):
        said.append(
            f"Assumed: products at {EFFICIENCY:.0%} of the chip's published rate; memory, links and products overlap; "
            f"a ring over all links of a chip; {SLICE_RATE / 1e9:.0f} GB/s a chip between slices. Not measured."
        )
    if any(e.load.assumed for e in found):
        said.append("Assumed: rows that one example each fills, as no data was looked at.")
    return said


def table(found: Sequence[Estimate], *, steps: int, price: float) -> list[str]:
    """A line for each topology."""
    head = ["topology", "mesh", "remat", "fits", "GiB", "of", "step s", "MFU", "hours"] + (["cost"] if price else [])
    rows = [head]
    for e in found:
        mesh = "x".join(str(size) for size in e.mesh.values())
        hours = e.expected * steps / 3600
        row = [e.topology, mesh, e.remat, "yes" if e.fits else "NO", f"{e.used / GIB:.1f}", f"{e.limit / GIB:.1f}"]
        row += [_number(e.expected, ".3f"), _number(e.mfu, ".1%"), _number(hours, ".2f")]
        rows.append(row + ([_number(hours * e.chips * price, ",.0f")] if price else []))
    widths = [max(len(row[k]) for row in rows) for k in range(len(head))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def as_json(found: Estimate, *, steps: int, price: float) -> dict[str, Any]:
    """Every field of the estimate, and what follows from them."""
    fields = dataclasses.asdict(found)
    fields["sent"] = [
        {"kind": kind, "axes": axes, "times": times, "bytes": size}
        for (kind, axes), (times, size) in found.sent.items()
    ]
    fields |= {"used": found.used, "bound": found.bound, "expected": found.expected, "mfu": found.mfu}
    hours = found.expected * steps / 3600
    fields |= {"steps": steps, "hours": hours, "cost": hours * found.chips * price if price else None}
    return {name: _finite(value) for name, value in fields.items()}


def picture(found: Sequence[Estimate], written: Sequence[Generation | None] = ()) -> str:
    """SVG: memory of a device by kind, a bar a topology and one for its generation, with the limit as a line."""
    bars: list[tuple[str, Estimate | Generation]] = []
    for n, e in enumerate(found):
        name = f"{e.topology}  {'x'.join(map(str, e.mesh.values()))}"
        bars.append((f"{name}  {e.remat}", e))
        if n < len(written) and (g := written[n]) is not None:
            bars.append((f"{name}  generation", g))
    kinds = [kind for kind in COLOURS if any(one.memory.get(kind) for _, one in bars)]
    left, width, height, gap = 30 + max(7 * len(label) for label, _ in bars), 560, 26, 26
    scale = width / max(max(one.used, one.limit) for _, one in bars)
    parts = []
    for n, (label, one) in enumerate(bars):
        y, x = 40 + n * (height + gap), float(left)
        parts.append(f'<text x="{left - 8}" y="{y + 17}" text-anchor="end">{escape(label)}</text>')
        for kind in kinds:
            size = one.memory.get(kind, 0) * scale
            parts.append(
                f'<rect x="{x:.1f}" y="{y}" width="{size:.1f}" height="{height}" fill="{COLOURS[kind]}">'
                f"<title>{kind}: {_gib(one.memory.get(kind, 0))}</title></rect>"
            )
            x += size
        at = left + one.limit * scale
        parts.append(f'<path d="M{at:.1f} {y - 5}V{y + height + 5}" stroke="#222" stroke-width="2"/>')
        fits = "" if one.fits else ", does not fit"
        parts.append(
            f'<text x="{left}" y="{y + height + 14}" fill="#555">{_gib(one.used)} of {_gib(one.limit)}{fits}</text>'
        )
    at_x = left
    for kind in kinds:
        parts.append(f'<rect x="{at_x}" y="10" width="12" height="12" fill="{COLOURS[kind]}"/>')
        parts.append(f'<text x="{at_x + 16}" y="20">{kind}</text>')
        at_x += 30 + 7 * len(kind)
    extent = f'width="{max(left + width, at_x) + 20}" height="{50 + len(bars) * (height + gap)}"'
    style = 'font-family="system-ui, sans-serif" font-size="12"'
    body = "\n".join(parts)
    return f'<svg xmlns="http://www.w3.org/2000/svg" {extent} {style}>\n<rect {extent} fill="#fff"/>\n{body}\n</svg>\n'


def _kinds(memory: Mapping[str, int]) -> str:
    return ", ".join(f"{kind} {_gib(memory[kind])}" for kind in COLOURS if kind in memory)


def task_lines(tasks: Mapping[str, Mapping[str, float]]) -> list[str]:
    """Tokens and epochs of each task over the run. tasks: of `itune.data.schedule.Plan.summary`."""
    return [
        f"  {name}: {row['tokens']:,} tokens, {row['supervised_tokens']:,} supervised, {row['epochs']:.2f} epochs"
        for name, row in tasks.items()
    ]


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _number(value: float, form: str) -> str:
    return format(value, form) if math.isfinite(value) else "-"


def _gib(size: float) -> str:
    return f"{size / GIB:.2f} GiB" if size >= GIB / 100 else f"{size / 2**20:.2f} MiB"


def _seconds(seconds: float) -> str:
    return f"{seconds:.3g} s" if seconds >= 1 else f"{1000 * seconds:.3g} ms"


def _hours(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.3g} s"
    return f"{seconds / 3600:.2f} hours" if seconds >= 360 else f"{seconds / 60:.1f} minutes"
