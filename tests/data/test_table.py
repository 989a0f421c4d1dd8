"""Tables: columns, several labels, splits, and every way to get them wrong."""

import re
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from plusx.config import DataConfig
from plusx.data import Dataset, open_dataset
from plusx.errors import DataError
from tests.data.making import CONFIG, picture


def table(tmp_path: Path, text: str, name: str = "t.csv") -> str:
    for i in range(6):
        picture(tmp_path / "img" / f"{i}.png", i)
    (tmp_path / name).write_text(text)
    return str(tmp_path / name)


def rows(*labels: str) -> str:
    return "path,label\n" + "".join(f"img/{i}.png,{label}\n" for i, label in enumerate(labels))


def opened(source: str) -> Dataset:
    return open_dataset(source, CONFIG, training=False)


def test_labels_are_text_and_paths_relative_to_the_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir("/")
    dataset = opened(table(tmp_path, rows("10", "02", "2", "10")))
    assert dataset.classes == ("02", "2", "10")
    assert dataset.task == "single"
    assert dataset.splits["all"].targets.tolist() == [2, 0, 1, 2]
    assert list(dataset.splits["all"].paths or ()) == [str(tmp_path / "img" / f"{i}.png") for i in range(4)]


@pytest.mark.parametrize("name", ["t.tsv", "T.TSV"])
def test_a_tab_parts_the_columns_of_a_tsv(name: str, tmp_path: Path) -> None:
    text = "path\tlabel\nimg/0.png\ta, b\nimg/1.png\tc\n"
    assert opened(table(tmp_path, text, name)).classes == ("a, b", "c")


def test_a_cell_of_many_lines_is_one_cell_wherever_it_stands(tmp_path: Path) -> None:
    """Large tables are read in blocks of a megabyte, which may end within a cell."""
    body = "".join(f'img/{i % 6}.png,{"ab"[i % 2]},"a long\n\nnote {"x" * 90}"\n' for i in range(20_000))
    assert len(opened(table(tmp_path, f"path,label,note\n{body}")).splits["all"]) == 20_000


def test_several_labels(tmp_path: Path) -> None:
    dataset = opened(table(tmp_path, rows("a|b", "b", " c | a ")))
    assert (dataset.task, dataset.classes) == ("multi", ("a", "b", "c"))
    assert "any number of labels an image: " in dataset.notes[0]
    assert dataset.splits["all"].targets.tolist() == [[1, 1, 0], [0, 1, 0], [1, 0, 1]]


def test_images_without_a_label_where_there_may_be_several(tmp_path: Path) -> None:
    dataset = opened(table(tmp_path, rows("a|b", "", "b", "|")))
    assert dataset.splits["all"].targets.tolist() == [[1, 1], [0, 0], [0, 1], [0, 0]]
    assert dataset.notes == (
        "2 images without a label, which count as examples of no class",
        "any number of labels an image: 1 of 4 images have more than one",
    )
    labels = pa.array([["a"], [], ["b"]], pa.list_(pa.string()))
    pq.write_table(pa.table({"path": [f"img/{i}.png" for i in range(3)], "label": labels}), tmp_path / "m.parquet")
    assert opened(str(tmp_path / "m.parquet")).splits["all"].targets.tolist() == [[1, 0], [0, 0], [0, 1]]
    held = open_dataset(table(tmp_path, rows("a|b", "", "a|b", "", "", "")), DataConfig(val_fraction=0.5)).splits
    assert [sorted(held[name].targets.sum(1)) for name in ("train", "val")] == [[0, 0, 2]] * 2


def test_split_column_extra_columns_and_quotes(tmp_path: Path) -> None:
    text = 'note,path,label,split\n"a, b\nc",img/0.png,x,Train\n,img/1.png,y,training\n,img/2.png,x,valid\n'
    dataset = open_dataset(table(tmp_path, text), CONFIG)
    assert {name: tuple(s.names) for name, s in dataset.splits.items()} == {
        "train": ("img/0.png", "img/1.png"),
        "val": ("img/2.png",),
    }


def test_parquet_with_lists_and_numbers(tmp_path: Path) -> None:
    table(tmp_path, "")
    paths = ["img/0.png", "img/1.png"]
    pq.write_table(pa.table({"path": paths, "label": [["a"], ["b", "a"]]}), tmp_path / "m.parquet")
    pq.write_table(pa.table({"path": paths, "label": [3, 20]}), tmp_path / "s.PARQUET")
    assert opened(str(tmp_path / "m.parquet")).splits["all"].targets.tolist() == [[1, 0], [1, 1]]
    assert opened(str(tmp_path / "s.PARQUET")).classes == ("3", "20")


def test_parquet_with_bytes_and_empty_numbers(tmp_path: Path) -> None:
    table(tmp_path, "")
    pq.write_table(pa.table({"path": [b"img/0.png", b"img/1.png"], "label": [b"a", b"\xff"]}), tmp_path / "b.parquet")
    found = opened(str(tmp_path / "b.parquet"))
    assert found.classes == ("a", "\udcff")
    assert list(found.splits["all"].names) == ["img/0.png", "img/1.png"]
    pq.write_table(pa.table({"path": ["img/0.png", "img/1.png"], "label": [1.0, float("nan")]}), tmp_path / "n.parquet")
    with pytest.raises(DataError, match="1 row without a label: data row 2"):
        opened(str(tmp_path / "n.parquet"))


def test_a_folder_above_what_a_link_means(tmp_path: Path) -> None:
    """`..` after a link is the system's; the words of a path stay where they mean the same."""
    far = tmp_path / "far"
    for folder in (tmp_path, far):
        picture(folder / "x.png")
        (folder / "t.csv").write_text(f"path,label\nx.png,{folder.name}\n")
    picture(far / "deep" / "y.png")
    (tmp_path / "link").symlink_to(far / "deep")
    (tmp_path / "link.csv").write_text("path,label\nlink/../x.png,a\nlink/y.png,b\nx.png,b\n./far/../x.png,b\n")
    dataset = opened(str(tmp_path / "link.csv"))
    paths = [f"{tmp_path}/{name}" for name in ("far/x.png", "link/y.png", "x.png", "x.png")]
    assert list(dataset.splits["all"].paths or ()) == paths
    assert opened(f"{tmp_path}/link/../t.csv").classes == ("far",)
    assert list(opened(f"{tmp_path}/link/../t.csv").splits["all"].paths or ()) == [f"{far}/x.png"]


def test_other_columns_are_not_read(tmp_path: Path) -> None:
    """Nor is what the names of folders seem to say: `label=x` is how Parquet writers part tables."""
    table(tmp_path, "")
    below = tmp_path / "label=x"
    below.mkdir()
    columns = {"thumbnail": [bytes(10_000)], "path": ["../img/0.png"], "label": ["a"]}
    pq.write_table(pa.table(columns), below / "t.parquet", compression="none")
    data = bytearray((below / "t.parquet").read_bytes())
    data[4:40] = b"\xff" * 36  # the beginning of the first column
    (below / "t.parquet").write_bytes(data)
    assert opened(str(below / "t.parquet")).classes == ("a",)
    body = "".join(f"img/{i % 6}.png,a,{i}\n" for i in range(100_000))  # the type is guessed from the beginning
    assert opened(table(tmp_path, f"path,label,price\n{body}img/0.png,b,cheap\n")).classes == ("a", "b")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("file,class\nimg/0.png,a\n", "got the columns file, class, expected path and label"),
        ("path;label\nimg/0.png;a\n", "got the columns path;label, expected path and label"),
        (rows("a", "", "b"), "1 row without a label: data row 2"),
        (rows("a", "|"), "1 row without a label: data row 2"),
        ("path,path,label\nimg/0.png,img/0.png,a\n", "got the column path more than once"),
        ("path,label\n,a\nimg/0.png,b\n", "1 row without a path: data row 1"),
        ("path,label,split\nimg/0.png,a,dev\nimg/1.png,b,\n", "got an empty cell, dev, expected train, val or test"),
        ("path,label\nimg\0/../x.png,a\nimg/0.png,b\n", r"1 of 2 files do not exist: img\x00/../x.png"),
        (rows("a", "b", "a", "b", "a", "b", "a"), "1 of 7 files do not exist: img/6.png"),
        ("path,label\n", "no images found"),
        ("", "cannot be read as csv"),
        ("path,label\na,b,c\n", "cannot be read as csv"),
    ],
)
def test_clear_errors(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(DataError, match=re.escape(message)):
        open_dataset(table(tmp_path, text), CONFIG)


def test_not_a_table(tmp_path: Path) -> None:
    for name in ("x.csv", "x.parquet"):
        (tmp_path / name).write_bytes(b"path,label\n\xff\xfe\x00,a\n")
        with pytest.raises(DataError, match="cannot be read as"):
            opened(str(tmp_path / name))


def test_a_file_named_twice_is_said(tmp_path: Path) -> None:
    source = table(tmp_path, "path,label\nimg/0.png,a\nimg/../img/0.png,b\nimg/1.png,b\n")
    assert opened(source).notes == ("1 row of 3 name a file that another row names too",)
