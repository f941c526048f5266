"""Option names in messages, as the user of the command line types them: `num_frames=9` becomes `--num-frames 9`."""

import re
from functools import cache

from cogvideox.generation.request.request import LoadOptions, Request
from cogvideox.options import list_options

_EXAMPLES = {"image": "photo.png", "video": "clip.mp4"}
_FILE = re.compile(r"[/\\]|\.[A-Za-z]\w*$")


def to_flags(message: str) -> str:
    """Replace option names in a message by flags.

    Replaced are `name=value`, names in backticks, and names that contain an underscore. File names such as
    `out/seed=7.mp4` are kept.
    """
    flags = _flags()
    names = "|".join(sorted(map(re.escape, flags), key=len, reverse=True))
    words = "|".join(sorted((re.escape(name) for name in flags if "_" in name), key=len, reverse=True))

    def with_value(match: re.Match[str]) -> str:
        name, value = flags[match[1]], match[2]
        if match[1] not in _EXAMPLES and _FILE.search(value):
            return match[0]
        if value in ("True", "False"):
            return name if value == "True" else name.replace("--", "--no-", 1)
        return f"{name} {value}"

    message = re.sub(r"set `(image|video)`", lambda match: f"pass --{match[1]} {_EXAMPLES[match[1]]}", message)
    message = re.sub(rf"(?<![\w.`/\\-])({names})=([^\s,;:)]+)", with_value, message)
    message = re.sub(rf"`({names})`", lambda match: flags[match[1]], message)
    return re.sub(rf"(?<![\w.=/-])({words})(?![\w.=/-])", lambda match: flags[match[1]], message)


@cache
def _flags() -> dict[str, str]:
    """Return the flag of each option of `generate`, and of some of `encode`, by name."""
    options = list_options(Request) | list_options(LoadOptions)
    return {
        name: option.flags[0] if option.flags and option.flags[0].startswith("-") else "--" + name.replace("_", "-")
        for name, option in options.items()
        if name != "prompt"
    } | {"num_videos": "--num-videos", "first_frames": "--first-frames", "norm_statistics": "--norm-statistics"}
