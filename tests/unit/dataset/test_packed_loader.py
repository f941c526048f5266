"""The contents of packed batches do not depend on the number of ranks or workers, or on resuming."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from cogvideox.dataset.config import ClipFormat, StoreSettings
from cogvideox.dataset.latents.latent_store import INDEX, IndexRow, LatentStore, save_shard, write_index
from cogvideox.dataset.mixture import DataSource, MixtureSettings
from cogvideox.dataset.packed_loader import PackedLoader, StepBatches
from cogvideox.errors import UserError
from cogvideox.filter_policy.policy import Bound, Policy
from cogvideox.records import LatentSample, PackedBatch
from tests.tiny import TEXT_LENGTH, transformer

SHAPES = [(1, 4, 6), (1, 6, 4), (2, 4, 6), (3, 6, 4), (3, 4, 4), (1, 4, 4), (4, 4, 6)]
SETTINGS = MixtureSettings((DataSource("a", 2.0), DataSource("b")), row_tokens=120, num_rows=4, text_dropout=0.3)
NULL_TEXT = torch.zeros(TEXT_LENGTH, 32)


class MemoryStore:
    """A store in memory. The latents of clip i have mean i."""

    def __init__(self, name: str, num_clips: int, logvar: float = -30.0, first_frames: int = 0) -> None:
        self.name, self.logvar, self.first_frames = name, logvar, first_frames
        self.shapes = np.array([SHAPES[i % len(SHAPES)] for i in range(num_clips)])
        self.columns = {"score": np.arange(num_clips) / num_clips}

    def __len__(self) -> int:
        return len(self.shapes)

    def __getitem__(self, index: int) -> LatentSample:
        mean = torch.full((4, *self.shapes[index]), float(index), dtype=torch.bfloat16)
        text = torch.full((TEXT_LENGTH, 32), index + 1.0, dtype=torch.bfloat16)
        logvar = torch.full_like(mean, self.logvar)
        name, images = f"{self.name}{index}", None
        if self.first_frames:  # copy k of clip i is 4 i + k
            copies = torch.arange(self.first_frames, dtype=torch.bfloat16)[None, :, None, None]
            images = 4 * index + copies + torch.zeros_like(mean[:, :1])
        logvars = None if images is None else torch.full_like(images, -30.0)
        return LatentSample(
            name, mean, logvar, text, 8.0, (32, 48), (0, 0, 32, 48), "v", "t", image_mean=images, image_logvar=logvars
        )


STORES = {"a": MemoryStore("a", 25), "b": MemoryStore("b", 10)}


def loader(
    variant: str = "5b", stores=STORES, rank: int = 0, num_ranks: int = 1, seed: int = 0, **changes
) -> PackedLoader:
    settings = replace(SETTINGS, **changes)
    arguments = {"seed": seed, "scaling_factor": 0.5, "null_text": NULL_TEXT, "rank": rank, "num_ranks": num_ranks}
    return PackedLoader(stores, settings, transformer(variant), **arguments)


def tensors(batch: PackedBatch) -> list[torch.Tensor]:
    return [*batch.latents, *batch.noise, batch.text, batch.timestep]


def equal_batches(a: PackedBatch, b: PackedBatch) -> bool:
    return a.clip_ids == b.clip_ids and all(map(torch.equal, tensors(a), tensors(b)))


def equal_steps(steps: list[StepBatches], others: list[StepBatches]) -> bool:
    pairs = [(a, b) for step, other in zip(steps, others, strict=True) for a, b in zip(step.batches, other.batches)]
    states, other_states = ([step.state_after for step in sequence] for sequence in (steps, others))
    return all(equal_batches(*pair) for pair in pairs) and states == other_states


def test_batches_have_the_contents_of_the_stores():
    for step in loader().steps(3):
        assert len(step.batches) == 4 and step.num_clips == sum(map(len, step.batches))
        for batch in step.batches:
            for name, latents, noise, text in zip(batch.clip_ids, batch.latents, batch.noise, batch.text):
                index = int(name[1:])
                assert latents.shape == noise.shape == (4, *STORES[name[0]].shapes[index])
                torch.testing.assert_close(latents, torch.full_like(latents, index * 0.5), rtol=0, atol=1e-5)
                assert (text == index + 1).all() or (text == 0).all()
    tokens = sum(TEXT_LENGTH + x[0].numel() // 4 for batch in step.batches for x in batch.latents)
    assert step.num_tokens == tokens and step.packing_efficiency == tokens / 480
    assert 0.8 < step.packing_efficiency <= 1 and step.kept_fractions == {"a": 1.0, "b": 1.0}


@pytest.mark.parametrize("workers", [0, 1])
def test_a_store_on_disk_gives_the_same_batches(tmp_path, workers):
    clips = MemoryStore("a", 7)
    settings = StoreSettings(
        "model", "v", "t", 4, 0.5, 8, TEXT_LENGTH, 32, ClipFormat(fps=8.0, num_frames=17, max_area=32 * 48)
    )
    rows = []
    for i, (t, h, w) in enumerate(clips.shapes.tolist()):
        tensors = {f"l{i}.mean": clips[i].mean, f"l{i}.logvar": clips[i].logvar}
        files = save_shard(tmp_path, "latents", tensors), save_shard(tmp_path, "text", {f"t{i}": clips[i].text})
        size = {"fps": 8.0, "num_frames": 4 * t - 3, "height": 8 * h, "width": 8 * w, "crop": (0, 0, 8 * h, 8 * w)}
        keys = {"latents": f"l{i}", "latents_file": files[0], "text": f"t{i}", "text_file": files[1]}
        source = {"source_fps": 8.0, "source_height": 8 * h, "source_width": 8 * w}
        rows.append(
            IndexRow(f"{i}.mp4", clip_id=f"a{i}", caption="", scores={"score": i / 7}, **size, **keys, **source)
        )
    write_index(tmp_path / INDEX, settings, rows)
    store = LatentStore(tmp_path)
    one_source = MixtureSettings((DataSource("a"),), row_tokens=120, num_rows=2)
    arguments = {"seed": 0, "scaling_factor": store.settings.scaling_factor, "null_text": store.null_text("zero")}
    on_disk, in_memory = (
        PackedLoader({"a": source}, one_source, transformer("5b"), **arguments) for source in (store, clips)
    )
    assert equal_steps(list(on_disk.steps(3, workers=workers)), list(in_memory.steps(3)))


def test_posterior_noise_and_dropout_are_sampled_for_each_use_of_a_clip():
    stores = {"a": MemoryStore("a", 7, logvar=0.0), "b": MemoryStore("b", 3, logvar=0.0)}
    rows = [batch for step in loader(stores=stores).steps(20) for batch in step.batches]
    uses = [(x, noise) for row in rows for x, noise, i in zip(row.latents, row.noise, row.clip_ids) if i == "a2"]
    assert len(uses) > 5
    for tensors_of_uses in zip(*uses):
        assert len({tensor.sum().item() for tensor in tensors_of_uses}) == len(uses)
    spread = torch.stack([x for x, _ in uses]) / 0.5 - 2
    assert abs(spread.mean()) < 0.1 and abs(spread.std() - 1) < 0.1
    dropped = torch.cat([(row.text == 0).all(dim=(1, 2)) for row in rows]).float().mean().item()
    assert dropped == pytest.approx(0.3, abs=0.1)
    assert all((row.text != 0).all() for step in loader(text_dropout=0.0).steps(3) for row in step.batches)


def test_timesteps_are_stratified_over_a_step():
    for step in loader().steps(5):
        t = torch.cat([batch.timestep for batch in step.batches]).sort().values
        interval = torch.arange(step.num_clips)
        assert (t >= interval * 1000 // step.num_clips).all() and (t * step.num_clips < (interval + 1) * 1000).all()
    per_rank = {"timestep_sampling": "explicit_uniform_ranks", "num_ranks": 2}
    steps = [next(loader(rank=rank, **per_rank).steps(1)) for rank in range(2)]
    halves = [{int(t) // 500 for batch in step.batches for t in batch.timestep} for step in steps]
    assert sorted(map(tuple, halves)) == [(0,), (1,)]
    single = next(loader(timestep_sampling="explicit_uniform_ranks", timestep_ranks=2).steps(1))
    expected = {
        name: int(t) for step in steps for batch in step.batches for name, t in zip(batch.clip_ids, batch.timestep)
    }
    assert {n: int(t) for batch in single.batches for n, t in zip(batch.clip_ids, batch.timestep)} == expected
    steps = [next(loader(timestep_sampling=name).steps(1)) for name in ("random", "explicit_uniform")]
    assert not torch.equal(*(step.batches[0].timestep for step in steps))


@pytest.mark.parametrize("num_ranks", [2, 4])
def test_batches_do_not_depend_on_the_number_of_ranks(num_ranks):
    single = list(loader().steps(4))
    shared = [list(loader(rank=rank, num_ranks=num_ranks).steps(4)) for rank in range(num_ranks)]
    for k, step in enumerate(single):
        rows = {batch.clip_ids: batch for ranks in shared for batch in ranks[k].batches}
        assert len(rows) == 4 and all(equal_batches(rows[batch.clip_ids], batch) for batch in step.batches)
        assert {ranks[k].num_clips for ranks in shared} == {step.num_clips}
        assert {len(ranks[k].batches) for ranks in shared} == {4 // num_ranks}
        assert all(ranks[k].state_after == step.state_after for ranks in shared)


@pytest.mark.parametrize("num_ranks", [1, 2])
def test_resumed_batches_equal_uninterrupted_batches(num_ranks):
    """The state is saved as JSON, as in a checkpoint, and may be resumed with a different number of ranks."""
    uninterrupted = list(loader(num_ranks=num_ranks).steps(6))
    stopped = loader()
    for step in stopped.steps(6):
        if step.state_after.step == 2:
            break
    state = json.loads(json.dumps(stopped.state_dict()))
    resumed = loader(num_ranks=num_ranks)
    resumed.load_state_dict(state)
    assert equal_steps(list(resumed.steps(6)), uninterrupted[2:])
    assert state["seen"] == dict(uninterrupted[1].state_after.seen) and resumed.state_dict()["step"] == 6


def test_prefetching_does_not_change_the_batches():
    """The state is the state after the current step, not after the prefetched ones."""
    prefetching = loader()
    steps = []
    for step in prefetching.steps(5, workers=2):
        assert prefetching.state_dict()["step"] == len(steps) + 1
        steps.append(step)
    assert equal_steps(steps, list(loader().steps(5)))


def test_patches_of_two_frames_repeat_the_first_frame():
    """Padding frames are added in front, with independent noise."""
    step = next(loader("1.5-5b", {"a": MemoryStore("a", 9, logvar=0.0), "b": STORES["b"]}).steps(1))
    odd = [(x, n) for row in step.batches for x, n, i in zip(row.latents, row.noise, row.clip_ids) if i[0] == "a"]
    assert odd and all(x.shape[1] % 2 == 0 for x, _ in odd)
    images = [(x, noise) for x, noise in odd if x.shape[1] == 2 and torch.equal(x[:, 0], x[:, 1])]
    assert images and not any(torch.equal(noise[:, 0], noise[:, 1]) for _, noise in images)


@pytest.mark.parametrize("variant", ["5b", "1.5-5b"])
def test_image_to_video_batches_contain_first_frames(variant):
    """Each clip has one encoding of its first frame in the first latent frame, or zeros. Everything else equals the
    batches of a text-to-video model."""
    stores = {name: MemoryStore(name, len(clips), first_frames=3) for name, clips in STORES.items()}
    text_config = transformer(variant)
    text_steps = list(loader(variant, stores).steps(30))
    arguments = {"seed": 0, "scaling_factor": 0.5, "image_scaling_factor": 10.0, "null_text": NULL_TEXT}
    steps = list(
        PackedLoader(
            stores, replace(SETTINGS, image_dropout=0.2), replace(text_config, in_channels=8), **arguments
        ).steps(30)
    )
    assert all(
        equal_batches(a, replace(b, image=None))
        for x, y in zip(text_steps, steps)
        for a, b in zip(x.batches, y.batches)
    )
    rows = [batch for step in steps for batch in step.batches]
    uses = [(x, i, int(name[1:])) for row in rows for x, i, name in zip(row.latents, row.image, row.clip_ids)]
    dropped, seen = [], set()
    for x, image, index in uses:
        assert image.shape == x.shape and (image[:, 1:] == 0).all()
        if index > 0:
            dropped.append(not image.any())
        if image.any():
            k = round(image.max().item() / 10) - 4 * index
            seen.add(k)
            torch.testing.assert_close(
                image[:, 0], torch.full_like(image[:, 0], 10.0 * (4 * index + k)), rtol=0, atol=1e-3
            )
    assert seen == {0, 1, 2}
    assert np.mean(dropped) == pytest.approx(0.2, abs=0.05)


def test_an_image_to_video_model_needs_first_frames():
    model = replace(transformer("5b"), in_channels=8)
    loader = PackedLoader(STORES, SETTINGS, model, seed=0, scaling_factor=0.5, null_text=NULL_TEXT)
    with pytest.raises(UserError, match=r"the first frame of .* is not encoded"):
        next(loader.steps(1))


def test_the_kept_fractions_follow_the_policy():
    policy = Policy((Bound("score", best=0.4, from_step=1),))
    steps = list(loader(policy=policy).steps(3))
    assert [step.kept_fractions for step in steps] == [{"a": 1.0, "b": 1.0}] + [{"a": 0.4, "b": 0.4}] * 2
    assert all(int(i[1:]) >= (15 if i[0] == "a" else 6) for row in steps[1].batches for i in row.clip_ids)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_ranks": 3}, "run.batch_size=4: the rows of a step cannot be divided evenly among 3 processes"),
        ({"row_tokens": 30}, "row_tokens=30 is too small for a clip of 36 tokens in a"),
        ({"variant": "5b-i2v"}, "clips of a do not fit the transformer: .* learned positions"),
    ],
)
def test_invalid_arguments_are_rejected(changes, message):
    with pytest.raises(UserError, match=message):
        loader(**changes)


def test_latents_must_divide_into_patches():
    odd = MemoryStore("b", 3)
    odd.shapes[1] = (1, 5, 6)
    with pytest.raises(UserError, match="clips of b do not fit the transformer: latent height 5"):
        loader(stores={"a": STORES["a"], "b": odd})


def test_the_state_of_other_sources_is_rejected():
    state = loader().state_dict()
    with pytest.raises(UserError, match="the state of the data loader: unknown setting epoch"):
        loader().load_state_dict({**state, "epoch": 3})
    with pytest.raises(UserError, match="a images: the run was started with"):
        loader(stores={"a": STORES["b"], "b": STORES["b"]}).load_state_dict(state)
