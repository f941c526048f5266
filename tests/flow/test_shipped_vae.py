"""Reconstruction quality of the shipped VAE, including clips longer than the 9 frames that it was trained on.

Like the official weights, it computes norm statistics per chunk (`norm_statistics` in its model folder), so a longer
clip is encoded and decoded in chunks of the trained length.
"""

import pytest
import torch

from cogvideox.dataset.config import ToyboxClips
from cogvideox.dataset.latents.toybox_latents import clip_scene, render_clips
from cogvideox.evaluation.reconstruction.metrics import psnr
from cogvideox.geometry import decode_chunks, encode_chunks
from cogvideox.pretrained.model_folder import load
from cogvideox.toybox.judge.judge import fact_accuracies, judge_clips
from cogvideox.toybox.scenes.grammar import FACTS
from cogvideox.training.config import HELD_OUT_SEED
from cogvideox.training.recipes import toybox_vae
from cogvideox.vae.causal_conv import ConvCache
from cogvideox.video.transform import to_frames


@torch.inference_mode()
def test_the_judge_recognizes_the_attributes_of_reconstructions():
    clips = ToyboxClips(num_clips=24, first_seed=HELD_OUT_SEED)
    vae = load("toybox", device=torch.device("cpu"), dtype=torch.float32).vae
    videos = [
        to_frames(vae.decode(vae.encode(render_clips(clips, range(start, start + 8))).mean)) for start in (0, 8, 16)
    ]
    scores = fact_accuracies(judge_clips(torch.cat(videos), [clip_scene(clips, index) for index in range(24)]))
    accuracies = [scores[fact].value for fact in FACTS["core"]]
    assert sum(accuracies) / len(accuracies) >= 0.97, scores


@torch.inference_mode()
def test_chunked_decoding_has_the_quality_of_decoding_at_once():
    """Also, 17 frames in chunks have nearly the quality of the 9 frames of training."""
    model = load("toybox", device=torch.device("cpu"), dtype=torch.float32)
    vae, clips = model.vae, ToyboxClips(num_clips=4, first_seed=HELD_OUT_SEED, num_frames=17)
    assert model.settings.norm_statistics == "chunk"
    assert encode_chunks(toybox_vae().clips.num_frames) == [9] and encode_chunks(17) == [9, 8]
    assert decode_chunks(3) == [3] and decode_chunks(5) == [3, 2]

    video = render_clips(clips, range(4))
    latents = vae.encode(video).mean
    chunked, at_once = vae.decode(latents), vae.decoder(latents, ConvCache())
    first_chunk = vae.decode(vae.encode(video[:, :, :9]).mean)
    assert psnr(chunked, video).mean() > psnr(at_once, video).mean() - 0.05
    assert psnr(chunked, video).mean() > psnr(first_chunk, video[:, :, :9]).mean() - 0.5
    # The first chunk does not depend on the second one.
    torch.testing.assert_close(chunked[:, :, :9], first_chunk)
    with pytest.raises(AssertionError):
        torch.testing.assert_close(at_once[:, :, :9], first_chunk)
