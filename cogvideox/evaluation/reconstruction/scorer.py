"""Scorer of a VAE: videos are encoded, decoded and compared with the originals (paper table 2).

The protocol of table 2 is 17 frames of 256x256 pixels. Frames are resized to cover this size and cropped at the center.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from cogvideox.errors import UserError
from cogvideox.evaluation.frechet.features import check_extractor, open_extractor
from cogvideox.evaluation.frechet.scorer import SetDistance, distance_metrics
from cogvideox.evaluation.reconstruction.metrics import detail, flicker, psnr
from cogvideox.evaluation.reconstruction.structural_similarity import MIN_SIDE, ms_ssim, ssim
from cogvideox.evaluation.scorer import Item, Measurement, Metric, Ratio, VideoFile
from cogvideox.evaluation.store import file_hash
from cogvideox.pretrained.components import load_network
from cogvideox.pretrained.model_spec import read_spec
from cogvideox.records import Video
from cogvideox.vae.losses.perceptual import LPIPS
from cogvideox.vae.losses.shift_tolerant import ShiftTolerantLPIPS
from cogvideox.video.transform import resize_crop, to_frames, to_model

NUM_FRAMES, SIDE = 17, 256
"""Size of the clips of table 2."""


@dataclass(frozen=True)
class Reconstruction:
    """Scorer of a VAE's reconstruction of the first frames of every video.

    Attributes:
        model: model folder or shipped model; not a setting, because it is the model under test.
        num_frames, height, width: size at which videos are reconstructed; 4k+1 frames.
        lpips: files of the VGG16 trunk and of the LPIPS heads; None: LPIPS is not measured.
        st_lpips: file of ST-LPIPS's weights; None: it is not measured.
        features: extractor of the features for distances of sets; "" measures none.
        pairs: folder for videos of original and reconstruction side by side; None writes none.
    """

    model: str
    num_frames: int = NUM_FRAMES
    height: int = SIDE
    width: int = SIDE
    lpips: tuple[Path, Path] | None = None
    st_lpips: Path | None = None
    features: str = "random"
    pairs: Path | None = None
    name: str = "reconstruction"
    groups: tuple[str, ...] = ()

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """PSNR, SSIM, flicker and detail; further metrics if their files are set and the frames are large enough."""
        metrics = [
            _metric("psnr", "mean over videos of the PSNR of a video", "dB"),
            _metric("ssim", "structural similarity"),
            _metric("flicker", "mean absolute difference of consecutive frames", "levels", better=None),
            _metric("flicker_original", "the same of the originals", "levels", better=None),
            _metric("detail", "mean absolute Laplacian; below that of the originals means blur", better=None),
            _metric("detail_original", "the same of the originals", better=None),
        ]
        if min(self.height, self.width) >= MIN_SIDE:
            metrics.insert(2, _metric("ms_ssim", "multi-scale structural similarity"))
        if self.lpips is not None:
            metrics.append(_metric("lpips", "learned perceptual distance (VGG16)", better=False))
        if self.st_lpips is not None:
            metrics.append(_metric("st_lpips", "shift-tolerant LPIPS; its values are not LPIPS values", better=False))
        if self.features:
            metrics += distance_metrics(
                "reconstruction",
                lambda kind: SetDistance(kind, "features", "features_original"),
                {"reference": "the originals"},
            )
        return tuple(metrics)

    def settings(self) -> dict[str, Any]:
        """See `Scorer`."""
        lpips = None if self.lpips is None else [file_hash(path) for path in self.lpips]
        size = [self.num_frames, self.height, self.width]
        features = check_extractor(self.features) if self.features else None
        st_lpips = None if self.st_lpips is None else file_hash(self.st_lpips)
        return {"size": size, "lpips": lpips, "st_lpips": st_lpips, "features": features, "version": 2}

    def open(self, worker: int) -> Callable[[VideoFile, Item], Measurement]:
        """Load the VAE, and the perceptual distances and the extractor if they are used."""
        spec = read_spec(self.model)
        vae = load_network(spec.path, spec.vae)
        distances: dict[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {}
        if self.lpips is not None:
            distances["lpips"] = LPIPS.load(*self.lpips)
        if self.st_lpips is not None:
            distances["st_lpips"] = ShiftTolerantLPIPS.load(self.st_lpips)
        extract = open_extractor(self.features) if self.features else None

        @torch.inference_mode()
        def measure(file: VideoFile, item: Item) -> Measurement:
            frames = torch.from_numpy(file.video.frames[: self.num_frames])
            if len(frames) < self.num_frames:
                raise UserError(f"{file.path} has {len(frames)} frames, and the protocol needs {self.num_frames}")
            original = resize_crop(frames, self.height, self.width)
            video = to_model(original)[None]
            reconstruction = vae.decode(vae.encode(video).mean).clamp(-1, 1)
            values = {
                "psnr": psnr(reconstruction, video),
                "ssim": ssim(reconstruction, video),
                "detail": detail(reconstruction),
                "detail_original": detail(video),
            }
            if min(self.height, self.width) >= MIN_SIDE:
                values["ms_ssim"] = ms_ssim(reconstruction, video)
            if self.num_frames > 1:
                values |= {"flicker": flicker(reconstruction), "flicker_original": flicker(video)}
            for name, distance in distances.items():
                pairs = zip(reconstruction[0].transpose(0, 1).split(8), video[0].transpose(0, 1).split(8))
                values[name] = torch.cat([distance(x, y) for x, y in pairs]).mean()[None]
            measurement: dict[str, Any] = {name: round(value.item(), 6) for name, value in values.items()}
            reconstructed = to_frames(reconstruction)[0]
            if extract is not None:
                for name, clip in (("features", reconstructed), ("features_original", original)):
                    measurement[name] = [round(float(value), 7) for value in extract(clip.numpy())]
            if self.pairs is not None:
                pair = torch.cat([original, reconstructed], dim=2).numpy()
                Video(pair, file.video.fps).save(self.pairs / f"{item.id}.mp4")
            return measurement

        return measure


def _metric(name: str, meaning: str, unit: str = "", *, better: bool | None = True) -> Metric:
    return Metric(f"reconstruction/{name}", Ratio(name), meaning, unit, better, per_video=name)
