import torch

from cogvideox.transformer.temporal_padding import drop_padding, prepend_padding


def test_padding_repeats_the_first_frame_and_drop_padding_inverts_it():
    latents = torch.randn(2, 4, 3, 2, 5)
    for num_padding in range(3):
        padded = prepend_padding(latents, num_padding)
        assert torch.equal(padded[:, :, : num_padding + 1], latents[:, :, :1].expand(-1, -1, num_padding + 1, -1, -1))
        assert torch.equal(drop_padding(padded, num_padding), latents)
        assert torch.equal(drop_padding(padded[0], num_padding), latents[0])
