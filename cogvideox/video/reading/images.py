"""Still images and animated PNG, WebP and AVIF, read with Pillow: upright, in 8-bit RGB. GIF is read as a video.

Axes: `h w` height and width in pixels.
"""

import io
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path

import av
import numpy as np
from jaxtyping import UInt8
from PIL import ExifTags, Image, ImageCms, ImageOps

from cogvideox.errors import UserError
from cogvideox.untrusted.files import limit, reading
from cogvideox.video import limits
from cogvideox.video.reading.timing import TimedFrame, Timeline

Frame = UInt8[np.ndarray, "h w 3"]

FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "AVIF", "HEIF", "JPEG2000", "PPM", "QOI")
"""Supported formats, with Pillow's names. HEIF needs the package pi-heif."""

_ANIMATED = ("PNG", "WEBP", "AVIF")
_HUFFMAN_FRAMES = (0xC0, 0xC1, 0xC2)  # markers of JPEG frames: baseline, extended, progressive
_HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
_MAX_PROFILE = 4_000_000  # bytes
_OPEN = threading.Lock()  # because Pillow's limit of pixels is a global variable


def is_image(path: str | Path) -> bool:
    """Return whether the content of a file is an image in one of `FORMATS`; GIF and `.mjpeg` count as videos.

    Raises:
        UserError: the file cannot be read, or is HEIF and pi-heif is not installed.
    """
    with reading(path, "damaged or not an image"):
        return _is_image(str(path), limits.file_version(path))


@lru_cache(maxsize=1024)
def _is_image(path: str, version: limits.FileVersion) -> bool:
    return not path.lower().endswith((".mjpeg", ".mjpg")) and _pillow_open(path) is not None


def read_image(path: str | Path) -> Frame:
    """Read an image, or the first frame of an animation.

    Raises:
        UserError: the file is missing, damaged or not an image.
    """
    with _opened(path) as image:
        return to_rgb(image)


def image_size(path: str | Path) -> tuple[int, int, str]:
    """Return the displayed height and width, and the name of the format."""
    with _opened(path) as image:
        height, width = to_rgb(image).shape[:2]
        return height, width, (image.format or "").lower()


def timeline(path: str | Path) -> Timeline | None:
    """Return the display times of an animation; None for a still image."""
    with reading(path, "a damaged image"):
        return _timeline(str(path), limits.file_version(path), limit("PIXELS"))


@lru_cache(maxsize=8)
def _timeline(path: str, version: limits.FileVersion, max_pixels: int) -> Timeline | None:
    with _opened(path) as image:
        if not _is_animated(image):
            return None
        intervals = [(time, seconds) for time, seconds, _ in _animation(image)]
    return Timeline.of([time for time, _ in intervals], sum(intervals[-1]))


def timed_frames(path: str | Path) -> Iterator[TimedFrame]:
    """Yield the frames of an animation, or a still image as a single frame."""
    with _opened(path) as image:
        if _is_animated(image):
            for time, seconds, pixels in _animation(image):
                yield TimedFrame(time, seconds, lambda pixels=pixels: pixels)
        else:
            pixels = to_rgb(image)
            yield TimedFrame(0.0, 1 / 25, lambda: pixels)


def to_rgb(image: Image.Image) -> Frame:
    """Return the pixels of an image: upright, with 8 bits per channel and without transparency.

    16-bit pixels are scaled to 8 bits. Transparent pixels keep their stored colors.

    Raises:
        UserError: the pixels have more than 16 bits.
    """
    try:
        if image.getexif().get(ExifTags.Base.Orientation, 1) != 1:  # otherwise it would be copied
            image = ImageOps.exif_transpose(image)
    except (OSError, MemoryError):
        raise
    except Exception:  # damaged EXIF data; the pixels may be intact
        image.load()
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        values = np.asarray(image)
        if image.mode == "F" or values.min(initial=0) < 0 or values.max(initial=0) > 65535:
            raise UserError(
                "cannot read an image: it has more than 16 bits per channel; save it with 8 or 16 bits per channel"
            )
        return np.repeat(_to_8_bits(values)[..., None], 3, -1)
    if image.mode in ("La", "RGBa"):  # premultiplied by alpha
        image = image.convert("LA" if image.mode == "La" else "RGBA")
    image = _to_srgb(image)
    return np.array(image if image.mode == "RGB" else image.convert("RGB"))


def _to_srgb(image: Image.Image) -> Image.Image:
    """Convert an image with a color profile (ICC) to sRGB. A profile that is damaged or does not fit is ignored."""
    data = image.info.get("icc_profile")
    if not isinstance(data, bytes) or not 128 <= len(data) <= _MAX_PROFILE:
        return image
    mode = {b"RGB ": "RGB", b"GRAY": "L", b"CMYK": "CMYK"}.get(data[16:20])
    base = {"RGBA": "RGB", "RGBX": "RGB", "P": "RGB", "PA": "RGB", "LA": "L", "1": "L"}.get(image.mode, image.mode)
    if mode is None or (base != mode and (mode, base) != ("RGB", "L")):
        return image
    image.load()  # outside the block below, which would hide that the pixels are damaged
    try:
        profile = ImageCms.ImageCmsProfile(io.BytesIO(data))
        name = ImageCms.getProfileDescription(profile)
        if "sRGB" in name and "linear" not in name.lower():
            return image
        intent, flags = ImageCms.Intent.RELATIVE_COLORIMETRIC, ImageCms.Flags.BLACKPOINTCOMPENSATION
        pixels = image if image.mode == mode else image.convert(mode)
        converted = ImageCms.profileToProfile(
            pixels, profile, ImageCms.createProfile("sRGB"), intent, outputMode="RGB", flags=flags
        )
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
        return image
    return image if converted is None else converted


@contextmanager
def _opened(path: str | Path) -> Iterator[Image.Image]:
    with reading(path, "a damaged image"):
        limits.file_version(path)
        image = _pillow_open(path)
        if image is None:
            raise UserError(f"cannot read {path}: it is damaged or not an image")
        with image:
            # OpenJPEG decodes to 32 bits per channel.
            limits.check_pixels(path, *image.size, "FRAME_PIXELS" if image.format == "JPEG2000" else "PIXELS")
            try:
                if image.format == "PNG":
                    _check_checksums(path)
                elif image.format in ("JPEG", "MPO"):
                    _check_jpeg(str(path), limits.file_version(path), limit("PIXELS"))
                elif image.format == "JPEG2000" and image.mode in ("RGB", "RGBA"):
                    image = _deep_jpeg2000(path) or image
                yield image
            except UserError as error:
                raise UserError(f"cannot read {path}: {str(error).removeprefix('cannot read an image: ')}") from error
            except (OSError, EOFError, SyntaxError) as error:  # Pillow's errors for damaged data
                raise ValueError(str(error)) from error


def _pillow_open(path: str | Path) -> Image.Image | None:
    """Open an image if it is in one of `FORMATS`, without Pillow's limit of pixels."""
    with _OPEN, warnings.catch_warnings(action="ignore"):
        Image.init()
        _register_heif(path)
        pillow_limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            return Image.open(path, formats=[name for name in FORMATS if name in Image.OPEN])
        except Image.UnidentifiedImageError:
            return None
        except OSError as error:
            if error.errno is None:  # an error of Pillow about the content of the file
                raise ValueError(str(error)) from error
            raise
        finally:
            Image.MAX_IMAGE_PIXELS = pillow_limit


def _register_heif(path: str | Path) -> None:
    with Path(path).open("rb") as file:
        start = file.read(12)
    if start[4:8] == b"ftyp" and start[8:12] in _HEIF_BRANDS:
        try:
            from pi_heif import register_heif_opener
        except ImportError:
            raise UserError(
                f"cannot read {path}: HEIC images need the package pi-heif: install cogvideox[heic], or convert to JPEG"
            ) from None
        register_heif_opener(thumbnails=False)


def _check_checksums(path: str | Path) -> None:
    with _OPEN, warnings.catch_warnings(action="ignore"):
        pillow_limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            Image.open(path, formats=("PNG",)).verify()
        finally:
            Image.MAX_IMAGE_PIXELS = pillow_limit


@lru_cache(maxsize=1024)
def _check_jpeg(path: str, version: limits.FileVersion, max_pixels: int) -> None:
    """Raise ValueError if FFmpeg finds invalid data in a JPEG, which Pillow decodes to wrong pixels without an error.

    FFmpeg does not support arithmetic coding, and no other decoder reports invalid data.
    """
    data = Path(path).read_bytes()
    if _frame_type(data) not in _HUFFMAN_FRAMES:
        return
    decoder = av.CodecContext.create("mjpeg", "r")
    decoder.thread_count = 1
    decoder.options = {"err_detect": "explode", "max_pixels": str(max_pixels)}
    try:
        decoder.decode(av.Packet(data))
    except av.error.InvalidDataError:
        with Image.open(io.BytesIO(data), formats=("JPEG",)) as image:
            image.load()  # raises a more specific error if Pillow finds the damage, too
        raise ValueError("its compressed data are invalid") from None
    except av.error.FFmpegError:  # not supported
        pass


def _deep_jpeg2000(path: str | Path) -> Image.Image | None:
    """Read a color image with more than 8 bits per channel, in which Pillow makes white black; None if it has 8."""
    data = Path(path).read_bytes()
    depth = data.find(b"\xff\x4f\xff\x51") + 42  # in the image size segment of the codestream
    if depth >= len(data) or data[depth] & 0x7F < 8:
        return None
    decoder = av.CodecContext.create("jpeg2000", "r")
    decoder.thread_count, decoder.options = 1, {"max_pixels": str(limit("PIXELS"))}
    frames = [*decoder.decode(av.Packet(data)), *decoder.decode(None)]
    if not frames:
        raise ValueError("it has no pixels")
    image = Image.fromarray(_to_8_bits(frames[0].to_ndarray(format="rgb48le")))
    image.format = "JPEG2000"
    return image


def _to_8_bits(values: np.ndarray) -> UInt8[np.ndarray, "..."]:
    """Scale 16 to 8 bits."""
    rounded = (np.arange(65536, dtype=np.uint32) * 255 + 32767) // 65535
    return rounded.astype(np.uint8)[values]


def _frame_type(data: bytes) -> int:
    """Return the marker of the frame header of a JPEG; 0 if there is none."""
    position = 2
    while position + 4 <= len(data) and data[position] == 0xFF:
        marker, size = data[position + 1], int.from_bytes(data[position + 2 : position + 4], "big")
        if marker == 0xFF:  # padding
            position += 1
        elif 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            return marker
        else:
            position += 2 + size
    return 0


def _is_animated(image: Image.Image) -> bool:
    return image.format in _ANIMATED and getattr(image, "n_frames", 1) > 1


def _animation(image: Image.Image) -> Iterator[tuple[float, float, Frame]]:
    """Yield the time, the duration and the pixels of each frame."""
    first = 1 if getattr(image, "default_image", False) else 0  # the default image is not part of the animation
    time = 0.0
    for index in range(first, getattr(image, "n_frames", 1)):
        image.seek(index)
        pixels = to_rgb(image)
        milliseconds = image.info.get("duration") or 0
        seconds = milliseconds / 1000 if milliseconds > 10 else 0.1  # as in browsers
        yield time, seconds, pixels
        time += seconds
