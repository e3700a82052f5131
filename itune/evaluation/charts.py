"""Small charts as SVG text: no scripts, no fonts, colours from the page's CSS classes.

Everything returned is safe to put into a page: all text is escaped here.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from html import escape

Scale = Callable[[float], float]  # data units to the chart's

MAX_POINTS = 240  # more than a panel has pixels to show


@dataclasses.dataclass(frozen=True, kw_only=True)
class Series:
    """A line, in data units. style: a CSS class (the colour). kind: "line", "faint" (raw values behind) or "dots"."""

    name: str
    points: Sequence[tuple[float, float]]
    style: str
    kind: str = "line"


def smooth(values: Sequence[float], weights: Sequence[float], span: float) -> list[float]:
    """Weighted exponential moving average over about `span` points, unbiased at the start: a sum over a sum."""
    keep = 1 - 1 / max(span, 1.0)
    total = weight = 0.0
    smoothed = []
    for v, w in zip(values, weights, strict=True):
        total, weight = keep * total + v * w, keep * weight + w
        smoothed.append(total / weight if weight else v)
    return smoothed


def thin(points: Sequence[tuple[float, float]], limit: int = MAX_POINTS) -> list[tuple[float, float]]:
    """At most `limit` points, each the mean of a run of neighbours."""
    if len(points) <= limit:
        return list(points)
    size = math.ceil(len(points) / limit)
    runs = [points[i : i + size] for i in range(0, len(points), size)]
    return [(sum(x for x, _ in run) / len(run), sum(y for _, y in run) / len(run)) for run in runs]


def ticks(low: float, high: float, count: int) -> list[float]:
    """Round values inside [low, high], about `count` of them: 1, 2 or 5 times a power of ten apart."""
    if not high > low:
        return [low]
    rough = (high - low) / max(count, 1)
    power = 10.0 ** math.floor(math.log10(rough))
    step = min((m * power for m in (1, 2, 5, 10)), key=lambda s: abs(math.log(s / rough)))
    first = math.ceil(low / step - 1e-9)
    return [i * step for i in range(first, math.floor(high / step + 1e-9) + 1)]


def tick_label(value: float, step: float) -> str:
    """As many decimals as the step needs; thousands as k, millions as M."""
    for size, unit in ((1e6, "M"), (1e4, "k")):
        if abs(value) >= size:
            scale = 1e3 if unit == "k" else size
            return f"{value / scale:.{_decimals(step / scale)}f}{unit}"
    if value and abs(step) < 1e-4:
        return f"{value:.0e}"
    return f"{value:,.{_decimals(step)}f}"


def line_chart(
    series: Sequence[Series],
    *,
    label: str,
    width: int = 340,
    height: int = 190,
    x_label: str = "step",
    x_range: tuple[float, float] | None = None,
    from_zero: bool = False,
) -> str:
    """Lines over one pair of axes. label: what a screen reader says. "" when there is nothing to draw."""
    drawn = [dataclasses.replace(s, points=thin([p for p in s.points if all(map(math.isfinite, p))])) for s in series]
    drawn = [s for s in drawn if s.points]
    if not drawn:
        return ""
    xs = [x for s in drawn for x, _ in s.points]
    ys = [y for s in drawn for _, y in s.points]
    x_low, x_high = x_range or (min(xs), max(xs))
    y_low, y_high = _y_range(min(ys), max(ys), from_zero)
    left, right, top, bottom = 44, 15, 10, 32
    if x_high <= x_low:
        x_low, x_high = x_low - 0.5, x_high + 0.5

    def px(x: float) -> float:
        return left + (x - x_low) / (x_high - x_low) * (width - left - right)

    def py(y: float) -> float:
        return height - bottom - (y - y_low) / (y_high - y_low) * (height - top - bottom)

    parts = [f'<svg class="chart" viewBox="0 0 {width} {height}" role="img" aria-label="{escape(label)}">']
    y_ticks = ticks(y_low, y_high, 4)
    y_step = y_ticks[1] - y_ticks[0] if len(y_ticks) > 1 else y_high - y_low
    for y in y_ticks:
        parts.append(f'<line class="grid" x1="{left}" x2="{width - right}" y1="{py(y):.1f}" y2="{py(y):.1f}"/>')
        parts.append(_text(left - 6, py(y) + 4, "end", tick_label(y, y_step)))
    x_ticks = [x for x in ticks(x_low, x_high, max(2, width // 90)) if x == int(x)] or [round(x_low)]
    x_step = x_ticks[1] - x_ticks[0] if len(x_ticks) > 1 else 1.0
    for x in x_ticks:
        written = tick_label(x, x_step)
        edge = px(x) > width - right - 1 and len(written) > 4  # would stick out
        parts.append(_text(px(x), height - bottom + 15, "end" if edge else "middle", written))
    parts.append(_text((left + width - right) / 2, height - 3, "middle", x_label))
    parts.append(f'<line class="axis" x1="{left}" x2="{width - right}" y1="{height - bottom}" y2="{height - bottom}"/>')
    parts += [_draw(s, px, py) for s in drawn]
    return "".join(parts) + "</svg>"


def bar(value: float | None, scale: float, style: str) -> str:
    """A bar as wide as value / scale of its cell. Decoration: the number stands beside it."""
    if value is None or scale <= 0:
        return ""
    share = min(max(value / scale, 0.0), 1.0) * 100
    return (
        '<svg class="bar" viewBox="0 0 100 6" preserveAspectRatio="none" aria-hidden="true">'
        f'<rect class="track" width="100" height="6"/><rect class="{style}" width="{share:.1f}" height="6"/></svg>'
    )


def share_bar(got: float, asked: float | None, scale: float) -> str:
    """A bar for the share got, with a mark at the share asked for."""
    if scale <= 0:
        return ""
    mark = ""
    if asked is not None:
        mark = f'<rect class="mark" x="{min(max(asked / scale, 0), 1) * 98.5:.1f}" y="0" width="1.5" height="8"/>'
    return (
        '<svg class="bar share" viewBox="0 0 100 8" preserveAspectRatio="none" aria-hidden="true">'
        f'<rect class="track" y="1" width="100" height="6"/>'
        f'<rect class="after" y="1" width="{min(max(got / scale, 0), 1) * 100:.1f}" height="6"/>{mark}</svg>'
    )


def _text(x: float, y: float, anchor: str, text: str) -> str:
    return f'<text class="tick" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def _draw(series: Series, px: Scale, py: Scale) -> str:
    """One series as a path or as dots, each with a tooltip."""
    name = escape(series.name)
    if series.kind == "dots" or len(series.points) == 1:
        dots = "".join(
            f'<circle class="{series.style}" cx="{px(x):.1f}" cy="{py(y):.1f}" r="3.2">'
            f"<title>{name}, {x:g}: {y:.4g}</title></circle>"
            for x, y in series.points
        )
        line = _path(series, px, py, "thin") if len(series.points) > 1 else ""
        return line + dots
    return _path(series, px, py, series.kind, f"<title>{name}: {series.points[-1][1]:.4g} at the end</title>")


def _path(series: Series, px: Scale, py: Scale, kind: str, title: str = "") -> str:
    steps = " L".join(f"{px(x):.1f} {py(y):.1f}" for x, y in series.points)
    return f'<path class="{series.style} {kind}" d="M{steps}">{title}</path>'


def _y_range(low: float, high: float, from_zero: bool) -> tuple[float, float]:
    """A little room above and below; from zero if asked."""
    if from_zero and low >= 0:
        return 0.0, high * 1.05 or 1.0
    room = (high - low) * 0.06 or abs(high) * 0.05 or 1.0
    return (low - room if low < 0 else max(low - room, 0.0)), high + room


def _decimals(step: float) -> int:
    return 0 if step >= 1 or step <= 0 else min(6, math.ceil(-math.log10(step) - 1e-9))
