"""Optimizers: groups, freezing, state, averages."""

from typing import Any

import pytest
import torch
from torch import nn

from plusx.engine.optim import (
    AveragedWeights,
    build_optimizer,
    load_state_tensors,
    set_rates,
    set_training_mode,
    state_tensors,
)
from plusx.errors import ConfigError
from tests.engine.tiny import net, tiny_config


def groups(module: nn.Module, **changes: Any) -> dict[str, tuple[float, float]]:
    """Parameter name -> (weight decay, share of the learning rate)."""
    optimizer = build_optimizer(module, tiny_config(**changes).optim)
    names = {w: name for name, w in module.named_parameters()}
    return {names[w]: (g["weight_decay"], g["share"]) for g in optimizer.param_groups for w in g["params"]}


def test_only_weights_decay_by_default() -> None:
    found = groups(net())
    assert {name for name, (decay, _) in found.items() if decay} == {"conv1.weight", "conv2.weight", "fc.weight"}
    assert len(found) == len(list(net().parameters()))
    assert {decay for decay, _ in groups(net(), optim__decay="all").values()} == {1e-3}


@pytest.mark.parametrize("decay", [0.0, 1e-3])
def test_a_step_leaves_gradients_as_they_were(decay: float) -> None:
    module = net()
    changes = {"optim__nesterov": True, "optim__momentum": 0.9, "optim__weight_decay": decay}
    optimizer = build_optimizer(module, tiny_config(**changes).optim)
    for weight in module.parameters():
        weight.grad = torch.randn_like(weight)
    before = [weight.grad.clone() for weight in module.parameters() if weight.grad is not None]
    optimizer.step()
    optimizer.step()
    after = [weight.grad for weight in module.parameters() if weight.grad is not None]
    assert all(map(torch.equal, before, after))


def test_body_moves_at_its_share() -> None:
    module = net()
    module.add_module("fc2", nn.Linear(2, 2))  # of the body
    found = groups(module, optim__body_lr=0.1)
    assert {name for name, (_, share) in found.items() if share == 1.0} == {"fc.weight", "fc.bias"}
    optimizer = build_optimizer(module, tiny_config(optim__body_lr=0.1).optim)
    set_rates(optimizer, 0.5, 0.02)
    rates = {(g["lr"], g["weight_decay"]) for g in optimizer.param_groups}
    assert rates == {(0.05, 0.02), (0.05, 0.0), (0.5, 0.02), (0.5, 0.0)}


def test_a_frozen_body_neither_trains_nor_moves_its_statistics() -> None:
    module, config = net(), tiny_config(optim__freeze="body").optim
    optimizer = build_optimizer(module, config)
    set_training_mode(module, config)
    assert not module.bn1.training
    assert module.fc.training
    assert {w for g in optimizer.param_groups for w in g["params"]} == set(module.fc.parameters())
    module(torch.randn(4, 3, 8, 8)).sum().backward()
    assert module.conv1.weight.grad is None
    assert int(module.bn1.num_batches_tracked) == 0
    set_training_mode(module, tiny_config().optim)
    assert module.bn1.training


def test_a_network_without_a_named_head_is_a_clear_error() -> None:
    plain = nn.Sequential(nn.Linear(3, 2))
    build_optimizer(plain, tiny_config().optim)
    with pytest.raises(ConfigError, match="names no head"):
        build_optimizer(plain, tiny_config(optim__freeze="body").optim)


@pytest.mark.parametrize("changes", [{}, {"optim__nesterov": True}, {"optim__name": "adamw"}], ids=str)
def test_state_survives_a_round_trip_in_the_same_bits(changes: dict[str, Any]) -> None:
    config = tiny_config(**changes).optim

    def steps(module: nn.Module, optimizer: torch.optim.Optimizer, seeds: range) -> None:
        for seed in seeds:
            generator = torch.Generator().manual_seed(seed)
            for w in module.parameters():
                w.grad = torch.empty_like(w).copy_(torch.randn(w.shape, generator=generator))
            optimizer.step()

    straight = net().to(memory_format=torch.channels_last)
    steps(straight, optimizer := build_optimizer(straight, config), range(6))
    first = net().to(memory_format=torch.channels_last)
    steps(first, half := build_optimizer(first, config), range(3))
    second = net().to(memory_format=torch.channels_last)
    second.load_state_dict(first.state_dict())
    resumed = build_optimizer(second, config)
    load_state_tensors(resumed, second, {k: v.contiguous().clone() for k, v in state_tensors(half, first).items()})
    steps(second, resumed, range(3, 6))
    assert all(torch.equal(a, b) for a, b in zip(straight.parameters(), second.parameters(), strict=True))
    after, wanted = state_tensors(resumed, second), state_tensors(optimizer, straight)
    assert after.keys() == wanted.keys()
    assert all(torch.equal(after[k], wanted[k]) for k in wanted)
    assert all(after[k].stride() == wanted[k].stride() for k in wanted)


def test_adamw_is_pytorchs_with_momentum_as_its_first_beta() -> None:
    ours, theirs = (nn.Linear(3, 2, bias=False) for _ in range(2))
    theirs.load_state_dict(ours.state_dict())
    config = tiny_config(optim__name="adamw", optim__momentum=0.8, optim__lr=0.1).optim
    optimizers = [
        build_optimizer(ours, config),
        torch.optim.AdamW(theirs.parameters(), lr=0.1, betas=(0.8, 0.999), weight_decay=config.weight_decay),
    ]
    for _ in range(3):
        gradient = torch.randn(2, 3)
        for module, optimizer in zip((ours, theirs), optimizers, strict=True):
            module.weight.grad = gradient
            optimizer.step()
    assert torch.equal(ours.weight, theirs.weight)


def test_average_follows_the_formula_and_copies_counts() -> None:
    module = net()
    average = AveragedWeights(module, 0.5)
    expected = module.fc.weight.detach().clone()
    for step in range(1, 20):
        with torch.no_grad():
            module.fc.weight.add_(torch.randn_like(module.fc.weight))
        module.bn1.num_batches_tracked += 1
        average.update(step)
        decay = min(0.5, step / (step + 9))
        expected = decay * expected + (1 - decay) * module.fc.weight.detach()
    torch.testing.assert_close(average.module.fc.weight, expected)
    assert int(average.module.bn1.num_batches_tracked) == 19
    assert not any(w.requires_grad for w in average.module.parameters())
