"""What a study shows: figures as PNG and SVG, and one HTML page with the verdict."""

import base64
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from markupsafe import Markup

from plusx.engine.tensorfile import replacing
from plusx.report import render_page
from plusx.studies.core import Figure, Results, spread, values

COLOURS = ("#2f6bd0", "#d35f22", "#1f7a4d", "#8d4bb8", "#b3892b", "#4aa3b5", "#c2407a", "#6b7178")
STYLES = ("-", "--", ":", "-.")  # neighbours differ in more than colour
CROWDED = 6  # lines, beyond which their names stand beside the figure


def write_figures(folder: Path, figures: Sequence[Figure], results: Results) -> list[tuple[str, Path]]:
    """Each figure as `NAME.png` and `NAME.svg`.

    Returns:
        (title, path of the SVG) of each.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure as Canvas

    folder.mkdir(parents=True, exist_ok=True)
    made = []
    for figure in figures:
        canvas = Canvas(figsize=(8, 4.5), dpi=160, layout="constrained")
        axes = canvas.subplots()
        (draw_lines if figure.x else draw_bars)(axes, figure, results)
        if not axes.lines:  # no run ended that could be drawn
            continue
        if figure.log:
            axes.set_yscale("log")
        axes.set_title(figure.title, loc="left", fontweight="bold")
        axes.set_ylabel(figure.y)
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
        name = figure.title.lower().replace(" ", "-").replace(",", "")
        # A fixed salt and no date: the same numbers give the same file.
        with rc_context({"svg.hashsalt": "plusx"}):
            canvas.savefig(folder / f"{name}.svg", metadata={"Date": None, "Creator": None})
        canvas.savefig(folder / f"{name}.png", metadata={"Software": None})
        made.append((figure.title, folder / f"{name}.svg"))
    return made


def draw_lines(axes: Any, figure: Figure, results: Results) -> None:
    """A line for each arm: the mean over seeds, and a band from the lowest to the highest."""
    for i, (arm, runs) in enumerate(results.items()):
        lines = [run.series[figure.measure] for run in runs if figure.measure in run.series]
        if not lines:
            continue
        xs, columns = [x for x, _ in lines[0]], list(zip(*([y for _, y in line] for line in lines), strict=True))
        colour, style = COLOURS[i % len(COLOURS)], STYLES[i % 2 + i // len(COLOURS) % 2 * 2]
        dot = "o" if len(xs) == 1 else None  # a line of one point cannot be seen
        axes.plot(xs, [fmean(column) for column in columns], style, color=colour, lw=2, label=arm, marker=dot)
        axes.fill_between(xs, [min(c) for c in columns], [max(c) for c in columns], color=colour, alpha=0.15)
    axes.set_xlabel(figure.x)
    if axes.lines:
        beside: dict[str, Any] = {"loc": "center left", "bbox_to_anchor": (1, 0.5)} if len(axes.lines) > CROWDED else {}
        axes.legend(frameon=False, **beside)


def draw_bars(axes: Any, figure: Figure, results: Results) -> None:
    """A bar for each arm: the mean over seeds, with its standard deviation and each run as a dot."""
    arms = [arm for arm, runs in results.items() if runs and all(figure.measure in run.values for run in runs)]
    for i, arm in enumerate(arms):
        found = values(results, arm, figure.measure)
        total = spread(found)
        axes.bar(i, total.mean, yerr=total.std, color=COLOURS[i % len(COLOURS)], alpha=0.8, capsize=4)
        axes.plot([i] * len(found), found, "o", color="black", ms=3)
    tilt: dict[str, Any] = {"rotation": 20, "ha": "right"} if len(arms) > 4 else {}
    axes.set_xticks(range(len(arms)), arms, **tilt)


def write_page(path: Path, result: Any, budget: str, charts: Sequence[tuple[str, Path]]) -> None:
    """The page of a finished study: claim, verdicts, what was compared, figures, table, how to run it again."""
    pictures = [
        (title, Markup(f"data:image/svg+xml;base64,{base64.b64encode(svg.read_bytes()).decode()}"))
        for title, svg in charts
    ]
    html = render_page(Path(__file__).parent / "page.html", r=result, budget=budget, pictures=pictures)
    with replacing(path) as temporary:
        temporary.write_text(html, encoding="utf-8")
