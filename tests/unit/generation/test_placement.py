"""All placements generate the same video; handling of out-of-memory errors."""

import weakref
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from cogvideox.errors import UserError
from cogvideox.generation.pipeline import CogVideoX
from cogvideox.generation.progress import Cancelled
from cogvideox.generation.request.builder import complete_request
from cogvideox.generation.request.request import LoadOptions
from cogvideox.generation.setup import choose_setup
from cogvideox.generation.workload import default_workload
from cogvideox.pretrained.offload import placement
from cogvideox.pretrained.offload.hardware import detect_hardware
from cogvideox.pretrained.offload.memory_planner import STRATEGIES, estimate_plan
from cogvideox.pretrained.offload.placement import profile_model
from cogvideox.pretrained.offload.vae_cost import VAESlicing
from cogvideox.pretrained.offload.weight_store import DiskStore
from cogvideox.transformer.lora import inject
from cogvideox.vae.model import CausalVAE

PROMPT = "a red ball"


TWO_STRIPS = VAESlicing(2)


def create_pipeline(spec, strategies, slicing=TWO_STRIPS):
    hardware = detect_hardware(torch.device("cpu"), "float32", measured=False)
    return CogVideoX.from_pretrained(
        spec, "cpu", memory=estimate_plan(profile_model(spec), default_workload(spec), hardware, strategies, slicing)
    )


@pytest.mark.parametrize("strategies", STRATEGIES[1:])
@pytest.mark.parametrize("variant", ["2b", "1.5-5b-i2v"])
def test_the_same_video_in_every_placement(pipes, clip, variant, strategies):
    inputs = {"image": clip[0]} if pipes[variant].spec.transformer.is_image_to_video else {}
    pipe = create_pipeline(pipes[variant].spec, strategies)
    expected = pipes[variant].generate(PROMPT, seed=1, output="float", **inputs).frames
    for _ in range(2):
        frames = pipe.generate(PROMPT, seed=1, output="float", **inputs).frames
        np.testing.assert_allclose(frames, expected, atol=3e-5)  # norm statistics of strips are summed in another order


def test_concurrent_threads_do_not_change_the_videos(pipes):
    """Without a lock, threads would offload each other's blocks."""
    pipe = create_pipeline(pipes["2b"].spec, STRATEGIES[-1])
    expected = [pipe.generate(PROMPT, seed=seed).frames for seed in range(3)]
    with ThreadPoolExecutor(3) as threads:
        actual = list(threads.map(lambda seed: pipe.generate(PROMPT, seed=seed).frames, range(3)))
    assert all(np.array_equal(a, b) for a, b in zip(actual, expected, strict=True))


@pytest.mark.parametrize("strategies", [STRATEGIES[2], STRATEGIES[-1]])
def test_cancelling_does_not_change_the_next_video(pipes, strategies):
    pipe = create_pipeline(pipes["2b"].spec, strategies, VAESlicing())
    expected = pipes["2b"].generate(PROMPT, seed=1).frames

    def stop(progress):
        raise Cancelled

    for _ in range(2):
        with pytest.raises(Cancelled):
            pipe.generate(PROMPT, seed=1, on_step=stop)
    assert np.array_equal(pipe.generate(PROMPT, seed=1).frames, expected)


def test_a_failure_in_a_block_does_not_change_the_next_video(pipes, monkeypatch):
    pipe = create_pipeline(pipes["2b"].spec, STRATEGIES[-1], VAESlicing())
    expected = pipes["2b"].generate(PROMPT, seed=1).frames
    for block in pipe.model.transformer.blocks:
        with monkeypatch.context() as broken:
            broken.setattr(block, "forward", lambda *args, **kwargs: 1 / 0)
            with pytest.raises(ZeroDivisionError):
                pipe.generate(PROMPT, seed=1)
        assert np.array_equal(pipe.generate(PROMPT, seed=1).frames, expected)


def test_a_failure_to_read_a_block_does_not_change_the_next_video(pipes, monkeypatch):
    pipe = create_pipeline(pipes["2b"].spec, STRATEGIES[-1], VAESlicing())
    expected = pipes["2b"].generate(PROMPT, seed=1).frames
    with monkeypatch.context() as broken:
        broken.setattr(DiskStore, "fill", lambda *args: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            pipe.generate(PROMPT, seed=1)
    assert np.array_equal(pipe.generate(PROMPT, seed=1).frames, expected)


def test_previews_with_group_offloading(pipes):
    shapes = []
    pipe = create_pipeline(pipes["2b"].spec, STRATEGIES[-1])
    pipe.generate(PROMPT, seed=1, on_step=lambda progress: shapes.append(progress.preview().shape))
    assert len(shapes) >= 3


def test_8_bit_weights_are_in_the_metadata(pipes):
    pipe = CogVideoX.from_pretrained(pipes["2b"].spec, "cpu", weights="int8")
    video = pipe.generate(PROMPT, seed=1)
    assert video.metadata["weights"] == "int8"
    assert "weights" not in pipes["2b"].generate(PROMPT, seed=1).metadata
    with pytest.raises(UserError, match="exact, int8, fp8"):
        CogVideoX.from_pretrained(pipes["2b"].spec, "cpu", weights="int4")


def test_a_lora_with_group_offloading(pipes):
    adapter = inject.create_lora(pipes["2b"].model.transformer, torch.Generator().manual_seed(0), rank=2)
    for factors in adapter.layers.values():
        factors.up.normal_(generator=torch.Generator().manual_seed(1))
    frames = []
    for pipe in (
        CogVideoX.from_pretrained(pipes["2b"].spec, "cpu"),
        create_pipeline(pipes["2b"].spec, STRATEGIES[-1], VAESlicing()),
    ):
        pipe.load_lora(adapter, 0.5)
        frames.append(pipe.generate(PROMPT, seed=1).frames)
        pipe.unload_lora()
    assert np.array_equal(*frames)
    with pytest.raises(UserError, match="merge needs unquantized weights that stay on the device: leave it out"):
        pipe.load_lora(adapter, merge=True)


def run_out_of_memory_below(monkeypatch, method, num_strips):
    """Make a method of the VAE run out of memory below a number of strips."""
    original = getattr(CausalVAE, method)

    def limited(self, x, *, strips=1, offload=False):
        if strips < num_strips:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return original(self, x, strips=strips, offload=offload)

    monkeypatch.setattr(CausalVAE, method, limited)


def test_out_of_memory_while_decoding_the_vae_retries_in_strips(pipes, monkeypatch):
    pipe = pipes["2b"]
    expected = pipe.generate(PROMPT, seed=1, output="float").frames
    run_out_of_memory_below(monkeypatch, "decode_stream", 4)
    with pytest.warns(UserWarning, match="in 4 strips"):
        frames = pipe.generate(PROMPT, seed=1, output="float").frames
    np.testing.assert_allclose(frames, expected, atol=2e-6)


def test_out_of_memory_while_encoding_the_vae_retries_in_strips(pipes, monkeypatch):
    pipe, video = pipes["2b"], np.random.default_rng(0).integers(0, 256, (9, 32, 48, 3), dtype=np.uint8)
    expected = pipe.generate(PROMPT, seed=1, video=video, strength=0.5, output="float").frames
    run_out_of_memory_below(monkeypatch, "encode", 2)
    with pytest.warns(UserWarning, match="in 2 strips"):
        frames = pipe.generate(PROMPT, seed=1, video=video, strength=0.5, output="float").frames
    np.testing.assert_allclose(frames, expected, atol=2e-5)


def test_out_of_memory_outside_the_vae_suggests_a_setting(pipes, monkeypatch):
    def run_out_of_memory(*args, **kwargs):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 12 bytes")

    spec = pipes["2b"].spec
    for pipe, options, message in (
        (CogVideoX.from_pretrained(spec, "cpu"), {}, "--memory low"),
        (create_pipeline(spec, STRATEGIES[-1]), {}, "sequential_guidance"),
        (create_pipeline(spec, STRATEGIES[-1]), {"sequential_guidance": True}, "fewer frames"),
    ):
        monkeypatch.setattr(pipe.model.transformer, "forward", run_out_of_memory)
        with pytest.raises(UserError, match=message):
            pipe.generate(PROMPT, seed=1, **options)


def test_out_of_memory_while_loading_suggests_a_setting(pipes, monkeypatch):
    def run_out_of_memory(*args, **kwargs):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    monkeypatch.setattr(placement, "load_network", run_out_of_memory)
    with pytest.raises(UserError, match=r"out of memory while loading the model: .*--memory low"):
        CogVideoX.from_pretrained(pipes["2b"].spec, "cpu")
    with pytest.raises(UserError, match="close other programs"):
        create_pipeline(pipes["2b"].spec, STRATEGIES[-1])


def test_an_out_of_memory_error_keeps_no_tensors(pipes, monkeypatch):
    """A notebook keeps the last exception, while a retry needs the memory."""
    pipe, tensors, tf32 = CogVideoX.from_pretrained(pipes["2b"].spec, "cpu"), [], []

    def run_out_of_memory(x, *args, **kwargs):
        activations = torch.zeros(100)
        tensors.append(weakref.ref(activations))
        tf32.append(torch.backends.cudnn.allow_tf32)
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    monkeypatch.setattr(pipe.model.transformer, "forward", run_out_of_memory)
    with pytest.raises(UserError, match="out of memory") as caught:
        pipe.generate(PROMPT, seed=1)
    assert caught.value.__context__ is None and tensors[0]() is None
    assert tf32 == [False] and torch.backends.cudnn.allow_tf32  # TF32 is disabled for a float32 model


def test_compile_with_8_bit_weights_is_an_error_before_weights_are_read(pipes, monkeypatch):
    monkeypatch.setattr(placement, "load_network", None)
    with pytest.raises(
        UserError, match=r"compile needs unquantized weights that stay .*--memory speed\) and without int8"
    ):
        CogVideoX.from_pretrained(pipes["2b"].spec, "cpu", weights="int8", compile=True)


def test_checkpointed_latents_are_not_denoised_again(pipes, tmp_path, monkeypatch):
    pipe, file = pipes["2b"], tmp_path / "x.latents.safetensors"
    request = complete_request(pipe.spec, PROMPT, seed=1)
    expected = pipe.run(request).frames

    with monkeypatch.context() as broken:
        broken.setattr(CausalVAE, "decode_stream", lambda *args, **kwargs: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            pipe.run(request, latents_file=file)
    stages = []
    repeated = pipe.run(request, latents_file=file, on_step=lambda progress: stages.append(progress.stage))
    assert np.array_equal(repeated.frames, expected) and set(stages) == {"decode"}
    other = pipe.run(complete_request(pipe.spec, PROMPT, seed=2), latents_file=file)
    assert np.array_equal(other.frames, pipe.run(complete_request(pipe.spec, PROMPT, seed=2)).frames)


def test_the_plan_depends_on_the_request(pipes):
    spec = pipes["2b"].spec
    requests = (complete_request(spec, PROMPT, num_frames=n, seed=0) for n in (5, 49))
    small, large = (choose_setup(spec, LoadOptions(device="cpu"), requests=[request]).plan for request in requests)
    assert small.peak < large.peak and small.strategy == "resident"
    with pytest.raises(UserError, match="auto, speed, low"):
        choose_setup(spec, LoadOptions(device="cpu", memory="much"))
    with pytest.raises(UserError, match=r"needs .* even with the smallest plan"):
        choose_setup(spec, LoadOptions(device="cpu", memory=1000))
