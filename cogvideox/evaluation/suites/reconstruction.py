"""The reconstruction suite: a VAE on the videos of a folder, or on rendered clips (paper table 2)."""

from dataclasses import replace
from pathlib import Path

from cogvideox import geometry
from cogvideox.dataset.ingest.folder_layouts import list_folder
from cogvideox.errors import UserError
from cogvideox.evaluation.protocol import Protocol, code_version
from cogvideox.evaluation.reconstruction.scorer import NUM_FRAMES, SIDE, Reconstruction
from cogvideox.evaluation.scorer import Item
from cogvideox.evaluation.suite import PublishedRow, Suite, SuiteOptions, check_settings, numbered, positive
from cogvideox.evaluation.videos import PAIRS, VIDEOS, VideoSet, model_hash, segment_info
from cogvideox.pretrained.model_spec import read_spec
from cogvideox.records import Video
from cogvideox.vae.losses.shift_tolerant import TRUNKS, installed_weights

SETTINGS = ("videos", "num_frames", "height", "width", "lpips_trunk", "lpips_heads", "st_lpips", "features")
NUM_CLIPS = 32
"""Default number of rendered clips."""
FIRST_SEED = 9_000_000
"""Seed of the first rendered clip; training sets have smaller seeds."""
TABLE_2 = tuple(
    PublishedRow(model, {"reconstruction/psnr": psnr})
    for model, psnr in (("CogVideoX", 29.1), ("Open-Sora", 28.5), ("Open-Sora-Plan", 27.6))
)
SOURCE = (
    "Table 2 of the paper: PSNR on the validation set of WebVid, 17 frames of 256x256 pixels. The unit of its "
    "flickering (85.5, 92.4, 90.2) is not stated, so it is not compared."
)


def reconstruction_suite(options: SuiteOptions) -> Suite:
    """Build the suite; `videos_to_reconstruct` adds videos and model.

    Raises:
        UserError: unknown setting, or a setting of the wrong type.
    """
    check_settings("reconstruction", options, SETTINGS)
    if options.prompts is not None:
        raise UserError("the reconstruction suite has no prompts: remove --prompts")
    if options.videos_per_prompt is not None:
        raise UserError("the reconstruction suite has no prompts: remove --videos-per-prompt")
    num_frames, height, width = (
        positive(options, name, default)
        for name, default in (("num_frames", NUM_FRAMES), ("height", SIDE), ("width", SIDE))
    )
    features = options.settings.get("features", "random")
    st_lpips = options.settings.get("st_lpips")
    if st_lpips in TRUNKS:  # the weights in the user's install of the package
        st_lpips = str(installed_weights(st_lpips))
    perceptual = {"lpips": _lpips(options), "st_lpips": None if st_lpips is None else Path(st_lpips)}
    scorer = Reconstruction("", num_frames, height, width, **perceptual, features=features)
    items: tuple[Item, ...] = ()
    if "videos" not in options.settings:
        items = numbered([Item("", "")] * (options.num_prompts or NUM_CLIPS), 1, FIRST_SEED)
    return Suite("reconstruction", items, (scorer,), lambda prompt: None, published=TABLE_2, source=SOURCE)


def videos_to_reconstruct(suite: Suite, model: str, output: Path) -> tuple[Suite, VideoSet]:
    """Return the suite for a model, and the original videos; rendered clips are written to `OUT/videos`.

    Raises:
        UserError: unknown model, or no videos.
    """
    spec = read_spec(model)
    (scorer,) = suite.scorers
    assert isinstance(scorer, Reconstruction)
    weights = model_hash(spec)
    geometry.check_frame_count(scorer.num_frames)
    geometry.check_size(scorer.height, scorer.width, spec.vae.spatial_compression_ratio)
    scorer = replace(scorer, model=model, pairs=output / PAIRS)
    settings = suite.options.get("settings", {})
    if "videos" in settings:
        folder = Path(settings["videos"])
        entries = list_folder(folder).entries[: suite.options.get("num_prompts")]
        items = numbered(
            [
                Item("", entry.caption or entry.source.name, info=segment_info(entry.start, entry.end))
                for entry in entries
            ],
            1,
            0,
        )
        paths = {item.id: entry.source for item, entry in zip(items, entries)}
        base = None
    else:
        items = suite.items
        paths = {item.id: output / VIDEOS / f"{item.id}.mp4" for item in items}
        base = output
        _render([(item.seed, paths[item.id]) for item in items if not paths[item.id].exists()], scorer)
    suite = replace(suite, items=items, scorers=(scorer,))
    protocol = Protocol(
        suite=f"reconstruction {suite.digest}",
        model=spec.name,
        weights=weights,
        num_frames=scorer.num_frames,
        height=scorer.height,
        width=scorer.width,
        options="videos=" + (settings.get("videos") or "rendered toybox clips"),
        code=code_version(),
    )
    return suite, VideoSet(items, paths, protocol, folder=base)


def _render(clips: list[tuple[int, Path]], scorer: Reconstruction) -> None:
    from cogvideox.toybox.render.renderer import render_scene
    from cogvideox.toybox.scenes.sampler import sample_scene

    fps = 8.0
    for seed, path in clips:
        scene = sample_scene(seed, seconds=(scorer.num_frames - 1) / fps)
        size = {"num_frames": scorer.num_frames, "height": scorer.height, "width": scorer.width}
        Video(render_scene(scene, **size, fps=fps).numpy(), fps).save(path)


def _lpips(options: SuiteOptions) -> tuple[Path, Path] | None:
    files = [options.settings.get(name) for name in ("lpips_trunk", "lpips_heads")]
    if None in files and files != [None, None]:
        raise UserError("LPIPS needs two files: --set lpips_trunk=VGG16.pth and --set lpips_heads=HEADS.pth")
    return None if files[0] is None or files[1] is None else (Path(files[0]), Path(files[1]))
