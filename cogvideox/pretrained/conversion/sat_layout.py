"""Layout of checkpoints of SAT, the original training code: file locations and tensor name prefixes.

    transformer/latest              (or transformer_t2v, transformer_i2v) contains the name of the latest subfolder
    transformer/1000/mp_rank_00_model_states.pt
    vae/3d-vae.pt
    t5-v1_1-xxl/                    T5 and its tokenizer, in the transformers format

The output folder of a fine-tuning run corresponds to `transformer/`. After full fine-tuning, the `.pt` also contains T5
and the VAE.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from cogvideox.errors import UserError

# Prefixes of SAT tensor names, by component. Single files with diffusers' names may use the same prefixes.
_PREFIXES = ("model.diffusion_model.", "first_stage_model.", "conditioner.embedders.0.transformer.", "module.")

NO_WEIGHTS = ("denoiser.", "loss_fn.", "sampler.")
"""Prefixes of other modules in SAT's training engine, which contain only constants of the noise schedule."""

_LATEST = "latest"
_RANK_FILE = "mp_rank_{:02d}_model_states.pt"


@dataclass(frozen=True)
class SATFiles:
    """Paths in a SAT checkpoint, None if absent. The text encoder is a folder."""

    transformer: Path | None
    vae: Path | None
    text_encoder: Path | None


def find_files(folder: Path) -> SATFiles | None:
    """Find the files of a SAT checkpoint. Returns None if the folder is not a SAT checkpoint.

    Raises:
        UserError: the checkpoint is incomplete, ambiguous, or sharded over several ranks.
    """
    folders = [folder, *sorted(folder.glob("transformer*"))]
    with_latest = [candidate for candidate in folders if (candidate / _LATEST).is_file()]
    if len(with_latest) > 1:
        names = ", ".join(str(candidate) for candidate in with_latest)
        raise UserError(f"{folder} contains several SAT checkpoints: pass one of {names}")
    if with_latest:
        latest = (with_latest[0] / _LATEST).read_text(encoding="utf-8", errors="replace").strip()
        if "/" in latest or "\\" in latest or latest == "..":
            raise UserError(f"cannot read {with_latest[0] / _LATEST}: it must name a folder next to it, not {latest!r}")
        file = with_latest[0] / latest / _RANK_FILE.format(0)
        if not file.is_file():
            raise UserError(f"the SAT checkpoint {folder} is incomplete: {file} is missing")
        transformer: Path | None = file
    else:
        files = (candidate / _RANK_FILE.format(0) for candidate in folders)
        transformer = next((file for file in files if file.is_file()), None)
    if transformer is not None and (other := transformer.with_name(_RANK_FILE.format(1))).is_file():
        raise UserError(
            f"the SAT checkpoint {folder} is split over several GPUs ({other.name}): merge it with SAT first"
        )
    vaes = sorted((folder / "vae").glob("*.pt"))
    text_encoders = sorted(config.parent for config in folder.glob("t5*/config.json"))
    if transformer is None and not vaes:
        return None
    return SATFiles(transformer, vaes[0] if vaes else None, text_encoders[0] if text_encoders else None)


def group_by_prefix(names: Iterable[str]) -> dict[str, dict[str, str]]:
    """Group tensor names by SAT prefix ("" for none). Each group maps names without the prefix to full names."""
    groups: dict[str, dict[str, str]] = {}
    for name in names:
        prefix, bare = "", name
        while match := next((known for known in _PREFIXES if bare.startswith(known)), None):
            prefix, bare = prefix + match, bare.removeprefix(match)
        groups.setdefault(prefix, {})[bare] = name
    return groups
