"""Line charts as inline SVG that follows the page's light or dark colours, and the training curve as a PNG."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup, escape

WIDTH, HEIGHT = 480, 270
LEFT, RIGHT, TOP, BOTTOM = 52, 14, 12, 34  # margins around the plot, in units of the view box
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
    xs = [x for s in series for x, _ in s.points] or [0.0]
    ys = [y for s in series for _, y in s.points] or [0.0]
    x_ticks, y_ticks = ticks(min(xs), max(xs), 7, whole=True), ticks(0.0 if zero else min(ys), max(ys), 5)
    x_low, x_high = min(xs), max(max(xs), min(xs) + 1)
    y_low, y_high = y_ticks[0], y_ticks[-1]

    def place(point: Point) -> tuple[str, str]:
        x = LEFT + (point[0] - x_low) / (x_high - x_low) * (WIDTH - LEFT - RIGHT)
        y = HEIGHT - BOTTOM - (point[1] - y_low) / (y_high - y_low) * (HEIGHT - TOP - BOTTOM)
        return f"{x:.1f}", f"{y:.1f}"

    parts = [f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)} by epoch">']
    for tick in y_ticks:
        _, y = place((x_low, tick))
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y}" y2="{y}"/>')
        parts.append(f'<text class="tick end" x="{LEFT - 8}" y="{y}" dy=".32em">{tick:g}</text>')
    for tick in x_ticks:
        if x_low <= tick <= x_high:
            parts.append(
                f'<text class="tick mid" x="{place((tick, y_low))[0]}" y="{HEIGHT - BOTTOM + 18}">{tick:g}</text>'
            )
    for s in series:
        points = [place(p) for p in s.points]
        parts.append(f'<polyline class="line {s.kind}" points="{" ".join(map(",".join, points))}"/>')
        dots = list(zip(s.points, points, strict=True))
        for (epoch, value), (x, y) in dots if len(dots) <= MAX_DOTS else dots[-1:]:
            label = f"{escape(s.name)}, epoch {epoch:g}: {value:.4g}"
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
    return [round(i * step, 12) for i in range(first, last + 1)]


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
    """Finite points, at most about MAX_POINTS of them, the last one among them."""
    finite = [p for p in points if math.isfinite(p[0]) and math.isfinite(p[1])]
    stride = math.ceil(len(finite) / MAX_POINTS) or 1
    return finite[::-1][::stride][::-1]
