"""Train on curated and on uncurated clips of equal number, and compare the generated videos.

Two fifths of a pool of rendered clips are clean; the others have a bar of text, freeze, or have a low quality. `curate`
measures them without knowing the truth, and a policy selects the curated set; the uncurated set is a random part of the
pool of the same size. The shipped model is fine-tuned on both, with several seeds. The videos of held-out prompts are
judged: whether the facts are right, and whether a bar of text is left. The loss on held-out clips with each effect
shows what a model has learned of it.

    python benchmarks/curated_training.py --work runs/curated-training --out build/benchmarks/curated_training.json

Every step is resumed: rendering, curation, each training and each set of videos.
"""

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from common import environment, write_json
from pyarrow import parquet

from cogvideox import CogVideoX, config
from cogvideox.curation.recipe import Recipe
from cogvideox.curation.run import curate
from cogvideox.curation.selection import ManifestSelector
from cogvideox.dataset.mixture import DataSource
from cogvideox.diffusion.objective import add_noise, loss_per_sample, v_target
from cogvideox.filter_policy.policy import Bound, Policy, Target
from cogvideox.geometry import num_padding_latents
from cogvideox.pretrained import model_folder
from cogvideox.toybox.captions.caption import caption_scene
from cogvideox.toybox.captions.core import STYLES
from cogvideox.toybox.effects import degradation, text, timing
from cogvideox.toybox.judge.judge import judge_clips
from cogvideox.toybox.render.renderer import render_scene
from cogvideox.toybox.scenes.grammar import Scene
from cogvideox.toybox.scenes.sampler import sample_scene
from cogvideox.training.diffusion import trainer
from cogvideox.training.diffusion.config import DiffusionTraining, SampleSettings
from cogvideox.training.diffusion.recipes import RECIPES
from cogvideox.transformer.temporal_padding import prepend_padding
from cogvideox.vae.latent_scaling import scale_latents
from cogvideox.video import io
from cogvideox.video.transform import to_frames, to_model

KINDS = ("clean", "overlay", "frozen", "low quality")
PROBABILITIES = (0.4, 0.36, 0.12, 0.12)
RAW_SIDE, SIDE, NUM_FRAMES, FPS, TEXT_LENGTH = 128, 64, 9, 8.0, 24
BAR = text.TextStyle(size=0.13, box=(0, 0, 0), outline=None)
SIGNALS = ("picture", "stillness", "technical", "text")
ARMS = ("uncurated", "curated")
NUM_RESAMPLES = 4000


def moving_scene(rng: np.random.Generator, split: str) -> Scene:
    """Sample a scene whose toy moves, so that a clip without motion is a frozen one."""
    while (scene := sample_scene(rng, split=split)).facts["motion"] == "still":
        pass
    return scene


def render(scene: Scene, side: int = RAW_SIDE) -> np.ndarray:
    return render_scene(scene, num_frames=NUM_FRAMES, height=side, width=side).numpy()


def spoil(frames: np.ndarray, kind: str, rng: np.random.Generator) -> np.ndarray:
    """Apply the effect of a kind of clip."""
    if kind == "overlay":
        return text.overlay(frames, text.sentence(int(rng.integers(2**31)), 3), "bottom", BAR)[0]
    if kind == "frozen":
        start = int(rng.integers(2, 4))
        return timing.freeze(frames, start, NUM_FRAMES - start)
    if kind == "low quality":
        return degradation.jpeg(degradation.enlarge(frames, float(rng.uniform(5, 8))), int(rng.integers(8, 25)))
    return frames


def render_pool(raw: Path, num_clips: int) -> dict[str, str]:
    """Render the pool with captions. Returns the kind of each file."""
    truth = raw / "truth.json"
    if not truth.exists():
        raw.mkdir(parents=True, exist_ok=True)
        kinds = {}
        for i in range(num_clips):
            rng = np.random.default_rng((0, i))
            scene, kind = moving_scene(rng, "training"), str(rng.choice(KINDS, p=PROBABILITIES))
            name = f"{i:05}.mp4"
            io.write(raw / name, spoil(render(scene), kind, rng), FPS)
            caption = caption_scene(scene, STYLES[rng.integers(len(STYLES))], rng)
            (raw / name).with_suffix(".txt").write_text(caption)
            kinds[name] = kind
        write_json(truth, kinds)
    return json.loads(truth.read_text())


def select_sets(work: Path, fraction: float) -> dict[str, list[str]]:
    """Curate the pool and write both sets. Returns the files of each set."""
    curated = work / "measured"
    curate(work / "raw", curated, Recipe(signals={name: {} for name in SIGNALS}))
    policy = Policy(
        (Bound("text.area", at_most=0.005), Bound("stillness.frozen_share", at_most=0.3)),
        target=Target(fraction, high=("picture.sharpness",)),
    )
    config.save(policy, work / "policy.yaml")
    number = ManifestSelector(curated, policy).write(work / "curated", None)
    pool = parquet.read_table(curated / "metadata.parquet")
    chosen = np.sort(np.random.default_rng(1).permutation(len(pool))[:number])
    (work / "uncurated").mkdir(exist_ok=True)
    parquet.write_table(pool.take(chosen), work / "uncurated/metadata.parquet")
    tables = {arm: parquet.read_table(work / arm / "metadata.parquet") for arm in ARMS}
    return {arm: [Path(name).name for name in table["file_name"].to_pylist()] for arm, table in tables.items()}


def settings(data: Path, seed: int, num_steps: int) -> DiffusionTraining:
    """Return the config of a fine-tuning of the shipped model."""
    changes = {
        "run.num_steps": num_steps, "run.save_interval": max(1, num_steps // 4), "run.seed": seed,
        "run.validate_interval": 0, "run.ema_decay": 0.97, "run.device": "cpu", "optim.lr": 1e-3,
        "optim.warmup_steps": min(20, num_steps // 4),
    }  # fmt: skip
    run = config.override(RECIPES["toybox-pretrain-480"](), {name: str(value) for name, value in changes.items()})
    run = replace(run, model="toybox", transformer=None, image_fraction=None, samples=SampleSettings())
    return replace(run, data=(DataSource(str(data)),))


class OverlayDetector:
    """Logistic regression on rows of the time-averaged gray image, trained on renders that the VAE reconstructed.

    Attributes:
        recall, false_positives: fractions on other renders.
    """

    def __init__(self, number: int) -> None:
        from sklearn.linear_model import LogisticRegression
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler

        vae, features, labels = model_folder.load("toybox").vae, [], []
        for i in range(number):
            rng = np.random.default_rng((2, i))
            kind = "overlay" if i % 2 else ("clean", "low quality")[i // 2 % 2]
            pixels = to_pixels(spoil(render(moving_scene(rng, "training")), kind, rng))
            with torch.no_grad():
                features.append(self.features(to_frames(vae.decode(vae.encode(pixels).mean))[0].numpy()))
            labels.append(kind == "overlay")
        half, truth = number // 2, np.array(labels)
        self.model = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=1000)).fit(
            features[:half], truth[:half]
        )
        detected = self.model.predict(features[half:])
        self.recall = float(detected[truth[half:]].mean())
        self.false_positives = float(detected[~truth[half:]].mean())

    @staticmethod
    def features(frames: np.ndarray) -> np.ndarray:
        """Return the brightness relative to the floor and the horizontal contrast of the rows in the lower half."""
        gray = frames.mean((0, 3))
        rows = gray[SIDE // 2 :].reshape(SIDE // 4, 2, SIDE)
        return np.concatenate([rows.mean((1, 2)) - np.median(gray), rows.std(2).mean(1)]) / 255

    def __call__(self, videos: np.ndarray) -> np.ndarray:
        return self.model.predict([self.features(frames) for frames in videos])


def generate(model: str, prompts: list[str], file: Path) -> np.ndarray:
    """Generate a video per prompt, or read those of an earlier run."""
    if not file.exists():
        pipe = CogVideoX.from_pretrained(model)
        videos = [
            pipe.generate(prompt, seed=i, num_frames=NUM_FRAMES, height=SIDE, width=SIDE).frames
            for i, prompt in enumerate(prompts)
        ]
        file.parent.mkdir(parents=True, exist_ok=True)
        np.savez_compressed(file, videos=np.stack(videos))
    return np.load(file)["videos"]


class HeldOutClips:
    """Clips of scenes that no training clip shows, each with every effect, encoded for the loss.

    A model that was trained on clips with an effect predicts the velocity of such clips better than one that was not.
    This shows long before the effect appears in generated videos.
    """

    TIMESTEPS = (150, 350, 550, 750, 950)

    def __init__(self, number: int) -> None:
        model, rng = model_folder.load("toybox"), np.random.default_rng(5)
        self.latents: dict[str, list[torch.Tensor]] = {kind: [] for kind in KINDS}
        self.texts: list[torch.Tensor] = []
        with torch.no_grad():
            for _ in range(number):
                scene = moving_scene(rng, "held_out")
                ids = model.tokenizer.encode([caption_scene(scene, "plain", rng, complete=True)], TEXT_LENGTH)
                self.texts.append(model.text_encoder(ids))
                frames = render(scene)
                for kind, latents in self.latents.items():
                    pixels = to_pixels(spoil(frames, kind, rng))
                    latents.append(scale_latents(model.vae.encode(pixels).mean, model.vae.config.scaling_factor))

    @torch.no_grad()
    def losses(self, path: str) -> dict[str, np.ndarray]:
        """Return the loss of a model on each clip, by effect. All models and effects get the same noise."""
        model = model_folder.load(path)
        t, patch = torch.tensor(self.TIMESTEPS), model.transformer.config.patch[0]
        losses: dict[str, np.ndarray] = {}
        for kind, clips in self.latents.items():
            values = []
            for index, (latents, prompt) in enumerate(zip(clips, self.texts, strict=True)):
                x0 = prepend_padding(latents, num_padding_latents(latents.shape[2], patch))
                x0 = x0.expand(len(t), *x0.shape[1:])
                noise = torch.randn(x0.shape, generator=torch.Generator().manual_seed(index))
                noised = add_noise(x0, noise, t, model.schedule)
                predicted = model.transformer.forward_packed(list(noised), prompt.expand(len(t), -1, -1), t)
                target = v_target(x0, noise, t, model.schedule)
                values.append(float(loss_per_sample(torch.stack(predicted), target).mean()))
            losses[f"loss, {kind}"] = np.array(values)
        return losses


def to_pixels(frames: np.ndarray) -> torch.Tensor:
    """Reduce a rendered clip to the model's size."""
    small = torch.nn.functional.interpolate(torch.from_numpy(frames).movedim(3, 1).float(), (SIDE, SIDE), mode="area")
    return to_model(small.movedim(1, 3).round().byte())[None]


def interval(values: np.ndarray) -> list[float]:
    """Return the 95% bootstrap interval of a mean over seeds and prompts [seeds, prompts]; both are resampled."""
    rng, (seeds, prompts) = np.random.default_rng(3), values.shape
    means = [
        values[rng.integers(seeds, size=seeds)][:, rng.integers(prompts, size=prompts)].mean()
        for _ in range(NUM_RESAMPLES)
    ]
    return [round(float(limit), 3) for limit in np.percentile(means, [2.5, 97.5])]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("runs/curated-training"))
    parser.add_argument("--out", type=Path, default=Path("build/benchmarks/curated_training.json"))
    parser.add_argument("--num-clips", type=int, default=480, help="clips in the pool")
    parser.add_argument("--fraction", type=float, default=0.4, help="fraction of the pool in each set")
    parser.add_argument("--num-steps", type=int, default=250)
    parser.add_argument("--num-seeds", type=int, default=3)
    parser.add_argument("--num-renders", type=int, default=240, help="renders for the overlay detector")
    parser.add_argument("--num-prompts", type=int, default=40)
    options = parser.parse_args()
    torch.set_num_threads(1)
    start = time.process_time()

    truth = render_pool(options.work / "raw", options.num_clips)
    files = select_sets(options.work, options.fraction)
    sets = {arm: {kind: sum(truth[name] == kind for name in names) for kind in KINDS} for arm, names in files.items()}
    print(json.dumps(sets), flush=True)
    detector, held_out = OverlayDetector(options.num_renders), HeldOutClips(options.num_prompts)
    rng = np.random.default_rng(4)
    scenes = [moving_scene(rng, "held_out") for _ in range(options.num_prompts)]
    prompts = [caption_scene(scene, "plain", rng, complete=True) for scene in scenes]

    def judge(model: str, file: Path) -> dict[str, np.ndarray]:
        videos = generate(model, prompts, file)
        verdicts = judge_clips(torch.from_numpy(videos), scenes)
        facts = {name: np.array([float(verdict[name]) for verdict in verdicts]) for name in verdicts[0]}
        facts["all facts"] = np.array([float(all(verdict.values())) for verdict in verdicts])
        return facts | {"overlay": detector(videos).astype(float)} | held_out.losses(model)

    results = {"base": [judge("toybox", options.work / "videos/base.npz")]}
    for arm in ARMS:
        results[arm] = []
        for seed in range(options.num_seeds):
            run = options.work / f"{arm}-{seed}"
            if not (run / "model").is_dir():
                trainer.train(settings(options.work / arm, seed, options.num_steps), run, resume=True)
            results[arm].append(judge(str(run / "model"), options.work / f"videos/{arm}-{seed}.npz"))
            print(arm, seed, {name: float(values.mean()) for name, values in results[arm][-1].items()}, flush=True)
    rows = {}
    for arm, seeds in results.items():
        values = {name: np.stack([seed[name] for seed in seeds]) for name in seeds[0]}
        rows[arm] = {name: {"mean": round(float(v.mean()), 3), "interval": interval(v)} for name, v in values.items()}
    differences = {}
    for name in results["curated"][0]:
        pairs = [new[name] - old[name] for new, old in zip(results["curated"], results["uncurated"], strict=True)]
        differences[name] = {"mean": round(float(np.mean(pairs)), 3), "interval": interval(np.stack(pairs))}
    report = {
        "benchmark": "curated_training",
        "environment": environment(),
        "settings": f"{options.num_steps} fine-tuning steps, {options.num_seeds} seeds, {options.num_prompts} prompts",
        "sets": sets,
        "detector": {"recall": detector.recall, "false_positives": detector.false_positives},
        "rows": rows,
        "curated minus uncurated": differences,
        "cpu_seconds": round(time.process_time() - start),
    }
    write_json(options.out, report)
    print(json.dumps({key: report[key] for key in ("detector", "rows", "curated minus uncurated")}, indent=1))


if __name__ == "__main__":
    main()
