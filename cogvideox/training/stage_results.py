"""What is seen of a stage: the loss on clips that are held out, samples to look at, and the finished model or LoRA."""

import json
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from torch.distributed.tensor import DTensor

from cogvideox import config
from cogvideox.bundle import convert
from cogvideox.bundle.folder import Bundle, tokenizer_of
from cogvideox.bundle.identify import CONFIG_KEY
from cogvideox.bundle.layout import Description, part_config
from cogvideox.bundle.networks import keymap_of
from cogvideox.bundle.settings import FolderSettings, TrainedRange
from cogvideox.bundle.text import load_text
from cogvideox.bundle.vae import load_vae
from cogvideox.dataset.loader import Loader
from cogvideox.dataset.shards import LatentStore
from cogvideox.diffusion.objective import add_noise, loss_per_sample, v_target
from cogvideox.diffusion.schedule import Schedule
from cogvideox.generation.pipeline import CogVideoX
from cogvideox.geometry import latent_padding
from cogvideox.parallel.mesh import Ranks
from cogvideox.records import Video
from cogvideox.training import bins
from cogvideox.training.draws import torch_generator
from cogvideox.training.stage_settings import StageTraining
from cogvideox.training.validate import write_sheet
from cogvideox.transformer import lora
from cogvideox.transformer.config import GridRule
from cogvideox.transformer.inputs import beside_noise, pad_front
from cogvideox.transformer.lora_files import write_lora
from cogvideox.transformer.low_rank import Factors
from cogvideox.transformer.model import Transformer
from cogvideox.weights.outward import save_as_theirs
from cogvideox.weights.stored import shapes

NUM_HELD_OUT = 64
LORA_FILE = "pytorch_lora_weights.safetensors"

State = dict[str, torch.Tensor]


@torch.no_grad()
def measure(
    model: Transformer,
    store: LatentStore,
    about: Description,
    schedule: Schedule,
    seed: int,
    rule: GridRule | None = None,
) -> dict[str, float]:
    """The velocity loss of held-out clips, over all timesteps and in parts of their range (`bins.validation`); the same
    noise at every call."""
    num, last = min(len(store), NUM_HELD_OUT), schedule.num_train_timesteps
    device = next(model.parameters()).device
    generator = torch_generator("validation", seed)
    errors, timesteps = [], bins.spread(num, last)
    for i in range(num):
        clip = store[i]
        x0 = clip.mean[None].float() * about.vae.scaling_factor
        x0 = pad_front(x0, latent_padding(x0.shape[2], model.config.patch[0]))
        noise = torch.randn(x0.shape, generator=generator).to(device)
        x0, t, text = x0.to(device), timesteps[i : i + 1].to(device), clip.text[None].float().to(device)
        noised = add_noise(x0, noise, t, schedule)
        if model.config.takes_image:
            assert clip.image_mean is not None
            image = clip.image_mean[None, :, :1].float() * about.vae.image_scaling_factor
            noised = torch.cat((noised, beside_noise(image, x0.shape[2]).to(device)), dim=1)
        predicted = model.packed([noised[0]], text, t, rule=rule, ofs=model.config.ofs)[0][None]
        errors.append(loss_per_sample(predicted, v_target(x0, noise, t, schedule)).cpu())
    return bins.validation(torch.cat(errors), timesteps, last)


@torch.no_grad()
def show(
    model: Transformer, about: Description, settings: StageTraining, sheet: Path, ranks: Ranks | None = None
) -> None:
    """Videos of the settings' prompts, as a sheet and a video of them all beside it. VAE and T5 are there for this
    alone.

    Ranks that have clips of their own in training make videos of their own here, at the same time.
    Raises UserError when the disk refuses.
    """
    wanted, device = settings.samples, next(model.parameters()).device
    dtype = torch.bfloat16 if settings.run.precision == "bfloat16" else torch.float32
    bundle = Bundle(
        transformer=model,
        vae=load_vae(about.path).to(device),
        text_encoder=load_text(about, device=device, dtype=dtype),
        tokenizer=tokenizer_of(about),
        schedule=Schedule(**asdict(about.schedule)),
        settings=about.settings,
    )
    pipe = CogVideoX(replace(about, transformer=model.config), bundle, device, torch.float32)
    num, first, step = len(wanted.prompts), 0, 1
    if ranks is not None:
        first, step = ranks.data.rank(), ranks.data.size()
    videos: list[Video] = []
    for turn in range(0, num, step):
        # Who has no prompt left makes the last once more, for each rank has a share of the weights in use.
        i = min(turn + first, num - 1)
        video = pipe.generate(
            wanted.prompts[i],
            image=wanted.images[i] if wanted.images else None,
            seed=settings.run.seed + i,
            num_inference_steps=wanted.num_inference_steps,
            num_frames=wanted.num_frames,
            height=wanted.height,
            width=wanted.width,
            position_rule=settings.position_rule,
        )
        assert isinstance(video, Video)  # one was asked for
        videos.append(video)
    if ranks is not None:
        of_groups = ranks.all_have(videos)[:: ranks.sequence.size()]
        videos = [video for turn in zip(*of_groups) for video in turn][:num]
    frames = torch.from_numpy(np.stack([video.frames for video in videos]))
    _by_the_first(ranks, lambda: write_sheet(sheet, frames, wanted.prompts, fps=videos[0].fps))


def finish(
    model: Transformer,
    about: Description,
    settings: StageTraining,
    out: Path,
    loader: Loader,
    ranks: Ranks | None = None,
) -> Path:
    """Writes the model folder, whose other parts are those of the model that the stage began with; or the LoRA's file.

    Raises UserError when the disk refuses.
    """
    if settings.lora is not None:
        found = lora.extract(model)
        layers = {name: Factors(_whole(of.down), _whole(of.up), of.alpha) for name, of in found.layers.items()}
        learned = replace(found, layers=layers, base_model=about.name, trigger=settings.lora.trigger)
        target = out / LORA_FILE
        _by_the_first(ranks, lambda: write_lora(learned, target))
        return target
    state: State = {}
    for name, tensor in model.state_dict().items():
        whole = _whole(tensor)  # which all ranks bring together, and one keeps
        if ranks is None or ranks.rank == 0:
            state[name] = whole.cpu()
    _by_the_first(ranks, lambda: _write(state, model, about, settings, out, loader))
    return out / "model"


def _write(
    state: State, model: Transformer, about: Description, settings: StageTraining, out: Path, seen: Loader
) -> None:
    dtype, rules = getattr(torch, settings.stored_as), keymap_of(model.config)
    with TemporaryDirectory(dir=out) as folder:
        file = Path(folder) / "transformer.safetensors"
        metadata = {CONFIG_KEY: json.dumps(part_config(model.config))}
        save_as_theirs(shapes(state), state.items(), file, rules=rules, dtype=dtype, metadata=metadata)
        plan, learned = convert.prepare(about.path), convert.prepare(file).pieces
        said = config.to_dict(_said(about, settings, seen))
        replace(plan, pieces={**plan.pieces, **learned}, settings=said).write_folder(out / "model")


def _said(about: Description, settings: StageTraining, loader: Loader) -> FolderSettings:
    """What the new folder says about its use: what it was trained on since, where that is more than before."""
    columns = [store.columns for store in loader.stores.values()]
    frames, heights, widths = (
        np.concatenate([np.asarray(of[name]) for of in columns]) for name in ("num_frames", "height", "width")
    )
    before = about.settings.trained
    fresh = settings.transformer is not None

    def span(now: np.ndarray, then: tuple[int, int]) -> tuple[int, int]:
        least, most = int(now.min()), int(now.max())
        return (least, most) if fresh else (min(least, then[0]), max(most, then[1]))

    trained = TrainedRange(
        num_frames=span(frames, before.num_frames),
        frame_step=4,
        height=span(heights, before.height),
        width=span(widths, before.width),
    )
    seen = sum(loader.state.seen.values())
    provenance = {
        **about.settings.provenance,
        "trained_from": "nothing" if fresh else about.name,
        "num_samples_seen": str(seen),
        "settings": config.digest(settings),
    }
    return replace(about.settings, trained=trained, provenance=provenance)


def _whole(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def _by_the_first(ranks: Ranks | None, write: Callable[[], None]) -> None:
    return write() if ranks is None else ranks.agree(write)
