"""The report: complete, bounded, and deaf to what names try to do."""

import base64
import hashlib
import io
import os
import re
import shlex
import subprocess
from html import unescape
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from plusx import report as package
from plusx.data.decode import decode
from plusx.errors import PlusxError
from plusx.evaluation import Evaluation, Mistake
from plusx.report import ReportData, bash, build, clean, percent, render, short, wilson, write_curve
from plusx.report.charts import HEIGHT, MAX_POINTS, WIDTH, Series, curves, line_chart, ticks

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


def cells(html: str) -> list[list[str]]:
    """The text of every row of every table."""
    found = [re.findall(r"<t[hd]\b[^>]*>(.*?)</t[hd]>", row) for row in re.findall(r"<tr>(.*?)</tr>", html, re.DOTALL)]
    return [[re.sub("<.*?>", "", cell).replace("&nbsp;", " ") for cell in row] for row in found]


def drawn(svg: str) -> dict[str, list[tuple[float, float]]]:
    """Line -> its points, in the units that the labels of the axes give."""
    across = re.findall(r'<text class="tick mid" x="([\d.]+)" y="\d+">([^<]+)<', svg)
    up = re.findall(r'<text class="tick end" x="[\d.]+" y="([\d.]+)" dy=".32em">([^<]+)<', svg)

    def value(place: str, marks: list[tuple[str, str]]) -> float:
        (start, low), (end, high) = (map(float, marks[0]), map(float, marks[-1]))
        return round(low + (float(place) - start) / (end - start) * (high - low), 1)

    assert float(up[0][0]) > float(up[-1][0])
    assert float(up[0][1]) < float(up[-1][1])
    lines = re.findall(r'<polyline class="line ([abc])" points="(.*?)"', svg)
    return {
        kind: [(value(x, across), value(y, up)) for x, y in (point.split(",") for point in points.split())]
        for kind, points in lines
    }


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


def test_pictures_of_large_photos_are_decoded_small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scene = np.random.default_rng(0).integers(0, 256, (4, 5, 3), np.uint8)
    Image.fromarray(scene).resize((1500, 1200), Image.Resampling.BICUBIC).save(tmp_path / "x.jpg", quality=95)
    sizes = []

    def seen(*given: Any, **options: Any) -> Any:
        sizes.append((image := decode(*given, **options)).shape)
        return image

    monkeypatch.setattr(package, "decode", seen)
    mistakes = (Mistake("x", "a", "b", 0.9, str(tmp_path / "x.jpg")),)
    html = render(report(["a", "b"], evaluation=evaluation(["a", "b"], mistakes=mistakes)))
    (source,) = (a["src"] for tag, a in Page(html).elements if tag == "img")
    assert sizes == [(3, 150, 188)]  # 1200 px by the 8 that leaves 144
    picture = Image.open(io.BytesIO(base64.b64decode(source.partition("base64,")[2])))
    with Image.open(tmp_path / "x.jpg") as whole:
        whole.thumbnail((144, 144))
        assert picture.size == whole.size
        assert np.abs(np.asarray(picture, np.float32) - np.asarray(whole, np.float32)).mean() < 4


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


FIGURES = {
    "ant": {"n": 8, "precision": 0.625, "recall": 0.75, "f1": 0.5},
    "bee": {"n": 10, "precision": 0.375, "recall": 0.875, "f1": 0.25},
    "cow": {"n": 13, "precision": 0.8125, "recall": 0.6875, "f1": 1.0},
}


def insects(**changes: Any) -> Evaluation:
    """No two figures alike, and nothing the same from the other side."""
    values: dict[str, Any] = {
        "n": 31,
        "top1": 21 / 31,
        "loss": 0.4567,
        "ece": 0.0321,
        "top5": 0.9789,
        "per_class": FIGURES,
        "confusion": np.array([[5, 1, 2], [3, 7, 0], [0, 4, 9]]),
        "mistakes": (Mistake("val/m.png", "ant", "bee", 0.7654, np.zeros((3, 4, 4), np.uint8)),),
        "notes": ("two", "three"),
    }
    return evaluation(list(FIGURES), **values | changes)


def test_every_figure_stands_in_its_place() -> None:
    data = ReportData(
        title="t",
        subtitle="s",
        evaluation=insects(),
        rows=rows(),
        calibrated=True,
        tiles={"speed": "7 images/s"},
        facts={"source": "here"},
        notices=["one", "two", "one"],
        choices=[("data.size", 24, "small images")],
        config={"recipe": "small", "data": {"root": "there", "sizes": (3, 4)}},
        environment={"torch": "2.10"},
        commands=[("Try", "plusx predict r"), ("Then", "plusx serve r")],
    )
    html = render(data)
    assert cells(html) == [
        ["is ↓ answered →", "ant", "bee", "cow"],
        ["ant", "5", "1", "2"],
        ["bee", "3", "7", ""],
        ["cow", "", "4", "9"],
        ["is", "answered", "images", "of its class"],
        ["cow", "bee", "4", "30.77 %"],
        ["bee", "ant", "3", "30.00 %"],
        ["ant", "cow", "2", "25.00 %"],
        ["ant", "bee", "1", "12.50 %"],
        ["class", "images", "precision", "recall", "F1", "F1, 0 to 100 %"],
        ["bee", "10", "37.50 %", "87.50 %", "25.00 %", ""],
        ["ant", "8", "62.50 %", "75.00 %", "50.00 %", ""],
        ["cow", "13", "81.25 %", "68.75 %", "100.00 %", ""],
        ["source", "here"],
        ["field", "value", "why"],
        ["data.size", "24", "small images"],
        ["recipe", "small"],
        ["root", "there"],
        ["sizes", "3, 4"],
        ["torch", "2.10"],
    ]
    assert re.findall(r'<td class="([de]\d)">', html) == ["d6", "e3", "e4", "e4", "d6", "e4", "d6"]
    assert re.findall(r'class="fill" width="([\d.]+)"', html) == ["25.0", "50.0", "100.0"]
    assert re.findall(r"<dt>(.*?)</dt><dd>(.*?)</dd>", html) == [
        ("always the commonest class", "41.94&nbsp;%"),
        ("loss, calibrated", "0.4567"),
        ("calibration error, fitted on these images", "3.21&nbsp;%"),
        ("speed", "7 images/s"),
    ]
    assert '<bdi class="wrong">bee</bdi> 76.54&nbsp;%<br><span class="muted">is</span> <bdi class="right">ant' in html
    assert '<p class="file"><bdi>val/m.png</bdi></p>' in html
    assert re.findall("<li>([a-z]+)</li>", html) == ["one", "two", "three"]
    assert re.findall("<p>(.*?)</p><pre><code>(.*?)</code></pre>", html) == list(data.commands)
    assert re.findall(r"<h3>(run|data)</h3>", html) == ["run", "data"]
    sections = ["curves", "mistakes", "confusion", "classes", "data", "settings", "next"]
    assert re.findall('<section id="(.*?)">', html) == re.findall('<a href="#(.*?)">', html) == sections


def test_pairs_that_are_confused_as_often_stand_in_the_order_of_classes() -> None:
    html = render(report(["a"], evaluation=insects(confusion=np.array([[5, 1, 1], [1, 7, 1], [2, 1, 9]]))))
    found = re.findall(r"<td><bdi>(\w+)</bdi></td><td><bdi>(\w+)</bdi></td>", html)
    assert found[:4] == [("cow", "ant"), ("ant", "bee"), ("ant", "cow"), ("bee", "ant")]


def test_tiles_of_other_runs() -> None:
    """What nothing was fitted to says so by silence; five answers say something of more than five classes."""
    six = {**FIGURES, **dict.fromkeys("xyz", FIGURES["ant"])}
    html = render(report(["a"], calibrated=True, evaluation=insects(split="test", per_class=six, confusion=None)))
    tiles = [("top-5", "97.89&nbsp;%"), ("top-5 error", "2.11&nbsp;%"), ("always the commonest class", "41.94&nbsp;%")]
    tiles += [("loss, calibrated", "0.4567"), ("calibration error", "3.21&nbsp;%")]
    assert re.findall(r"<dt>(.*?)</dt><dd>(.*?)</dd>", html)[:5] == tiles
    plain = re.findall("<dt>(.*?)</dt>", render(report(["a"], evaluation=insects())))
    assert plain == ["always the commonest class", "loss", "calibration error", "time"]


def test_lines_run_where_the_values_say() -> None:
    values = {"train": [(8.0, 0.1, 4.0), (4.0, 0.4, 2.0), (2.0, 0.7, 1.0)], "val": [(6.0, 0.2), (5.0, 0.6), (1.0, 0.9)]}
    history = [
        {"epoch": epoch, "split": split, "loss": row[0], "top1": row[1], "lr": values["train"][epoch - 1][2]}
        for split, found in values.items()
        for epoch, row in enumerate(found, 1)
    ]
    error, loss, rate = curves(history)
    assert drawn(error.svg) == {"a": [(1, 90), (2, 60), (3, 30)], "b": [(1, 80), (2, 40), (3, 10)]}
    assert drawn(loss.svg) == {"a": [(1, 8), (2, 4), (3, 2)], "b": [(1, 6), (2, 5), (3, 1)]}
    assert drawn(rate.svg) == {"c": [(1, 4), (2, 2), (3, 1)]}
    assert 'aria-label="Loss by epoch: train from 8 to 2, val from 6 to 1"' in loss.svg
    assert 'aria-label="Learning rate by epoch: no values"' in curves([])[2].svg
    legend = re.findall(r'<i class="key (.)"></i>(.*?)</span>', render(report(["a"], rows=history)))
    assert legend == [("a", "train 30"), ("b", "val 10"), ("a", "train 2"), ("b", "val 1")]
    assert drawn(curves(history[:1])[1].svg) == {"a": [(1, 8)]}
    assert re.findall(r'mid".*?>([^<]+)<', curves(history[:1])[1].svg) == ["0", "1"]


@pytest.mark.parametrize("scale", [1.0, 1.49e7, 1.2e-4, 1e-7])
@pytest.mark.parametrize("epochs", [1, 40, 3000, 700_000])
def test_labels_of_axes_have_room(scale: float, epochs: int) -> None:
    svg = line_chart("x", [Series("x", "a", [(1.0, scale), (float(epochs), scale / 3)])], zero=True).svg
    found = re.findall(r'<text class="tick (mid|end)" x="([\d.]+)".*?>([^<]+)<', svg)
    ends = [(float(x) - 7.5 * len(text), float(x)) for kind, x, text in found if kind == "end"]
    mids = [(float(x) - 3.75 * len(text), float(x) + 3.75 * len(text)) for kind, x, text in found if kind == "mid"]
    assert all(low >= 0 and high <= WIDTH for low, high in ends + mids)
    assert all(one[1] < other[0] for one, other in pairwise(mids))


@pytest.mark.parametrize(
    ("fraction", "text"),
    [(0.98611, "98.61"), (1, "100.00"), (0, "0.00"), (0.99999, "99.999"), (4.9e-6, "0.0005"), (0.9999, "99.99")],
)
def test_only_none_and_all_read_so(fraction: float, text: str) -> None:
    assert percent(fraction) == f"{text}&nbsp;%"


def test_an_interval_of_none_and_of_all_has_round_ends() -> None:
    assert {percent(wilson(1.0, n)[1]) for n in range(1, 3000)} == {"100.00&nbsp;%"}
    assert {percent(wilson(0.0, n)[0]) for n in range(1, 3000)} == {"0.00&nbsp;%"}


def test_commands_mean_in_a_shell_what_they_meant() -> None:
    words = ["写真\u3000箱", "it's\u00a0\u202e\n", "\udcff\u200d", "x" * 5000, "plain"]
    html = render(report(["a"], commands=[("Try", shlex.join(words))]))
    command = unescape(re.findall("<pre><code>(.*?)</code></pre>", html)[0])
    assert command == unescape(bash(shlex.join(words)))
    assert command.isprintable()
    ran = subprocess.run(["bash", "-c", rf"printf '%s\0' {command}"], capture_output=True, check=True)
    assert ran.stdout == b"".join(os.fsencode(word) + b"\0" for word in words)


def test_long_names_stay_apart() -> None:
    names = ["x" * 200 + "1", "x" * 200 + "2", "c"]
    assert short(names[0], 80) == "x" * 60 + "…" + "x" * 18 + "1"
    assert short("y" * 80, 80) == "y" * 80
    html = render(report(names, title=names[0]))
    assert re.findall('<th scope="col" title="(.*?)">', html) == [short(name, 80) for name in names]
    assert re.findall('<th scope="row" title="(.*?)">', html) == [short(name, 80) for name in names]
    assert cells(html)[0][1:] == [short(name) for name in names]
    for name in names[:2]:
        assert f"<td><bdi>{short(name, 80)}</bdi></td>" in html.partition('<section id="classes">')[2]
        assert f'<bdi class="wrong">{short(name, 80)}</bdi>' in html
    assert f"<h1><bdi>{short(names[0], 80)}</bdi></h1>" in html


def test_a_matrix_that_is_a_picture_or_missing_is_explained() -> None:
    names = [f"class {i}" for i in range(2001)]
    html = render(report(names, evaluation=evaluation(names, confusion=None, mistakes=())))
    assert "Not kept for 2,001 classes" in html
    assert '<a href="#confusion">' in html
    assert "<code>plusx evaluate --json</code>" in html
    assert "Weakest first." not in html
    html = render(report(names[:33]))
    assert "from <bdi>class 0</bdi> at the top and left to <bdi>class 32</bdi> at the bottom and right" in html


def test_headers_have_words_and_the_style_works_without_colour_and_on_paper() -> None:
    html = render(report([f"class {i}" for i in range(18)]))
    assert not re.search(r"<th[^>]*></th>", html)
    assert "`" not in html
    assert '<table class="matrix long">' in html
    assert '<table class="matrix short">' in render(report(["a", "b"]))
    style, _, paper = html.partition("</style>")[0].partition("@media print")
    for rule in (
        r"\.line\.b { [^}]*stroke-dasharray",
        r"\.key\.b { background: repeating-linear-gradient",
        r"\.dot\.b { fill: var\(--card\)",
        r"\.matrix th span { [^}]*text-orientation: sideways; transform: rotate\(180deg\)",
        r"@media \(prefers-color-scheme: dark\)",
    ):
        assert re.search(rule, style), rule
    for rule in (
        r"\.scroll { overflow: visible; }",
        r"details:not\(\[open\]\) { display: none; }",
        r"tr, \.mistakes li[^{]* { break-inside: avoid; }",
        r"\.matrix\.long td { min-width: 0;",
    ):
        assert re.search(rule, paper), rule
    assert paper.count("display: none") == 1


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


@pytest.mark.parametrize(("low", "high"), [(0, 0), (0, 1e-9), (0, 3e-14), (0.013, 0.9), (-5, 1e9), (3, 3), (0, 99.999)])
def test_ticks_enclose_and_are_few(low: float, high: float) -> None:
    found = ticks(low, high, 5)
    assert found[0] <= low + 1e-12 * abs(low)
    assert found[-1] >= high - 1e-12 * abs(high)
    assert 2 <= len(set(found)) <= 8


def test_charts_stay_inside_and_thin_out() -> None:
    chart = line_chart("x", [Series("<b>", "a", [(float(i), float(i % 7)) for i in range(10_000)])])
    points = re.findall(r"([\d.-]+),([\d.-]+)", chart.svg)
    assert MAX_POINTS / 2 <= len(points) <= MAX_POINTS + 2
    assert all(0 <= float(x) <= WIDTH and 0 <= float(y) <= HEIGHT for x, y in points)
    assert f'viewBox="0 0 {WIDTH} {HEIGHT}"' in chart.svg
    assert "<b>" not in chart.svg
    assert [c.title for c in curves(rows())] == ["Error, %", "Loss", "Learning rate"]


def test_thinning_keeps_ends_and_spikes() -> None:
    values = [(float(i), 5.0 + (i % 2) / 10) for i in range(10_001)]
    values[1777], values[6001], values[0], values[-1] = (1777.0, 99.0), (6001.0, -99.0), (0.0, 5.05), (10_000.0, 5.04)
    (series,) = line_chart("x", [Series("x", "a", values)]).series
    assert series.points[0] == values[0]
    assert series.points[-1] == values[-1]
    assert {values[1777], values[6001]} <= set(series.points)
    assert list(series.points) == sorted(series.points)
    assert line_chart("x", [Series("x", "a", values[:MAX_POINTS])]).series[0].points == values[:MAX_POINTS]


def test_the_curve_for_a_readme(tmp_path: Path) -> None:
    write_curve(rows(), tmp_path / "curve.png", "resnet20 on $digits$")
    with Image.open(tmp_path / "curve.png") as image:
        assert image.size == (1280, 720)
