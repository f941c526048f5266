"""The other side of the VAE's training: the discriminator with its optimizer, and what it asks of the VAE."""

import torch
from torch import Tensor

from cogvideox.training.checkpoint import Stateful
from cogvideox.training.draws import torch_generator
from cogvideox.training.optim import adamw, clip, move
from cogvideox.training.settings import VAETraining
from cogvideox.vae.discriminator import (
    Discriminator,
    Logits,
    adaptive_weight,
    generator_term,
    hinge_loss,
    init_weights,
)
from cogvideox.vae.loss import Pixels

Terms = dict[str, Tensor]


class Adversary:
    """A discriminator that learns from step `disc_start - disc_lead` on and is heard from step `disc_start` on."""

    def __init__(self, settings: VAETraining, device: torch.device) -> None:
        self.settings = settings
        self.start = settings.disc_start - settings.disc_lead
        self.net = Discriminator(settings.discriminator)
        init_weights(self.net, torch_generator("weights", settings.run.seed, step=1))  # step 0 draws the VAE's
        self.net.to(device)
        self.optimizer = adamw([self.net], settings.disc_optim)

    def parts(self) -> dict[str, Stateful]:
        """What a checkpoint holds of it."""
        return {"discriminator": self.net, "discriminator_optimizer": self.optimizer}

    def pull(self, reconstruction: Pixels, last_layer: Tensor, loss: Tensor) -> tuple[Pixels, Terms]:
        """The gradient that the adversarial term adds to that of `loss` at the pixels, made as strong as that one at
        `last_layer` and then weighted by `loss.gan`.

        Also the terms to log: `gan`, not weighted, and `gan_weight`, all that it was multiplied by.
        """
        term = generator_term(self._judge(reconstruction))
        (adversarial,) = torch.autograd.grad(term, reconstruction)
        (likeness,) = torch.autograd.grad(loss, reconstruction, retain_graph=True)
        weight = self.settings.loss.gan * adaptive_weight(reconstruction, last_layer, likeness, adversarial)
        return weight * adversarial, {"gan": term.detach(), "gan_weight": weight}

    def learn(self, step: int, real: Pixels, fake: Pixels) -> Terms:
        """The discriminator's own step, on the clips of step `step` and their reconstructions.

        Returns the terms to log: `disc`, the hinge loss (1 where it cannot tell the two apart, 0 where it always can),
        and its mean logits; or `disc_skipped`, because a step whose gradient is not finite is not made.
        """
        settings = self.settings
        judged = self._judge(real), self._judge(fake)
        loss = hinge_loss(*judged)
        loss.backward()
        norm = clip(self.optimizer, settings.disc_optim)
        if not bool(norm.isfinite()):
            self.optimizer.zero_grad(set_to_none=True)
            return {"disc_skipped": torch.ones(())}
        move(self.optimizer, step - self.start, settings.run.num_steps - self.start, settings.disc_optim)
        real_logit, fake_logit = (logits.detach().mean() for logits in judged)
        return {"disc": loss.detach(), "disc_real": real_logit, "disc_fake": fake_logit}

    def _judge(self, video: Pixels) -> Logits:
        with torch.autocast(video.device.type, torch.bfloat16, enabled=self.settings.run.precision == "bfloat16"):
            return self.net(video).float()
