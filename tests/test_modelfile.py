"""The model file: all of it survives, nothing damaged or hostile is believed, and nothing in it is ever run."""

import base64
import json
import random
import resource
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, safe_open, save_file
from torch import Tensor, nn

from plusx import modelfile
from plusx.data.transforms import Preprocess
from plusx.engine import tensorfile
from plusx.errors import ConfigError, ModelFileError, TrainingError
from plusx.models import create_model
from tests.pace import pace

CLASSES = ["cat", "dög", "emu"]
RULES = Preprocess(size=8, resize=8, fit="crop", channels=3, mean=(0.5, 0.4, 0.3), std=(0.2, 0.2, 0.2))


def network(name: str = "resnet8", classes: int = 3, **options: Any) -> nn.Module:
    torch.manual_seed(0)
    return create_model(name, classes, **({"width": 4} if name == "resnet8" else {}), **options)


def save(path: Path, module: nn.Module | None = None, **changes: Any) -> Path:
    values: dict[str, Any] = {
        "classes": CLASSES,
        "task": "single",
        "preprocess": RULES,
        "metrics": {"data": "pets", "n": 30, "top1": 0.9},
        "recipe": "small",
        "config": {"seed": 3},
        "manifest_hash": "ab" * 32,
    }
    modelfile.save(path, network() if module is None else module, **{**values, **changes})
    return path


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(tmp_path_factory.mktemp("good") / "model.safetensors")


def forge(good: Path, path: Path, change: Callable[[dict[str, Any]], None], honest: bool = True) -> Path:
    """A copy with another document, whose hashes are right again where `honest`."""
    with safe_open(good, "pt") as file:
        document = json.loads(file.metadata()["plusx"])
    change(document)
    if honest:
        document["document_sha256"] = modelfile._document_hash(document)
    save_file(load_file(good), path, {"plusx": modelfile._canonical(document)})
    return path


def test_everything_survives(good: Path) -> None:
    loaded = modelfile.load(good)
    assert loaded.classes == tuple(CLASSES)
    assert (loaded.task, loaded.preprocess, loaded.path) == ("single", RULES, good)
    assert loaded.meta["metrics"] == {"data": "pets", "n": 30, "top1": 0.9}
    assert loaded.meta["config"] == {"seed": 3}
    assert loaded.meta["versions"]["torch"]
    x = torch.randn(2, 3, 8, 8)
    assert torch.equal(loaded.module(x), network().eval()(x))
    assert not loaded.module.training
    assert all(p.requires_grad for p in loaded.module.parameters())
    assert [p.name for p in good.parent.iterdir()] == ["model.safetensors"]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"classes": ["cat", "", "emu"]}, "class names that are empty, repeated or not text"),
        ({"classes": ["cat", "dog"]}, "2 class names for 3 outputs"),
        ({"task": "both"}, "task 'both'"),
        ({"temperature": 0.0}, "temperature 0.0"),
    ],
)
def test_what_load_would_refuse_is_not_written(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ModelFileError, match=f"not written, {words}"):
        save(tmp_path / "model.safetensors", **changes)
    assert list(tmp_path.iterdir()) == []


def test_a_mean_image_comes_back(good: Path, tmp_path: Path) -> None:
    for side in (8, 512):
        rules = Preprocess(size=side, resize=side, fit="crop", channels=3, mean=(0.0,) * 3, std=(1.0,) * 3)
        image = torch.rand(3, side, side)
        loaded = modelfile.load(save(tmp_path / "m", preprocess=rules.centred(image))).preprocess
        assert loaded == rules.centred(image)
        assert loaded.mean_pixels is not None
        assert torch.equal(loaded.mean_pixels, image)
    assert "mean_image" not in modelfile.load(good).meta["preprocess"], "as in files from before there were any"


def test_a_run_folder_is_its_model_file(good: Path) -> None:
    assert modelfile.load(str(good.parent)).path == good


def test_the_same_model_is_the_same_bytes(good: Path, tmp_path: Path) -> None:
    assert save(tmp_path / "again").read_bytes() == good.read_bytes()


def test_wrappers_stay_out_of_the_file(good: Path, tmp_path: Path) -> None:
    for module in (torch.compile(network()), nn.DataParallel(network()), nn.DataParallel(torch.compile(network()))):
        assert save(tmp_path / "wrapped", module).read_bytes() == good.read_bytes()


@pytest.mark.parametrize(
    ("name", "options"),
    [
        *((name, {}) for name in ("resnet18", "resnet50-d", "preresnet18", "plain20", "resmlp-2x8")),
        ("plain20", {"norm": "none"}),
        ("resnet20", {"norm_order": "after"}),
    ],
)
def test_every_kind_of_network_comes_back(tmp_path: Path, name: str, options: dict[str, str]) -> None:
    module = create_model(name, 3, **({"size": 8} if "mlp" in name else {"width": 4}), **options)
    loaded = modelfile.load(save(tmp_path / "m", module)).module
    side = 8 if "mlp" in name else 32
    x = torch.randn(2, 3, side, side)
    assert torch.equal(loaded(x), module.eval()(x))


def test_loading_leaves_the_random_numbers_alone(good: Path) -> None:
    before = torch.get_rng_state()
    modelfile.load(good)
    assert torch.equal(torch.get_rng_state(), before)


def test_every_flipped_bit_is_noticed(tmp_path: Path) -> None:
    path = save(tmp_path / "m", network("resmlp-1x4", size=1))
    whole = bytearray(path.read_bytes())
    draw = random.Random(0)
    for _ in range(1000):
        bit = draw.randrange(8 * len(whole))
        whole[bit // 8] ^= 1 << bit % 8
        path.write_bytes(whole)
        with pytest.raises(ModelFileError):
            modelfile.load(path)
        whole[bit // 8] ^= 1 << bit % 8
    path.write_bytes(whole)
    modelfile.load(path)


def test_every_truncation_is_noticed(good: Path, tmp_path: Path) -> None:
    whole, path = good.read_bytes(), tmp_path / "m"
    for i in range(100):
        path.write_bytes(whole[: i * len(whole) // 100])
        with pytest.raises(ModelFileError):
            modelfile.load(path)


def test_plain_mistakes_get_plain_words(good: Path, tmp_path: Path) -> None:
    (tmp_path / "model.pth").write_bytes(b"PK\x03\x04 and so on")
    (tmp_path / "renamed.safetensors").write_bytes(b"PK\x03\x04 and so on")
    (tmp_path / "empty").mkdir()
    save_file({"a": torch.ones(1)}, tmp_path / "foreign.safetensors")
    cases = {
        "none.safetensors": "no such file or run folder",
        "empty": "a folder without model.safetensors",
        "model.pth": "`plusx train --weights` imports .pth files",
        "renamed.safetensors": "not a safetensors file. Others can run code and are not opened",
        "foreign.safetensors": "weights of another program",
    }
    for name, words in cases.items():
        with pytest.raises(ModelFileError) as error:
            modelfile.load(tmp_path / name)
        assert words in str(error.value)
        assert name in str(error.value)


@pytest.mark.parametrize("device", ["gpu", "cuda"])
def test_a_device_that_is_not_there_is_told(good: Path, device: str) -> None:
    with pytest.raises(ConfigError, match=f"device: got '{device}': .*Leave it out"):
        modelfile.load(good, device=device)


def test_a_file_from_the_future_says_so(good: Path, tmp_path: Path) -> None:
    for honest in (True, False):
        path = forge(good, tmp_path / "m", lambda d: d.update(format=9, news=[1]), honest)
        with pytest.raises(ModelFileError, match="made by format 9, this plusx reads up to 1"):
            modelfile.load(path)


def test_unknown_keys_are_kept(good: Path, tmp_path: Path) -> None:
    assert modelfile.load(forge(good, tmp_path / "m", lambda d: d.update(news=[1]))).meta["news"] == [1]


def test_a_file_from_before_an_option_existed_still_loads(good: Path, tmp_path: Path) -> None:
    path = forge(good, tmp_path / "m", lambda d: [d["arch"].pop(key) for key in ("norm", "norm_order")])
    x = torch.randn(2, 3, 8, 8)
    assert torch.equal(modelfile.load(path).module(x), modelfile.load(good).module(x))


NANS = base64.b64encode(b"\0\0\xc0\x7f" * 3 * 8 * 8).decode()
FORGERIES: dict[str, Callable[[dict[str, Any]], Any]] = {
    "class too many": lambda d: d["classes"].append("x"),
    "no classes": lambda d: d.pop("classes"),
    "class twice": lambda d: d.update(classes=["a", "a", "b"]),
    "class a number": lambda d: d.update(classes=[1, 2, 3]),
    "class without a name": lambda d: d.update(classes=["a", "", "b"]),
    "no format": lambda d: d.pop("format"),
    "format of before the first": lambda d: d.update(format=0),
    "no versions": lambda d: d.pop("versions"),
    "other task": lambda d: d.update(task="both"),
    "temperature 0": lambda d: d.update(temperature=0),
    "temperature below 0": lambda d: d.update(temperature=-2.0),
    "temperature true": lambda d: d.update(temperature=True),
    "temperature beyond float": lambda d: d.update(temperature=10**400),
    "temperature that divides to infinity": lambda d: d.update(temperature=5e-324),
    "mean beyond float": lambda d: d["preprocess"].update(mean=[10**400, 0, 0]),
    "std that divides to infinity": lambda d: d["preprocess"].update(std=[5e-324, 1, 1]),
    "other background": lambda d: d["preprocess"].update(background=256),
    "no limit of pixels": lambda d: d["preprocess"].update(max_pixels=10**12),
    "temperature text": lambda d: d.update(temperature="1"),
    "huge input": lambda d: d["preprocess"].update(size=10**9, resize=10**9),
    "text mean": lambda d: d["preprocess"].update(mean=["a"] * 3),
    "number mean": lambda d: d["preprocess"].update(mean=1),
    "no mean": lambda d: d["preprocess"].pop("mean"),
    "short mean": lambda d: d["preprocess"].update(mean=[0.5]),
    "zero std": lambda d: d["preprocess"].update(std=[0, 1, 1]),
    "mean image a number": lambda d: d["preprocess"].update(mean_image=1),
    "mean image not base64": lambda d: d["preprocess"].update(mean_image="?" * 1024),
    "short mean image": lambda d: d["preprocess"].update(mean_image="A" * 1020),
    "huge mean image": lambda d: d["preprocess"].update(mean_image="A" * (4 << 20)),
    "mean image of NaN": lambda d: d["preprocess"].update(mean_image=NANS),
    "extra rule": lambda d: d["preprocess"].update(run="rm"),
    "unknown network": lambda d: d["arch"].update(name="os.system"),
    "no network": lambda d: d["arch"].pop("name"),
    "deep network": lambda d: d["arch"].update(name="resnet6000000002"),
    "network deeper than the file": lambda d: d["arch"].update(name="resnet9998"),
    "wide network": lambda d: d["arch"].update(width=10**12),
    "negative network": lambda d: d["arch"].update(width=-4),
    "other width": lambda d: d["arch"].update(width=8),
    "other depth": lambda d: d["arch"].update(name="resnet14"),
    "strange argument": lambda d: d["arch"].update(hook="print"),
    "billion classes": lambda d: d["arch"].update(num_classes=10**9),
    "arch a list": lambda d: d.update(arch=[]),
    "arch name a list": lambda d: d["arch"].update(name=["resnet8"]),
    "other weights": lambda d: d.update(tensors_sha256="0" * 64),
}


@pytest.mark.parametrize("kind", FORGERIES)
def test_hostile_documents_are_refused_fast(good: Path, tmp_path: Path, kind: str) -> None:
    path = forge(good, tmp_path / "m", FORGERIES[kind])
    memory, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    with pytest.raises(ModelFileError) as error:
        modelfile.load(path)
    assert time.process_time() - start < 8 * pace()  # a fifth of a second
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory < 50_000  # kB
    assert str(path) in error.value.message
    assert len(str(error.value)) < 800
    if kind != "other weights":  # which only reading them shows
        with pytest.raises(ModelFileError) as error:
            modelfile.describe(path)
        assert str(path) in error.value.message


def test_an_edited_document_is_noticed(good: Path, tmp_path: Path) -> None:
    path = forge(good, tmp_path / "m", lambda d: d.update(classes=["dog", "cat", "emu"]), honest=False)
    with pytest.raises(ModelFileError, match="metadata differs from its SHA-256"):
        modelfile.load(path)


def test_another_spelling_of_the_same_document_is_noticed(good: Path, tmp_path: Path) -> None:
    """One flipped bit makes another letter of an escape, and the same class name."""
    whole = good.read_bytes()
    assert whole.count(b"u00f6") == 1
    (tmp_path / "m").write_bytes(whole.replace(b"u00f6", b"u00F6"))
    with pytest.raises(ModelFileError, match="metadata differs from its SHA-256"):
        modelfile.load(tmp_path / "m")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda tensors: {**tensors, "extra": torch.ones(1)}, r"first 'extra': .* no such tensor in the network"),
        (lambda tensors: {name: t for name, t in tensors.items() if name != "fc.bias"}, "first 'fc.bias': missing in"),
        (lambda tensors: {**tensors, "fc.bias": tensors["fc.bias"].double()}, r"first 'fc\.bias': .*float64"),
    ],
    ids=["more", "fewer", "other"],
)
def test_tensors_that_are_not_the_networks_are_refused(
    change: Callable[[dict[str, Tensor]], dict[str, Tensor]], words: str, good: Path, tmp_path: Path
) -> None:
    tensors = change(load_file(good))
    path = forge(good, tmp_path / "m", lambda d: d.update(tensors_sha256=tensorfile.digest(tensors)))
    with safe_open(path, "pt") as file:
        save_file(tensors, path, file.metadata())
    for read in (modelfile.load, modelfile.describe):
        with pytest.raises(ModelFileError, match=f"1 tensors do not fit resnet8; {words}"):
            read(path)


def test_nothing_is_run(good: Path, tmp_path: Path) -> None:
    seen: list[str] = []
    watched = {"pickle.find_class", "os.system", "subprocess.Popen", "os.exec", "os.posix_spawn", "socket.connect"}
    sys.addaudithook(lambda event, _: seen.append(event) if event in watched else None)
    modelfile.load(good)
    for kind, change in FORGERIES.items():
        with pytest.raises(ModelFileError):
            modelfile.load(forge(good, tmp_path / kind, change))
    assert seen == []


def poisoned(value: float) -> nn.Module:
    module = network()
    module.get_parameter("layer2.0.conv1.weight").data[0, 0, 0, 0] = value
    return module


def test_poisoned_values_are_neither_written_nor_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ModelFileError, match=r"layer2\.0\.conv1\.weight holds NaN"):
        save(tmp_path / "m", poisoned(float("nan")))
    assert not list(tmp_path.iterdir())
    with monkeypatch.context() as patch:
        patch.setattr(tensorfile, "unusable", lambda _: "")
        save(tmp_path / "m", poisoned(float("inf")))
    with pytest.raises(ModelFileError, match=r"layer2\.0\.conv1\.weight holds NaN or infinity"):
        modelfile.load(tmp_path / "m")
    assert modelfile.load(tmp_path / "m", allow_nonfinite=True).classes == tuple(CLASSES)


def test_answers_that_are_not_finite_are_told(tmp_path: Path) -> None:
    path, huge = tmp_path / "m", network()
    for weight in huge.parameters():  # each is a number that arithmetic can bear; what becomes of an image is not
        weight.data.fill_(1e15)
    save(path, huge)
    classifier = modelfile.load(path)
    Image.new("RGB", (8, 8), "red").save(tmp_path / "x.png")
    with pytest.raises(ModelFileError, match="answers are not finite"):
        classifier.predict(tmp_path / "x.png")


def test_a_failed_save_leaves_the_old_file(good: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(tmp_path / "m")
    monkeypatch.setattr(tensorfile.os, "replace", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left")))
    with pytest.raises(TrainingError, match="No space left"):
        save(path, network(classes=2), classes=["a", "b"])
    assert path.read_bytes() == good.read_bytes()


@pytest.fixture(autouse=True)
def _quiet_random() -> Iterator[None]:
    with torch.random.fork_rng():
        yield
