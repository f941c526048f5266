import torch
from torch import nn

from cogvideox.vae.causal_conv import StreamingCache


def test_streaming_cache_pads_a_chunk_with_the_last_frames_of_the_previous_one():
    conv, conv_cache = nn.Identity(), StreamingCache()
    clip = torch.arange(6.0).view(1, 1, 6, 1, 1)
    assert conv_cache.pad_time(conv, clip[:, :, :2], 2).flatten().tolist() == [0, 0, 0, 1]
    conv_cache.advance()
    assert conv_cache.pad_time(conv, clip[:, :, 2:3], 2).flatten().tolist() == [0, 1, 2]
    assert conv_cache.pad_time(conv, clip[:, :, 3:], 2).flatten().tolist() == [1, 2, 3, 4, 5]
