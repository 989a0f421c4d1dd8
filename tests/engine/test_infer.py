"""The one inference path."""

import copy

import pytest
import torch
from torch import Tensor, nn

from plusx.engine.infer import averaged, measure, predict_logits, predict_views
from plusx.engine.metrics import Metrics
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


def test_answers_can_be_changed_in_place() -> None:
    logits, *_ = next(predict_logits(net(), Eval()))
    assert not logits.is_inference()
    logits += 1


def test_it_computes_in_float32_whatever_surrounds_it_and_leaves_no_mode_behind() -> None:
    module = net()
    stream = predict_logits(module, Eval())
    first = next(stream)[0]
    assert not torch.is_inference_mode_enabled()
    assert torch.is_grad_enabled()
    module.train()  # by who looks at the answers
    again = [logits for logits, *_ in predict_logits(net(), Eval())]
    assert all(map(torch.equal, [first, next(stream)[0]], again))


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


class Shapes(nn.Module):
    """Answers with what it was given, and notes the shape of each batch."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[int, ...]] = []

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append(tuple(x.shape))
        return torch.stack([x[:, 0, 0, 0], torch.full((len(x),), float(x.shape[2]))], 1)


def view(number: int, height: int, width: int) -> Tensor:
    return torch.full((1, height, width), float(number))


def test_views_of_one_shape_go_together_and_come_back_in_order() -> None:
    module = Shapes()
    views = [[view(0, 2, 3), view(1, 4, 4)], [view(2, 2, 3)], [view(3, 4, 4), view(4, 2, 3), view(5, 3, 2)]]
    answers = predict_views(module, views, pixels=100)
    assert [answer[:, 0].tolist() for answer in answers] == [[0, 1], [2], [3, 4, 5]]
    assert [answer[:, 1].tolist() for answer in answers] == [[2, 4], [2], [4, 2, 3]]
    assert module.seen == [(3, 1, 2, 3), (2, 1, 4, 4), (1, 1, 3, 2)]


@pytest.mark.parametrize(("pixels", "batches"), [(11, [1] * 5), (12, [2, 2, 1]), (29, [4, 1]), (1, [1] * 5)])
def test_a_forward_pass_has_a_limit(pixels: int, batches: list[int]) -> None:
    module = Shapes()
    (answers,) = predict_views(module, [[view(i, 2, 3) for i in range(5)]], pixels=pixels)
    assert answers[:, 0].tolist() == [0, 1, 2, 3, 4]
    assert [shape[0] for shape in module.seen] == batches


def test_the_mean_is_of_probabilities() -> None:
    logits = torch.randn(3, 5, 4, generator=torch.Generator().manual_seed(0)) * 5
    single = averaged(logits, "single").softmax(1)
    assert torch.allclose(single, logits.double().softmax(2).mean(0), rtol=1e-12)
    multi = averaged(logits, "multi").sigmoid()
    assert torch.allclose(multi, logits.double().sigmoid().mean(0), rtol=1e-12)
    assert torch.equal(averaged(logits[:1], "single"), logits[0])
    assert torch.equal(averaged(logits[:1], "multi"), logits[0])


def test_probabilities_of_0_and_1_have_a_loss_and_a_rank() -> None:
    logits = torch.tensor([[[500.0, 0, -500, -900]], [[500, -900, 0, -500]]])  # in float32, 1 and 0, 0, 0
    assert averaged(logits, "single")[0].tolist() == pytest.approx([0, -500.693, -500.693, -1000.693], abs=1e-3)
    assert averaged(logits, "multi")[0].tolist() == pytest.approx([500, -1.0986, -1.0986, -500.693], abs=1e-3)
    metrics = Metrics("single", 4)
    metrics.update(averaged(logits, "single"), torch.tensor([2]))
    assert (metrics.n, metrics.correct, metrics.correct5) == (1, 0, 1)
    assert metrics.loss == pytest.approx(500.693, abs=1e-3)
    labels = Metrics("multi", 4)
    labels.update(averaged(logits, "multi"), torch.tensor([[1.0, 0, 0, 1]]))
    assert labels.loss == pytest.approx((500.693 + 2 * 0.2877) / 4, abs=1e-3)


def test_classes_that_are_equal_stay_equal() -> None:
    """Of equal probabilities the lower class comes first, as from one view."""
    logits = torch.tensor([[[0.3, 1.7, 1.7, -2.0]], [[2.0, -1.1, -1.1, 0.4]], [[0.1, 0.7, 0.7, 0.9]]])
    mean = averaged(logits, "single")
    assert mean[0, 1] == mean[0, 2]
