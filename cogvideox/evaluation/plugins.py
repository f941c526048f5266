"""Models of scorers, chosen by a string: KIND, or KIND:FILE[,FILE...].

| role | kinds | files |
|---|---|---|
| action | umt | checkpoint, list of Kinetics-400 classes |
| scene | *efficientnet* | weights and names of ImageNet classes, if they are not installed |
| | *endpoint* | settings of an OpenAI-compatible endpoint (`judge.endpoint`) |
| objects | *centernet* | graph and weights, if they are not installed |
| | *endpoint* | as above |
| flow | raft | checkpoint |
| | *dis* | none |
| style, text | clip | checkpoint, list of merges |
| dino, subject | dino | checkpoint |
| background | clip_image | checkpoint |

Kinds in italics are variants: their scores are not comparable with published ones.
"""

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from cogvideox.errors import UserError
from cogvideox.evaluation.store import file_hash

_LOADERS = "cogvideox.evaluation.models.loaders"
_ENDPOINT = "cogvideox.evaluation.judge.describe"


@dataclass(frozen=True)
class Kind:
    """A kind of model.

    Attributes:
        loader: module and function that loads it from its files; the functions of endpoints also get the responses.
        files: names of its files, for messages.
        is_official: whether it is the model of the published scores.
        are_optional: whether installed files are used if none is given.
    """

    loader: str
    files: tuple[str, ...] = ()
    is_official: bool = False
    are_optional: bool = False


_CLIP = ("ViT-B-32.pt", "bpe_simple_vocab_16e6.txt.gz")
_SETTINGS = ("SETTINGS.yaml",)
ROLES: dict[str, dict[str, Kind]] = {
    "action": {"umt": Kind(f"{_LOADERS}:umt_actions", ("UMT.pth", "kinetics_400_categories.txt"), True)},
    "scene": {
        "efficientnet": Kind(f"{_LOADERS}:efficientnet_tags", ("WEIGHTS.pth", "NAMES.json"), are_optional=True),
        "endpoint": Kind(f"{_ENDPOINT}:captions", _SETTINGS),
    },
    "objects": {
        "centernet": Kind(f"{_LOADERS}:centernet_objects", ("centernet.json", "centernet.bin"), are_optional=True),
        "endpoint": Kind(f"{_ENDPOINT}:objects", _SETTINGS),
    },
    "flow": {
        "raft": Kind(f"{_LOADERS}:raft_flow", ("raft-things.pth",), True),
        "dis": Kind(f"{_LOADERS}:dis_flow"),
    },
    "style": {"clip": Kind(f"{_LOADERS}:clip_similarity", _CLIP, True)},
    "text": {"clip": Kind(f"{_LOADERS}:clip_text_similarity", _CLIP, True)},
    "dino": {"dino": Kind(f"{_LOADERS}:dino_square", ("dino_deitsmall16_pretrain.pth",), True)},
    "subject": {"dino": Kind(f"{_LOADERS}:dino_embeddings", ("dino_vitbase16_pretrain.pth",), True)},
    "background": {"clip_image": Kind(f"{_LOADERS}:clip_embeddings", ("ViT-B-32.pt",), True)},
}


@dataclass(frozen=True)
class Plugin:
    """A chosen model, which is loaded by `open`."""

    role: str
    kind: str
    files: tuple[Path, ...] = ()

    @property
    def is_official(self) -> bool:
        """Whether it is the model of the published scores."""
        return ROLES[self.role][self.kind].is_official

    @property
    def is_endpoint(self) -> bool:
        """Whether calls may cost money."""
        return self.kind == "endpoint"

    def settings(self) -> dict[str, Any]:
        """Return its identity for protocols: the kind, and a hash of its files (of an endpoint: its model)."""
        if self.is_endpoint:
            from cogvideox.evaluation.judge.endpoint import identity

            return {"model": self.kind, **identity(self.files[0])}
        return {"model": self.kind, "weights": [file_hash(file) for file in self._files()]}

    def open(self, responses: Path | None = None) -> Any:
        """Load the model and return its function (`models.interfaces`).

        Args:
            responses: file of the stored responses of an endpoint.

        Raises:
            UserError: a file is missing or damaged.
        """
        module, function = ROLES[self.role][self.kind].loader.split(":")
        load: Callable[..., Any] = getattr(import_module(module), function)
        return load(self.files[0], responses) if self.is_endpoint else load(*self._files())

    def _files(self) -> tuple[Path, ...]:
        if self.files or not ROLES[self.role][self.kind].are_optional:
            return self.files
        from cogvideox.curation.signals.models import objects, tags

        installed = {"efficientnet": (tags.MODEL, tags.NAMES), "centernet": (objects.GRAPH, objects.WEIGHTS)}[self.kind]
        for file in installed:
            if problems := file.missing(f"--set {self.role}={self.kind}:FILE,FILE", ""):
                raise UserError(problems[0])
        return tuple(file.path("") for file in installed)


def parse_plugin(role: str, text: str) -> Plugin:
    """Parse the choice of a model.

    Raises:
        UserError: unknown kind, a wrong number of files, or a file that does not exist.
    """
    kind, _, rest = text.partition(":")
    kinds = ROLES[role]
    if kind not in kinds:
        raise UserError(f"{role}={text}: unknown model {kind!r}; choose from {', '.join(kinds)}")
    files = tuple(Path(name).expanduser() for name in rest.split(",")) if rest else ()
    expected = kinds[kind].files
    if len(files) != len(expected) and not (kinds[kind].are_optional and not files):
        form = f"{kind}:{','.join(expected)}" if expected else kind
        raise UserError(f"{role}={text}: {kind} has {len(expected)} files; write {role}={form}")
    for file in files:
        if not file.is_file():
            raise UserError(f"{role}={text}: {file} does not exist")
    return Plugin(role, kind, files)
