"""Checkpoints of SAT, the original code: where their files lie, and how they wrap the names of their tensors.

    transformer/latest              (or transformer_t2v, transformer_i2v) the name of the folder below that counts
    transformer/1000/mp_rank_00_model_states.pt
    vae/3d-vae.pt
    t5-v1_1-xxl/                    T5 and its tokenizer, as transformers stores them

A fine-tune's own folder is what `transformer/` is here. After full fine-tuning the one `.pt` holds T5 and VAE as well.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from cogvideox.errors import UserError

# What SAT's names begin with, by part; the same wrappers are found around diffusers' names in single files.
_PREFIXES = ("model.diffusion_model.", "first_stage_model.", "conditioner.embedders.0.transformer.", "module.")

NO_WEIGHTS = ("denoiser.", "loss_fn.", "sampler.")
"""Other modules of SAT's training engine, which hold constants of the schedule at most."""

_LATEST = "latest"
_PIECE = "mp_rank_{:02d}_model_states.pt"


@dataclass(frozen=True)
class SATFiles:
    """The files of a checkpoint, as far as they are there. The text encoder is a folder."""

    transformer: Path | None
    vae: Path | None
    text_encoder: Path | None


def find_files(folder: Path) -> SATFiles | None:
    """Finds the files of a SAT checkpoint; None where the folder is not one.

    Raises:
        UserError: the folder is one and incomplete, or cut in pieces.
    """
    homes = [folder, *sorted(folder.glob("transformer*"))]
    tracked = [home for home in homes if (home / _LATEST).is_file()]
    if len(tracked) > 1:
        names = ", ".join(str(home) for home in tracked)
        raise UserError(f"which of the SAT checkpoints in {folder} is meant is unclear, give one of {names}")
    if tracked:
        run = tracked[0] / (tracked[0] / _LATEST).read_text(encoding="utf-8", errors="replace").strip()
        transformer: Path | None = run / _PIECE.format(0)
        if not (run / _PIECE.format(0)).is_file():
            raise UserError(f"the SAT checkpoint {folder} is incomplete: {run / _PIECE.format(0)} is missing")
    else:
        found = [home / _PIECE.format(0) for home in homes if (home / _PIECE.format(0)).is_file()]
        transformer = found[0] if found else None
    if transformer is not None and (other := transformer.with_name(_PIECE.format(1))).is_file():
        raise UserError(f"the SAT checkpoint {folder} is cut for several GPUs ({other.name}): merge it with SAT first")
    vaes = sorted((folder / "vae").glob("*.pt"))
    texts = sorted(config.parent for config in folder.glob("t5*/config.json"))
    if transformer is None and not vaes:
        return None
    return SATFiles(transformer, vaes[0] if vaes else None, texts[0] if texts else None)


def group_by_prefix(names: Iterable[str]) -> dict[str, dict[str, str]]:
    """The names by what wraps them ("" for nothing), each with the wrapper taken off and as it was."""
    groups: dict[str, dict[str, str]] = {}
    for name in names:
        prefix, bare = "", name
        while found := next((one for one in _PREFIXES if bare.startswith(one)), None):
            prefix, bare = prefix + found, bare.removeprefix(found)
        groups.setdefault(prefix, {})[bare] = name
    return groups
