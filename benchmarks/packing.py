"""A training step on clips of many lengths: packed into rows, padded, or in buckets, on the CPU in float32.

python benchmarks/packing.py        # about a minute on two cores

The mix is fixed: 30% images and 70% clips of 1 to 6 seconds at 8 fps, in the sizes of the paper's first two stages
(256x384, also in portrait format, 384x576, 480x720), all scaled to a quarter. Rows are about 5 times as long as the
longest clip, as in the paper. A transformer of width 128 runs forward and backward over the clips of one step, in
batches with the same maximum number of tokens:

- "padded": clips in the planned order, each batch padded to its longest clip, with padding masked in attention;
- "buckets": batches of clips of similar length, padded to the bucket's upper limit; the last batches are smaller;
- "packed": `Transformer.forward_packed`, with the rows planned by the loader.

All variants must give the same losses and gradients. "useful" is the fraction of tokens that are not padding; for
packed rows, over all rows of 50 steps.
"""

from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from common import Report, apply_options, check_equal, interleave, make_row, option_parser, write_report
from torch import Tensor

from cogvideox.dataset.mixture import ClipTable, DataSource, Mixture, MixtureSettings, StepPlan
from cogvideox.dataset.packing import bucketed_batches, packing_efficiency, padded_batches
from cogvideox.diffusion.schedule import Schedule
from cogvideox.records import PackedBatch
from cogvideox.training.diffusion.loss import PredictOutput, clip_losses
from cogvideox.transformer.attention import Attend, StreamLayout
from cogvideox.transformer.model import Transformer, patchify, unpatchify
from cogvideox.transformer.position import positions_for, token_grid
from cogvideox.transformer.presets import PRESETS

SIZES = [(8, 12), (12, 8), (12, 18), (14, 22)]  # height and width in latent pixels
FRAMES = (3, 13)  # range of latent frames per clip, both ends included
IMAGE_FRACTION = 0.3
NUM_TEXT = 16
ROW_TOKENS, NUM_ROWS, NUM_STEPS = 5120, 4, 50
NUM_BUCKETS = 8  # of equal width
CONFIG = replace(PRESETS["2b"](), num_attention_heads=2, num_layers=4, text_embed_dim=64, max_text_seq_length=NUM_TEXT)


class MicroBatch(NamedTuple):
    """Clips that are processed together, and the number of tokens to which each is padded (0: no padding)."""

    batch: PackedBatch
    length: int


def sample_shapes(seed: int, num_clips: int = 2000) -> np.ndarray:
    """Sample latent frames, height and width of `num_clips` clips."""
    rng = np.random.default_rng(seed)
    frames = np.where(rng.random(num_clips) < IMAGE_FRACTION, 1, rng.integers(FRAMES[0], FRAMES[1] + 1, num_clips))
    return np.column_stack((frames, np.array(SIZES)[rng.integers(len(SIZES), size=num_clips)]))


def plan_steps(shapes: np.ndarray, num_steps: int, num_rows: int) -> list[StepPlan]:
    lengths = NUM_TEXT + shapes.prod(1) // 4
    settings = MixtureSettings((DataSource("mix"),), ROW_TOKENS, num_rows)
    mixture = Mixture({"mix": ClipTable(lengths, shapes[:, 0] == 1)}, settings, seed=0)
    plans, state = [], mixture.initial_state()
    for _ in range(num_steps):
        plans.append(mixture.plan_step(state))
        state = plans[-1].state_after
    return plans


def predict_padded(model: Transformer, length: int) -> PredictOutput:
    """Return a function that applies the transformer to clips of different sizes, each padded to `length` tokens."""
    config = model.config

    def predict(latents: list[Tensor], text: Tensor, timestep: Tensor) -> list[Tensor]:
        grids = [token_grid(config, *clip.shape[1:]) for clip in latents]
        rows = []
        for clip, tokens in zip(latents, model.text_in(text)):
            positions = positions_for(config, *clip.shape[1:])
            x = torch.cat((tokens, model.patch_in(patchify(clip[None], config))[0])) + positions.sincos
            rows.append(F.pad(x, (0, 0, 0, length - len(x))))
        lengths = torch.tensor([NUM_TEXT + t * h * w for t, h, w in grids])
        attend = masked_attention(torch.arange(length) < lengths[:, None])
        x, emb = torch.stack(rows), model.embed_timestep(timestep)
        layout = StreamLayout((NUM_TEXT, length - NUM_TEXT))
        for block in model.blocks:
            x = block(x, emb=emb, modulation=None, rope=None, layout=layout, attend=attend)
        v = model.final(x[:, NUM_TEXT:], emb=emb, modulation=None, spans=layout.spans[1:])
        return [unpatchify(row[None, : t * h * w], (t, h, w), config)[0] for row, (t, h, w) in zip(v, grids)]

    return predict


def masked_attention(is_real: Tensor) -> Attend:
    """Return attention that masks padding."""
    mask = is_real[:, None, None, :]

    def attend(q: Tensor, k: Tensor, v: Tensor, layout: StreamLayout) -> Tensor:
        q, k, v = (x.transpose(1, 2) for x in (q, k, v))
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2)

    return attend


def step(model: Transformer, schedule: Schedule, micro_batches: list[MicroBatch]) -> Tensor:
    """Run the forward and backward passes of a step; return the loss and all gradients as one vector."""
    model.zero_grad()
    num_clips, total = sum(len(micro_batch.batch) for micro_batch in micro_batches), torch.zeros(())
    for batch, length in micro_batches:
        predict = predict_padded(model, length) if length else model.forward_packed
        loss = clip_losses(predict, batch, schedule).sum() / num_clips
        loss.backward()
        total += loss.detach()
    return torch.cat([total.reshape(1), *(parameter.grad.flatten() for parameter in model.parameters())])


def random_clips(shapes: np.ndarray, seed: int) -> list[PackedBatch]:
    """Return one batch per clip, with random values."""
    generator = torch.Generator().manual_seed(seed)

    def random(*size: int) -> Tensor:
        return torch.randn(*size, generator=generator)

    times = torch.randint(1000, (len(shapes), 1), generator=generator)
    size = CONFIG.out_channels, NUM_TEXT, CONFIG.text_embed_dim
    return [
        PackedBatch((random(size[0], *shape),), (random(size[0], *shape),), random(1, *size[1:]), t, ("",))
        for shape, t in zip(shapes.tolist(), times)
    ]


def join(clips: list[PackedBatch]) -> PackedBatch:
    return PackedBatch(
        tuple(clip.latents[0] for clip in clips),
        tuple(clip.noise[0] for clip in clips),
        torch.cat([clip.text for clip in clips]),
        torch.cat([clip.timestep for clip in clips]),
        tuple(clip.clip_ids[0] for clip in clips),
    )


def main() -> None:
    parser = option_parser(__doc__, "packing", rounds=7, seconds=90)
    options = parser.parse_args()
    apply_options(options)
    num_rows = 1 if options.tiny else NUM_ROWS
    shapes = sample_shapes(options.seed)
    plans = plan_steps(shapes, NUM_STEPS, num_rows)
    plan = plans[-1]

    samples = sorted((sample.position, sample.index) for row in plan.rows for sample in row)
    index_of = {position: k for k, (position, _) in enumerate(samples)}
    shapes = shapes[[index for _, index in samples]]
    lengths = (NUM_TEXT + shapes.prod(1) // 4).tolist()
    clips = random_clips(shapes, options.seed)
    longest = NUM_TEXT + FRAMES[1] * max(h * w for h, w in SIZES) // 4
    edges = [-(-longest * k // NUM_BUCKETS) for k in range(1, NUM_BUCKETS + 1)]

    batches = {
        "padded": padded_batches(lengths, ROW_TOKENS // longest),
        "buckets": bucketed_batches(lengths, edges, ROW_TOKENS),
        "packed": [tuple(index_of[sample.position] for sample in row) for row in plan.rows],
    }
    padded_lengths = {
        "padded": [max(lengths[i] for i in batch) for batch in batches["padded"]],
        "buckets": [
            min(edge for edge in edges if edge >= max(lengths[i] for i in batch)) for batch in batches["buckets"]
        ],
        "packed": [0] * num_rows,
    }
    micro_batches = {
        name: [MicroBatch(join([clips[i] for i in batch]), length) for batch, length in zip(rows, padded_lengths[name])]
        for name, rows in batches.items()
    }
    useful = {
        name: packing_efficiency(
            batches[name], lengths, [len(batch) * length for batch, length in zip(batches[name], padded_lengths[name])]
        )
        for name in ("padded", "buckets")
    }
    useful["packed"] = sum(plan.num_tokens for plan in plans) / (NUM_STEPS * num_rows * ROW_TOKENS)

    torch.manual_seed(options.seed)
    model, schedule = Transformer(CONFIG), Schedule()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    variants = {name: lambda batches=batches: step(model, schedule, batches) for name, batches in micro_batches.items()}
    task = f"a step of {len(lengths)} clips, {sum(lengths)} tokens"
    errors = check_equal(task, {name: variant() for name, variant in variants.items()})
    times = interleave(variants, options.rounds, seconds=options.seconds)
    rows: list[Report] = []
    for reference in ("padded", "buckets"):
        pair = {name: times[name] for name in (reference, "packed")}
        speed = {name: sum(lengths) / float(np.median(seconds)) for name, seconds in pair.items()}
        columns = {"useful": useful, "useful_tokens_per_second": speed, "error": errors}
        rows.append(make_row(f"{task}, compared to {reference}", pair, **columns))
    write_report("packing", {"dtype": "float32", "mix": __doc__.split("\n\n")[2].replace("\n", " ")}, rows, options.out)


if __name__ == "__main__":
    main()
