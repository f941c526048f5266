import math

from cogvideox.training.config import OptimSettings
from cogvideox.training.optim.lr_schedule import learning_rate


def test_learning_rate_has_linear_warmup_and_cosine_decay():
    settings = OptimSettings(lr=2.0, warmup_steps=4, schedule="cosine", final_lr=0.1)
    rates = [learning_rate(step, 15, settings) for step in range(15)]
    assert rates[:4] == [0.5, 1.0, 1.5, 2.0]
    assert rates[4] == 2.0 and math.isclose(rates[9], 2.0 * 0.55) and math.isclose(rates[14], 0.2)
    assert rates[4:] == sorted(rates[4:], reverse=True)


def test_constant_learning_rate_without_warmup():
    settings = OptimSettings(lr=2.0, warmup_steps=0, schedule="constant")
    assert {learning_rate(step, 10, settings) for step in range(10)} == {2.0}
