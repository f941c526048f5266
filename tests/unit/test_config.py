import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest

from cogvideox import config
from cogvideox.errors import UserError


@dataclass(frozen=True)
class Optim:
    lr: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.95)
    schedule: Literal["constant", "cosine"] = "cosine"


@dataclass(frozen=True)
class Run:
    steps: int
    name: str
    optim: Optim = Optim()
    folder: Path = Path("runs")
    ema: bool = True
    limit: float | None = None
    styles: tuple[str, ...] = ("short",)
    device: Literal["cpu", "cuda"] | None = None
    sizes: list[int] = field(default_factory=list)
    notes: dict[str, float] = field(default_factory=dict)
    seed: int | str = 0
    extra: Any = None

    def __post_init__(self):
        if self.steps < 1:
            raise ValueError(f"steps={self.steps} must be at least 1")


FULL = Run(
    7, "näme 🎈", Optim(3e-4, (0.8, 0.9), "constant"), Path("a/b"), False, 2.5, (), "cuda", [1, 2], {"x": 1.0}, "s"
)


@pytest.mark.parametrize("suffix", [".json", ".yaml"])
@pytest.mark.parametrize("run", [FULL, Run(1, "x")])
def test_save_and_load_are_inverse(tmp_path, suffix, run):
    path = tmp_path / f"settings{suffix}"
    config.save(run, path)
    assert config.load(Run, path) == run
    assert config.from_dict(Run, config.to_dict(run)) == run


def test_an_integer_is_converted_to_a_float():
    run = config.from_dict(Run, {"steps": 1, "name": "x", "limit": 3})
    assert run.limit == 3.0
    assert type(run.limit) is float


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"step": 1}, "unknown setting step; did you mean steps?"),
        ({"zzz": 1}, "unknown setting zzz; available: steps, name"),
        ({"optim": {"learn": 1}}, "unknown setting optim.learn; available: optim.lr, optim.betas"),
        ({"optim": {"lr": "fast"}}, "optim.lr must be a number, got 'fast'"),
        ({"optim": {"betas": [0.9]}}, "optim.betas must be a list of 2 (a number, a number), got [0.9]"),
        ({"optim": {"betas": [0.9, "b"]}}, "optim.betas[1] must be a number, got 'b'"),
        ({"optim": {"schedule": "cosin"}}, "must be one of constant, cosine, got 'cosin'; did you mean cosine?"),
        ({"optim": 3}, "optim must be a group of settings, got 3"),
        ({"steps": 1.0}, "steps must be an integer, got 1.0"),
        ({"steps": True}, "steps must be an integer, got True"),
        ({"steps": 0}, "steps=0 must be at least 1"),
        ({"name": 3}, "name must be a string, got 3"),
        ({"ema": 1}, "ema must be true or false, got 1"),
        ({"limit": "x"}, "limit must be a number, got 'x'"),
        ({"styles": "short"}, "styles must be a list, got 'short'"),
        ({"notes": {"a": "b"}}, "notes.a must be a number, got 'b'"),
        ({"seed": 1.5}, "seed must be an integer or a string, got 1.5"),
    ],
)
def test_invalid_values_are_named(change, message):
    with pytest.raises(UserError) as caught:
        config.from_dict(Run, {"steps": 1, "name": "x", **change}, where="run.yaml")
    assert str(caught.value).startswith("run.yaml: ")
    assert message in str(caught.value)


def test_dotted_and_override_are_inverse():
    before, after = Run(steps=1, name="x"), Run(steps=2, name="x", optim=Optim(lr=0.5))
    old, new = (config.dotted(config.to_dict(run)) for run in (before, after))
    changes = {name: value for name, value in new.items() if value != old[name]}
    assert changes == {"steps": 2, "optim.lr": 0.5} and config.override(before, changes) == after


def test_missing_settings_are_named():
    with pytest.raises(UserError, match="the settings steps, name are missing"):
        config.from_dict(Run, {})


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.json", "{", "cannot read"),
        ("x.json", "[1]", "the file must contain a mapping"),
        ("x.json", '{"steps": 1, "steps": 2}', "the key steps occurs twice"),
        ("x.yaml", "steps: 1\nsteps: 2", "the key steps occurs twice"),
        ("x.yaml", "? [1]\n: 2", "a key must be a word or a number"),
        ("x.yaml", "a: [", "cannot read"),
        ("x.yaml", "", "the file must contain a mapping, got None"),
        ("x.yaml", "a: !!python/object/apply:os.system [true]", "cannot read"),
    ],
)
def test_an_invalid_file_is_reported_in_one_line(tmp_path, name, content, message):
    (tmp_path / name).write_text(content)
    with pytest.raises(UserError) as caught:
        config.load(Run, tmp_path / name)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_or_binary_file_is_one_sentence(tmp_path):
    with pytest.raises(UserError, match="file not found"):
        config.load(Run, tmp_path / "x.yaml")
    (tmp_path / "x.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="cannot read"):
        config.load(Run, tmp_path / "x.yaml")


@pytest.mark.parametrize("literal", ["3e-4", "3.0e-4", "3E-04", ".3e-3", "0.0003", "+3e-4"])
def test_yaml_accepts_common_float_formats(tmp_path, literal):
    (tmp_path / "x.yaml").write_text(f"lr: {literal}")
    assert config.load(Optim, tmp_path / "x.yaml").lr == 3e-4


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("optim.lr", "3e-4", Run(1, "x", Optim(lr=3e-4))),
        ("optim.lr", 3e-4, Run(1, "x", Optim(lr=3e-4))),
        ("optim.betas", "0.5,0.6", Run(1, "x", Optim(betas=(0.5, 0.6)))),
        ("optim.betas", "[0.5, 0.6]", Run(1, "x", Optim(betas=(0.5, 0.6)))),
        ("steps", "12", Run(12, "x")),
        ("name", "12", Run(1, "12")),
        ("name", "no: [", Run(1, "no: [")),
        ("ema", "false", Run(1, "x", ema=False)),
        ("limit", "none", Run(1, "x", limit=None)),
        ("limit", "2", Run(1, "x", limit=2.0)),
        ("device", "cuda", Run(1, "x", device="cuda")),
        ("styles", "a,b", Run(1, "x", styles=("a", "b"))),
        ("styles", "", Run(1, "x", styles=())),
        ("styles", "none", Run(1, "x", styles=())),
        ("folder", "here", Run(1, "x", folder=Path("here"))),
        ("notes", "{a: 1}", Run(1, "x", notes={"a": 1.0})),
        ("seed", "5", Run(1, "x", seed=5)),
    ],
)
def test_override(name, value, expected):
    assert config.override(Run(1, "x"), {name: value}) == expected


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"optim.lrr": "1"}, "unknown setting optim.lrr; did you mean optim.lr?"),
        ({"optim": "1"}, "optim is a group of settings; change one of optim.lr, optim.betas, optim.schedule"),
        ({"steps.x": "1"}, "unknown setting steps.x: steps is a single value"),
        ({"steps": "many"}, "steps must be an integer, got 'many'"),
        ({"steps": "0"}, "steps=0 must be at least 1"),
        ({"ema": "1"}, "ema must be true or false, got 1"),
        ({"device": "cud"}, "must be one of cpu, cuda, got 'cud'; did you mean cuda?"),
    ],
)
def test_invalid_overrides_are_named(changes, message):
    with pytest.raises(UserError) as caught:
        config.override(Run(1, "x"), changes)
    assert message in str(caught.value)


def test_the_digest_depends_on_the_values_alone():
    assert config.digest(Run(1, "x")) == config.digest(Run(1, "x", notes={}))
    assert config.digest(FULL) != config.digest(config.override(FULL, {"optim.lr": 1e-5}))
    # Digests are stored in exported models, so they must not change between versions.
    assert config.digest(Optim()) == "0100bd706bbe76b2"


def test_no_torch_is_imported():
    code = "import sys, cogvideox.config; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_variants_are_written_only_if_they_differ_from_their_default():
    @dataclass(frozen=True)
    class Model:
        width: int = 8
        attention: Literal["full", "factorized"] = field(default="full", metadata=config.VARIANT)

    assert config.to_dict(Model()) == {"width": 8}
    assert config.to_dict(variant := Model(attention="factorized")) == {"width": 8, "attention": "factorized"}
    assert config.from_dict(Model, {"width": 8}) == Model() == config.override(variant, {"attention": "full"})
    assert config.override(Model(), {"attention": "factorized"}) == variant
