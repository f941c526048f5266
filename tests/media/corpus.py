"""A corpus of small videos, written by the FFmpeg command line: containers, codecs, timing, geometry and colors.

Each clip says how FFmpeg encodes it, and which filters make FFmpeg show it as players do.
"""

import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np

from tests.media import patches

NUM_FRAMES, FPS, HEIGHT, WIDTH = 20, 25, 64, 80

# Codecs by container. Each codec is a name and its options.
H264 = ("libx264", "-preset ultrafast -crf 4 -bf 2 -g 8 -pix_fmt yuv420p")
H264_B = ("libx264", "-preset veryfast -crf 4 -bf 3 -b_strategy 0 -g 8 -pix_fmt yuv420p")
HEVC = ("libx265", "-preset ultrafast -x265-params log-level=error:crf=4:keyint=8:bframes=2 -pix_fmt yuv420p")
MPEG4 = ("mpeg4", "-q 1 -bf 2 -g 8")
MPEG2 = ("mpeg2video", "-q 1 -bf 2 -g 8")
MPEG1_NO_B = ("mpeg1video", "-q 1 -bf 0 -g 8")  # FFmpeg 5 guesses timestamps wrongly with B-frames
MPEG1 = ("mpeg1video", "-q 1 -bf 2 -g 8")
VP8 = ("libvpx", "-b:v 2M -auto-alt-ref 1 -lag-in-frames 10 -g 8 -deadline good -cpu-used 4")
VP9 = ("libvpx-vp9", "-b:v 0 -crf 4 -g 8 -deadline realtime -cpu-used 8 -pix_fmt yuv420p")
AV1 = ("libsvtav1", "-preset 12 -crf 10 -g 8 -svtav1-params enable-tf=0")
PRORES = ("prores_ks", "-profile:v 3")
MJPEG = ("mjpeg", "-q 1 -pix_fmt yuvj420p")
FFV1 = ("ffv1", "-pix_fmt yuv420p")
THEORA = ("libtheora", "-q:v 10 -g 8")
WMV = ("wmv2", "-q 1 -g 8")
FLV1 = ("flv", "-q 1 -g 8")
DNX = ("dnxhd", "-profile:v dnxhr_hq -pix_fmt yuv422p")
UYVY = ("rawvideo", "-pix_fmt uyvy422")
RAW = ("rawvideo", "-pix_fmt yuv420p")
PNG = ("png", "-pix_fmt rgb24")
GIF = ("gif", "")
CONTAINERS = {
    "mp4": [H264, H264_B, HEVC, MPEG4, VP9, AV1, MJPEG, MPEG2, PNG],
    "mov": [H264, H264_B, HEVC, MPEG4, PRORES, MJPEG, DNX, UYVY, PNG],
    "mkv": [H264, H264_B, HEVC, MPEG4, MPEG2, VP8, VP9, AV1, PRORES, MJPEG, FFV1, THEORA, PNG, RAW],
    "webm": [VP8, VP9, AV1],
    "avi": [H264, H264_B, MPEG4, MPEG2, MJPEG, FFV1, RAW, PNG, WMV],
    "flv": [H264, H264_B, FLV1],
    "ts": [H264, H264_B, HEVC, MPEG4, MPEG2],
    "mts": [H264_B],
    "m2ts": [H264_B],
    "mpg": [MPEG2, MPEG1_NO_B],
    "vob": [MPEG2],
    "wmv": [WMV],
    "asf": [WMV, MPEG4],
    "ogv": [THEORA, VP8],
    "3gp": [H264, MPEG4],
    "m4v": [H264_B],
    "nut": [H264_B, FFV1, MJPEG],
    "mxf": [MPEG2],
    "gif": [GIF],
    "ivf": [VP8, VP9, AV1],
    "h264": [H264_B],
    "hevc": [HEVC],
    "m2v": [MPEG2],
    "m1v": [MPEG1],
    "mjpeg": [MJPEG],
    "y4m": [("wrapped_avframe", "-pix_fmt yuv420p")],
}
VARIABLE = ("mp4", "mov", "mkv", "webm", "flv", "ts", "nut", "m4v", "m2ts")
"""Containers that store any timestamps."""

RAW_STREAMS = (".h264", ".hevc", ".m1v", ".m2v", ".mjpeg")

STORES_DURATIONS = (".mp4", ".mov", ".m4v", ".mkv", ".webm", ".nut")
"""Suffixes of those that store how long the last frame is shown, too: 1/25 s, as in the input of FFmpeg."""

TIMINGS = {
    "constant": "",
    "ntsc": "settb=1/30000,setpts=N*1001",
    "variable": "settb=1/1000,setpts='if(lt(N,8),N*40,320+(N-8)*160+mod(N,3)*20)'",
    "late": "settb=1/1000,setpts=N*40+3300",
}


VARYING = [timing for timing in TIMINGS if timing != "constant"]


@dataclass(frozen=True)
class Clip:
    """A video to be written by FFmpeg.

    Attributes:
        group: what it varies.
        codec: options that encode it.
        filters: filters of FFmpeg before the encoder.
        shown: filters that show it as players do, beyond what FFmpeg does by itself.
        size: height and width in pixels.
        patch: changes the bytes of the file.
        source: arguments of further inputs.
        remux: input options with which the file is copied into another one.
    """

    group: str
    name: str
    codec: str
    filters: str = ""
    shown: str = ""
    size: tuple[int, int] = (HEIGHT, WIDTH)
    patch: Callable[[bytes], bytes] | None = None
    source: str = ""
    remux: str = ""

    def write(self, folder: Path) -> Path:
        """Encode the clip."""
        path = folder / self.name
        height, width = self.size
        frames = pattern(NUM_FRAMES, height, width)
        raw = f"-f rawvideo -pix_fmt rgb24 -s {width}x{height} -r {FPS} -i -"
        filters = ["-vf", self.filters] if self.filters else []
        run(
            *("-y", *raw.split(), *self.source.split(), *filters, "-vsync", "passthrough", "-fflags", "+bitexact"),
            *(*self.codec.split(), "-threads", "1", str(path)),
            data=frames.tobytes(),
        )
        if self.remux:
            original = path.rename(path.with_stem("original"))
            run("-y", *self.remux.split(), "-i", str(original), "-c", "copy", str(path))
        if self.patch is not None:
            path.write_bytes(self.patch(path.read_bytes()))
        return path


def run(*arguments: str, data: bytes = b"") -> tuple[bytes, str]:
    """Run FFmpeg; return its output and its messages."""
    command = ("ffmpeg", "-hide_banner", "-nostats", *arguments)
    result = subprocess.run(command, input=data, capture_output=True, timeout=120)
    messages = result.stderr.decode(errors="replace")
    if result.returncode:
        raise RuntimeError(f"ffmpeg {' '.join(arguments)}: {messages[-2000:]}")
    return result.stdout, messages


def pattern(num_frames: int, height: int, width: int) -> np.ndarray:
    """Smooth colors that move: every frame, and every corner, is different."""
    t, y, x = np.meshgrid(np.arange(num_frames), np.arange(height) / height, np.arange(width) / width, indexing="ij")
    phase = 2 * np.pi * t / num_frames
    red = 120 + 60 * np.cos(2 * x + phase) + 50 * y
    green = 130 + 70 * np.cos(3 * y - phase) - 40 * x
    blue = 110 + 60 * np.cos(2 * (x + y) + 2 * phase) + 30 * x
    return np.stack([red, green, blue], -1).clip(8, 247).astype(np.uint8)


def containers_and_codecs() -> Iterator[Clip]:
    """Containers x codecs, each at a constant rate and with another timing; every container with every timing."""
    for row, (suffix, codecs) in enumerate(CONTAINERS.items()):
        for (column, (codec, options)), (timing, filters) in product(enumerate(codecs), TIMINGS.items()):
            if timing != "constant" and suffix not in VARIABLE:
                continue
            if len(codecs) > 2 and timing not in ("constant", VARYING[(row + column) % 3]):
                continue
            b_frames = "-b" if (codec, options) == H264_B else ""
            base = "-enc_time_base 1:30000" if timing != "constant" and codec != "mpeg2video" else ""
            name = f"{codec}{b_frames}-{timing}.{suffix}"
            if codec in ("mpeg1video", "mpeg2video") and timing in ("variable", "ntsc"):
                continue  # the codec stores a constant rate
            size = (120, 256) if codec == "dnxhd" else (HEIGHT, WIDTH)
            yield Clip("containers", name, f"-c:v {codec} {options} {base}", filters, size=size)


def orientations() -> Iterator[Clip]:
    """Display matrices x aspect ratios, and each of both in every container."""
    matrices = {
        "upright": (1, 0, 0, 1),
        "right": (0, 1, -1, 0),
        "half": (-1, 0, 0, -1),
        "left": (0, -1, 1, 0),
        "mirrored": (-1, 0, 0, 1),
        "upside-down": (1, 0, 0, -1),
        "transposed": (0, 1, 1, 0),
        "transversed": (0, -1, -1, 0),
    }
    aspects = {"square": "1", "wide": "64/45", "narrow": "8/9", "twice": "2"}
    for (i, (name, matrix)), (k, (aspect, ratio)) in product(enumerate(matrices.items()), enumerate(aspects.items())):
        suffix = ("mp4", "mov")[(i + k) % 2]
        codec = f"-c:v {H264_B[0]} {H264_B[1]}"
        yield Clip("orientation", f"{name}-{aspect}.{suffix}", codec, f"setsar={ratio}", patch=patches.matrix(matrix))
    for (aspect, ratio), (suffix, (codec, options)) in product(
        aspects.items(), (("mkv", H264), ("avi", MPEG4), ("mpg", MPEG2), ("ts", H264), ("webm", VP9), ("flv", H264))
    ):
        if suffix == "mpg" and aspect != "square":
            ratio = "12/11"  # MPEG-2 stores the shape of the frame as one of four
        yield Clip("orientation", f"{aspect}.{suffix}", f"-c:v {codec} {options}", f"setsar={ratio}")


def crops() -> Iterator[Clip]:
    """Crops of containers: clean apertures x orientations x aspect ratios (mp4, mov), and PixelCrop (Matroska)."""
    left, top, right, bottom = crop = (10, 4, 6, 12)
    codec = f"-c:v {H264[0]} {H264[1]}"
    shown = f"crop=iw-{left + right}:ih-{top + bottom}:{left}:{top}"
    turned = f"crop=iw-{top + bottom}:ih-{left + right}:{bottom}:{left}"
    for suffix, (aspect, ratio) in product(("mp4", "mov"), (("square", "1"), ("wide", "64/45"))):
        aperture = patches.aperture(crop, (HEIGHT, WIDTH))
        name = f"aperture-{aspect}.{suffix}"
        yield Clip("crops", name, codec, f"setsar={ratio}", shown, patch=aperture)

        def turn(data: bytes, aperture: Callable[[bytes], bytes] = aperture) -> bytes:
            return aperture(patches.matrix((0, 1, -1, 0))(data))

        yield Clip("crops", f"turned-{name}", codec, f"setsar={ratio}", turned, patch=turn)
    for codec_name, options, suffix in (*FFV1, "mkv"), (*VP9, "webm"):
        pixel_crop = patches.pixel_crop(left, top)
        shown = f"crop=iw-{left}:ih-{top}:{left}:{top},setsar=1"
        yield Clip("crops", f"pixel-crop.{suffix}", f"-c:v {codec_name} {options}", "setsar=2", shown, patch=pixel_crop)


def colors() -> Iterator[Clip]:
    """Color matrices x pixel formats, each with every range; codecs that store the tags; sizes; other formats."""
    matrices = {
        "bt709": "bt709",
        "smpte170m": "smpte170m",
        "bt470bg": "bt470bg",
        "fcc": "fcc",
        "smpte240m": "smpte240m",
    }
    matrices |= {"bt2020nc": "bt2020nc", "none": ""}
    formats = ("yuv420p", "yuv422p", "yuv444p", "yuv420p10le", "yuv422p10le", "yuv444p10le")
    for (i, (name, matrix)), (k, pixels) in product(enumerate(matrices.items()), enumerate(formats)):
        color_range = ("tv", "pc")[(i + k) % 2]
        convert = f"scale=out_color_matrix={matrix or 'bt601'}:out_range={color_range},format={pixels}"
        tags = f"-colorspace {matrix}" if matrix else ""
        codec = f"-c:v libx264 -preset ultrafast -qp 2 {tags} -color_range {color_range}"
        yield Clip("color", f"{name}-{color_range}-{pixels}.mp4", codec, convert)
    for codec, options, suffix in (*HEVC, "mkv"), (*VP9, "webm"), (*AV1, "mp4"), (*PRORES, "mov"), (*MPEG2, "ts"):
        options = options.replace("-pix_fmt yuv420p", "")
        pixels = "yuv422p10le" if codec == "prores_ks" else "yuv420p"
        for matrix in ("bt709", "smpte170m", "bt2020nc"):
            convert = f"scale=out_color_matrix={matrix}:out_range=tv,format={pixels}"
            yield Clip("color", f"{codec}-{matrix}.{suffix}", f"-c:v {codec} {options} -colorspace {matrix}", convert)
    # Untagged videos: players take BT.709 for large ones.
    for size in ((640, 64), (576, 64), (64, 1280), (64, 1024)):
        large = size[0] > 576 or size[1] >= 1280
        convert = f"scale=out_color_matrix={'bt709' if large else 'bt601'}:out_range=tv,format=yuv420p"
        name = f"untagged-{size[1]}x{size[0]}.mp4"
        shown = "setparams=colorspace=bt709" if large else ""
        yield Clip("color", name, f"-c:v {H264[0]} {H264[1]}", convert, shown, size)
    lossless = (
        *(("rgb24", "png", "mkv"), ("gray", "png", "mkv"), ("gray16be", "png", "mkv"), ("rgb48be", "png", "mov")),
        *(("gbrp", "ffv1", "mkv"), ("gbrp10le", "ffv1", "mkv"), ("gray", "ffv1", "mkv"), ("gray10le", "ffv1", "mkv")),
        *(
            ("yuv410p", "ffv1", "mkv"),
            ("yuv411p", "ffv1", "avi"),
            ("yuv440p", "ffv1", "mkv"),
            ("rgb24", "qtrle", "mov"),
        ),
        *(("yuv420p16le", "ffv1", "mkv"), ("yuv444p12le", "ffv1", "mkv"), ("bgr24", "rawvideo", "avi")),
        *(("rgb555le", "rawvideo", "avi"), ("uyvy422", "rawvideo", "mov"), ("v210", "v210", "mov")),
        *(("gray", "libx264 -qp 2", "mp4"), ("gbrp", "libx264rgb -qp 2", "mp4"), ("gray10le", "libx265 -qp 2", "mp4")),
        *(("yuvj420p", "mjpeg -q 1", "mov"), ("yuvj422p", "mjpeg -q 1", "avi"), ("yuvj444p", "mjpeg -q 1", "mkv")),
    )
    for pixels, codec, suffix in lossless:
        convert = "" if pixels == "v210" else f"format={pixels}"
        yield Clip("color", f"{pixels}-{codec.split()[0]}.{suffix}", f"-c:v {codec}", convert)


def alpha() -> Iterator[Clip]:
    """Videos with transparency: the colors stored below it are shown."""
    opacity = "format=rgba,geq=r='r(X,Y)':g='g(X,Y)':b='b(X,Y)':a='255*X/W'"
    for codec, pixels, suffix in (
        *(("qtrle", "argb", "mov"), ("png", "rgba", "mov"), ("png", "rgba", "mkv"), ("ffv1", "bgra", "mkv")),
        *(("ffv1", "yuva420p", "mkv"), ("prores_ks -profile:v 4", "yuva444p10le", "mov"), ("utvideo", "gbrap", "avi")),
        ("libvpx-vp9 -crf 4 -b:v 0 -deadline realtime -cpu-used 8", "yuva420p", "webm"),
    ):
        name = f"{codec.split()[0]}-{pixels}.{suffix}"
        yield Clip("alpha", name, f"-c:v {codec}", f"{opacity},format={pixels}")


def interlaced() -> Iterator[Clip]:
    """Interlaced videos, deinterlaced by yadif."""
    for (order, field), (codec, options, suffix) in product(
        (("top", "tff"), ("bottom", "bff")),
        (
            *((*MPEG2, "mpg"), (*MPEG2, "ts"), (*MPEG2, "mxf"), (*H264, "mp4"), (*H264_B, "mkv"), (*H264_B, "ts")),
            *((*PRORES, "mov"), (*MPEG4, "avi")),
        ),
    ):
        top = 1 if order == "top" else 0
        flags = f"-flags +ildct+ilme -top {top}"
        if codec == "libx264":
            flags = f"-x264-params {field}=1"
        yield Clip(
            *("interlaced", f"{codec}-{order}-{'b' if '-bf 3' in options else ''}.{suffix}"),
            f"-c:v {codec} {options} {flags}",
            f"interlace=scan={field}:lowpass=0,settb=1/25,setpts=N,fps=25",
            "yadif=deint=interlaced",
        )


def hdr() -> Iterator[Clip]:
    """PQ and HLG, up to the brightness that is not compressed, against FFmpeg's zscale."""
    to_sdr = "zscale=t=linear:npl=203,format=gbrpf32le,zscale=p=bt709:t=bt709:m=bt709:r=full,format=yuv444p"
    for transfer, (codec, options, suffix) in product(
        ("smpte2084", "arib-std-b67"),
        (
            ("libx265", "-preset ultrafast -x265-params log-level=error:qp=2", "mp4"),
            ("libx265", "-preset ultrafast -x265-params log-level=error:qp=2", "mkv"),
            ("libvpx-vp9", "-crf 2 -b:v 0 -deadline realtime -cpu-used 8", "webm"),
            ("libsvtav1", "-preset 12 -crf 4", "mp4"),
        ),
    ):
        convert = (
            "lutrgb=r=val*0.85:g=val*0.85:b=val*0.85,format=gbrp,"
            "setparams=color_primaries=bt709:color_trc=bt709:colorspace=gbr,zscale=t=linear:npl=203,"
            f"format=gbrpf32le,zscale=p=bt2020:t={transfer}:m=bt2020nc:r=limited:npl=203,format=yuv420p10le"
        )
        tags = f"-colorspace bt2020nc -color_trc {transfer} -color_primaries bt2020 -color_range tv"
        yield Clip("hdr", f"{codec}-{transfer}.{suffix}", f"-c:v {codec} {options} {tags}", convert, to_sdr)


def wide_gamut() -> Iterator[Clip]:
    """SDR with the primaries of BT.2020 and P3, against FFmpeg's zscale."""
    for primaries, (codec, options, suffix) in product(
        ("bt2020", "smpte432"),
        (("libx264", "-preset ultrafast -qp 2", "mp4"), ("libx265", f"{HEVC[1].split(' -pix')[0]}", "mkv")),
    ):
        convert = (
            "lutrgb=r=60+val*0.5:g=60+val*0.5:b=60+val*0.5,format=gbrp,"
            "setparams=color_primaries=bt709:color_trc=bt709:colorspace=gbr,"
            f"zscale=p={primaries}:t=bt709:m=bt709:r=limited,format=yuv444p"
        )
        tags = f"-colorspace bt709 -color_trc bt709 -color_primaries {primaries} -color_range tv"
        shown = "zscale=p=bt709:t=bt709:m=bt709:r=full,format=gbrp"
        yield Clip("wide gamut", f"{codec}-{primaries}.{suffix}", f"-c:v {codec} {options} {tags}", convert, shown)


def edits() -> Iterator[Clip]:
    """Edit lists, fragments, sound that is longer than the video, and files without a header at the end."""
    sound = "-f lavfi -t 3 -i sine=r=48000"
    for suffix, audio in (("mp4", "aac"), ("mov", "aac"), ("mkv", "aac"), ("webm", "libopus"), ("ts", "aac")):
        codec, options = VP9 if suffix == "webm" else H264_B
        yield Clip("edits", f"sound.{suffix}", f"-c:v {codec} {options} -c:a {audio}", source=sound)
        late = "setpts=PTS+0.6/TB"
        yield Clip("edits", f"sound-first.{suffix}", f"-c:v {codec} {options} -c:a {audio}", late, source=sound)
    for flags in (
        "frag_keyframe+empty_moov",
        "frag_every_frame+empty_moov+default_base_moof",
        "faststart",
        "negative_cts_offsets",
    ):
        for name, (codec, options) in (("h264", H264_B), ("hevc", HEVC)):
            yield Clip("edits", f"{name}-{flags}.mp4", f"-c:v {codec} {options} -movflags +{flags}")
    for suffix, (codec, options) in (("webm", VP8), ("webm", VP9), ("mkv", H264_B)):
        yield Clip("edits", f"live-{codec}.{suffix}", f"-c:v {codec} {options} -live 1")
    for skipped in (1, 3, 8, 11):
        yield Clip("edits", f"cut-{skipped}.mp4", f"-c:v {H264_B[0]} {H264_B[1]}", remux=f"-ss {(skipped + 0.1) / FPS}")


GROUPS = (containers_and_codecs, orientations, crops, colors, alpha, interlaced, hdr, wide_gamut, edits)
