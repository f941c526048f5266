"""The VAE: latent channels and compression, loss terms, longer clips, padding in time (section 2.1, table 1)."""

from cogvideox.ablation.arm import PREVIOUS, Ablation, Arm, Finding
from cogvideox.ablation.baselines import held_out, vae, vae_evaluation

LIMITS = "Clips are 9 frames of 32x32 pixels, and the VAE has 2.65 M parameters instead of 216 M."
STEPS = 3_000


def channels() -> Ablation:
    """Latent channels and compression: the columns of the paper's table 1."""
    chosen, few, many = "8x8x4, 16 channels", "8x8x4, 8 channels", "8x8x4, 32 channels"
    frame_by_frame, temporal_8, spatial_16 = "8x8x1, 4 channels", "8x8x8, 32 channels", "16x16x8, 128 channels"

    def arm(name: str, latent_channels: int, temporal: int = 4, num_levels: int = 4) -> Arm:
        widths = (16, 32, *(64,) * (num_levels - 2))
        changes = {
            "model.latent_channels": latent_channels,
            "model.temporal_compression_ratio": temporal,
            "model.block_out_channels": widths,
        }
        return Arm(name, (vae(changes),))

    return Ablation(
        name="vae-channels",
        question="How do latent channels and compression change the reconstruction?",
        field="model.latent_channels, model.temporal_compression_ratio, model.block_out_channels",
        equal=("tokens", "steps"),
        arms=(
            arm(chosen, 16),
            arm(few, 8),
            arm(many, 32),
            arm(frame_by_frame, 4, temporal=1),
            arm(temporal_8, 32, temporal=8),
            arm(spatial_16, 128, temporal=8, num_levels=5),
        ),
        findings=(
            Finding("PSNR rises from 8 to 16 channels, 27.2 to 28.7 dB", "table 1", "psnr", chosen, few),
            Finding("PSNR rises from 16 to 32 channels, 28.7 to 30.5 dB", "table 1", "psnr", many, chosen),
            Finding(
                "Less flicker with 16 channels than with 8, 86.3 vs. 87.6", "table 1", "flicker error", chosen, few
            ),
            Finding(
                "Less flicker with 16 channels than with 32, 86.3 vs. 87.7", "table 1", "flicker error", chosen, many
            ),
            Finding(
                "Less flicker than frame by frame, 86.3 vs. 93.2", "table 1", "flicker error", chosen, frame_by_frame
            ),
            Finding("PSNR as high as frame by frame, 28.7 vs. 28.4 dB", "table 1", "psnr", chosen, frame_by_frame),
            Finding("More compression in time lowers PSNR, 30.5 to 29 dB", "table 1", "psnr", many, temporal_8),
            Finding("16x16x8 converges worse than 8x8x8, 27.9 vs. 29 dB", "table 1", "psnr", temporal_8, spatial_16),
        ),
        evaluation=vae_evaluation(),
        limits=(
            f"{LIMITS} With 16x16x8, it has one more level and 4.26 M parameters. The paper's 2D baseline is a "
            "pretrained VAE (SDXL's); here, it is trained like the others."
        ),
    )


def loss() -> Ablation:
    """Terms of the loss."""
    base, perceptual, gan = "reconstruction + KL", "+ perceptual", "+ GAN"
    with_gan = {"loss.gan": 0.05, "disc_start": STEPS // 2, "disc_warmup_steps": STEPS // 10}
    return Ablation(
        name="vae-loss",
        question="What do the KL, perceptual and GAN terms of the VAE's loss do?",
        field="loss",
        equal=("parameters", "tokens", "steps"),
        arms=(
            Arm(base, (vae(),)),
            Arm("without KL", (vae({"loss.kl": 0.0}),)),
            Arm(perceptual, (vae({"loss.perceptual": 0.1}),)),
            Arm(gan, (vae(with_gan),), "the GAN loss starts after half of the steps"),
        ),
        findings=(
            Finding("The perceptual term restores detail", "section 2.1", "detail error", perceptual, base),
            Finding("The GAN term restores detail", "section 2.1", "detail error", gan, base),
        ),
        evaluation=vae_evaluation(),
        limits=(
            f"{LIMITS} The perceptual term compares random features, not LPIPS. The compute does not include the "
            "networks of the perceptual and GAN terms."
        ),
    )


def long_clips() -> Ablation:
    """A second stage on longer clips."""
    frames, second_steps = 17, STEPS // 3
    first_steps = STEPS - second_steps
    first = vae({"run.num_steps": first_steps, "encoder_steps": first_steps})
    second = {
        "init_from": PREVIOUS,
        "run.num_steps": second_steps,
        "encoder_steps": second_steps,
        "optim.lr": 5e-4,
    }
    longer, same = f"stage 2, {frames} frames", "stage 2, 9 frames"
    return Ablation(
        name="vae-long",
        question="Does a second stage on longer clips improve their reconstruction?",
        field="clips.num_frames",
        equal=("parameters", "steps"),
        arms=(
            Arm(
                longer,
                (first, vae({**second, "clips.num_frames": frames, "run.batch_size": 2})),
                "run.batch_size is 2 instead of 4, so that each step has about as many frames",
            ),
            Arm(same, (first, vae(second))),
        ),
        findings=(
            Finding(
                "Longer clips must be trained on to be reconstructed well",
                "section 2.1",
                f"psnr, {frames} frames",
                longer,
                same,
            ),
        ),
        evaluation=vae_evaluation(clips={"": held_out(side=32), f"{frames} frames": held_out(frames, side=32)}),
        limits=LIMITS + f" The long clips have {frames} frames, not 161.",
    )


def padding() -> Ablation:
    """Padding in time."""
    return Ablation(
        name="vae-padding",
        question="What does causal padding in time cost?",
        field="model.time_padding",
        equal=("parameters", "tokens", "steps"),
        arms=(
            Arm("causal", (vae(),)),
            Arm("symmetric", (vae({"model.time_padding": "symmetric"}),)),
        ),
        findings=(),
        evaluation=vae_evaluation(),
        limits=LIMITS + " The paper gives no ablation of the padding.",
    )
