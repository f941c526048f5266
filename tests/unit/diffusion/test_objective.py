import torch

from cogvideox.diffusion.objective import add_noise, loss_per_sample, v_target, v_to_x0, x0_to_v
from cogvideox.diffusion.schedule import Schedule

SCHEDULE = Schedule()


def test_each_sample_has_its_own_timestep():
    x0, noise = torch.randn(3, 2, 4), torch.randn(3, 2, 4)
    t = torch.tensor([3, 600, 999])
    for function in (add_noise, v_target):
        batch = function(x0, noise, t, SCHEDULE)
        for i in range(3):
            torch.testing.assert_close(
                batch[i : i + 1], function(x0[i : i + 1], noise[i : i + 1], t[i : i + 1], SCHEDULE)
            )


def test_half_precision_inputs_give_float32():
    x0, noise, t = torch.randn(2, 8).bfloat16(), torch.randn(2, 8).bfloat16(), torch.tensor([3, 999])
    for function in (add_noise, v_target):
        assert function(x0, noise, t, SCHEDULE).dtype == torch.float32
    assert loss_per_sample(x0, noise).dtype == torch.float32


def test_loss_is_the_mean_of_each_sample():
    predicted = torch.stack([torch.full((2, 3, 4), value) for value in (0.0, 1.0, -2.0)]).requires_grad_()
    loss = loss_per_sample(predicted, torch.zeros(3, 2, 3, 4))
    torch.testing.assert_close(loss, torch.tensor([0.0, 1.0, 4.0]))
    loss.sum().backward()
    torch.testing.assert_close(predicted.grad, 2 * predicted.detach() / 24)


def test_x0_to_v_inverts_v_to_x0():
    v, x = torch.randn(2, 4, 3), torch.randn(2, 4, 3)
    torch.testing.assert_close(x0_to_v(v_to_x0(v, x, 0.6, 0.8), x, 0.6, 0.8), v)
