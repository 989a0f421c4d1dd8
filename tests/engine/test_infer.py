"""The one inference path."""

import copy

import pytest
import torch

from plusx.engine.infer import measure, predict_logits
from tests.engine.tiny import CLASSES, Eval, net


def test_answers_are_float32_in_evaluation_mode_and_in_order() -> None:
    module = net().train()
    before = copy.deepcopy(module.state_dict())
    parts = list(predict_logits(module, Eval()))
    logits, targets, ids = (torch.cat(part) for part in zip(*parts, strict=True))
    assert (logits.shape, logits.dtype) == ((30, CLASSES), torch.float32)
    assert torch.equal(ids, torch.arange(30))
    assert torch.equal(targets, Eval().data.targets)
    assert not module.training
    assert all(torch.equal(before[name], value) for name, value in module.state_dict().items())
    logits += 1  # an ordinary tensor
    assert not logits.requires_grad


def test_it_computes_in_float32_whatever_surrounds_it_and_leaves_no_mode_behind() -> None:
    stream = predict_logits(net(), Eval())
    first = next(stream)[0]
    assert not torch.is_inference_mode_enabled()
    assert torch.is_grad_enabled()
    assert torch.equal(first, next(iter(predict_logits(net(), Eval())))[0])


def test_the_memory_format_of_the_weights_does_not_change_a_bit() -> None:
    plain, moved = net(), net().to(memory_format=torch.channels_last)
    for (a, _, _), (b, _, _) in zip(predict_logits(plain, Eval()), predict_logits(moved, Eval()), strict=True):
        assert torch.equal(a, b)


def test_measure_counts_every_example_once() -> None:
    metrics = measure(net(), Eval(), "single", CLASSES)
    right = sum(int((a.argmax(1) == t).sum()) for a, t, _ in predict_logits(net(), Eval()))
    assert (metrics.n, metrics.correct) == (30, right)
    short = Eval()
    short.n = 31
    with pytest.raises(IndexError):
        short.data.images[30]
    with pytest.raises(AssertionError, match="30 of 31"):
        measure(net(), short, "single", CLASSES)
