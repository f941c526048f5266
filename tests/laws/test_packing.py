"""Packed = separate: each clip's predictions, losses and gradients match an unpacked run."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from cogvideox.diffusion.objective import add_noise, loss_per_sample, v_target
from cogvideox.diffusion.schedule import Schedule
from cogvideox.records import PackedBatch
from cogvideox.training.diffusion.loss import clip_losses
from cogvideox.transformer.attention import StreamLayout, dense_attention, packed_attention
from cogvideox.transformer.model import Transformer
from tests.tiny import TEXT_LENGTH, transformer

# Two images and four clips in latent frames and pixels. Frame counts are doubled for patch_size_t=2.
SIZES = [(1, 4, 6), (3, 4, 6), (2, 6, 4), (1, 2, 2), (4, 2, 8), (2, 4, 6)]
MODELS = ["2b", "5b", "1.5-5b", "5b-i2v", "1.5-5b-i2v"]


def random_model(variant: str) -> Transformer:
    """Return a model with random weights only, because zero-initialized layers would hide errors."""
    torch.manual_seed(0)
    model = Transformer(transformer(variant))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.15)
    return model


def random_batch(model: Transformer) -> PackedBatch:
    config = model.config
    base = config.sample_height, config.sample_width
    sizes = [(t, *base) if config.use_learned_positional_embeddings else (t, h, w) for t, h, w in SIZES]
    channels = config.out_channels

    def draw() -> tuple[torch.Tensor, ...]:
        return tuple(torch.randn(channels, t * config.patch[0], h, w) for t, h, w in sizes)

    return PackedBatch(
        latents=draw(),
        noise=draw(),
        text=torch.randn(len(sizes), TEXT_LENGTH, config.text_embed_dim),
        timestep=torch.tensor([0, 250, 400, 700, 998, 999]),
        clip_ids=tuple(map(str, range(len(sizes)))),
        image=draw() if config.is_image_to_video else None,
    )


def ofs_of(model: Transformer) -> dict[str, float]:
    return {} if model.config.ofs_embed_dim is None else {"ofs": 2.0}


def select_clips(batch: PackedBatch, clips: slice) -> PackedBatch:
    image = batch.image and batch.image[clips]
    fields = batch.latents[clips], batch.noise[clips], batch.text[clips], batch.timestep[clips], batch.clip_ids[clips]
    return PackedBatch(*fields, image)


def separate_losses(model: Transformer, batch: PackedBatch, schedule: Schedule) -> torch.Tensor:
    """Return the losses from one call of `forward` for each clip."""
    losses = []
    for i in range(len(batch)):
        x0, noise, t = batch.latents[i][None], batch.noise[i][None], batch.timestep[i][None]
        x = add_noise(x0, noise, t, schedule)
        if batch.image is not None:
            x = torch.cat((x, batch.image[i][None]), dim=1)
        v = model(x, batch.text[i][None], t, **ofs_of(model))
        losses.append(loss_per_sample(v, v_target(x0, noise, t, schedule)))
    return torch.cat(losses)


def gradients(model: Transformer, loss: torch.Tensor) -> list[torch.Tensor]:
    return list(torch.autograd.grad(loss, list(model.parameters())))


def distance(actual: list[torch.Tensor], expected: list[torch.Tensor]) -> float:
    """Return the maximum relative difference. Gradients that are zero up to rounding, such as those of key biases, are
    compared with the maximum of all tensors."""
    scale_floor = 1e-3 * max(b.abs().max().item() for b in expected)
    return max(((a - b).abs().max() / b.abs().max().clamp(min=scale_floor)).item() for a, b in zip(actual, expected))


@pytest.mark.parametrize("variant", MODELS)
def test_packed_equals_separate(variant):
    """Packed in one row, and in two rows whose losses are added."""
    model, schedule = random_model(variant), Schedule()
    batch = random_batch(model)

    def losses(batch: PackedBatch) -> torch.Tensor:
        return clip_losses(lambda *inputs: model.forward_packed(*inputs, **ofs_of(model)), batch, schedule)

    separate = separate_losses(model, batch, schedule)
    expected = gradients(model, separate.sum() / len(batch))
    one_row = losses(batch)
    rows = [losses(select_clips(batch, clips)) for clips in (slice(0, 2), slice(2, None))]
    grads_two_rows = [sum(pair) for pair in zip(*(gradients(model, row.sum() / len(batch)) for row in rows))]

    assert distance([one_row, torch.cat(rows)], [separate, separate]) <= 1e-5
    assert distance(gradients(model, one_row.sum() / len(batch)), expected) <= 1e-5
    assert distance(grads_two_rows, expected) <= 1e-5


def test_packed_clips_are_independent():
    """A clip's prediction does not depend on the other clips in its row, their prompts, timesteps or order."""
    model = random_model("5b")
    batch = random_batch(model)
    expected = model.forward_packed(batch.latents, batch.text, batch.timestep)
    order = [4, 2, 0, 5, 1, 3]
    reordered = model.forward_packed([batch.latents[i] for i in order], batch.text[order], batch.timestep[order])
    for i, v in zip(order, reordered):
        torch.testing.assert_close(v, expected[i], rtol=1e-4, atol=1e-4)
    changed = model.forward_packed(
        (*batch.latents[:-1], batch.latents[-1] + 1), batch.text, torch.cat((batch.timestep[:-1], torch.tensor([5])))
    )
    for v, before in zip(changed[:-1], expected[:-1]):
        assert torch.equal(v, before)


@pytest.mark.parametrize("spans", [(2, 3, 2, 8, 2, 1), (2, 4, 3, 3, 1, 5)], ids=["of three lengths", "of one length"])
@pytest.mark.parametrize("rows", [1, 2])
def test_packed_attention_equals_masked_attention(rows, spans):
    """The reference is SDPA with a block-diagonal mask, whose quadratic memory packing avoids."""
    layout = StreamLayout(spans)
    q, k, v = (torch.randn(rows, 18, 2, 4, dtype=torch.float64, requires_grad=True) for _ in range(3))
    segment = torch.repeat_interleave(torch.arange(3), torch.tensor(layout.segments))
    mask = segment[:, None] == segment[None, :]
    expected = F.scaled_dot_product_attention(*(x.transpose(1, 2) for x in (q, k, v)), mask).transpose(1, 2)
    actual = packed_attention(q, k, v, layout)
    torch.testing.assert_close(actual, expected)
    weights = torch.randn_like(actual)
    for a, b in zip(torch.autograd.grad(actual, (q, k, v), weights), torch.autograd.grad(expected, (q, k, v), weights)):
        torch.testing.assert_close(a, b)


def test_one_segment_equals_dense_attention():
    q, k, v = torch.randn(3, 1, 9, 2, 4).unbind(0)
    assert torch.equal(packed_attention(q, k, v, StreamLayout((4, 5))), dense_attention(q, k, v, StreamLayout((4, 5))))


def test_clips_and_images_have_equal_weight():
    """The loss is a mean over clips, not over elements."""
    model = random_model("2b")
    batch = replace(random_batch(model), latents=tuple(map(torch.zeros_like, random_batch(model).latents)))
    ones = replace(batch, noise=tuple(map(torch.ones_like, batch.noise)))
    losses = clip_losses(lambda latents, text, timestep: [torch.zeros_like(x) for x in latents], ones, Schedule())
    torch.testing.assert_close(losses, Schedule().alphas_cumprod[batch.timestep].float())


@pytest.mark.parametrize("spans", [(3, 4, 3, 4, 2, 6), (3, 5)])
def test_packed_attention_in_bfloat16_on_a_cpu_has_the_gradients_of_float32(spans):
    """Training in bfloat16 on a CPU computes the scores as matrix products."""
    generator = torch.Generator().manual_seed(0)
    rows = [torch.randn(1, sum(spans), 2, 8, generator=generator).requires_grad_() for _ in range(3)]
    weight = torch.randn(1, sum(spans), 2, 8, generator=generator)
    results = []
    for dtype in (torch.float32, torch.bfloat16):
        attended = packed_attention(*(row.to(dtype) for row in rows), StreamLayout(spans))
        assert attended.dtype == dtype
        results.append((attended.float(), *torch.autograd.grad((attended.float() * weight).sum(), rows)))
    for exact, rounded in zip(*results):
        torch.testing.assert_close(rounded, exact, rtol=0.05, atol=0.03)
