"""The ablations with tiny networks and few clips: every arm keeps the setting under test."""

from dataclasses import replace

from cogvideox.ablation.arm import Ablation, Arm, Settings
from cogvideox.ablation.registry import get_ablation
from cogvideox.training.config import VAETraining
from cogvideox.vae.config import DiscriminatorConfig

NUM_CLIPS = 6


def tiny(name: str, *, all_sets: bool = True) -> Ablation:
    """Return an ablation whose runs take seconds.

    Args:
        all_sets: score all sets of clips and videos, not only those of the trained size.
    """
    ablation = get_ablation(name)
    evaluation = replace(
        ablation.evaluation,
        clips={
            name: replace(clips, num_clips=2)
            for name, clips in ablation.evaluation.clips.items()
            if all_sets or not name
        },
        videos={name: videos for name, videos in ablation.evaluation.videos.items() if all_sets or not name},
        num_prompts=1,
        num_inference_steps=2,
    )
    data = None if ablation.data is None else replace(ablation.data, num_clips=NUM_CLIPS, overlay_probability=0.5)
    return replace(ablation, arms=tuple(map(_tiny_arm, ablation.arms)), evaluation=evaluation, data=data)


def _tiny_arm(arm: Arm) -> Arm:
    return replace(arm, stages=tuple(map(_tiny_stage, arm.stages)))


def _tiny_stage(settings: Settings) -> Settings:
    if isinstance(settings, VAETraining):
        model = settings.model
        widths = (4,) * len(model.block_out_channels)
        return replace(
            settings,
            model=replace(model, block_out_channels=widths, norm_num_groups=2),
            clips=replace(settings.clips, num_clips=NUM_CLIPS),
            validation=replace(settings.validation, num_clips=1),
            run=replace(settings.run, batch_size=1),
            images_per_clip=1,
            discriminator=DiscriminatorConfig(width=2, max_width=4),
        )
    transformer = settings.transformer
    if transformer is not None:
        transformer = replace(
            transformer,
            num_attention_heads=2,
            attention_head_dim=16,
            num_layers=2,
            time_embed_dim=16,
            ffn_dim=None if transformer.ffn_dim is None else 48,
        )
    return replace(
        settings,
        transformer=transformer,
        toybox=tuple(replace(source, clips=replace(source.clips, num_clips=NUM_CLIPS)) for source in settings.toybox),
        row_tokens=settings.row_tokens // 4,
    )
