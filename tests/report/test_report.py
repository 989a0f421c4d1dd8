"""The report: complete, bounded, and deaf to what names try to do."""

import base64
import hashlib
import io
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from plusx.errors import PlusxError
from plusx.evaluation import Evaluation, Mistake
from plusx.report import ReportData, build, clean, render, wilson, write_curve
from plusx.report.charts import MAX_POINTS, Series, curves, line_chart, ticks

PAYLOADS = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "</script><svg onload=alert(1)>",
    "</style><style>*{display:none}</style>",
    "javascript:alert(1)",
    "{{7*7}}{% raw %}",
    "a\u2028b\u2029c",
    "\u202egnp.exe",
    "\x1b[31mred\x00",
    "'\"`=&lt;",
    "<!--",
    "]]>",
    "\udcff",
    "https://example.com/x.png",
    "STYLE-HASH",
    "x" * 1_000_000,
]
TAGS = {"html", "head", "meta", "title", "style", "body", "header", "main", "footer", "section", "nav", "p", "b", "i"}
TAGS |= {"h1", "h2", "h3", "strong", "span", "dl", "dt", "dd", "div", "ul", "li", "a", "figure", "figcaption", "bdi"}
TAGS |= {"table", "thead", "tbody", "tr", "th", "td", "img", "br", "details", "summary", "code", "pre"}
TAGS |= {"svg", "line", "text", "polyline", "circle", "rect"}
VOID = {"meta", "img", "br"}
SHADES = [f"{kind}{n}" for kind in "de" for n in range(1, 8)]  # of right and of wrong answers in the matrix


class Page(HTMLParser):
    """Every element and attribute of a page, and whether they are nested as written."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.text: list[str] = []
        self.open: list[str] = []
        self.feed(html)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {key: value or "" for key, value in attrs}))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {key: value or "" for key, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)

    def handle_comment(self, data: str) -> None:
        raise AssertionError(f"a comment: {data[:80]}")


def evaluation(names: list[str], **changes: Any) -> Evaluation:
    draw = np.random.default_rng(0)
    truth = draw.integers(0, len(names), 20 * len(names))
    told = np.where(draw.random(len(truth)) < 0.9, truth, draw.integers(0, len(names), len(truth)))
    confusion = None
    if len(names) <= 2000:
        confusion = np.zeros((len(names), len(names)), np.int64)
        np.add.at(confusion, (truth, told), 1)
    pixels = draw.integers(0, 256, (3, 9, 7), np.uint8)
    wrong = [names[i % len(names)] for i in range(24)]
    values: dict[str, Any] = {
        "n": len(truth),
        "top1": float((truth == told).mean()),
        "top5": 0.99,
        "loss": 0.4,
        "ece": 0.02,
        "protocol": "1-crop",
        "models": ("run/model.safetensors",),
        "split": "val",
        "task": "single",
        "per_class": {
            n: {"n": 20, "precision": 0.9, "recall": 0.8, "f1": 0.7 + 0.2 * (i % 2)} for i, n in enumerate(names)
        },
        "confusion": confusion,
        "mistakes": tuple(Mistake(f"val/{name}", name, name, 0.9, pixels) for name in wrong),
        "notes": tuple(wrong[:3]),
    }
    return Evaluation(**{**values, **changes})


def rows(epochs: int = 5, **changes: Any) -> list[dict[str, Any]]:
    return [
        {"step": 10 * e, "epoch": e, "split": split, "loss": 2 / e, "top1": 1 - 0.5 / e, "top5": 1.0, "lr": 0.1 / e}
        | {"images_per_second": 100.0, "seconds": 2.0 * e, **changes}
        for e in range(1, epochs + 1)
        for split in ("train", "val")
    ]


def report(names: list[str], **changes: Any) -> ReportData:
    """Names in every place that a name can get to."""
    text = names[0]
    values: dict[str, Any] = {
        "title": text,
        "subtitle": text,
        "evaluation": evaluation(names),
        "rows": rows(),
        "tiles": {"time": text},
        "facts": {"source": text, text: 1},
        "notices": names[:20],
        "choices": [(text, text, text)],
        "config": {"recipe": text, "data": {"root": text, text: (1, 2)}},
        "environment": {text: text},
        "commands": [(text, text)],
    }
    return ReportData(**{**values, **changes})


def shape(html: str) -> list[tuple[str, tuple[str, ...]]]:
    return [(tag, tuple(attributes)) for tag, attributes in Page(html).elements]


@pytest.mark.parametrize("payload", PAYLOADS, ids=lambda p: ascii(p[:24]))
def test_names_stay_text(payload: str) -> None:
    html = render(report([payload, "b", "c"]))
    page = Page(html)
    assert shape(html) == shape(render(report(["a", "b", "c"])))
    assert {tag for tag, _ in page.elements} <= TAGS
    for tag, attributes in page.elements:
        assert not any(key.startswith("on") or key == "style" for key in attributes)
        for key in ("src", "href", "action", "xlink:href"):
            assert tag == "meta" or attributes.get(key, "#").startswith(("#", "data:image/"))
    assert "49" not in "".join(page.text).split()
    assert not re.search("[\x00-\x08\x0b-\x1f\u2028\u2029\u202e\ud800-\udfff]", html)
    assert len(html) < 300_000


def test_nothing_outside_the_file_is_named() -> None:
    html = render(report(["a", "b"]))
    assert not re.search(r"https?:|//|@import|url\(|<script|<link|<iframe|<base", html.replace("base64,//", ""))


def test_the_policy_allows_this_style_and_nothing_else() -> None:
    html = render(report(["STYLE-HASH", "b"]))
    policy = next(a["content"] for tag, a in Page(html).elements if a.get("http-equiv") == "Content-Security-Policy")
    style = re.search("<style>(.*?)</style>", html, re.DOTALL)
    assert style
    code = base64.b64encode(hashlib.sha256(style[1].encode()).digest()).decode()
    assert policy == (
        f"default-src 'none'; img-src data:; style-src 'sha256-{code}'; base-uri 'none'; form-action 'none'"
    )


@pytest.mark.parametrize(("classes", "limit"), [(2, 60), (32, 200), (33, 120), (1000, 400), (10_000, 200)])
def test_size_is_bounded(classes: int, limit: int) -> None:
    names = [f"class {i} " + "é" * 100 for i in range(classes)]
    html = render(report(names, rows=rows(3000)))
    Page(html)
    assert len(html.encode()) < limit * 1000 + 60_000
    if classes > 200:
        assert f"The 200 weakest of {classes:,}" in html


def test_pictures_are_encoded_anew(tmp_path: Path) -> None:
    photo = Image.fromarray(np.random.default_rng(0).integers(0, 256, (300, 500, 3), np.uint8))
    photo.save(tmp_path / "x.jpg", comment=b"<script>secret", exif=b"Exif\0\0secret")
    (tmp_path / "bad.jpg").write_text("<script>")
    mistakes = tuple(Mistake(n, "a", "b", 0.9, str(tmp_path / n)) for n in ("x.jpg", "bad.jpg", "gone.jpg"))
    html = render(report(["a", "b"], evaluation=evaluation(["a", "b"], mistakes=mistakes)))
    sources = [a["src"] for tag, a in Page(html).elements if tag == "img"]
    assert len(sources) == 1
    assert html.count("not readable now") == 2
    data = base64.b64decode(sources[0].partition("base64,")[2])
    assert b"secret" not in data
    assert Image.open(io.BytesIO(data)).size == (144, 86)


def test_gray_and_16_bit_pictures(tmp_path: Path) -> None:
    Image.fromarray(np.arange(0, 65536, 16, dtype=np.uint16).reshape(64, 64)).save(tmp_path / "deep.png")
    gray = np.full((1, 8, 8), 7, np.uint8)
    mistakes = (Mistake("a", "a", "b", 0.9, str(tmp_path / "deep.png")), Mistake("b", "a", "b", 0.9, gray))
    html = render(report(["a", "b"], evaluation=evaluation(["a", "b"], mistakes=mistakes)))
    assert html.count("data:image/png") == 2


def test_it_says_what_matters() -> None:
    names = ["cat", "dog", "emu"]
    e = evaluation(names, n=360, top1=0.925)
    text = re.sub(r"\s+", " ", "".join(Page(render(report(names, evaluation=e))).text))
    assert "92.50 % of 360 val images right, 7.50 % error" in text
    assert "Between 89.31 % and 94.79 % right" in text
    assert "not set" in "".join(Page(render(report(names, config={"data": {"size": None}}))).text)
    multi = evaluation(names, task="multi", confusion=None, mistakes=(), n=1)
    text = "".join(Page(render(report(names, evaluation=multi))).text)
    assert "of 1 val image with every label right" in re.sub(r"\s+", " ", text)
    assert "at 95\xa0% confidence for 1 image." in text.replace(" %", "\xa0%")
    assert "Confusion" not in text
    assert "Mistakes" not in text


def test_classes_that_nothing_tested_come_last_and_have_no_figures() -> None:
    figures = {"precision": 0.0, "recall": 0.0, "f1": 0.0}
    per_class = {
        "bare": {"n": 0, **figures},
        "good": {"n": 5, **dict.fromkeys(figures, 0.9)},
        "bad": {"n": 5, **figures},
    }
    html = render(report(["a"], evaluation=evaluation(["a"], per_class=per_class, confusion=None, mistakes=())))
    rows = re.findall(r"<tr><td><bdi>(bare|good|bad)</bdi></td>(.*?)</tr>", html)
    assert [name for name, _ in rows] == ["bad", "good", "bare"]
    assert [row.count("&nbsp;%") for _, row in rows] == [3, 3, 0]
    assert rows[2][1].count(">-<") == 3


@pytest.mark.parametrize(("classes", "side"), [(40, 40), (500, 500), (501, 251), (1000, 500)])
def test_a_picture_of_confusion_loses_no_cell(classes: int, side: int) -> None:
    names = [f"class {i}" for i in range(classes)]
    confusion = np.diag(np.arange(classes, dtype=np.int64) % 2)
    confusion[0, 1] = confusion[2, classes - 1] = 1  # the only answers to two classes: wrong
    html = render(report(names, evaluation=evaluation(names, confusion=confusion, mistakes=())))
    (source,) = [a["src"] for tag, a in Page(html).elements if tag == "img"]
    pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(source.partition("base64,")[2]))))
    block = classes // side + (classes % side > 0)
    assert pixels.shape == (side, side, 4)
    assert pixels[2 // block, -1].tolist() == [222, 98, 34, 255]
    assert pixels[0, 1 // block, 3] == 255
    assert pixels[5 // block, 5 // block].tolist() == [47, 107, 208, 255]
    assert ("strongest of several" in html) == (classes > 500)


def contrast(one: tuple[float, ...], other: tuple[float, ...]) -> float:
    """WCAG 2's ratio of two colours in sRGB, 0..255."""
    scaled = (np.array([one, other]) / 255).clip(0, 1)
    linear = np.where(scaled <= 0.04045, scaled / 12.92, ((scaled + 0.055) / 1.055) ** 2.4)
    low, high = sorted(linear @ (0.2126, 0.7152, 0.0722))
    return float((high + 0.05) / (low + 0.05))


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_text_can_be_read(scheme: str) -> None:
    """4.5 : 1, of words and of counts in every shade."""
    style = re.search("<style>(.*?)</style>", render(report(["a", "b"])), re.DOTALL)
    assert style is not None
    roots = re.findall(r":root \{(.*?)\}", style[1], re.DOTALL)[: 1 if scheme == "light" else 2]
    values = {name: value for root in roots for name, value in re.findall(r"--([a-z-]+): ([^;]+);", root)}

    def colour(text: str) -> tuple[float, ...]:
        if not text.startswith("#"):
            return tuple(map(float, text.split(",")))
        digits = text[1:] if len(text) == 7 else "".join(c * 2 for c in text[1:])
        return tuple(bytes.fromhex(digits))

    for name in ("ink", "muted", "a", "b", "good"):
        assert min(contrast(colour(values[name]), colour(values[ground])) for ground in ("card", "paper")) >= 4.5, name
    inks = {shade: "on-right" if shade == "d7" else "on" if shade in ("d6", "e6", "e7") else "ink" for shade in SHADES}
    for shade, ink in inks.items():
        rule = re.search(rf"\.{shade} {{ background: rgba?\(var\(--([ab]-rgb)\)(?:, ([0-9.]+))?\)", style[1])
        assert rule is not None
        share = float(rule[2] or 1)
        ground = share * np.array(colour(values[rule[1]])) + (1 - share) * np.array(colour(values["card"]))
        assert contrast(tuple(ground), colour(values[ink])) >= 4.5, shade
    assert ".d7 { background: rgb(var(--a-rgb)); color: var(--on-right); }" in style[1]
    assert ".d6, .e6, .e7 { color: var(--on); }" in style[1]


def test_it_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    path = build(report(["a", "b"]), tmp_path / "report.html")
    assert path.read_text(encoding="utf-8").endswith("</html>")
    assert [p.name for p in tmp_path.iterdir()] == ["report.html"]
    with pytest.raises(PlusxError, match="cannot be written"):
        build(report(["a", "b"]), tmp_path / "none" / "report.html")


def test_a_run_without_evaluations_and_with_one() -> None:
    Page(render(report(["a", "b"], rows=[])))
    Page(render(report(["a", "b"], rows=rows(1))))
    Page(render(report(["a", "b"], rows=rows(2, loss=float("nan")))))


def test_clean_escapes_and_bounds() -> None:
    assert clean("a\x1bb\u202ec\ud800\u2028") == "a\\x1bb\\u202ec\\ud800\\u2028"
    assert clean("é 🐈 猫 می\u200cخواهم") == "é 🐈 猫 می\u200cخواهم"
    assert clean("x" * 100, 10) == "xxxxxxxxx…"
    assert clean("a/long/path/IMG_7.png", 10, end=True) == "…IMG_7.png"
    assert clean("IMG_77.png", 10, end=True) == "IMG_77.png"


def test_mistakes_show_the_ends_of_their_paths() -> None:
    mistakes = (Mistake(f"{'folder/' * 20}IMG_7.png", "a", "b", 0.9, np.zeros((3, 4, 4), np.uint8)),)
    html = render(report(["a", "b"], evaluation=evaluation(["a", "b"], mistakes=mistakes)))
    assert re.search(r'<p class="file"><bdi>…[^<]{65,}/IMG_7\.png</bdi>', html)


def test_the_interval_is_wilsons() -> None:
    low, high = wilson(0.9, 10)
    assert (round(low, 4), round(high, 4)) == (0.5958, 0.9821)
    assert wilson(1.0, 5)[1] == 1.0
    assert wilson(0.0, 0) == (0.0, 1.0)


@pytest.mark.parametrize(("low", "high"), [(0, 0), (0, 1e-9), (0.013, 0.9), (-5, 1e9), (3, 3), (0, 99.999)])
def test_ticks_enclose_and_are_few(low: float, high: float) -> None:
    found = ticks(low, high, 5)
    assert found[0] <= low + 1e-12
    assert found[-1] >= high - 1e-12
    assert 2 <= len(found) <= 8


def test_charts_stay_inside_and_thin_out() -> None:
    chart = line_chart("x", [Series("<b>", "a", [(float(i), float(i % 7)) for i in range(10_000)])])
    points = re.findall(r"([\d.-]+),([\d.-]+)", chart.svg)
    assert len(points) <= MAX_POINTS + 1
    assert all(0 <= float(x) <= 480 and 0 <= float(y) <= 270 for x, y in points)
    assert "<b>" not in chart.svg
    assert [c.title for c in curves(rows())] == ["Error, %", "Loss", "Learning rate"]


def test_the_curve_for_a_readme(tmp_path: Path) -> None:
    write_curve(rows(), tmp_path / "curve.png", "resnet20 on $digits$")
    with Image.open(tmp_path / "curve.png") as image:
        assert image.size == (1280, 720)
