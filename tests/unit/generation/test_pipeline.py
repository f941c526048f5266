"""The pipeline on tiny random models: outputs, reproducibility, progress and errors."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

import cogvideox
from cogvideox.device import choose_device
from cogvideox.dtype import check_finite, choose_dtype
from cogvideox.errors import UserError
from cogvideox.generation.pipeline import Cancelled, CogVideoX, GenerationProgress
from cogvideox.generation.prompt_embedding import PromptEmbedder
from cogvideox.generation.request.builder import complete_request
from cogvideox.generation.request.sidecar import Sidecar
from cogvideox.pretrained.model_folder import load
from cogvideox.transformer.acceleration import attention_backends
from cogvideox.transformer.acceleration.attention_backends import AttentionBackend
from tests import tiny

PROMPT = tiny.CAPTIONS[0]


def test_defaults_come_from_the_model(pipes):
    video = pipes["2b"].generate(PROMPT)
    assert video.frames.shape == (9, 32, 48, 3) and video.frames.dtype == np.uint8
    assert video.fps == 8.0


@pytest.mark.parametrize("variant", tiny.TRANSFORMERS)
@pytest.mark.parametrize("num_frames", [1, 5, 9, 13])
def test_the_number_of_frames_is_exact(pipes, variant, num_frames):
    frames = pipes[variant].generate(PROMPT, num_frames=num_frames, height=32, width=32, num_inference_steps=1).frames
    assert frames.shape == (num_frames, 32, 32, 3)


def test_float_output_is_the_same_video(pipes):
    rounded = pipes["5b"].generate(PROMPT, seed=1)
    exact = pipes["5b"].generate(PROMPT, seed=1, output="float")
    assert exact.frames.dtype == np.float32 and exact.frames.min() >= 0 and exact.frames.max() <= 1
    assert np.abs(exact.frames * 255 - rounded.frames).max() <= 0.5 + 1e-4


@pytest.mark.parametrize("sampler", ["ddim", "dpm++"])
def test_each_of_several_videos_equals_a_single_video_run_with_its_seed(pipes, sampler):
    videos = pipes["2b"].generate(PROMPT, seed=5, num_videos=2, sampler=sampler)
    assert [video.metadata["seed"] for video in videos] == [5, 6]
    for video in videos:
        single = pipes["2b"].generate(PROMPT, seed=video.metadata["seed"], sampler=sampler)
        assert np.array_equal(single.frames, video.frames)
    assert not np.array_equal(videos[0].frames, videos[1].frames)


def test_metadata_reproduces_the_frames(pipes, folders):
    video = pipes["2b"].generate(PROMPT, negative_prompt="one small thing", guidance_scale=3.0, dynamic_guidance=True)
    sidecar = cogvideox.config.from_dict(Sidecar, video.metadata)
    assert sidecar.model == str(folders["2b"]) and sidecar.cogvideox == cogvideox.__version__
    assert (sidecar.device, sidecar.dtype) == ("cpu", "float32")
    assert np.array_equal(CogVideoX.from_pretrained(sidecar.model).run(sidecar).frames, video.frames)


def test_each_option_changes_the_video(pipes):
    pipe = pipes["5b"]
    base = pipe.generate(PROMPT, seed=0).frames
    for values in (
        {"prompt": "a green cube stands still"},
        {"negative_prompt": "one small thing"},
        {"guidance_scale": 2.0},
        {"guidance_scale": 1.0},
        {"dynamic_guidance": True},
        {"sampler": "dpm++"},
        {"sampler": "dpm++", "eta": 0.5},
        {"eta": 0.5},
        {"smooth_guidance": True},
        {"num_inference_steps": 3},
        {"seed": 1},
    ):
        frames = pipe.generate(**{"prompt": PROMPT, "seed": 0, **values}).frames
        assert frames.shape == base.shape and not np.array_equal(frames, base), values
    # The position rule matters at other sizes than the model's own.
    wide, sliced = (pipe.generate(PROMPT, seed=0, width=64, position_rule=rule).frames for rule in (None, "slice"))
    assert wide.shape == sliced.shape and not np.array_equal(wide, sliced)


def test_the_null_prompt_is_the_models_or_the_requests(pipes):
    pipe = pipes["2b"]
    empty = pipe.generate(PROMPT, seed=0)
    bundle = replace(pipe.model, settings=replace(pipe.settings, null_text="zero"))
    spec = replace(pipe.spec, settings=bundle.settings)
    zero = CogVideoX(spec, bundle, pipe.device, pipe.dtype).generate(PROMPT, seed=0)
    assert not np.array_equal(zero.frames, empty.frames)
    assert (empty.metadata["null_text"], zero.metadata["null_text"]) == ("empty", "zero")  # recorded in the sidecar
    chosen = pipe.generate(PROMPT, seed=0, null_text="zero")
    assert np.array_equal(chosen.frames, zero.frames) and chosen.metadata["null_text"] == "zero"
    # A negative prompt replaces the null prompt.
    negative = {"seed": 0, "negative_prompt": "one small thing"}
    video = CogVideoX(spec, bundle, pipe.device, pipe.dtype).generate(PROMPT, **negative)
    assert np.array_equal(video.frames, pipe.generate(PROMPT, **negative).frames)
    assert "null_text" not in video.metadata


def test_zeros_are_the_unconditional_prompt_of_the_authors(pipes):
    """The authors multiply the prompt embedding by zero, in training and in sampling."""
    pipe = pipes["2b"]
    embedder = PromptEmbedder(pipe.model, pipe.device, pipe.dtype)
    request = replace(complete_request(pipe.spec, PROMPT), null_text="zero")
    null, prompt = embedder.embed_request(request).prompt
    assert torch.equal(null, 0 * prompt) and prompt.any()
    empty, _ = embedder.embed_request(replace(request, null_text="empty")).prompt
    assert torch.equal(empty[None], embedder.embed(""))


def test_progress_counts_steps_and_frames(pipes):
    reports: list[GenerationProgress] = []
    pipes["2b"].generate(PROMPT, num_inference_steps=3, num_videos=2, on_step=reports.append)
    for video in (0, 1):
        video_reports = [progress for progress in reports if progress.video == video]
        assert [p.done for p in video_reports if p.stage == "denoise"] == [1, 2, 3]
        assert [p.done for p in video_reports if p.stage == "decode"][-1] == 9
        assert all(p.num_videos == 2 for p in video_reports)


def test_cancelling_keeps_the_finished_videos(pipes):
    def stop(progress: GenerationProgress) -> None:
        if progress.video == 2:
            raise Cancelled

    with pytest.raises(Cancelled) as caught:
        pipes["2b"].generate(PROMPT, seed=5, num_videos=4, on_step=stop)
    assert [video.metadata["seed"] for video in caught.value.videos] == [5, 6]


def test_previews_show_the_current_estimate(pipes):
    """Previews are small images of the current estimate; at the end, of the video."""
    previews = []

    def on_step(progress: GenerationProgress) -> None:
        previews.append((progress.stage, progress.preview(), progress.preview(num_frames=9, max_side=24)))

    video = pipes["5b"].generate(PROMPT, num_frames=13, height=32, width=48, num_inference_steps=2, on_step=on_step)
    assert {stage for stage, _, _ in previews} == {"denoise", "decode"}
    assert all(frame.shape == (1, 32, 48, 3) and frame.dtype == np.uint8 for _, frame, _ in previews)
    assert all(frames.shape == (4, 16, 24, 3) for _, _, frames in previews)
    assert np.abs(previews[-1][1][0].astype(float) - video.frames[0]).mean() < 40
    with pytest.raises(ValueError, match="no preview available"):
        GenerationProgress("denoise", 1, 2).preview()


def test_an_error_in_on_step_ends_the_generation(pipes):
    class Stop(Exception):
        pass

    def stop(progress: GenerationProgress) -> None:
        raise Stop

    with pytest.raises(Stop):
        pipes["2b"].generate(PROMPT, on_step=stop)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"image": np.zeros((32, 48, 3))}, "without image input"),
        ({"strength": 0.8}, "`strength` needs an input video"),
        ({"output": "pil"}, "uint8"),
        ({"num_videos": 0}, "num_videos"),
        ({"prompt": " ".join(["ball"] * 40)}, "41 tokens"),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_invalid_options_are_rejected(pipes, values, message):
    with pytest.raises(UserError, match=message):
        pipes["2b"].generate(**{"prompt": PROMPT, **values})


@pytest.mark.parametrize("sampler", ["ddim", "dpm++"])
def test_sequential_guidance_gives_the_same_video(pipes, sampler):
    values = {"sampler": sampler, "seed": 0, "num_inference_steps": 4, "output": "float"}
    batched = pipes["5b"].generate(PROMPT, **values).frames
    sequential = pipes["5b"].generate(PROMPT, **values, sequential_guidance=True).frames
    assert np.abs(batched - sequential).max() <= 1e-6


def test_guidance_interval(pipes):
    values = {"seed": 0, "num_inference_steps": 4, "output": "float"}
    frames = {
        interval: pipes["5b"].generate(PROMPT, **values, guidance_interval=interval).frames
        for interval in [(0.0, 1.0), (0.5, 1.0), (0.0, 0.1)]
    }
    assert np.array_equal(frames[0.0, 1.0], pipes["5b"].generate(PROMPT, **values).frames)
    assert not np.array_equal(frames[0.5, 1.0], frames[0.0, 1.0])
    # A tenth of four steps rounds down to zero steps.
    assert np.allclose(frames[0.0, 0.1], pipes["5b"].generate(PROMPT, **values, guidance_scale=1.0).frames, atol=1e-6)


def test_sizes_outside_of_training_are_a_warning(pipes):
    with pytest.warns(UserWarning, match="was trained on"):
        pipes["2b"].generate(PROMPT, num_frames=21, num_inference_steps=1)


@pytest.mark.parametrize("variant", tiny.TRANSFORMERS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_precision_hardly_changes_the_video(pipes, folders, variant, dtype):
    exact, cpu = pipes[variant], torch.device("cpu")
    half_precision = CogVideoX(exact.spec, load(folders[variant], dtype=dtype), cpu, dtype)
    for values in ({}, {"guidance_scale": 1.0}):
        frames, rounded = (
            pipe.generate(PROMPT, seed=0, output="float", **values).frames for pipe in (exact, half_precision)
        )
        assert rounded.dtype == np.float32
        assert 0 < np.abs(frames - rounded).mean() < 0.02


def test_overflow_while_denoising_is_an_error(folders):
    pipe = CogVideoX.from_pretrained(folders["2b"])
    pipe.model.transformer.final.linear.weight.fill_(float("inf"))
    with pytest.raises(UserError, match=r"out of the range of torch.float32: use a smaller guidance_scale"):
        pipe.generate(PROMPT)


@pytest.mark.parametrize("output", ["uint8", "float"])
def test_overflow_while_decoding_is_an_error(folders, output):
    pipe = CogVideoX.from_pretrained(folders["2b"])
    pipe.model.vae.decoder.conv_out.weight.fill_(float("inf"))
    with pytest.raises(UserError, match=r"out of the range of torch.float32: use a smaller guidance_scale"):
        pipe.generate(PROMPT, output=output)


def test_choosing_device_and_dtype(pipes):
    settings = replace(pipes["2b"].settings, dtype="bfloat16")
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    assert choose_dtype("auto", cpu, settings.dtype) == torch.float32
    assert choose_dtype("auto", gpu, settings.dtype) == torch.bfloat16
    assert (
        choose_dtype("float16", gpu, settings.dtype)
        == choose_dtype(torch.float16, gpu, settings.dtype)
        == torch.float16
    )
    assert choose_device("cpu") == choose_device(cpu) == cpu
    assert choose_dtype("auto", cpu, settings.dtype, cpu_default="bfloat16") == torch.bfloat16
    assert choose_dtype("bfloat16", cpu, settings.dtype) == torch.bfloat16
    with pytest.raises(UserError, match="float64"):
        choose_dtype("float64", gpu, settings.dtype)
    for name in ("warp", "cuda:99", "xpu", "meta"):
        with pytest.raises(UserError, match=name):
            choose_device(name)


@pytest.mark.parametrize(
    ("dtype", "message"), [(torch.float16, "float32 or bfloat16"), (torch.float32, "guidance_scale")]
)
def test_non_finite_values_raise_an_error_with_advice(dtype, message):
    check_finite(torch.zeros(3), dtype)
    with pytest.raises(UserError, match=message):
        check_finite(torch.tensor([0.0, math.nan]), dtype)


def test_metadata_contains_the_attention_kernel(pipes, monkeypatch):
    assert "attention" not in pipes["2b"].generate(PROMPT, seed=1).metadata
    backend = AttentionBackend("flash", {"flash": 1.0}, "FA3")
    monkeypatch.setattr(attention_backends, "_fastest", lambda *shape: backend)
    metadata = pipes["2b"].generate(PROMPT, seed=1).metadata
    assert metadata["attention"] == "FA3"
    assert cogvideox.config.from_dict(Sidecar, metadata).attention == "FA3"
