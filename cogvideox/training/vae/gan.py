"""Adversarial training of the VAE: the discriminator, its optimizer, and the generator's gradient."""

import torch
from torch import Tensor

from cogvideox.parallel.mesh import Ranks
from cogvideox.parallel.parallelize import average_gradients
from cogvideox.training.checkpoint import Stateful
from cogvideox.training.config import VAETraining
from cogvideox.training.optim.optimizers import build_adamw, clip_grad_norm, optimizer_step
from cogvideox.training.rng import torch_generator
from cogvideox.training.vae.context_parallel import StepShard, mean_over_ranks
from cogvideox.vae.losses.discriminator import (
    Discriminator,
    Logits,
    adaptive_weight,
    generator_loss,
    hinge_loss,
    init_weights,
)
from cogvideox.vae.losses.vae_loss import Pixels

Terms = dict[str, Tensor]


class DiscriminatorTrainer:
    """The discriminator and its optimizer.

    The discriminator is trained from step `disc_start - disc_warmup_steps` and contributes to the VAE's loss from step
    `disc_start`, because an untrained discriminator gives no useful gradient.
    """

    def __init__(self, settings: VAETraining, device: torch.device, ranks: Ranks | None = None) -> None:
        self.settings, self.ranks, self.mean = settings, ranks, mean_over_ranks(ranks)
        self.first_step = settings.disc_start - settings.disc_warmup_steps
        self.net = Discriminator(settings.discriminator)
        init_weights(self.net, torch_generator("weights", settings.run.seed, step=1))  # step 0 initializes the VAE
        self.net.to(device)
        self.optimizer = build_adamw([self.net], settings.disc_optim)

    def is_in_loss(self, step: int) -> bool:
        """Return whether the VAE's loss includes the GAN loss in step `step` (0-based)."""
        return step >= self.settings.disc_start

    def is_trained(self, step: int) -> bool:
        """Return whether the discriminator is trained in step `step` (0-based)."""
        return step >= self.first_step

    def checkpoint_parts(self) -> dict[str, Stateful]:
        """Return the discriminator and its optimizer, by their names in a checkpoint."""
        return {"discriminator": self.net, "discriminator_optimizer": self.optimizer}

    def generator_gradient(
        self, shard: StepShard, reconstruction: Pixels, last_layer: Tensor, loss: Tensor
    ) -> tuple[Pixels, Terms]:
        """Compute the weighted gradient of the generator loss with respect to the reconstruction.

        Its weight is `loss.gan` times the adaptive weight, which equalizes the gradient norms of `loss` and of the
        generator loss at `last_layer` (Esser et al. 2021, "Taming Transformers", section 3.1).

        Returns:
            The gradient, and the terms to log: `gan`, the unweighted loss, and `gan_weight`, its total weight.
        """
        logits = self._logits(shard, reconstruction)
        gan_loss = self._rank_weight(shard, logits) * generator_loss(logits)
        (gan_grad,) = torch.autograd.grad(gan_loss, reconstruction)
        (loss_grad,) = torch.autograd.grad(loss, reconstruction, retain_graph=True)
        weight = self.settings.loss.gan * adaptive_weight(reconstruction, last_layer, loss_grad, gan_grad, self.mean)
        return weight * gan_grad, {"gan": gan_loss.detach(), "gan_weight": weight}

    def train_step(self, shard: StepShard, step: int, reconstruction: Pixels) -> Terms:
        """Train the discriminator on the clips of step `step` (0-based) and their reconstructions.

        Returns:
            The terms to log: the hinge loss `disc` (1 at chance level, 0 for a perfect discriminator), and the mean
            logits `disc_real` and `disc_fake`; or `disc_skipped` if the gradient is not finite.
        """
        settings = self.settings
        real, fake = self._logits(shard, shard.batch.pixels), self._logits(shard, reconstruction.detach())
        weight = self._rank_weight(shard, real)
        loss = weight * hinge_loss(real, fake)
        loss.backward()
        if self.ranks is not None:
            average_gradients(self.net.parameters(), self.ranks.world)
        norm = clip_grad_norm(self.optimizer, settings.disc_optim)
        if not bool(norm.isfinite()):
            self.optimizer.zero_grad(set_to_none=True)
            return {"disc_skipped": torch.ones((), device=norm.device)}
        num_steps = settings.run.num_steps - self.first_step
        optimizer_step(self.optimizer, step - self.first_step, num_steps, settings.disc_optim)
        means = {"disc_real": weight * real.detach().mean(), "disc_fake": weight * fake.detach().mean()}
        return {"disc": loss.detach(), **means}

    def _logits(self, shard: StepShard, video: Pixels) -> Logits:
        conv_cache = None if shard.pixel_cache is None else shard.pixel_cache()
        with torch.autocast(video.device.type, torch.bfloat16, enabled=self.settings.run.precision == "bfloat16"):
            return self.net(video, conv_cache).float()

    def _rank_weight(self, shard: StepShard, logits: Logits) -> float:
        """Return the weight of this rank's mean over logits, in the mean over the ranks of a clip's frames."""
        temporal_stride = 2**self.settings.discriminator.num_temporal_levels
        return shard.num_ranks * logits.shape[2] / ((shard.num_frames - 1) // temporal_stride + 1)
