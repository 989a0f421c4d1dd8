"""What the documents say is so: paths exist, fields and names exist, numbers are recomputed."""

import json
import re
from pathlib import Path

import pytest
import torch

from plusx import config

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
README = (ROOT / "README.md").read_text()


def section(page: str, heading: str) -> str:
    """The text below a heading of the second level."""
    return page.split(f"\n## {heading}\n")[1].split("\n## ")[0]


def tree_paths(block: str) -> list[str]:
    """Paths of a file tree: one `name  what it is` a line, two spaces of indentation a level."""
    parents: list[str] = []
    paths = []
    for line in block.strip("\n").splitlines():
        depth = (len(line) - len(line.lstrip())) // 2
        parents[depth:] = [line.split()[0].rstrip("/")]
        paths.append("/".join(parents))
    return paths


def table_rows(text: str) -> list[list[str]]:
    """Cells of the rows of a Markdown table, without its two header lines."""
    rows = [line for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in rows[2:]]


Row = tuple[str, int, float, str, tuple[int, int, int], int]


def networks() -> list[Row]:
    """Rows of README's table: name, parameters, multiply-adds as printed, their unit, input (C, H, W), classes."""
    found = []
    for name, params, macs, shape in table_rows(section(README, "Networks")):
        number, unit = macs.split()
        c, h, w, k = map(int, re.findall(r"\d+", shape))
        found.append((name.strip("`"), int(params.replace(",", "")), float(number), unit, (c, h, w), k))
    return found


def test_tree_paths_reads_levels() -> None:
    assert tree_paths("a/  x\n  b.py  y\n  c/  z\n    d  w\ne  v") == ["a", "a/b.py", "a/c", "a/c/d", "e"]


@pytest.mark.parametrize("path", tree_paths(section(README, "Files").split("```")[1].lstrip("\n")))
def test_path_in_the_tree_exists(path: str) -> None:
    assert (ROOT / path).exists()


def test_tree_names_every_part_of_the_package() -> None:
    named = set(tree_paths(section(README, "Files").split("```")[1].lstrip("\n")))
    parts = {p for p in (ROOT / "plusx").iterdir() if p.is_dir() or p.suffix == ".py"}
    assert {f"plusx/{p.name}" for p in parts if not p.name.startswith("__")} <= named


@pytest.mark.parametrize("row", table_rows(section(README, "I want to change …")), ids=lambda row: row[0])
def test_paths_to_change_exist(row: list[str]) -> None:
    paths = re.findall(r"`([^`]+)`", " ".join(row[1:]))
    assert paths
    assert [path for path in paths if not (ROOT / path).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)#]+?)(?:#[^)]*)?\)", page.read_text())
    local = [link for link in links if "://" not in link]
    assert [link for link in local if not (page.parent / link).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_fields_named_exist(page: Path) -> None:
    known = {row["field"] for row in config.fields()}
    named = re.findall(rf"(?<!plusx\.)\b(?:{'|'.join(config.SECTIONS)})\.[a-z_]+\b(?!\()", page.read_text())
    files = {name for name in named if name.endswith((".py", ".json", ".md", ".safetensors"))}
    assert set(named) - files <= known


@pytest.mark.parametrize("row", networks(), ids=lambda row: row[0])
def test_table_of_networks_is_recomputed(row: Row) -> None:
    from plusx.models import count_macs, count_params, create_model

    name, params, macs, unit, shape, classes = row
    with torch.device("meta"):
        network = create_model(name, classes)
    digits, scale = {"G": (3, 1e9), "M": (2, 1e6)}[unit]
    assert count_params(network) == params
    assert round(count_macs(network, shape) / scale, digits) == macs


def test_results_are_those_of_the_measured_runs() -> None:
    rows = [line for line in section(README, "Results").splitlines() if line.startswith("| `")]
    document = json.loads((ROOT / "bench" / "results" / "runs.json").read_text())
    told = [
        f"| `{run['command']}` | {run['top1']:.2%} of {run['n']:,} | {run['seconds'] / 60:.1f} min | "
        f"{document['cpu']}, {document['cores']} cores |"
        for run in document["runs"]
    ]
    assert rows == told


def test_speeds_are_those_of_the_measured_comparisons() -> None:
    rows = [line for line in section(README, "Results").splitlines() if line.startswith(("| ResNet", "| loading"))]
    told = []
    for kind in ("training", "loading"):
        document = json.loads((ROOT / "bench" / "results" / f"speed-{kind}.json").read_text())
        told += [
            f"| {r['name']} | {r['plusx']:,.0f} | {r['plain']:,.0f} | {r['ratio']:.2f} | {r['goal']:.1f} |"
            for r in document[kind]
        ]
    assert rows == told


def test_the_results_page_says_what_the_studies_json_says() -> None:
    from bench.studies import RESULTS, found, page

    documents = found()
    assert {path.parent.name for path in RESULTS.glob("*/study.json")} == {d["name"] for d in documents}
    assert documents
    assert (RESULTS / "README.md").read_text() == page(documents)
    for d in documents:
        figures = {f.suffix for f in (RESULTS / d["name"]).iterdir()}
        assert figures == {".json", ".png", ".svg"}
        assert d["seconds"] < 600
        assert d["seeds"] >= 3
        assert {row["measure"] for row in d["table"]} <= d["measures"].keys()
        assert {row["arm"] for row in d["table"]} <= d["settings"]["arms"].keys()


def test_a_page_of_results_made_otherwise_says_so() -> None:
    from bench.studies import found, page

    documents = [d for d in found() if d["name"] == "colour"]
    assert "Measured before" not in page(documents)
    documents[0]["settings"]["arms"]["with"] = {"augment.colour": 0.2}
    assert "| with | `augment.colour=0.2` |" in page(documents)
    assert "Measured before the study was changed" in page(documents)
