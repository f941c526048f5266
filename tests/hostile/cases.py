"""Hostile cases by class. Each function writes damaged files to a folder and returns the command that reads them."""

import csv
import ctypes
import json
import os
import shutil
import time
from io import StringIO
from pathlib import Path

from tests.hostile import mutations
from tests.hostile.corpus import PROMPT, VERBS, Case, Corpus, write_video

ROW = {"file_name": "a.mp4", "text": PROMPT, "start": 0.0, "end": 1.0, "score": 0.5, "tags": ["a", {"b": 1}]}
BACKTRACKING_PATTERNS = ["(([a-z0-9_.])*)*!", "(a+)+$", "(.*.*)*x", "(([a-z])+.)+[A-Z]([a-z])+", "(.*a){20}", "(_|_)*!"]
EXCLUDED_FLAGS = {"--compile", "--ray", "--help", "--help-all"}  # slow, or not installed


def media(c: Corpus) -> Case:
    """Images and videos."""
    name = c.rng.choice(sorted(path.name for path in (c.folder / "media").iterdir() if path.suffix != ".txt"))
    (c.at / name).write_bytes(mutations.damage_media(c.read(f"media/{name}"), name, c.rng))
    (c.at / name).with_suffix(".txt").write_text(PROMPT)
    if c.rng.random() < 0.5:
        return c.encode()
    judge = Case(["toybox", "--judge", name, "--prompt", PROMPT])
    return c.rng.choice(
        (
            c.generate("--video", name, "--strength", "1"),
            c.generate("--video", name, "--extend", "--num-frames", "25"),
            judge,
        )
    )


def times(c: Corpus) -> Case:
    """Videos with long gaps between frames."""
    gap = c.rng.choice((30, 3_000, 80_000, 2_000_000, 12_500_000))
    write_video(c.at / "a.mkv", "mjpeg", [125 * k + (1000 * gap if k > 4 else 0) for k in range(10)])
    (c.at / "a.txt").write_text(PROMPT)
    extend = c.generate("--video", "a.mkv", "--extend", "--num-frames", "25")
    return extend if c.rng.random() < 0.4 else c.encode()


def tables(c: Corpus) -> Case:
    """Clip tables, caption files and prompt files."""
    c.clips()
    kind, rng = c.rng.choice(("jsonl", "json", "csv", "parquet", "txt", "prompts")), c.rng
    rows = [mutations.damage_json(ROW, rng) if rng.random() < 0.5 else json.dumps(ROW) for _ in range(4)]
    if kind == "jsonl":
        data = mutations.write_text("\n".join(rows))
    elif kind == "json":
        data = mutations.write_text(mutations.damage_json([ROW, ROW], rng))
    elif kind == "csv":
        table = csv.DictWriter(text := StringIO(), ["file_name", "text", "start", "end"], extrasaction="ignore")
        table.writeheader()
        table.writerows(
            {name: rng.choice((value, rng.choice(mutations.WORDS))) for name, value in ROW.items()} for _ in rows
        )
        data = mutations.damage_bytes(mutations.write_text(text.getvalue()), rng)
    elif kind == "parquet":
        data = mutations.damage_bytes(c.read("rows.parquet"), rng) if rng.random() < 0.7 else c.read("rows.parquet")
    else:
        data = mutations.damage_bytes((PROMPT + "\n").encode() * 3, rng)
    if kind == "prompts":
        (c.at / "prompts").write_bytes(data)
        return Case(["generate", "--prompts", "prompts", "-o", "out", "--model", c.model, "--plan"], writes=("out",))
    (c.at / ("a.txt" if kind == "txt" else f"metadata.{kind}")).write_bytes(data)
    return c.encode()


def models(c: Corpus) -> Case:
    """Model folders: configurations, tokenizers, weights."""
    model, rng = c.copy("model"), c.rng
    files = [path for path in sorted(model.rglob("*")) if path.is_file()]
    file = rng.choice([path for path in files if path.suffix != ".safetensors" or rng.random() < 0.3] or files)
    if rng.random() < 0.15:  # a SentencePiece tokenizer
        (model / "tokenizer/tokenizer.json").unlink()
        ids = rng.choice((-5, 0, 101, 10**5, 10**8, 10**12, "100", True, 1.5))
        (model / "tokenizer/tokenizer_config.json").write_text(json.dumps({"extra_ids": ids}))
    elif file.suffix == ".json":
        file.write_bytes(mutations.write_text(mutations.damage_json(json.loads(file.read_text()), rng)))
    else:
        damage = mutations.damage_safetensors if file.suffix == ".safetensors" else mutations.damage_bytes
        file.write_bytes(damage(file.read_bytes(), rng))
    inspect = Case(["inspect", "model", *rng.sample(("--config", "--values"), rng.randrange(3))])
    convert = Case(["convert", "model", rng.choice(("out", "out.safetensors"))])
    return rng.choice((inspect, inspect, convert, c.generate("--model", "model")))


def pickles(c: Corpus) -> Case:
    """Weights in PyTorch's format."""
    rng = c.rng
    archive, legacy = c.read("archive.pt"), c.read("legacy.pt")
    if rng.random() < 0.15:
        data = c.read("bomb.pt")
    elif rng.random() < 0.3:
        data = mutations.damage_pickle(legacy, rng)
    elif rng.random() < 0.8:
        data = mutations.rewrite_archive(archive, "data.pkl", lambda content: mutations.damage_pickle(content, rng))
    else:
        data = mutations.damage_bytes(archive, rng)
    (c.at / "x.pt").write_bytes(data)
    convert = Case(["convert", "x.pt", "out.safetensors", "--part", "transformer"])
    return rng.choice((Case(["inspect", "x.pt", "--values"]), Case(["inspect", "x.pt", "--config"]), convert))


def loras(c: Corpus) -> Case:
    """LoRA files and their configurations."""
    rng, data = c.rng, c.read("lora.safetensors")
    if rng.random() < 0.2:
        pattern = rng.choice(BACKTRACKING_PATTERNS).encode()
        size = int.from_bytes(data[:8], "little")
        header = data[8 : 8 + size].replace(b"PATTERN", pattern)
        data = len(header).to_bytes(8, "little") + header + data[8 + size :]
    else:
        data = mutations.damage_safetensors(data, rng)
    (c.at / "l.safetensors").write_bytes(data)
    use = c.generate("--lora", "l.safetensors")
    return rng.choice((Case(["inspect", "l.safetensors"]), Case(["convert", "l.safetensors", "out.safetensors"]), use))


def runs(c: Corpus) -> Case:
    """Run folders: checkpoints, settings, metrics, and files of the user among them."""
    run, rng = c.copy("run"), c.rng
    (step,) = run.glob("checkpoints/step-*")
    file = rng.choice(
        (
            run / "settings.yaml",
            run / "metrics.jsonl",
            run / "checkpoints/latest",
            *[step / "state.json"] * 3,
            step / "tensors.safetensors",
        )
    )
    overrides = [*c.json("overrides.json"), f"run.num_steps={rng.choice((2, 3))}"]
    command = Case(
        ["train", "toybox-vae", "--out", "run", *["--resume"] * (rng.random() < 0.9), *overrides], writes=("run",)
    )
    if rng.random() < 0.25:  # a link to a file of the user, and user files that are named like temporary files
        (c.at / "mine.txt").write_text("mine")
        link = rng.choice(
            (".lock", ".lock-holder", "checkpoints/latest.partial", "metrics.jsonl", "checkpoints/latest")
        )
        (run / link).unlink(missing_ok=True)
        (run / link).symlink_to(rng.choice((c.at / "mine.txt", c.at / "nothing.txt")))
        write_user_files(run)
    elif file.name == "state.json" and rng.random() < 0.8:
        document = {**json.loads(file.read_text()), "files": ["tensors.safetensors"]}
        document.pop("checksum", None)
        file.write_bytes(mutations.write_text(mutations.damage_json(document, rng)))
    elif file.name == "settings.yaml" and rng.random() < 0.6:
        file.write_bytes(mutations.write_text(rng.choice(mutations.WORDS)))
    elif file.suffix == ".safetensors":
        file.write_bytes(mutations.damage_safetensors(file.read_bytes(), rng))
    else:
        file.write_bytes(mutations.damage_bytes(file.read_bytes(), rng))
    return command


def plots(c: Corpus) -> Case:
    """Metrics files to plot."""
    rng, line = c.rng, {"step": 1, "loss": 0.5, "validation/loss": 1.0, "loss_3": 0.1, "lr": 1e-3}
    (c.at / "run").mkdir()
    if rng.random() < 0.15:
        lines = [json.dumps({"step": 1} | {f"m{k}": 1.0 for k in range(rng.choice((500, 100_000)))})]
    else:
        lines = [
            mutations.damage_json({**line, "step": k}, rng) if rng.random() < 0.3 else json.dumps({**line, "step": k})
            for k in range(6)
        ]
    (c.at / "run/metrics.jsonl").write_bytes(mutations.write_text("\n".join(lines)))
    return Case(["plot", "run", "-o", rng.choice(("curves.png", "curves.svg"))])


def values(c: Corpus) -> Case:
    """Options of every command, and settings of every recipe."""
    rng = c.rng
    word = rng.choice(mutations.WORDS).replace("\0", "") if rng.random() < 0.8 else rng.choice(PROMPT.split())
    if rng.random() < 0.5:
        recipes = c.json("settings.json")
        recipe = rng.choice([*recipes])
        return Case(["train", recipe, f"{rng.choice(recipes[recipe])}={word}", "--dry-run"])
    c.clips()
    verb = rng.choice([*VERBS, "generate"])
    flag = rng.choice([flag for flag in c.json("flags.json")[verb] if flag not in EXCLUDED_FLAGS])
    required = {
        "generate": [PROMPT, "-o", "out.mp4", "--model", c.model, "--num-inference-steps", "1"],
        "encode": [".", "--dry-run", "--model", c.model],
        "convert": [c.model, "out.safetensors"],
        "inspect": [c.model],
        "plot": [str(c.folder / "run"), "-o", "curves.svg"],
        "train": ["toybox-vae", "--dry-run"],
    }
    argv = [verb, *required.get(verb, []), flag, *[word] * (rng.random() < 0.9)]
    return Case(argv, writes=("out.mp4", word.strip("/")))


def replays(c: Corpus) -> Case:
    """JSON sidecars, from which `generate --from` reproduces a video."""
    document = {**c.json("replay.json"), "model": c.model}
    (c.at / "x.json").write_bytes(mutations.write_text(mutations.damage_json(document, c.rng)))
    return Case(["generate", "--from", "x.json", "-o", "out.mp4", *["--plan"] * (c.rng.random() < 0.7)])


def leftovers(c: Corpus) -> Case:
    """Temporary files of a killed process, and user files with similar names."""
    if c.rng.random() < 0.5:
        names = [f".out.{{}}.{suffix}" for suffix in ("new", "old")]
        return Case(
            ["convert", c.model, "out"],
            expected=True,
            prepare=lambda: [Path(name.format(os.getpid())).mkdir() for name in names],
        )
    c.clips()
    write_user_files(c.copy("store"))
    return Case(["encode", ".", "-o", "store", "--model", c.model], writes=("store",), expected=True)


def workers(c: Corpus) -> Case:
    """A /dev/shm that is too small for a batch of a data-loading worker. Mounting it needs root."""

    def prepare() -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        if (
            libc.unshare(0x20000)
            or libc.mount(b"none", b"/", None, 0x44000, None)
            or libc.mount(b"t", b"/dev/shm", b"tmpfs", 0, b"size=64k")
        ):
            os._exit(0)

    (c.at / "clips").mkdir()
    for name in ("a.mp4", "a.txt"):
        shutil.copyfile(c.folder / "media" / name, c.at / "clips" / name)
    overrides = ["run.num_steps=3", "run.workers=1", "samples.prompts=[]"]
    argv = ["train", "toybox-lora", "--data", "clips", "--out", "run", *overrides]
    return Case(argv, ("run",), expected=False, prepare=prepare)


def write_user_files(folder: Path) -> None:
    """Write old files of the user that are named like temporary files of the package."""
    for name in (".mine.tmp", ".mine.tmp.txt", "sub/.mine.tmp.json", ".mine.0123abcd.tmp.mp4", "sub/mine.partial"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("mine")
        os.utime(folder / name, (time.time() - 10**6,) * 2)


WEIGHTS = {
    media: 20,
    times: 4,
    tables: 18,
    models: 20,
    pickles: 16,
    loras: 12,
    runs: 12,
    plots: 7,
    values: 30,
    replays: 10,
    leftovers: 4,
    workers: 1,
}
"""Relative frequency of each class."""
