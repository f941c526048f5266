"""Components of toybox training; bit-exact resume is tested in `tests/laws/test_resume.py`."""

import json
import warnings
from dataclasses import replace

import pytest
import torch

from cogvideox import CogVideoX
from cogvideox.dataset.latents.toybox_latents import LatentTable, clip_scene, encode_toybox
from cogvideox.diffusion.schedule import Schedule
from cogvideox.errors import UserError
from cogvideox.pretrained import model_folder
from cogvideox.pretrained.components import load_vae
from cogvideox.toybox.captions.caption import parse_prompt
from cogvideox.training.toybox import trainer
from cogvideox.training.toybox.data import ToyboxData
from cogvideox.training.toybox.trainer import build_model, train, velocity_losses
from cogvideox.training.toybox.validation import validation_loss
from tests import tiny_runs


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    return tiny_runs.toybox_run(tiny_runs.write_vae(tmp_path_factory.mktemp("vae")))


@pytest.fixture(scope="module")
def table(settings, tmp_path_factory) -> LatentTable:
    return encode_toybox(load_vae(settings.vae), settings.clips, tmp_path_factory.mktemp("latents"))


def test_a_batch_depends_only_on_the_step(settings, table):
    first, repeated, next_batch = (ToyboxData(settings).make_batch(table, None, step) for step in (3, 3, 4))
    for name in ("latents", "noise", "timestep", "ids"):
        assert torch.equal(getattr(first, name), getattr(repeated, name))
        assert not torch.equal(getattr(first, name), getattr(next_batch, name))


def test_the_timesteps_of_a_batch_are_stratified(settings, table):
    for step in range(5):
        intervals = ToyboxData(settings).make_batch(table, None, step).timestep * settings.run.batch_size // 1000
        assert sorted(intervals.tolist()) == list(range(settings.run.batch_size))


def test_image_steps_have_the_configured_number_of_images_per_clip(settings, table, tmp_path):
    settings = replace(settings, image_interval=3, images_per_clip=2)
    images = encode_toybox(load_vae(settings.vae), settings.images, tmp_path)
    batches = [ToyboxData(settings).make_batch(table, images, step) for step in range(6)]
    assert [tuple(batch.latents.shape[:3]) for batch in batches] == [(4, 4, 2), (4, 4, 2), (8, 4, 1)] * 2


def test_image_steps_do_not_change_the_order_of_clip_latents(settings, table):
    deterministic = LatentTable(table.mean, torch.full_like(table.logvar, -30.0))
    mixed, plain = (ToyboxData(replace(settings, image_interval=interval)) for interval in (3, 0))
    clip_latents = [mixed.make_batch(deterministic, deterministic, step).latents for step in range(7) if (step + 1) % 3]
    torch.testing.assert_close(
        torch.stack(clip_latents), torch.stack([plain.make_batch(deterministic, None, k).latents for k in range(5)])
    )


def test_captions_are_correct_varied_and_sometimes_dropped(settings):
    data = ToyboxData(replace(settings, text_dropout=0.25))
    captions = [caption for step in range(100) for caption in data.captions([7] * 4, step)]
    assert 0.15 < captions.count("") / len(captions) < 0.35
    assert len(set(captions)) > 50
    facts = clip_scene(settings.clips, 7).facts
    assert all(facts[name] == value for caption in captions for name, value in parse_prompt(caption).items())


def test_the_initial_loss_is_that_of_predicting_zero(settings, table):
    """The modulation and the output projection are initialized to zero (adaLN-Zero), so the velocity is zero."""
    batch, schedule = ToyboxData(settings).make_batch(table, None, 0), Schedule(snr_shift_scale=1.0)
    alpha, sigma = schedule.signal_and_noise(batch.timestep, like=batch.latents)
    velocity = alpha * batch.noise - sigma * batch.latents * 0.5
    loss = velocity_losses(build_model(settings), batch, schedule, scaling_factor=0.5).mean()
    torch.testing.assert_close(loss, velocity.square().mean())


@pytest.mark.parametrize("train_text_encoder", [False, True])
def test_the_gradient_reaches_all_trainable_parameters(settings, table, train_text_encoder):
    model = build_model(replace(settings, train_text_encoder=train_text_encoder))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))  # the gates are initialized to zero
    velocity_losses(model, ToyboxData(settings).make_batch(table, None, 0), Schedule(), 1.0).mean().backward()
    assert all(parameter.grad is not None for parameter in model.transformer.parameters())
    assert all((parameter.grad is not None) is train_text_encoder for parameter in model.text_encoder.parameters())


def test_the_validation_loss_is_deterministic_and_covers_all_bins(settings, table):
    model, data, schedule = build_model(settings), ToyboxData(settings), Schedule()
    first, repeated = (validation_loss(model, data, table, schedule, 0.8) for _ in range(2))
    assert first == repeated
    assert set(first) == {"validation/loss", *(f"validation/loss_{k}" for k in range(10))}
    assert first["validation/loss"] == pytest.approx(sum(first[f"validation/loss_{k}"] for k in range(10)) / 10)


def test_a_run_exports_a_trained_model(settings, tmp_path):
    settings = replace(settings, run=replace(settings.run, num_steps=60, batch_size=8, save_interval=0))
    result = train(settings, tmp_path / "run")
    assert result == tmp_path / "run/model"
    loaded = model_folder.load(result)
    assert loaded.settings.num_frames == 5 and loaded.settings.null_text == "empty"
    assert loaded.vae.config.scaling_factor == tiny_runs.VAE.scaling_factor
    lines = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    losses = [line["validation/loss"] for line in lines if "validation/loss" in line]
    assert losses[-1] < 0.8 * losses[0]
    assert any({"judged/color", "judged/consistency"} <= line.keys() for line in lines)
    assert (tmp_path / "run/samples/step-00000056.png").is_file()
    with pytest.raises(UserError, match="--resume"):
        train(settings, tmp_path / "run")
    # 5 frames are not 8N+1, but there is no warning at the size that the model was trained at.
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        video = CogVideoX.from_pretrained(result, device="cpu").generate("a red ball", seed=0)
    assert video.frames.shape == (5, 16, 16, 3)


def test_a_changed_setting_is_printed_on_resume(settings, tmp_path, capsys):
    def run(**changes):
        return train(replace(settings, run=replace(settings.run, **changes)), tmp_path / "run", resume=True)

    assert run(num_steps=2) is not None
    capsys.readouterr()
    assert run(num_steps=3) is not None
    assert "resumed with run.num_steps = 3, was 2" in capsys.readouterr().err


def test_training_on_images(settings, tmp_path):
    """Captions of clips of one frame do not mention motion."""
    image = {"num_frames": 1, "num_clips": 8}
    settings = replace(
        settings,
        clips=replace(settings.clips, **image),
        validation=replace(settings.validation, **image),
        run=replace(settings.run, num_steps=2),
        sampling=replace(settings.sampling, interval=2),
    )
    data = ToyboxData(settings)
    captions = [caption for step in range(50) for caption in data.captions(range(4), step)]
    assert not any("motion" in parse_prompt(caption) for caption in captions + data.held_out(8)[1])
    loaded = model_folder.load(train(settings, tmp_path / "run"))
    assert loaded.settings.num_frames == 1


@pytest.mark.parametrize(("patch_size_t", "rule"), [(None, "resize_crop"), (2, "slice")])
def test_the_exported_model_has_the_position_rule_of_the_training(settings, patch_size_t, rule):
    changed = replace(settings, transformer=replace(settings.transformer, patch_size_t=patch_size_t))
    assert trainer.model_settings(changed).position_rule == rule


def test_a_vae_with_other_latent_channels_is_rejected(settings, tmp_path):
    wide = replace(settings.transformer, in_channels=16, out_channels=16)
    with pytest.raises(UserError, match=r"transformer\.in_channels=16 must equal .* are 4"):
        train(replace(settings, transformer=wide), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_missing_vae_is_rejected(settings, tmp_path):
    with pytest.raises(UserError, match="missing"):
        trainer.train(replace(settings, vae=str(tmp_path / "none")), tmp_path / "run")
    assert not (tmp_path / "run").exists()
