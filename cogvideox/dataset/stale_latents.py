"""Check that stored latents match a model: same VAE, same text encoder, and first frames if needed.

Whether latents match their video is checked by `encode`: a clip is stored under a hash of its content (`cache_keys`),
so a changed clip or caption is encoded again.
"""

from cogvideox.dataset.latents.encode_plan import store_settings
from cogvideox.dataset.latents.latent_store import LatentStore
from cogvideox.errors import UserError
from cogvideox.pretrained.model_spec import ModelSpec


def check_latents(store: LatentStore, spec: ModelSpec, *, needs_first_frames: bool = False) -> None:
    """Check that a latent store can be used to train a model.

    Raises:
        UserError: the store was encoded with a different VAE or text encoder, or has no first frames for image-to-video
            training.
    """
    expected = store_settings(spec, store.settings.target)
    if (store.settings.vae, store.settings.text_encoder) != (expected.vae, expected.text_encoder):
        raise UserError(
            f"{store.folder} was encoded with the VAE or text encoder of {store.settings.model}, whose weights "
            f"differ from those of {spec.name}: encode the clips again, or train that model"
        )
    if needs_first_frames and not store.settings.target.first_frames:
        raise UserError(
            f"{store.folder} has no encoded first frames, which image-to-video training needs: "
            "encode into it again with --first-frames 4"
        )
