"""Image-to-video training: from a text-to-video model, resumed, sampled, and with invalid input."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from cogvideox import CogVideoX
from cogvideox.dataset.config import ClipFormat, ToyboxClips, ToyboxSource
from cogvideox.dataset.latents.latent_store import LatentStore
from cogvideox.dataset.mixture import DataSource
from cogvideox.errors import UserError
from cogvideox.pretrained import model_folder
from cogvideox.records import Video
from cogvideox.training.config import OptimSettings, RunSettings
from cogvideox.training.diffusion.config import DiffusionTraining, SampleSettings
from cogvideox.training.diffusion.trainer import train
from cogvideox.transformer.image_conditioning import pad_image_latents
from cogvideox.transformer.init_weights import add_image_channels
from cogvideox.transformer.lora.config import LoRASettings
from tests import tiny

RENDERED = ToyboxClips(2, num_frames=5, height=32, width=32)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A model with a VAE whose latents are larger than their standard deviation, as after training."""
    tiny_model = tiny.model("5b")
    with torch.no_grad():
        out = tiny_model.vae.encoder.conv_out
        out.weight[:4] *= 4
        out.weight[4:], out.bias[4:] = 0, -20
    return model_folder.save(tiny_model, tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """Four videos, each of a different still pattern, with the same caption."""
    folder, rng = tmp_path_factory.mktemp("clips"), np.random.default_rng(0)
    for i in range(4):
        pattern = rng.integers(0, 255, (4, 4, 3), dtype=np.uint8).repeat(8, 0).repeat(8, 1)
        Video(pattern[None].repeat(5, 0), fps=8.0).save(folder / f"{i}.mp4")
        (folder / f"{i}.txt").write_text("a red ball")
    return folder


def config(model, clips, **changes) -> DiffusionTraining:
    base = DiffusionTraining(
        model=str(model),
        data=(DataSource(str(clips)),),
        add_image=True,
        row_tokens=64,
        optim=OptimSettings(lr=1e-2, warmup_steps=1, schedule="constant"),
        run=RunSettings(num_steps=3, batch_size=2, device="cpu", log_interval=1, save_interval=1, ema_decay=0.5),
        target=ClipFormat(fps=8.0, num_frames=5, height=32, width=32),
        export_dtype="float32",
    )
    return replace(base, **changes)


def test_added_image_channels_do_not_change_the_output(model):
    base = model_folder.load(model).transformer
    widened = add_image_channels(base)
    x, image, text = torch.randn(1, 4, 3, 4, 4), torch.randn(1, 4, 3, 4, 4), torch.randn(1, tiny.TEXT_LENGTH, 32)
    t = torch.tensor([500])
    torch.testing.assert_close(widened(torch.cat((x, image), dim=1), text, t), base(x, text, t))
    assert widened.config.is_image_to_video and widened.patch_in.weight.shape[1] == 2 * base.patch_in.weight.shape[1]


@pytest.mark.filterwarnings("ignore:.*was trained on")
def test_a_text_to_video_model_is_trained_for_image_to_video(model, clips, tmp_path):
    """The exported model generates from images; all components but its transformer are those of the base model."""
    exported = train(config(model, clips, validation=str(clips)), tmp_path / "run")
    before, after = model_folder.load(model), model_folder.load(exported)
    assert after.transformer.config == replace(before.transformer.config, in_channels=8)
    assert after.transformer.patch_in.weight[:, 16:].abs().max() > 0
    assert after.schedule.to_diffusers("ddim") == before.schedule.to_diffusers("ddim")
    assert after.vae.config == before.vae.config
    lines = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert any("validation/loss" in line for line in lines)
    image = np.zeros((32, 32, 3), np.uint8)
    size = {"num_frames": 5, "height": 32, "width": 32, "num_inference_steps": 1}
    assert CogVideoX.from_pretrained(exported).generate("a ball", image=image, seed=0, **size).frames.shape[0] == 5
    # Training can continue from the exported model; add_image then has no effect.
    again = model_folder.load(train(config(exported, clips), tmp_path / "again"))
    assert again.transformer.config == after.transformer.config


@pytest.mark.parametrize("lora", [None, LoRASettings(rank=2)])
def test_a_resumed_run_is_bit_identical_to_an_uninterrupted_one(clips, tmp_path, lora):
    """For a model with temporal patches and `ofs`."""
    model = tiny.write(tmp_path / "model", "1.5-5b-i2v")
    settings = config(model, clips, lora=lora, add_image=False, validation=str(clips))
    uninterrupted = train(settings, tmp_path / "uninterrupted")
    assert train(settings, tmp_path / "resumed", resume=True, max_seconds=0.0) is None
    resumed = train(settings, tmp_path / "resumed", resume=True)
    if lora is None:
        weights = "transformer/diffusion_pytorch_model.safetensors"
        uninterrupted, resumed = uninterrupted / weights, resumed / weights
    assert uninterrupted.read_bytes() == resumed.read_bytes()


def test_the_model_learns_to_use_the_image(model, clips, tmp_path, monkeypatch):
    """After training on four clips with one caption, it denoises to the clip whose first frame is given."""
    monkeypatch.chdir(clips.parent)  # the order of samples follows from the path of their source
    settings = config(model, clips.name, text_dropout=0.0, image_dropout=0.0, row_tokens=96)
    settings = replace(settings, run=replace(settings.run, num_steps=150, log_interval=25, save_interval=0))
    network = model_folder.load(train(settings, tmp_path / "run")).transformer
    (store,) = (tmp_path / "run/stores").iterdir()
    samples = list(LatentStore(store))
    clean = torch.stack([sample.mean.float() * 0.7 for sample in samples])
    images = torch.stack([pad_image_latents(sample.image_mean[:, :1].float() * 0.7, 2) for sample in samples])
    texts = torch.stack([sample.text.float() for sample in samples])
    noise = torch.randn(1, *clean.shape[1:], generator=torch.Generator().manual_seed(0)).expand_as(clean)
    with torch.no_grad():
        x0 = -network(torch.cat((noise, images), dim=1), texts, torch.full((4,), 999))
    distance = (x0[:, None] - clean[None]).square().flatten(2).mean(2)
    assert distance.argmin(dim=1).tolist() == [0, 1, 2, 3]
    lines = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert lines[-1]["loss"] < 0.5 * lines[0]["loss"]


def test_samples_are_generated_from_images(model, clips, tmp_path):
    Video(np.zeros((1, 32, 32, 3), np.uint8), fps=1.0).save(tmp_path / "black.png")
    samples = SampleSettings(("a red ball",), (str(tmp_path / "black.png"),), 3, 1, 5, 32, 32)
    train(config(model, clips, samples=samples), tmp_path / "run")
    assert (tmp_path / "run/samples/step-00000003.png").exists()


def test_invalid_input_is_rejected(model, clips, tmp_path):
    prompts = SampleSettings(("a red ball",))
    with pytest.raises(UserError, match=r"there are 0 in samples.images for 1 prompts"):
        train(config(model, clips, samples=prompts), tmp_path / "a")
    with pytest.raises(UserError, match=r"gone\.png does not exist"):
        train(config(model, clips, samples=replace(prompts, images=("gone.png",))), tmp_path / "b")
    (tmp_path / "text.png").write_text("not an image")
    with pytest.raises(UserError, match=r"text\.png: it is damaged or not an image"):
        train(config(model, clips, samples=replace(prompts, images=(str(tmp_path / "text.png"),))), tmp_path / "b")
    assert not (tmp_path / "b").exists()  # rejected before clips are encoded
    with pytest.raises(UserError, match="or set add_image=true"):
        train(config(model, clips, add_image=False, samples=SampleSettings((), ("x.png",))), tmp_path / "c")
    with pytest.raises(UserError, match="remove add_image"):
        config(model, clips, lora=LoRASettings())
    with pytest.raises(UserError, match="remove toybox and toybox_validation, or add_image"):
        config(model, clips, toybox_validation=RENDERED)
    text = train(config(model, clips, add_image=False), tmp_path / "text") and tmp_path / "text/stores"
    (store,) = text.iterdir()
    with pytest.raises(UserError, match="encode into it again with --first-frames 4"):
        train(config(model, clips, data=(DataSource(str(store)),)), tmp_path / "d")
    other = tiny.write(tmp_path / "other", "5b")
    with pytest.raises(UserError, match=f"whose weights differ from those of {other}: encode the clips again"):
        train(config(other, clips, data=(DataSource(str(store)),)), tmp_path / "e")


@pytest.mark.parametrize(
    "rendered",
    [{"data": (), "toybox": (ToyboxSource(RENDERED),)}, {"toybox_validation": RENDERED}],
    ids=["toybox", "toybox_validation"],
)
def test_rendered_clips_are_rejected_for_an_image_to_video_model(clips, tmp_path, rendered):
    model = tiny.write(tmp_path / "model", "5b-i2v")
    with pytest.raises(UserError, match="or choose a text-to-video model"):
        train(config(model, clips, add_image=False, **rendered), tmp_path / "run")
