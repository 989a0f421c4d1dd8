"""The engine against a plain PyTorch loop: the same bits."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from plusx.models import create_model
from tests.engine.tiny import CLASSES, Train, net, run, tiny_config

DECAY = 1e-3


def hand_written(
    module: nn.Module,
    train: Train,
    epochs: int,
    layout: torch.memory_format,
    final_decay: float = 1.0,
    nesterov: bool = False,
    smoothing: float = 0.0,
) -> list[float]:
    """What anyone would write; returns the loss of each step."""
    module.to(memory_format=layout)
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1, momentum=0.9, weight_decay=DECAY, nesterov=nesterov)
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, milestones=[7, 11], gamma=0.1)
    losses = []
    for epoch in range(epochs):
        module.train()
        for images, targets, _ in train.epoch(epoch):
            optimizer.zero_grad()
            done = len(losses) / (epochs * train.steps_per_epoch)
            optimizer.param_groups[0]["weight_decay"] = DECAY * (1 + (final_decay - 1) * done)
            logits = module(images.contiguous(memory_format=layout))
            loss = F.cross_entropy(logits, targets, label_smoothing=smoothing)
            loss.backward()
            optimizer.step()
            schedule.step()
            losses.append(loss.item())
    return losses


def small(name: str) -> nn.Module:
    torch.manual_seed(3)
    return net(dropout=0.0) if name == "tiny" else create_model(name, CLASSES, width=8)


@pytest.mark.parametrize(
    ("name", "channels_last", "final_decay", "nesterov", "smoothing"),
    [
        ("tiny", False, 1.0, False, 0.0),
        ("tiny", True, 0.0, True, 0.0),
        ("resnet8", False, 1.0, False, 0.1),
        ("resnet8", True, 0.25, True, 0.2),
        ("preresnet8", True, 1.0, False, 0.0),
    ],
)
def test_the_engine_equals_a_hand_written_loop_bit_for_bit(
    tmp_path: Path,
    name: str,
    channels_last: bool,
    final_decay: float,
    nesterov: bool,
    smoothing: float,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    layout = torch.channels_last if channels_last else torch.contiguous_format
    module = small(name)
    wanted = hand_written(module, Train(), 3, layout, final_decay, nesterov, smoothing)
    config = tiny_config(
        schedule__name="multistep",
        schedule__milestones=(7 / 15, 11 / 15),
        schedule__final_weight_decay=final_decay,
        optim__decay="all",
        optim__nesterov=nesterov,
        optim__label_smoothing=smoothing,
        engine__channels_last=channels_last,
    )
    monkeypatch.setattr("tests.engine.tiny.net", lambda: small(name))
    trainer = run(tmp_path, config)[0]
    losses: list[float] = []
    monkeypatch.setattr(trainer.log, "step", lambda *values: losses.append(values[4]))
    trainer.fit()
    assert losses == wanted
    own = trainer.module.state_dict()
    assert all(torch.equal(value, own[key]) for key, value in module.state_dict().items())


def test_the_hand_written_loop_is_sensitive(tmp_path: Path) -> None:
    """The comparison above would see one changed bit."""

    def final(change: float) -> Tensor:
        module = small("tiny")
        with torch.no_grad():
            module.get_parameter("fc.bias")[0] += change
        hand_written(module, Train(), 1, torch.contiguous_format)
        return module.get_parameter("conv1.weight").detach()

    assert torch.equal(final(0.0), final(0.0))
    assert not torch.equal(final(0.0), final(1e-7))
