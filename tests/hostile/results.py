"""Hostile cases of folders that earlier commands wrote: encoded clips and curations."""

import json
import shutil

from tests.hostile import mutations
from tests.hostile.corpus import Case, Corpus


def stores(c: Corpus) -> Case:
    """Damaged folders of encoded clips."""
    rng, store = c.rng, c.copy("store")
    file = rng.choice(sorted(store.iterdir()))
    damage = mutations.damage_safetensors if file.suffix == ".safetensors" else mutations.damage_bytes
    file.write_bytes(damage(file.read_bytes(), rng))
    if rng.random() < 0.3:
        rng.choice(sorted(store.iterdir())).unlink()
    if rng.random() < 0.5:
        argv = ["encode", str(c.folder / "media"), "-o", "store", "--model", c.model]
        return Case(argv, writes=("store",))
    return Case(["train", "toybox-lora", "--data", "store", "--out", "out", "--dry-run"])


def curations(c: Corpus) -> Case:
    """Damaged folders of curations, and curations of damaged videos."""
    rng = c.rng
    if rng.random() < 0.4:
        (c.at / "raw").mkdir()
        for path in sorted((c.folder / "media").iterdir()):
            if path.suffix != ".txt" and rng.random() < 0.2:
                (c.at / "raw" / path.name).write_bytes(mutations.damage_media(path.read_bytes(), path.name, rng))
        return Case(["curate", "raw", "out", "signals={}"], writes=("out",))
    folder = c.copy("curated")
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.stat().st_size]
    for file in rng.sample(files, rng.choice((1, 1, 2))):
        if file.suffix == ".json" and rng.random() < 0.7:
            file.write_bytes(mutations.write_text(mutations.damage_json(json.loads(file.read_text()), rng)))
        elif rng.random() < 0.2:
            file.unlink()
        else:
            file.write_bytes(mutations.damage_bytes(file.read_bytes(), rng))
    action = rng.randrange(3)
    if action == 0:
        return Case(["funnel", "curated", *["--html"] * (rng.random() < 0.5)], writes=("curated",))
    if action == 1:
        return Case(["encode", "curated", "--dry-run"])
    shutil.copytree(c.folder / "media", c.at / "raw")
    return Case(["curate", "raw", "curated", "signals={}"], writes=("curated",))


WEIGHTS = {stores: 6, curations: 8}
"""Relative frequency of each class."""
