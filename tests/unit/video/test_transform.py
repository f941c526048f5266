import pytest
import torch

from cogvideox.errors import UserError
from cogvideox.video.transform import resize, resize_crop, to_frames, to_model, to_unit


def test_every_level_round_trips_through_a_model_video():
    frames = torch.arange(256, dtype=torch.uint8).reshape(1, 16, 16, 1).expand(2, 16, 16, 3)
    video = to_model(frames)
    assert video.shape == (3, 2, 16, 16)
    assert (video.min(), video.max()) == (-1, 1)
    assert torch.equal(to_frames(video), frames)
    batch = torch.stack([frames, frames.flip(1)])
    assert torch.equal(to_frames(to_model(batch)), batch)


def test_values_out_of_range_are_clipped():
    video = torch.tensor([-1.5, -1, 0, 1, 1.5]).reshape(1, 1, 1, 5).expand(3, 1, 1, 5)
    assert to_unit(video)[0, 0, :, 0].tolist() == [0, 0, 0.5, 1, 1]
    assert to_frames(video.bfloat16())[0, 0, :, 0].tolist() == [0, 0, 128, 255, 255]


@pytest.mark.parametrize("size", [(480, 720), (60, 90), (64, 64), (90, 30)])
def test_resize_crop_keeps_aspect_ratio_and_center(size):
    # A disc in the middle of a wide image stays round and centered.
    y, x = torch.meshgrid(torch.arange(120) - 59.5, torch.arange(200) - 99.5, indexing="ij")
    disc = ((y**2 + x**2 < 40**2) * 255).to(torch.uint8)
    frame = resize_crop(disc.reshape(1, 120, 200, 1).expand(1, 120, 200, 3), *size)[0, :, :, 0].float() / 255
    assert frame.shape == size
    scale = max(size[0] / 120, size[1] / 200)
    rows, columns = torch.arange(size[0]), torch.arange(size[1])
    middle_row, middle_column = frame[size[0] // 2], frame[:, size[1] // 2]
    assert middle_column.sum().item() == pytest.approx(min(80 * scale, size[0]), abs=2)
    assert middle_row.sum().item() == pytest.approx(min(80 * scale, size[1]), abs=2)
    assert (middle_column @ rows.float() / middle_column.sum()).item() == pytest.approx((size[0] - 1) / 2, abs=0.6)
    assert (middle_row @ columns.float() / middle_row.sum()).item() == pytest.approx((size[1] - 1) / 2, abs=0.6)


def test_frames_of_the_target_size_are_unchanged():
    frames = torch.randint(0, 256, (2, 48, 72, 3), dtype=torch.uint8)
    assert torch.equal(resize_crop(frames, 48, 72), frames)
    assert torch.equal(resize_crop(frames, 48, 48), frames[:, :, 12:60])


def test_resize_modes():
    """A white image, twice as wide as high: cropped, stretched, or padded with black bars."""
    white = torch.full((2, 20, 40, 3), 255, dtype=torch.uint8)
    assert (resize(white, 32, 32, "cover") == 255).all()
    assert (resize(white, 32, 32, "stretch") == 255).all()
    contained = resize(white, 32, 32, "contain")
    assert contained.shape == (2, 32, 32, 3)
    assert (contained[:, 8:24] == 255).all() and (contained[:, :8] == 0).all() and (contained[:, 24:] == 0).all()
    assert torch.equal(resize(white, 20, 40), white)


def test_batched_resizing_equals_resizing_of_single_frames():
    frames = torch.randint(0, 256, (70, 200, 300, 3), dtype=torch.uint8)
    assert torch.equal(resize_crop(frames, 512, 512)[66:68], resize_crop(frames[66:68], 512, 512))


@pytest.mark.parametrize("size", [(60_000, 1), (1, 60_000), (30_000, 2)])
def test_extreme_aspect_ratios_are_rejected(size):
    frames = torch.zeros((1, *size, 3), dtype=torch.uint8)
    with pytest.raises(UserError, match=r"cannot be enlarged to .* choose a size with a more similar aspect ratio"):
        resize_crop(frames, 480, 720)
