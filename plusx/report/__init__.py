"""The report of a run: one HTML file that loads nothing, runs nothing, and escapes every name in it."""

import base64
import hashlib
import io
import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import torch
from markupsafe import Markup, escape
from numpy.typing import NDArray
from PIL import Image

from plusx.data.decode import decode
from plusx.engine.tensorfile import replacing
from plusx.errors import PlusxError
from plusx.evaluation import Evaluation, Mistake
from plusx.report.charts import Rows, curves, write_curve
from plusx.text import plural, show

__all__ = ["ReportData", "build", "write_curve"]

MAX_NAME = 80  # characters of a name
MAX_HEAD = 20  # characters of a name at the matrix
MAX_TEXT = 500  # characters of a value
MAX_COMMAND = 50_000  # characters of a command; two paths of any system fit
MAX_ROWS = 200  # classes in the table; above it the worst of them
MAX_CELLS = 32  # classes in a matrix of numbers; above it a picture
MAX_PIXELS = 500  # sides of that picture; of more classes a pixel stands for a block of cells
MAX_CONFUSED = 10
MAX_LIST = 60  # notices, facts, choices, commands
THUMBNAIL = 144  # px
SHADES = 7
BLUE, ORANGE = (47, 107, 208), (222, 98, 34)
SECTIONS = {
    "curves": "Training",
    "mistakes": "Mistakes",
    "confusion": "Confusion",
    "classes": "Classes",
    "data": "Data",
    "settings": "Settings",
    "next": "Next",
}


@dataclass(frozen=True, kw_only=True)
class ReportData:
    """What a report shows, as plain data.

    Attributes:
        title: name of the run.
        subtitle: a sentence on network, recipe, length, and which weights were kept.
        evaluation: of the model file on the watched split.
        calibrated: whether the model file's probabilities are.
        rows: of metrics.jsonl.
        tiles: further headline figures, name -> text.
        facts: about the data, name -> text.
        notices: what a person should know, one line each.
        choices: automatic choices: field, value, reason.
        config: section -> field -> value.
        environment: name -> text.
        commands: what to do next: sentence, command with every odd name in single quotes, as shlex quotes.
    """

    title: str
    subtitle: str
    evaluation: Evaluation
    rows: Rows
    calibrated: bool = False
    tiles: Mapping[str, str] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)
    notices: Sequence[str] = ()
    choices: Sequence[tuple[str, Any, str]] = ()
    config: Mapping[str, Any] = field(default_factory=dict)
    environment: Mapping[str, Any] = field(default_factory=dict)
    commands: Sequence[tuple[str, str]] = ()


def build(data: ReportData, path: str | Path) -> Path:
    """Writes the report, whole or not at all.

    Raises:
        PlusxError: a file that cannot be written.
    """
    path = Path(path)
    try:
        with replacing(path) as temporary:
            temporary.write_text(render(data), encoding="utf-8")
    except OSError as error:
        raise PlusxError(f"{path}: cannot be written: {error.strerror or error}.", "Check the folder.") from error
    return path


def render(data: ReportData) -> str:
    """The report as HTML."""
    template = Path(__file__).with_name("template.html")
    return render_page(template, **_context(data), percent=percent, number="{:,}".format, plural=plural, short=short)


def render_page(path: Path, **context: Any) -> str:
    """A self-contained HTML page from a template: everything escaped, no script, no style but its own."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(path.parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=lambda value: clean(value) if type(value) is str else value,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    html = environment.get_template(path.name).render(**context, style_hash="STYLE-HASH")
    # The browser applies this style and no other: the policy names its hash.
    style = re.search(r"<style>(.*?)</style>", html, re.DOTALL)
    assert style is not None, "the template has a style"
    code = base64.b64encode(hashlib.sha256(style[1].encode()).digest()).decode()
    return html.replace("STYLE-HASH", f"sha256-{code}", 1)


def percent(fraction: float) -> Markup:
    """0.98611 -> `98.61 %`, with a space that does not break; only none and all read `0.00 %` and `100.00 %`."""
    fraction, digits = round(fraction, 10), 2  # the tenth digit is noise
    while 0 < fraction < 1 and float(f"{100 * fraction:.{digits}f}") in (0, 100):
        digits += 1
    return Markup(f"{100 * fraction:.{digits}f}&nbsp;%")


def clean(text: str, limit: int = MAX_TEXT, *, end: bool = False) -> str:
    """Text as one visible, bounded line: the beginning of a longer one, or its end."""
    if len(text) > limit:
        text = f"…{text[1 - limit :]}" if end else f"{text[: limit - 1]}…"
    return show(text)


def short(name: str, limit: int = MAX_HEAD) -> str:
    """A name as one visible, bounded line: of a longer one the beginning and the end, since names differ at either."""
    end = limit // 4 - 1
    return show(name if len(name) <= limit else f"{name[: limit - end - 1]}…{name[-end:]}")


def bash(command: str) -> Markup:
    """A command whose quoted names also give bash the characters that a page, or a person, cannot show."""

    def code(c: str) -> str:
        return c if c.isprintable() else "'$'" + "".join(f"\\x{byte:02x}" for byte in os.fsencode(c)) + "''"

    return escape(clean("".join(map(code, command)), MAX_COMMAND))


def wilson(right: float, n: int) -> tuple[float, float]:
    """The 95 % interval of an accuracy of `right` (0..1) over n examples (Wilson, 1927)."""
    if n == 0:
        return 0.0, 1.0
    z = 1.959964
    centre, spread = right + z * z / (2 * n), z * math.sqrt(right * (1 - right) / n + z * z / (4 * n * n))
    return max(0.0, (centre - spread) / (1 + z * z / n)), min(1.0, (centre + spread) / (1 + z * z / n))


def _context(data: ReportData) -> dict[str, Any]:
    e = data.evaluation
    per_class = sorted(e.per_class.items(), key=lambda item: (item[1]["n"] == 0, item[1]["f1"]))
    shown = per_class[:MAX_ROWS]
    matrix, heatmap, confused = _confusion(e)
    present = {"mistakes": bool(e.mistakes), "confusion": e.task == "single"}
    return {
        "title": short(data.title, MAX_NAME),
        "subtitle": data.subtitle,
        "e": e,
        "interval": wilson(e.top1, e.n),
        "tiles": _tiles(data),
        "notices": _bounded([*data.notices, *e.notes]),
        "sections": [(key, name) for key, name in SECTIONS.items() if present.get(key, True)],
        "charts": curves(data.rows),
        "mistakes": [_picture(mistake) for mistake in e.mistakes],
        "matrix": matrix,
        "heatmap": heatmap,
        "blocks": len(e.per_class) > MAX_PIXELS,
        "confused": confused,
        "n_classes": len(e.per_class),
        "per_class": [(short(name, MAX_NAME), row) for name, row in shown],
        "facts": _items(data.facts),
        "choices": [(key, _text(value), reason) for key, value, reason in data.choices[:MAX_LIST]],
        "config": _sections(data.config),
        "environment": _items(data.environment),
        "commands": [(what, bash(command)) for what, command in data.commands[:MAX_LIST]],
    }


def _tiles(data: ReportData) -> list[tuple[str, str]]:
    e = data.evaluation
    loss, error = "loss", "calibration error"
    if data.calibrated:
        loss, error = "loss, calibrated", f"{error}, fitted on these images" if e.split == "val" else error
    tiles = {loss: f"{e.loss:.4f}", error: percent(e.ece)}
    if e.task == "single":
        tiles = {"always the commonest class": percent(e.commonest[1]), **tiles}
    if e.task == "single" and len(e.per_class) > 5:
        tiles = {"top-5": percent(e.top5), "top-5 error": percent(1 - e.top5), **tiles}
    return list((tiles | dict(data.tiles)).items())


def _bounded(lines: Sequence[str]) -> list[str]:
    unique = list(dict.fromkeys(lines))
    more = len(unique) - MAX_LIST
    return unique if more <= 0 else [*unique[:MAX_LIST], f"and {more:,} more"]


def _text(value: Any) -> str:
    return "not set" if value is None else ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _items(values: Mapping[str, Any]) -> list[tuple[str, str]]:
    return [(str(key), _text(value)) for key, value in list(values.items())[:MAX_LIST]]


def _sections(config: Mapping[str, Any]) -> list[tuple[str, list[tuple[str, str]]]]:
    plain = {key: value for key, value in config.items() if not isinstance(value, Mapping)}
    rest = [(key, _items(value)) for key, value in config.items() if isinstance(value, Mapping)]
    return [("run", _items(plain)), *rest] if plain else rest


def _confusion(e: Evaluation) -> tuple[dict[str, Any] | None, str, list[dict[str, Any]]]:
    """The matrix as numbers or as a picture, and the pairs that are confused most often."""
    if e.confusion is None:
        return None, "", []
    names = [short(name, MAX_NAME) for name in e.per_class]
    totals = np.maximum(e.confusion.sum(axis=1, keepdims=True), 1)
    # The square root keeps a share of 1 % visible.
    shares = np.sqrt(e.confusion / totals)
    wrong = e.confusion.copy()
    np.fill_diagonal(wrong, 0)
    order = np.argsort(-wrong, axis=None, kind="stable")[:MAX_CONFUSED]
    pairs = [divmod(int(place), len(names)) for place in order if wrong.flat[place] > 0]
    confused = [
        {"true": names[i], "predicted": names[j], "count": int(wrong[i, j]), "share": wrong[i, j] / totals[i, 0]}
        for i, j in pairs
    ]
    if len(names) > MAX_CELLS:
        return None, _heatmap(shares), confused
    shades = np.ceil(shares * SHADES).astype(int)
    rows = []
    for i, name in enumerate(names):
        counts = e.confusion[i].tolist()
        kinds = [f"{'d' if i == j else 'e'}{shades[i, j]}" if count else "" for j, count in enumerate(counts)]
        rows.append({"name": name, "cells": list(zip(kinds, counts, strict=True))})
    kind = "short" if len(names) <= 12 and max(map(len, names)) <= 6 else "long" if len(names) > 16 else ""
    return {"names": names, "rows": rows, "kind": kind}, "", confused


def _heatmap(shares: NDArray[np.float64]) -> str:
    """A picture of the shares (K, K): right answers blue, wrong ones orange, transparent where there are none.

    A pixel is a cell; above MAX_PIXELS classes it is the strongest cell of a block.
    """
    block = -(-len(shares) // MAX_PIXELS)
    padded = np.pad(shares, (0, -len(shares) % block))
    side = len(padded) // block
    right = np.diag(padded.diagonal().reshape(side, block).max(axis=1))
    np.fill_diagonal(padded, 0)
    wrong = padded.reshape(side, block, side, block).max(axis=(1, 3))
    pixels = np.empty((side, side, 4), np.uint8)
    pixels[..., :3] = np.where((right >= wrong)[..., None], BLUE, ORANGE)
    pixels[..., 3] = np.rint(255 * np.maximum(right, wrong))
    return _data_uri(Image.fromarray(pixels, "RGBA"), "PNG")


def _picture(mistake: Mistake) -> dict[str, Any]:
    """A mistake with its picture, encoded anew so that nothing of the file but its pixels gets into the page."""
    shown = {key: short(getattr(mistake, key), MAX_NAME) for key in ("true", "predicted")}
    shown["name"] = clean(mistake.name, MAX_NAME, end=True)  # paths differ at their ends
    try:
        pixels = _pixels(mistake.source)
    except PlusxError:  # the file may have gone since
        return {**shown, "probability": mistake.probability, "image": "", "small": False}
    image = Image.fromarray(pixels)
    small = max(image.size) <= THUMBNAIL // 2
    image.thumbnail((THUMBNAIL, THUMBNAIL))
    uri = _data_uri(image, "PNG") if small else _data_uri(image, "JPEG", quality=82)
    return {**shown, "probability": mistake.probability, "image": uri, "small": small}


def _pixels(source: str | NDArray[np.uint8]) -> NDArray[np.uint8]:
    """uint8 (H, W, 3) of a file or of an image (C, H, W)."""
    if isinstance(source, str):
        image = decode(source, min_side=THUMBNAIL)
        pixels: NDArray[np.uint8] = (image if image.dtype == torch.uint8 else (image * 255).round().byte()).numpy()
    else:
        pixels = source
    return np.ascontiguousarray(np.broadcast_to(pixels, (3, *pixels.shape[1:])).transpose(1, 2, 0))


def _data_uri(image: Image.Image, kind: str, **options: Any) -> Markup:
    buffer = io.BytesIO()
    image.save(buffer, kind, optimize=True, **options)
    return Markup(f"data:image/{kind.lower()};base64,{base64.b64encode(buffer.getvalue()).decode()}")
