"""Weights move to torchvision's classes and back, and give the same logits."""

import pytest
import torch
import torchvision
from torch import Tensor, nn

from plusx.models import create_model

PAIRS = [("resnet18", "resnet18"), ("resnet34", "resnet34")]
PAIRS += [(f"resnet{depth}-v1.5", f"resnet{depth}") for depth in (50, 101, 152)]


def live(model: nn.Module, images: Tensor) -> nn.Module:
    """A model whose batch norms have seen data, in evaluation mode."""
    with torch.no_grad():
        model.train()(images)
    return model.eval()


@pytest.mark.parametrize(("ours", "theirs"), PAIRS)
@pytest.mark.parametrize("direction", ["to torchvision", "from torchvision"])
def test_logits_equal_torchvision(ours: str, theirs: str, direction: str) -> None:
    torch.manual_seed(0)
    images = torch.randn(2, 3, 64, 64)
    a, b = create_model(ours, 10), getattr(torchvision.models, theirs)(num_classes=10)
    source, target = (a, b) if direction == "to torchvision" else (b, a)
    target.load_state_dict(live(source, images).state_dict())
    with torch.no_grad():
        want, got = source(images), target.eval()(images)
    torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-5 * want.abs().max().item())


def test_gradients_equal_torchvision() -> None:
    torch.manual_seed(0)
    images, targets = torch.randn(4, 3, 48, 48), torch.tensor([0, 1, 2, 3])
    a, b = create_model("resnet18", 10), torchvision.models.resnet18(num_classes=10)
    b.load_state_dict(a.state_dict())
    for model in (a, b):
        nn.functional.cross_entropy(model(images), targets).backward()
    theirs = dict(b.named_parameters())
    for name, parameter in a.named_parameters():
        scale = theirs[name].grad.abs().max().item()
        torch.testing.assert_close(parameter.grad, theirs[name].grad, rtol=1e-4, atol=1e-4 * scale)
