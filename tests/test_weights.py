"""`--weights`: what is loaded where, what is refused, and ImageNet's weights from a server on this machine."""

import functools
import hashlib
import io
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from safetensors.torch import save_file
from torch import nn

from plusx import modelfile, weights
from plusx.config import Facts, parse_overrides
from plusx.data.dataset import Dataset, Split
from plusx.data.names import Names
from plusx.data.transforms import Preprocess
from plusx.engine import Log
from plusx.errors import ConfigError, DataError, ModelFileError
from plusx.initial import make_network
from plusx.models import create_model
from plusx.plan import Request, decide, settings
from plusx.prepare import make_preprocess
from plusx.recipes import Choice
from plusx.weights import Loaded, load_weights, summary
from tests.commands import SMALL, plusx
from tests.serving import Quiet, serving

CLASSES = ["cat", "dög", "emu"]
FACTS = Facts(
    n_train=90, n_val=9, n_classes=3, width=50, height=40, channels=3, mirror=None, benchmark=False, files=True
)
RULES = Preprocess(size=8, resize=8, fit="crop", channels=3, mean=(0.5, 0.4, 0.3), std=(0.2, 0.2, 0.2))


def network(name: str = "resnet8", classes: int = 3, **options: Any) -> nn.Module:
    torch.manual_seed(0)
    return create_model(name, classes, **{"width": 4, **options})


def save(path: Path, module: nn.Module) -> Path:
    about: dict[str, Any] = {"metrics": {}, "recipe": "small", "config": {}, "manifest_hash": ""}
    modelfile.save(path, module, classes=CLASSES, task="single", preprocess=RULES, **about)
    return path


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(tmp_path_factory.mktemp("good") / "model.safetensors", network())


def test_their_mean_image_fits_training_crops_of_its_own_size_alone() -> None:
    images = np.zeros((4, 3, 8, 8), np.uint8)
    split = Split("train", np.arange(4) % 2, None, Names("abcd"), images)
    dataset = Dataset("x", "x", ("0", "1"), "single", {"train": split})
    given = RULES.centred(torch.rand(3, 8, 8))
    words = ("data.size=8", "data.mode=photo", "data.normalize=weights", "augment.crop=resized")

    def made(size: int) -> Preprocess:
        config, _ = decide(Request(data="x", overrides=(*words, f"augment.size={size}")), FACTS)
        return make_preprocess(config, dataset, Log(None, quiet=True), given)[0]

    assert made(8).mean_image == given.mean_image
    with pytest.raises(ConfigError, match=r"augment\.size: got 6, but the mean image of the weights is of 8 px"):
        made(6)


def test_of_their_mean_image_at_another_size_the_mean_stays() -> None:
    split = Split("train", np.arange(4) % 2, None, Names("abcd"), np.zeros((4, 3, 8, 8), np.uint8))
    dataset = Dataset("x", "x", ("0", "1"), "single", {"train": split})
    given = RULES.centred(torch.rand(3, 8, 8))
    config, _ = decide(Request(data="x", overrides=("data.size=16", "data.normalize=weights")), FACTS)
    rules = make_preprocess(config, dataset, Log(None, quiet=True), given)[0]
    assert (rules.size, rules.mean, rules.std, rules.mean_image) == (16, given.mean, given.std, None)


def reasons(rows: list[Loaded]) -> dict[str, str]:
    return {row.name: row.why for row in rows}


def test_rows_of_the_head_go_by_name(good: Path) -> None:
    target = network()
    nn.init.zeros_(target.get_parameter("fc.weight"))
    source = modelfile.load(good).module
    rows = load_weights(target, good.parent, ["emu", "yak", "cat"])
    weight, given = target.get_parameter("fc.weight"), source.get_parameter("fc.weight")
    assert torch.equal(weight, torch.stack([given[2], torch.zeros_like(given[0]), given[0]]))
    assert reasons(rows)["fc.weight"] == "by class name: 2 of 3 classes have a row in the file"
    assert torch.equal(target.get_parameter("conv1.weight"), source.get_parameter("conv1.weight"))
    assert all(row.loaded for row in rows)


def test_other_classes_keep_the_new_head(good: Path) -> None:
    target = network(classes=2)
    before = target.get_parameter("fc.weight").clone()
    rows = {row.name: row for row in load_weights(target, good, ["x", "y"])}
    assert torch.equal(target.get_parameter("fc.weight"), before)
    assert rows["fc.weight"] == ("fc.weight", False, "a new head, for the file names none of its classes")


@pytest.mark.parametrize("prefix", ["", "module.", "module._orig_mod."])
def test_torchvision_weights_move_in(tmp_path: Path, prefix: str) -> None:
    reference = torchvision.models.resnet18(num_classes=5).eval()
    save_file({prefix + k: v for k, v in reference.state_dict().items()}, tmp_path / "tv.safetensors")
    target = create_model("resnet18", 5, shortcut="B").eval()
    rows = load_weights(target, tmp_path / "tv.safetensors")
    x = torch.randn(2, 3, 64, 64)
    torch.testing.assert_close(target(x), reference(x), rtol=1e-5, atol=1e-6)
    assert all(row.loaded for row in rows)
    rows = load_weights(create_model("resnet18", 5), tmp_path / "tv.safetensors", list("abcde"))
    assert [row.name for row in rows if not row.loaded] == ["fc.weight", "fc.bias"]
    assert reasons(rows)["fc.weight"] == "a new head, for the file names none of its classes"


@pytest.mark.parametrize("suffix", ["safetensors", "pth"])
def test_a_stride_that_may_be_elsewhere_is_told_of_files_of_others(suffix: str, tmp_path: Path) -> None:
    path, tensors = tmp_path / f"w.{suffix}", network("resnet50").state_dict()
    save_file(tensors, path) if suffix == "safetensors" else torch.save(tensors, path)
    rows = load_weights(network("resnet50"), path)
    assert all(row.loaded for row in rows)
    said = "torchvision's and timm's ResNets of 50 and more layers have their stride in the 3x3; if these weights are "
    told = (
        "theirs, choose resnet50-v1.5: 3 tensors, layer2.0.conv1.weight, layer3.0.conv1.weight, layer4.0.conv1.weight"
    )
    assert summary(rows) == [f"{len(rows)} of {len(rows)} tensors loaded", said + told]
    for name, options in (("resnet50-v1.5", {}), ("resnet50-v1.5", {"stride_in": "1x1"}), ("resnet50-d", {})):
        tensors = network(name, **options).state_dict()
        save_file(tensors, tmp_path / "other.safetensors")
        assert len(summary(load_weights(network(name, **options), tmp_path / "other.safetensors"))) == 1


def test_the_stride_of_our_own_files_is_known(tmp_path: Path) -> None:
    path = save(tmp_path / "m.safetensors", network("resnet50"))
    assert len(summary(load_weights(network("resnet50"), path))) == 1


def test_timm_names_of_the_d_variants_are_ours(tmp_path: Path) -> None:
    """timm's ResNet-18-d by hand: a stem of three convolutions, and shortcuts that average before they project."""
    norm = {"weight": (), "bias": (), "running_mean": (), "running_var": ()}
    shapes: dict[str, tuple[int, ...]] = {"fc.weight": (7, 512), "fc.bias": (7,)}

    def add(conv: str, bn: str, *shape: int) -> None:
        shapes[f"{conv}.weight"] = shape
        shapes.update({f"{bn}.{part}": (shape[0],) for part in norm})
        shapes[f"{bn}.num_batches_tracked"] = ()

    add("conv1.0", "conv1.1", 32, 3, 3, 3)
    add("conv1.3", "conv1.4", 32, 32, 3, 3)
    add("conv1.6", "bn1", 64, 32, 3, 3)
    for stage, width in enumerate((64, 128, 256, 512), 1):
        for block in range(2):
            before = width // 2 if block == 0 and stage > 1 else width
            add(f"layer{stage}.{block}.conv1", f"layer{stage}.{block}.bn1", width, before, 3, 3)
            add(f"layer{stage}.{block}.conv2", f"layer{stage}.{block}.bn2", width, width, 3, 3)
            if before != width:
                add(f"layer{stage}.0.downsample.1", f"layer{stage}.0.downsample.2", width, before, 1, 1)
    save_file({name: torch.rand(shape) for name, shape in shapes.items()}, tmp_path / "timm.safetensors")
    rows = load_weights(create_model("resnet18-d", 7), tmp_path / "timm.safetensors")
    assert [row for row in rows if row.why] == []


def test_what_does_not_fit_is_told(tmp_path: Path) -> None:
    given = {name: tensor for name, tensor in network().state_dict().items() if not name.startswith("fc.")}
    save_file({**given, "conv1.weight": torch.ones(4, 1, 3, 3), "extra": torch.ones(1)}, tmp_path / "w.safetensors")
    rows = load_weights(network(), tmp_path / "w.safetensors")
    why = reasons(rows)
    assert why["conv1.weight"] == "made for data.channels=1: [4, 1, 3, 3] in the file, [4, 3, 3, 3] here"
    assert why["bn1.weight"] == ""
    assert why["extra"] == "no place in this network"
    assert why["fc.bias"] == "not in the file"
    lines = summary([*rows, Loaded("epoch", False, "not a weight: int")])
    assert lines[0] == f"{len(given) - 1} of {len(rows) + 1} tensors loaded"
    assert lines[1:] == [
        "made for data.channels=1: 1 tensor, conv1.weight",
        "not in the file: 2 tensors, fc.weight, fc.bias",
        "no place in this network: 1 tensor, extra",
        "not a weight: 1 tensor, epoch",
    ]


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [("resnet14", "resnet8"), ("resnet8", "resnet14"), ("preresnet8", "resnet8"), ("resnet9", "resnet11")],
)
def test_another_network_whose_tensors_fit_by_chance_is_refused(theirs: str, ours: str, good: Path) -> None:
    """Half of them may: those of the blocks that both have, and what has one value a channel."""
    path, target = save(good.with_name(f"{theirs}.safetensors"), network(theirs)), network(ours)
    before = {name: tensor.clone() for name, tensor in target.state_dict().items()}
    with pytest.raises(ModelFileError, match=rf"weights of another network: \d+ of its \d+ tensors fit .* {ours}\."):
        load_weights(target, path)
    assert all(torch.equal(tensor, before[name]) for name, tensor in target.state_dict().items())


def test_the_shifts_of_another_head_are_left_out(tmp_path: Path) -> None:
    given = network().state_dict()
    save_file({**given, "fc.weight": torch.ones(3, 99), "fc.bias": torch.ones(3)}, tmp_path / "w.safetensors")
    why = reasons(load_weights(network(), tmp_path / "w.safetensors"))
    assert why["fc.weight"] == "another shape: [3, 99] in the file, [3, 16] here"
    assert why["fc.bias"] == "its weight has another shape"


class TestOrigin:
    """What a training from a run's weights goes on with."""

    def settings(self, tmp_path: Path, *given: str, name: str = "resnet8", **options: Any) -> dict[str, Any]:
        found = weights.origin(str(save(tmp_path / "m.safetensors", network(name, **options))))
        assert found is not None
        return settings(found, parse_overrides(given))

    def test_the_network_and_how_an_image_becomes_a_tensor(self, tmp_path: Path) -> None:
        found = self.settings(tmp_path, shortcut="B", whiten_input=True)
        assert found == {
            "model.name": "resnet8",
            "model.width": 4,
            "model.shortcut": "B",
            "model.stem": "cifar",
            "model.norm_order": "before",
            "model.norm": "batch",
            "model.whiten_input": True,
            "data.channels": 3,
            "data.fit": "crop",
            "data.background": 255,
            "data.normalize": "weights",
            "data.size": 8,
            "data.resize": 8,
        }

    def test_what_the_user_sets_comes_first(self, tmp_path: Path) -> None:
        given = ("data.size=16", "data.normalize=channel", "model.width=8")
        found = self.settings(tmp_path, *given, shortcut="B")
        assert not {field.partition("=")[0] for field in (*given, "data.resize=8")} & found.keys()
        assert found["model.shortcut"] == "B"

    def test_another_network_keeps_its_own_options(self, tmp_path: Path) -> None:
        found = self.settings(tmp_path, "model.name=resnet14", shortcut="B")
        assert not any(field.startswith("model.") for field in found)

    @pytest.mark.parametrize("recipe", [None, "small", "cifar10-fast"])
    @pytest.mark.parametrize(
        ("name", "options"),
        [
            ("resnet11", {"whiten_input": True}),
            ("resnet18-d", {}),
            ("resnet20", {}),
            ("preresnet8", {"norm": "none"}),
            ("resnet50-v1.5", {}),
            ("resnet50", {"stride_in": "3x3", "stem": "cifar", "shortcut": "C"}),
            ("resmlp-2x16", {"width": None, "size": 8}),
        ],
    )
    def test_the_network_that_goes_on_is_the_weights_own(
        self, name: str, options: dict[str, Any], recipe: str | None, tmp_path: Path
    ) -> None:
        path = save(tmp_path / "m.safetensors", network(name, **options))
        request = Request(data="x", weights=str(path), recipe=recipe)
        config, choices = decide(request, FACTS, weights.origin(str(path)))
        assert all(row.loaded for row in load_weights(make_network(config, 3), path, CLASSES))
        assert Choice("model.name", name, "as the weights were trained") in choices

    def test_files_of_others_say_nothing(self, tmp_path: Path) -> None:
        torch.save(network().state_dict(), tmp_path / "w.pth")
        save_file(network().state_dict(), tmp_path / "w.safetensors")
        assert weights.origin(str(tmp_path / "w.pth")) is None
        assert weights.origin(str(tmp_path / "w.safetensors")) is None
        assert weights.origin("imagenet") is None


@pytest.mark.parametrize("length", [0x0280, int.from_bytes(b"PK", "little")])
def test_a_header_as_long_as_a_pickle_begins_is_still_one(length: int, tmp_path: Path) -> None:
    header = b'{"bn1.bias":{"dtype":"F32","shape":[4],"data_offsets":[0,16]}}'.ljust(length)
    (tmp_path / "w.safetensors").write_bytes(length.to_bytes(8, "little") + header + bytes(16))
    tensors, *_ = weights._from_file(str(tmp_path / "w.safetensors"), {})
    assert list(tensors) == ["bn1.bias"]


def test_nothing_that_fits_is_an_error(tmp_path: Path) -> None:
    save_file({"a": torch.ones(1)}, tmp_path / "w.safetensors")
    with pytest.raises(ModelFileError, match="0 of its 1 tensors fit the 35 of resnet8"):
        load_weights(network(), tmp_path / "w.safetensors")


def test_damage_is_refused(good: Path, tmp_path: Path) -> None:
    whole = bytearray(good.read_bytes())
    whole[-1] ^= 1
    (tmp_path / "w.safetensors").write_bytes(whole)
    with pytest.raises(ModelFileError, match="differ from their SHA-256"):
        load_weights(network(), tmp_path / "w.safetensors")
    with pytest.raises(ModelFileError, match="no such file or run folder"):
        load_weights(network(), tmp_path / "none.pth")


@pytest.mark.parametrize(
    ("theirs", "ours", "said"),
    [
        ({"stride_in": "1x1"}, {"stride_in": "3x3"}, "another stride_in .* add --set model.stride_in=1x1"),
        ({"norm_order": "after"}, {}, "another norm_order .* add --set model.norm_order=after"),
    ],
)
def test_weights_that_fit_by_shape_alone_are_refused(
    theirs: dict[str, str], ours: dict[str, str], said: str, tmp_path: Path
) -> None:
    path = save(tmp_path / "m.safetensors", network("resnet50", **theirs))
    with pytest.raises(ModelFileError, match=said):
        load_weights(network("resnet50", **ours), path, CLASSES)
    assert load_weights(network("resnet50", **theirs), path, CLASSES)


def test_a_file_whose_head_is_not_as_its_classes_is_refused(good: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, safe_open

    tensors = load_file(good)
    tensors["fc.weight"] = tensors["fc.weight"][:2].clone()
    with safe_open(good, "pt") as file:
        save_file(tensors, tmp_path / "m.safetensors", file.metadata())
    with pytest.raises(ModelFileError, match=r"1 tensors do not fit resnet8; first 'fc\.weight'"):
        load_weights(network(), tmp_path / "m.safetensors", ["emu"])


class TestImagenet:
    """`--weights imagenet`, from a server on this machine."""

    @pytest.mark.parametrize(
        ("source", "name", "file", "classes"),
        [
            ("imagenet", "resnet18", "resnet18-f37072fd.pth", 1000),
            ("imagenet-v1", "resnet50-v1.5", "resnet50-0676ba61.pth", 1000),
            ("imagenet", "resnet50-v1.5", "resnet50-11ad3fa6.pth", 1000),
            ("imagenet-v2", "resnet152-v1.5", "resnet152-f82ba261.pth", 1000),
        ],
    )
    def test_names_are_torchvisions(self, source: str, name: str, file: str, classes: int) -> None:
        found = weights.published(source, name)
        assert found.url == f"https://download.pytorch.org/models/{file}"
        assert len(set(found.meta["categories"])) == classes

    @pytest.mark.parametrize(
        ("source", "name", "options", "said"),
        [
            ("imagenet", "resnet50", {}, "another stride_in than resnet50 here. Choose --model resnet50-v1.5, or add"),
            ("imagenet", "resnet18", {"norm_order": "after"}, "another norm_order than resnet18 here."),
            ("imagenet-v2", "resnet18", {}, "resnet18 has imagenet, imagenet-v1. Choose one of them."),
            (
                "imagenet",
                "resnet20",
                {},
                "got the network resnet20, there are weights for resnet18, resnet34, resnet50",
            ),
            ("imagenet", "resnet50-d", {}, "got the network resnet50-d, there are weights for"),
        ],
    )
    def test_other_networks_are_refused_before_a_download(
        self, source: str, name: str, options: dict[str, str], said: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(weights, "fetch", None)
        with pytest.raises((ConfigError, ModelFileError)) as caught:
            load_weights(network(name, **options), source)
        assert said in str(caught.value)

    def test_rows_by_category_and_a_second_time_without_the_network(
        self, server: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        file, content, source = published()
        offer(monkeypatch, f"{server}/{file}", len(content))
        target = network("resnet18", 2)
        rows = load_weights(target, "imagenet", ["tench", "my cat"])
        assert all(row.loaded for row in rows)
        assert reasons(rows)["fc.weight"] == "by class name: 1 of 2 classes have a row in the file"
        assert torch.equal(target.get_parameter("fc.weight")[0], source.get_parameter("fc.weight")[1])
        assert torch.equal(target.get_parameter("conv1.weight"), source.get_parameter("conv1.weight"))
        folder = modelfile_cache()
        assert (folder / file).with_suffix(".sha256").read_text() == hashlib.sha256(content).hexdigest()
        monkeypatch.setattr(weights, "fetch", None)
        assert load_weights(network("resnet18", 2), "imagenet", ["tench", "my cat"]) == rows

    @pytest.mark.parametrize(
        ("path", "said"),
        [
            ("wrong-00000000.pth", "got the SHA-256 .*, expected 00000000"),
            ("wrong-{digits:.4}0000.pth", "got the SHA-256 .*, expected [0-9a-f]{4}0000"),
            ("short-{digits}.pth", r"got [\d,]+ of [\d,]+ bytes|IncompleteRead"),
            ("long-{digits}.pth", "the server sends 50,000,000,000 bytes, expected at most"),
            ("endless-{digits}.pth", "the server sends more than"),
            ("elsewhere-{digits}.pth", "Redirection to url .file:///etc/passwd. is not allowed"),
        ],
    )
    def test_nothing_is_kept_of_a_bad_download(
        self, path: str, said: str, server: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        file, content, _ = published()
        offer(monkeypatch, f"{server}/{path.format(digits=file[-12:-4])}", len(content))
        with pytest.raises(DataError, match=said):
            load_weights(network("resnet18"), "imagenet")
        assert not list(modelfile_cache().glob("*.pth"))

    def test_offline_says_what_to_do(self, monkeypatch: pytest.MonkeyPatch) -> None:
        offer(monkeypatch, "http://127.0.0.1:1/resnet18-f37072fd.pth", 1)
        with pytest.raises(DataError, match=r"download failed.*Bring it .* --weights resnet18-f37072fd\.pth"):
            load_weights(network("resnet18"), "imagenet")
        monkeypatch.setenv("PLUSX_OFFLINE", "1")
        with pytest.raises(DataError, match="PLUSX_OFFLINE forbids"):
            load_weights(network("resnet18"), "imagenet")

    def test_two_at_once_download_once(self, server: str) -> None:
        file, content, _ = published()
        SERVED.clear()
        with ThreadPoolExecutor(4) as pool:  # the lock belongs to an open file: threads meet it as processes do
            found = list(pool.map(lambda _: weights._download(f"{server}/{file}", len(content)), range(4)))
        assert [f"/{file}"] == SERVED
        assert set(found) == {(modelfile_cache() / file, file[-12:-4], hashlib.sha256(content).hexdigest())}

    def test_a_poisoned_cache_is_noticed(self, server: str, monkeypatch: pytest.MonkeyPatch) -> None:
        file, content, _ = published()
        offer(monkeypatch, f"{server}/{file}", len(content))
        path, _, sha256 = weights._download(f"{server}/{file}", len(content))
        record, other = path.with_suffix(".sha256"), content[:-1] + b"?"
        poisons = [(content, "0" * 64), (content, ""), (content, sha256[:8]), (content, None), (other, sha256)]
        poisons.append((other, hashlib.sha256(other).hexdigest()))  # both: the name still publishes the first digits
        for body, hashed in poisons:
            path.write_bytes(body)
            record.unlink(missing_ok=True)
            if hashed is not None:
                record.write_text(hashed)
            with pytest.raises(ModelFileError, match=r"got the SHA-256 .* Delete the file to get it again"):
                load_weights(network("resnet18"), "imagenet")
        path.unlink()
        assert weights._download(f"{server}/{file}", len(content)) == (path, sha256[:8], sha256)


def test_the_log_has_the_list_and_the_screen_a_summary(tmp_path: Path) -> None:
    torch.save({"model": {**network(width=8).state_dict(), "old": torch.ones(1)}, "epoch": 3}, tmp_path / "w.pth")
    command = ("train", "digits", "--out", tmp_path / "run", *SMALL, "--recipe", "small", "--set", "schedule.steps=1")
    assert plusx(*command, "--set", "data.channels=3", "--weights", tmp_path / "w.pth").code == 0
    log = (tmp_path / "run" / "log.txt").read_text()
    assert "weights: old: no place in this network" in log
    assert "weights: epoch: not a weight: int" in log
    assert "tensors loaded" in log


@functools.cache
def published() -> tuple[str, bytes, nn.Module]:
    """A file as torchvision publishes them: its name, its bytes, and the network in it."""
    source = network("resnet18")
    out = io.BytesIO()
    torch.save(source.state_dict(), out)
    content = out.getvalue()
    return f"resnet18-{hashlib.sha256(content).hexdigest()[:8]}.pth", content, source


def offer(monkeypatch: pytest.MonkeyPatch, url: str, size: int) -> None:
    """Have it published there, for three classes."""
    meta = {"categories": ["goldfish", "tench", "toucan"], "_file_size": size / 2**20}
    monkeypatch.setattr(weights, "published", lambda *_: SimpleNamespace(url=url, meta=meta))


def modelfile_cache() -> Path:
    return Path(os.environ["PLUSX_CACHE"]) / "weights"


@pytest.fixture(autouse=True)
def _clean(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("PLUSX_CACHE", str(tmp_path / "cache"))
    with torch.random.fork_rng():
        yield


SERVED: list[str] = []


class Server(Quiet, BaseHTTPRequestHandler):
    """Sends what is published, and misbehaves where the name says so."""

    def do_GET(self) -> None:
        SERVED.append(self.path)
        content = published()[1]
        kind = self.path[1:].partition("-")[0]
        self.send_response(302 if kind == "elsewhere" else 200)
        if kind == "elsewhere":
            self.send_header("Location", "file:///etc/passwd")
        elif kind != "endless":
            self.send_header("Content-Length", str(50_000_000_000 if kind == "long" else len(content)))
        self.end_headers()
        try:
            self.wfile.write(content[:-5] if kind == "short" else content)
            while kind == "endless":
                self.wfile.write(content)
        except OSError:
            pass


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with serving(Server) as address:
        yield address
