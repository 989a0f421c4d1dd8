"""Line charts as inline SVG that follows the page's light or dark colours, and the training curve as a PNG."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup, escape

WIDTH, HEIGHT = 340, 200  # units of the view box, about the px that a chart has where three stand side by side
TOP, BOTTOM = 12, 30  # margins above and below the plot
DIGIT = 8  # units that a character of a label takes at most
MAX_POINTS = 400
MAX_DOTS = 40

Rows = Sequence[Mapping[str, Any]]  # rows of metrics.jsonl
Point = tuple[float, float]


@dataclass(frozen=True)
class Series:
    """One line: its name, its colour class in the page (`a` or `b`), and points (epoch, value)."""

    name: str
    kind: str
    points: Sequence[Point]


@dataclass(frozen=True)
class Chart:
    """A title, an SVG, and what the lines are."""

    title: str
    svg: Markup
    series: Sequence[Series]


def curves(rows: Rows) -> list[Chart]:
    """Loss, error and learning rate over epochs, for the training examples and the watched split."""
    splits = sorted({str(row["split"]): None for row in rows}, key=lambda name: name != "train")[:2]

    def points(split: str, value: Callable[[Mapping[str, Any]], float]) -> list[Point]:
        return [(float(row["epoch"]), value(row)) for row in rows if row["split"] == split]

    def lines(value: Callable[[Mapping[str, Any]], float]) -> list[Series]:
        return [Series(name, "a" if name == "train" else "b", points(name, value)) for name in splits]

    rate = points(splits[0], lambda row: float(row["lr"])) if splits else []
    return [
        line_chart("Error, %", lines(lambda row: 100 * (1 - row["top1"])), zero=True),
        line_chart("Loss", lines(lambda row: row["loss"]), zero=True),
        line_chart("Learning rate", [Series("learning rate", "c", rate)], zero=True),
    ]


def line_chart(title: str, series: Sequence[Series], *, zero: bool = False) -> Chart:
    """A chart of one or more lines; values that are not finite are left out."""
    series = [Series(s.name, s.kind, _thinned(s.points)) for s in series]
    xs = [x for s in series for x, _ in s.points] or [1.0]
    ys = [y for s in series for _, y in s.points] or [0.0]
    x_low, x_high = min(*xs, max(xs) - 1), max(xs)
    few = min(6, 20 // len(f"{x_high:g}"))  # labels so long stand apart
    x_ticks = [tick for tick in ticks(x_low, x_high, few, whole=True) if x_low <= tick <= x_high]
    y_ticks = ticks(0.0 if zero else min(ys), max(ys), 5)
    y_low, y_high = y_ticks[0], y_ticks[-1]
    left = 12 + DIGIT * max(len(f"{tick:g}") for tick in y_ticks)
    right = WIDTH - 6 - DIGIT / 2 * len(f"{x_ticks[-1]:g}")

    def place(point: Point) -> tuple[str, str]:
        x = left + (point[0] - x_low) / (x_high - x_low) * (right - left)
        y = HEIGHT - BOTTOM - (point[1] - y_low) / (y_high - y_low) * (HEIGHT - TOP - BOTTOM)
        return f"{x:.1f}", f"{y:.1f}"

    ends = [f"{s.name} from {s.points[0][1]:.4g} to {s.points[-1][1]:.4g}" for s in series if s.points]
    label = escape(f"{title} by epoch: {', '.join(ends) or 'no values'}")
    parts = [f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{label}">']
    for tick in y_ticks:
        _, y = place((x_low, tick))
        parts.append(f'<line class="grid" x1="{left}" x2="{right}" y1="{y}" y2="{y}"/>')
        parts.append(f'<text class="tick end" x="{left - 8}" y="{y}" dy=".32em">{tick:g}</text>')
    for tick in x_ticks:
        x, _ = place((tick, y_low))
        parts.append(f'<text class="tick mid" x="{x}" y="{HEIGHT - BOTTOM + 18}">{tick:g}</text>')
    for s in series:
        points = [place(p) for p in s.points]
        parts.append(f'<polyline class="line {s.kind}" points="{" ".join(map(",".join, points))}"/>')
        dots = list(zip(s.points, points, strict=True))
        for (epoch, value), (x, y) in dots if len(dots) <= MAX_DOTS else dots[-1:]:
            label = escape(f"{s.name}, epoch {epoch:g}: {value:.4g}")
            parts.append(f'<circle class="dot {s.kind}" cx="{x}" cy="{y}" r="3"><title>{label}</title></circle>')
    return Chart(title, Markup("".join([*parts, "</svg>"])), series)


def ticks(low: float, high: float, count: int, *, whole: bool = False) -> list[float]:
    """About `count` round values whose first and last enclose [low, high]."""
    span = (high - low) or abs(high) or 1.0
    rough = span / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * m for m in (1, 2, 2.5, 5, 10) if power * m >= rough * 0.999)
    if whole:
        step = max(1.0, math.ceil(step))
    first = math.floor(low / step + 1e-9)
    last = max(math.ceil(high / step - 1e-9), first + 1)
    return [round(i * step, 12 - math.floor(math.log10(step))) for i in range(first, last + 1)]


def write_curve(rows: Rows, path: Path, title: str) -> None:
    """The training curve as a PNG for a README: error of both splits, learning rate below."""
    from matplotlib.figure import Figure

    error, _, rate = curves(rows)
    figure = Figure(figsize=(8, 4.5), dpi=160, layout="constrained")
    top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=(4, 1))
    for axes, chart in ((top, error), (bottom, rate)):
        for s in chart.series:
            colour = {"a": "#3b74d4", "b": "#d9622b", "c": "#7a7f87"}[s.kind]
            axes.plot(*zip(*s.points, strict=True), color=colour, lw=2, label=f"{s.name}, last {s.points[-1][1]:.2f} %")
        axes.set_ylim(bottom=0)
        axes.set_ylabel(chart.title)
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    top.set_title(title.replace("$", r"\$"), loc="left", fontweight="bold")
    top.legend(frameon=False)
    bottom.set_xlabel("epoch")
    figure.savefig(path, format="png", metadata={"Software": None})


def _thinned(points: Sequence[Point]) -> Sequence[Point]:
    """Finite points; of very many the first, the last, and the lowest and highest of each stretch, in order."""
    finite = [p for p in points if math.isfinite(p[0]) and math.isfinite(p[1])]
    if len(finite) <= MAX_POINTS:
        return finite
    size = math.ceil(2 * len(finite) / MAX_POINTS)
    kept = {0, len(finite) - 1}
    for start in range(0, len(finite), size):
        stretch = sorted(range(start, min(start + size, len(finite))), key=lambda i: finite[i][1])
        kept |= {stretch[0], stretch[-1]}
    return [finite[i] for i in sorted(kept)]
