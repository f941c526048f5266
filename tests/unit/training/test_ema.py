import pytest
import torch
from torch import nn

from cogvideox.training.ema import EMA, ema_decay_at


def test_decay_warms_up_to_its_value():
    assert ema_decay_at(0, 0.99) == 0.1 and ema_decay_at(8, 0.99) == 0.5 and ema_decay_at(10_000, 0.99) == 0.99


def test_average_equals_its_definition():
    net = nn.Linear(3, 2)
    ema = EMA({"net": net}, decay=0.9)
    expected = net.weight.detach().clone()
    for step in range(20):
        with torch.no_grad():
            net.weight.add_(torch.randn_like(net.weight))
        ema.update(step)
        expected = ema_decay_at(step, 0.9) * expected + (1 - ema_decay_at(step, 0.9)) * net.weight.detach()
    torch.testing.assert_close(ema.average["net.weight"], expected)


def test_swapped_restores_the_weights_bit_exactly():
    net = nn.Linear(3, 2)
    ema = EMA({"net": net}, decay=0.9)
    with torch.no_grad():
        net.weight.add_(1.0)
    trained, average = net.weight.detach().clone(), ema.average["net.weight"].clone()
    with ema.swapped():
        assert torch.equal(net.weight, average)
    assert torch.equal(net.weight, trained) and torch.equal(ema.average["net.weight"], average)


def test_the_state_of_other_parameters_is_rejected():
    ema = EMA({"net": nn.Linear(3, 2)}, decay=0.9)
    with pytest.raises(ValueError, match="different parameters"):
        ema.load_state_dict({"net.weight": torch.zeros(2, 3)})
