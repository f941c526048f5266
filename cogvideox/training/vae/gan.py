"""The other side of the VAE's training: the discriminator with its optimizer, and what it asks of the VAE."""

import torch
from torch import Tensor

from cogvideox.parallel.fsdp import average_gradients
from cogvideox.parallel.mesh import Ranks
from cogvideox.training.checkpoint import Stateful
from cogvideox.training.config import VAETraining
from cogvideox.training.optim.optimizers import build_adamw, clip_grad_norm, optimizer_step
from cogvideox.training.rng import torch_generator
from cogvideox.training.vae.context_parallel import Part, mean_over
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


class Adversary:
    """A discriminator that learns from step `disc_start - disc_lead` on and is heard from step `disc_start` on."""

    def __init__(self, settings: VAETraining, device: torch.device, ranks: Ranks | None = None) -> None:
        self.settings, self.ranks, self.mean = settings, ranks, mean_over(ranks)
        self.start = settings.disc_start - settings.disc_lead
        self.net = Discriminator(settings.discriminator)
        init_weights(self.net, torch_generator("weights", settings.run.seed, step=1))  # step 0 draws the VAE's
        self.net.to(device)
        self.optimizer = build_adamw([self.net], settings.disc_optim)

    def parts(self) -> dict[str, Stateful]:
        """What a checkpoint holds of it."""
        return {"discriminator": self.net, "discriminator_optimizer": self.optimizer}

    def pull(self, part: Part, reconstruction: Pixels, last_layer: Tensor, loss: Tensor) -> tuple[Pixels, Terms]:
        """The gradient that the adversarial term adds to that of `loss` at the pixels, made as strong as that one at
        `last_layer` and then weighted by `loss.gan`.

        Also the terms to log: `gan`, not weighted, and `gan_weight`, all that it was multiplied by.
        """
        judged = self._judge(part, reconstruction)
        term = self._share(part, judged) * generator_loss(judged)
        (adversarial,) = torch.autograd.grad(term, reconstruction)
        (likeness,) = torch.autograd.grad(loss, reconstruction, retain_graph=True)
        weight = self.settings.loss.gan * adaptive_weight(reconstruction, last_layer, likeness, adversarial, self.mean)
        return weight * adversarial, {"gan": term.detach(), "gan_weight": weight}

    def learn(self, part: Part, step: int, reconstruction: Pixels) -> Terms:
        """The discriminator's own step, on the clips of step `step` and their reconstructions.

        Returns the terms to log: `disc`, the hinge loss (1 where it cannot tell the two apart, 0 where it always can),
        and its mean logits; or `disc_skipped`, because a step whose gradient is not finite is not made.
        """
        settings = self.settings
        real, fake = self._judge(part, part.batch.pixels), self._judge(part, reconstruction.detach())
        share = self._share(part, real)
        loss = share * hinge_loss(real, fake)
        loss.backward()
        if self.ranks is not None:
            average_gradients(self.net.parameters(), self.ranks.world)
        norm = clip_grad_norm(self.optimizer, settings.disc_optim)
        if not bool(norm.isfinite()):
            self.optimizer.zero_grad(set_to_none=True)
            return {"disc_skipped": torch.ones((), device=norm.device)}
        optimizer_step(self.optimizer, step - self.start, settings.run.num_steps - self.start, settings.disc_optim)
        means = {"disc_real": share * real.detach().mean(), "disc_fake": share * fake.detach().mean()}
        return {"disc": loss.detach(), **means}

    def _judge(self, part: Part, video: Pixels) -> Logits:
        conv_cache = None if part.pixel_cache is None else part.pixel_cache()
        with torch.autocast(video.device.type, torch.bfloat16, enabled=self.settings.run.precision == "bfloat16"):
            return self.net(video, conv_cache).float()

    def _share(self, part: Part, logits: Logits) -> float:
        """What a mean over these logits counts in the mean over those of all processes that share the clips."""
        halvings = 2**self.settings.discriminator.num_temporal_levels
        return part.num_ranks * logits.shape[2] / ((part.num_frames - 1) // halvings + 1)
