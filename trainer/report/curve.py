"""Lines over an axis, as inline SVG."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Final

from trainer.report.page import Html

#: The picture, and its margins, in units of the picture.
_WIDTH: Final = 1000
_HEIGHT: Final = 330
_LEFT: Final = 56
_RIGHT: Final = 16
_TOP: Final = 10
_BOTTOM: Final = 46
#: How many colours the style sheet has.
_COLOURS: Final = 4
#: So many points can be seen as single dots.
_MAX_DOTS: Final = 60


@dataclass(frozen=True, kw_only=True, slots=True)
class Series:
    """One line.

    Attributes:
        name: What it shows.
        points: Pairs of x and y; those that are not finite are passed over.
    """

    name: str
    points: Sequence[tuple[float, float]]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Scale:
    """From a value to a place on the picture."""

    low: float
    high: float
    start: float
    end: float

    def place(self, value: float) -> float:
        share = (value - self.low) / (self.high - self.low)
        return self.start + share * (self.end - self.start)


def curve(
    series: Sequence[Series], *, x_label: str, mark: float | None = None, mark_label: str = ""
) -> Html:
    """Return lines with axes and a legend.

    Args:
        series: At most four lines; without any finite point a sentence is returned.
        x_label: What the x axis counts.
        mark: Where to draw an upright line, in units of x.
        mark_label: What that line means.
    """
    lines = [(line.name, [p for p in line.points if _is_finite(p)]) for line in series[:_COLOURS]]
    points = [point for _, line in lines for point in line]
    if not points:
        return Html('<p class="note">There is nothing to draw yet.</p>')
    xs, ys = [x for x, _ in points], [y for _, y in points]
    x_ticks, y_ticks = ticks(min(xs), max(xs), parts=8, whole=True), ticks(min(ys), max(ys))
    x = _Scale(low=min(xs), high=max(*xs, min(xs) + 1), start=_LEFT, end=_WIDTH - _RIGHT)
    y = _Scale(low=y_ticks[0], high=y_ticks[-1], start=_HEIGHT - _BOTTOM, end=_TOP)
    drawn = [
        *(_y_tick(value, y, y_ticks[1] - y_ticks[0]) for value in y_ticks),
        *(_x_tick(value, x) for value in x_ticks if x.low <= value <= x.high),
        f'<text x="{_WIDTH - _RIGHT}" y="{_HEIGHT - 5}" text-anchor="end">{escape(x_label)}</text>',
        "" if mark is None else _mark(x.place(mark), mark_label),
        *(_line(number, name, line, x, y) for number, (name, line) in enumerate(lines)),
    ]
    legend = "".join(
        f'<span><i class="series{number}"></i>{escape(name)}{_last(line)}</span>'
        for number, (name, line) in enumerate(lines)
    )
    names = escape(", ".join(name for name, _ in lines))
    return Html(
        f'<div class="curve"><div class="legend">{legend}</div>\n'
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{names}">\n'
        + "\n".join(part for part in drawn if part)
        + "\n</svg></div>"
    )


def ticks(low: float, high: float, *, parts: int = 4, whole: bool = False) -> list[float]:
    """Return round numbers, at least two, from at most `low` to at least `high`.

    Args:
        low: Least value.
        high: Largest value.
        parts: About how many steps, and at most one more.
        whole: Whether only whole numbers make sense.
    """
    span = high - low or abs(high) or 1.0
    step = 10.0 ** math.floor(math.log10(span / parts))
    step *= next(factor for factor in (1, 2, 5, 10) if span / parts <= factor * step * (1 + 1e-9))
    if whole:
        step = max(1.0, step)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [number * step for number in range(first, max(last, first + 1) + 1)]


def _is_finite(point: tuple[float, float]) -> bool:
    return math.isfinite(point[0]) and math.isfinite(point[1])


def _y_tick(value: float, scale: _Scale, step: float) -> str:
    at = scale.place(value)
    digits = max(0, -math.floor(math.log10(step)))
    return (
        f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{at:.1f}" y2="{at:.1f}"/>'
        f'<text x="{_LEFT - 10}" y="{at + 4.5:.1f}" text-anchor="end">{value:.{digits}f}</text>'
    )


def _x_tick(value: float, scale: _Scale) -> str:
    return (
        f'<text x="{scale.place(value):.1f}" y="{_HEIGHT - _BOTTOM + 20}"'
        f' text-anchor="middle">{value:,.0f}</text>'
    )


def _mark(at: float, label: str) -> str:
    side, shift = ("end", -8) if at > _WIDTH / 2 else ("start", 8)
    return (
        f'<line class="mark" x1="{at:.1f}" x2="{at:.1f}" y1="{_TOP}" y2="{_HEIGHT - _BOTTOM}"/>'
        f'<text x="{at + shift:.1f}" y="{_TOP + 14}" text-anchor="{side}">{escape(label)}</text>'
    )


def _line(
    number: int, name: str, points: Sequence[tuple[float, float]], x: _Scale, y: _Scale
) -> str:
    places = [(x.place(a), y.place(b)) for a, b in points]
    joined = " ".join(f"{a:.1f},{b:.1f}" for a, b in places)
    dots = "".join(
        f'<circle class="series{number}" cx="{a:.1f}" cy="{b:.1f}" r="4">'
        f"<title>{escape(name)} at {at:g}: {value:.4g}</title></circle>"
        for (a, b), (at, value) in zip(places, points, strict=True)
    )
    has_dots = len(points) <= _MAX_DOTS
    return f'<polyline class="series{number}" points="{joined}"/>{dots if has_dots else ""}'


def _last(points: Sequence[tuple[float, float]]) -> str:
    return f" ({points[-1][1]:.4g} at the end)" if points else ""
