"""The same video in every placement, and what happens where memory runs out all the same."""

import weakref
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from cogvideox.errors import UserError
from cogvideox.generation.memory import default_demand, plan_for
from cogvideox.generation.pipeline import CogVideoX
from cogvideox.generation.progress import Cancelled
from cogvideox.generation.request.builder import complete
from cogvideox.pretrained.offload import placement
from cogvideox.pretrained.offload.hardware import detect_hardware
from cogvideox.pretrained.offload.placement import profile_model
from cogvideox.pretrained.offload.planner import STRATEGIES, estimate_plan
from cogvideox.pretrained.offload.vae_cost import VAEMemoryMode
from cogvideox.pretrained.offload.weight_store import DiskStore
from cogvideox.transformer.lora import inject
from cogvideox.vae.model import CausalVAE

PROMPT = "a red ball"


IN_TWO = VAEMemoryMode(2)


def placed(spec, keeps, how=IN_TWO):
    machine = detect_hardware(torch.device("cpu"), "float32", measured=False)
    return CogVideoX.from_pretrained(
        spec, "cpu", memory=estimate_plan(profile_model(spec), default_demand(spec), machine, keeps, how)
    )


@pytest.mark.parametrize("keeps", STRATEGIES[1:])
@pytest.mark.parametrize("variant", ["2b", "1.5-5b-i2v"])
def test_the_same_video_in_every_placement(pipes, clip, variant, keeps):
    given = {"image": clip[0]} if pipes[variant].spec.transformer.takes_image else {}
    pipe = placed(pipes[variant].spec, keeps)
    expected = pipes[variant].generate(PROMPT, seed=1, output="float", **given).frames
    for _ in range(2):
        frames = pipe.generate(PROMPT, seed=1, output="float", **given).frames
        np.testing.assert_allclose(frames, expected, atol=3e-5)  # strips pool in another order


def test_threads_that_share_a_model_wait_for_each_other(pipes):
    """Else each would find the blocks of the other in place."""
    pipe = placed(pipes["2b"].spec, STRATEGIES[-1])
    alone = [pipe.generate(PROMPT, seed=seed).frames for seed in range(3)]
    with ThreadPoolExecutor(3) as threads:
        together = list(threads.map(lambda seed: pipe.generate(PROMPT, seed=seed).frames, range(3)))
    assert all(np.array_equal(one, other) for one, other in zip(together, alone, strict=True))


@pytest.mark.parametrize("keeps", [STRATEGIES[2], STRATEGIES[-1]])
def test_after_a_cancel_the_next_video_is_the_same(pipes, keeps):
    pipe = placed(pipes["2b"].spec, keeps, VAEMemoryMode())
    expected = pipes["2b"].generate(PROMPT, seed=1).frames

    def stop(progress):
        raise Cancelled

    for _ in range(2):
        with pytest.raises(Cancelled):
            pipe.generate(PROMPT, seed=1, on_step=stop)
    assert np.array_equal(pipe.generate(PROMPT, seed=1).frames, expected)


def test_after_a_failure_inside_of_a_block_the_next_video_is_the_same(pipes, monkeypatch):
    pipe = placed(pipes["2b"].spec, STRATEGIES[-1], VAEMemoryMode())
    expected = pipes["2b"].generate(PROMPT, seed=1).frames
    for block in pipe.bundle.transformer.blocks:
        with monkeypatch.context() as broken:
            broken.setattr(block, "forward", lambda *args, **kwargs: 1 / 0)
            with pytest.raises(ZeroDivisionError):
                pipe.generate(PROMPT, seed=1)
        assert np.array_equal(pipe.generate(PROMPT, seed=1).frames, expected)


def test_after_a_failure_to_read_a_block_the_next_video_is_the_same(pipes, monkeypatch):
    pipe = placed(pipes["2b"].spec, STRATEGIES[-1], VAEMemoryMode())
    expected = pipes["2b"].generate(PROMPT, seed=1).frames
    with monkeypatch.context() as broken:
        broken.setattr(DiskStore, "fill", lambda *args: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            pipe.generate(PROMPT, seed=1)
    assert np.array_equal(pipe.generate(PROMPT, seed=1).frames, expected)


def test_previews_while_blocks_are_streamed(pipes):
    seen = []
    pipe = placed(pipes["2b"].spec, STRATEGIES[-1])
    pipe.generate(PROMPT, seed=1, on_step=lambda progress: seen.append(progress.preview().shape))
    assert len(seen) >= 3


def test_one_byte_weights_are_told_in_the_metadata(pipes):
    pipe = CogVideoX.from_pretrained(pipes["2b"].spec, "cpu", weights="int8")
    video = pipe.generate(PROMPT, seed=1)
    assert video.metadata["weights"] == "int8"
    assert "weights" not in pipes["2b"].generate(PROMPT, seed=1).metadata
    with pytest.raises(UserError, match="exact, int8, fp8"):
        CogVideoX.from_pretrained(pipes["2b"].spec, "cpu", weights="int4")


def test_a_lora_beside_streamed_weights(pipes):
    adapter = inject.create_lora(pipes["2b"].bundle.transformer, torch.Generator().manual_seed(0), rank=2)
    for factors in adapter.layers.values():
        factors.up.normal_(generator=torch.Generator().manual_seed(1))
    frames = []
    for pipe in (
        CogVideoX.from_pretrained(pipes["2b"].spec, "cpu"),
        placed(pipes["2b"].spec, STRATEGIES[-1], VAEMemoryMode()),
    ):
        pipe.load_lora(adapter, 0.5)
        frames.append(pipe.generate(PROMPT, seed=1).frames)
        pipe.unload_lora()
    assert np.array_equal(*frames)
    with pytest.raises(UserError, match="leave merge out"):
        pipe.load_lora(adapter, merge=True)


def make_hungry(monkeypatch, method, enough):
    """From here on a method of the VAE takes all memory in fewer strips than are enough."""
    whole = getattr(CausalVAE, method)

    def hungry(self, x, *, strips=1, offload=False):
        if strips < enough:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return whole(self, x, strips=strips, offload=offload)

    monkeypatch.setattr(CausalVAE, method, hungry)


def test_where_memory_runs_out_the_vae_goes_on_in_strips(pipes, monkeypatch):
    pipe = pipes["2b"]
    expected = pipe.generate(PROMPT, seed=1, output="float").frames
    make_hungry(monkeypatch, "decode_stream", 4)
    with pytest.warns(UserWarning, match="in 4 strips"):
        frames = pipe.generate(PROMPT, seed=1, output="float").frames
    np.testing.assert_allclose(frames, expected, atol=2e-6)


def test_where_memory_runs_out_in_encoding_as_well(pipes, monkeypatch):
    pipe, video = pipes["2b"], np.random.default_rng(0).integers(0, 256, (9, 32, 48, 3), dtype=np.uint8)
    expected = pipe.generate(PROMPT, seed=1, video=video, strength=0.5, output="float").frames
    make_hungry(monkeypatch, "encode", 2)
    with pytest.warns(UserWarning, match="in 2 strips"):
        frames = pipe.generate(PROMPT, seed=1, video=video, strength=0.5, output="float").frames
    np.testing.assert_allclose(frames, expected, atol=2e-5)


def test_where_it_runs_out_elsewhere_the_next_setting_is_named(pipes, monkeypatch):
    def full(*args, **kwargs):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 12 bytes")

    spec = pipes["2b"].spec
    for pipe, more, words in (
        (CogVideoX.from_pretrained(spec, "cpu"), {}, "--memory low"),
        (placed(spec, STRATEGIES[-1]), {}, "sequential_guidance"),
        (placed(spec, STRATEGIES[-1]), {"sequential_guidance": True}, "fewer frames"),
    ):
        monkeypatch.setattr(pipe.bundle.transformer, "forward", full)
        with pytest.raises(UserError, match=words):
            pipe.generate(PROMPT, seed=1, **more)


def test_where_it_runs_out_while_the_model_is_loaded_as_well(pipes, monkeypatch):
    def full(*args, **kwargs):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    monkeypatch.setattr(placement, "load_strict", full)
    with pytest.raises(UserError, match=r"while the model was loaded: .*--memory low"):
        CogVideoX.from_pretrained(pipes["2b"].spec, "cpu")
    with pytest.raises(UserError, match="end other programs"):
        placed(pipes["2b"].spec, STRATEGIES[-1])


def test_an_error_of_memory_keeps_no_tensors(pipes, monkeypatch):
    """A notebook keeps the last exception, and the retry needs the memory."""
    pipe, tensors, tf32 = CogVideoX.from_pretrained(pipes["2b"].spec, "cpu"), [], []

    def full(x, *args, **kwargs):
        activations = torch.zeros(100)
        tensors.append(weakref.ref(activations))
        tf32.append(torch.backends.cudnn.allow_tf32)
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    monkeypatch.setattr(pipe.bundle.transformer, "forward", full)
    with pytest.raises(UserError, match="memory ran out") as raised:
        pipe.generate(PROMPT, seed=1)
    assert raised.value.__context__ is None and tensors[0]() is None
    assert tf32 == [False] and torch.backends.cudnn.allow_tf32  # this one computes in float32


def test_what_takes_weights_that_stay_is_refused_before_any_is_read(pipes, monkeypatch):
    monkeypatch.setattr(placement, "load_strict", None)
    with pytest.raises(UserError, match=r"compile is for weights that stay .*--memory speed\) and without int8"):
        CogVideoX.from_pretrained(pipes["2b"].spec, "cpu", weights="int8", compile=True)


def test_finished_latents_are_decoded_without_denoising_again(pipes, tmp_path, monkeypatch):
    pipe, file = pipes["2b"], tmp_path / "x.latents.safetensors"
    request = complete(pipe.spec, PROMPT, seed=1)
    expected = pipe.run(request).frames

    with monkeypatch.context() as broken:
        broken.setattr(CausalVAE, "decode_stream", lambda *args, **kwargs: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            pipe.run(request, finished=file)
    stages = []
    again = pipe.run(request, finished=file, on_step=lambda progress: stages.append(progress.stage))
    assert np.array_equal(again.frames, expected) and set(stages) == {"decode"}
    other = pipe.run(complete(pipe.spec, PROMPT, seed=2), finished=file)
    assert np.array_equal(other.frames, pipe.run(complete(pipe.spec, PROMPT, seed=2)).frames)


def test_a_plan_is_made_for_the_request(pipes):
    spec = pipes["2b"].spec
    small, large = (
        plan_for(spec, torch.device("cpu"), torch.float32, request=complete(spec, PROMPT, num_frames=n, seed=0))
        for n in (5, 49)
    )
    assert small.peak < large.peak and small.placement == "resident"
    with pytest.raises(UserError, match="auto, speed, low"):
        plan_for(spec, torch.device("cpu"), torch.float32, memory="much")
    with pytest.raises(UserError, match=r"needs .* even in its smallest plan"):
        plan_for(spec, torch.device("cpu"), torch.float32, memory=1000)
