"""Import rules that linters do not check: which package may import which library, and which modules need no extras.

`make check` runs this script in the environment to check. It prints a line for each rule and each violation. The exit
status is 1 if a rule is broken.
"""

import ast
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "cogvideox"

# Packages that may import a library, including its submodules.
ALLOWED_IN: dict[str, tuple[str, ...]] = {
    "torch.distributed": ("parallel", "training"),
    "av": ("video",),
    "cv2": ("curation", "video"),
    "scenedetect": ("curation",),
    "PIL": ("generation", "toybox", "video"),
    "fastapi": ("serving",),
    "gradio": ("serving",),
    "matplotlib": ("training",),
    "ray": ("executor", "serving"),
    "diffusers": (),
    "torchvision": (),
}
LAZY = {"matplotlib", "transformers"}  # only imported inside functions, because it takes a second or more
NEEDS_EXTRA = re.compile(r"cogvideox\.serving\.((\w+\.)?app|slow_headers)")  # FastAPI applications, and uvicorn
WITHOUT_TORCH = re.compile(
    r"(^|/)(__init__|config|presets|settings|recipes|errors|geometry)\.py$"
    r"|^ablation/(arm|baselines|curves|intervals|metrics|plan|registry|groups/\w+|report/(page|summary))\.py$"
    r"|^dataset/(cache_keys|mixture)\.py$"
    r"|^evaluation/(compare|export|intervals|plugins|results|scorer|store)\.py$"
    r"|^evaluation/(dynamics/(aggregate|regression)|frechet/distances|judge/parsing|models/interfaces)\.py$"
    r"|^evaluation/(report/tables|suites/paper_tables|vbench/pieces)\.py$"
    r"|^generation/(long_video|workload|request/\w+)\.py$"
    r"|^options\.py$"
    r"|^pretrained/(detect_variant|model_settings|model_spec)\.py$"
    r"|^pretrained/offload/(hardware|memory_planner|plan|transformer_cost|vae_cost)\.py$"
    r"|^training/(config_file|metrics/curves|optim/lr_schedule)\.py$"
    r"|^transformer/lora/locate\.py$"
)  # imported by commands before torch is needed, or on machines without it
HELP_SECONDS = 1.0


def main() -> int:
    rules = (
        libraries_stay_in_their_packages,
        imports_need_no_extras,
        modules_that_need_no_torch,
        torch_has_the_pinned_version,
        help_is_fast,
    )
    broken = 0
    for rule in rules:
        problems = list(rule())
        broken += len(problems)
        print(f"{'broken' if problems else 'ok    '}  {rule.__doc__}")
        for problem in problems:
            print(f"        {problem}")
    return 1 if broken else 0


def modules() -> Iterator[tuple[str, Path]]:
    """Yield (dotted name, file) of every module except `__main__`, which runs when imported."""
    for file in sorted(PACKAGE.rglob("*.py")):
        parts = file.relative_to(ROOT).with_suffix("").parts
        if parts[-1] != "__main__":
            yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts), file


def libraries_stay_in_their_packages() -> Iterator[str]:
    """a library is imported only in its own packages"""
    for _, file in modules():
        path = file.relative_to(PACKAGE)
        tree = ast.parse(file.read_text(encoding="utf-8"), str(file))
        for line, name, at_import_time in imports(tree):
            for library, packages in ALLOWED_IN.items():
                if is_within(name, library) and path.parts[0] not in packages:
                    allowed = " or ".join(packages) or "no package"
                    yield f"cogvideox/{path}:{line} imports {name}; {library} may be imported in {allowed}"
            if at_import_time and any(is_within(name, library) for library in LAZY):
                yield f"cogvideox/{path}:{line} imports {name} at import time; import it inside the function"


def is_within(name: str, library: str) -> bool:
    return name == library or name.startswith(library + ".")


def imports(tree: ast.Module) -> Iterator[tuple[int, str, bool]]:
    """Yield (line, full name, whether it runs at import time) of every import, except imports for typing."""

    def walk(node: ast.AST, at_import_time: bool) -> Iterator[tuple[int, str, bool]]:
        if isinstance(node, ast.If) and ast.unparse(node.test) in {"TYPE_CHECKING", "typing.TYPE_CHECKING"}:
            for child in node.orelse:
                yield from walk(child, at_import_time)
            return
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name, at_import_time
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            for alias in node.names:
                yield node.lineno, f"{node.module}.{alias.name}", at_import_time
        elif isinstance(node, ast.Attribute) and ast.unparse(node).startswith("torch.distributed"):
            yield node.lineno, ast.unparse(node), at_import_time
            return
        is_function = isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
        for child in ast.iter_child_nodes(node):
            yield from walk(child, at_import_time and not is_function)

    return walk(tree, True)


def imports_need_no_extras() -> Iterator[str]:
    """every module but parts of `serving` can be imported with the base dependencies only"""
    extras = sorted(installed_names() - base_names())
    yield from failures(extras, [name for name, _ in modules() if not NEEDS_EXTRA.fullmatch(name)])


def modules_that_need_no_torch() -> Iterator[str]:
    """configs, recipes, requests and tables of scores import no torch"""
    names = [name for name, file in modules() if WITHOUT_TORCH.search(file.relative_to(PACKAGE).as_posix())]
    yield from failures(["torch"], names)


def failures(blocked: list[str], names: list[str]) -> Iterator[str]:
    """Import each module in a new interpreter without the blocked libraries, and yield the failures."""
    command = [sys.executable, "-c", IMPORTER, ",".join(blocked), *names]
    run = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    yield from run.stdout.splitlines()
    if run.returncode:
        yield f"the interpreter exited with {run.returncode}: {run.stderr.strip().splitlines()[-1:]}"


IMPORTER = """
import importlib, sys
from importlib.machinery import PathFinder

blocked, find_spec = set(sys.argv[1].split(",")), PathFinder.find_spec

def find_allowed(name, path=None, target=None):
    return None if name.partition(".")[0] in blocked else find_spec(name, path, target)

PathFinder.find_spec = staticmethod(find_allowed)
for name in sys.argv[2:]:
    try:
        importlib.import_module(name)
    except Exception as error:
        print(f"{name}: {type(error).__name__}: {error}")
"""


def base_names() -> set[str]:
    """Return the top-level modules of the package's direct and indirect dependencies, without extras."""
    by_distribution: dict[str, set[str]] = {}
    for module, distributions in metadata.packages_distributions().items():
        for distribution in distributions:
            by_distribution.setdefault(canonical(distribution), set()).add(module)
    names: set[str] = set()
    pending, seen = ["cogvideox"], set()
    while pending:
        distribution = pending.pop()
        if distribution in seen:
            continue
        seen.add(distribution)
        names |= by_distribution.get(distribution, set())
        try:
            requirements = metadata.requires(distribution) or []
        except metadata.PackageNotFoundError:  # a requirement for another platform
            continue
        pending += [canonical(re.split(r"[^\w.-]", line)[0]) for line in requirements if "extra ==" not in line]
    return names | {"cogvideox"}


def installed_names() -> set[str]:
    return {name for name in metadata.packages_distributions() if name not in sys.stdlib_module_names}


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def torch_has_the_pinned_version() -> Iterator[str]:
    """torch is the pinned version and torchvision is not installed"""
    pins = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line)
    pinned = pins["torch"]
    installed = metadata.version("torch").partition("+")[0]
    if installed != pinned:
        yield f"torch {installed} is installed, {pinned} is pinned"
    if "torchvision" in {canonical(distribution.name) for distribution in metadata.distributions()}:
        yield "torchvision is installed; it pins the version of torch"


def help_is_fast() -> Iterator[str]:
    """`cogvideox --help` and `cogvideox generate --help` take less than a second and import no torch"""
    for arguments in (["--help"], ["generate", "--help"]):
        code = f"import sys; from cogvideox.cli.main import main; sys.exit(main({arguments}))"
        run = subprocess.run([sys.executable, "-X", "importtime", "-c", code], capture_output=True, text=True, cwd=ROOT)
        if run.returncode or "generate" not in run.stdout:
            yield f"{arguments} exits with {run.returncode} and prints {run.stdout[:80]!r}"
            continue
        if re.search(r"\|\s+torch$", run.stderr, re.MULTILINE):
            yield f"{arguments} imports torch"
        # The minimum of three, because other programs only slow it down.
        seconds = min(processor_seconds([sys.executable, "-c", code]) for _ in range(3))
        if seconds >= HELP_SECONDS:
            yield f"{arguments} takes {seconds:.2f} s"


def processor_seconds(command: list[str]) -> float:
    """Return the CPU time of a command, which hardly depends on other programs (0 on Windows)."""
    before = os.times()
    subprocess.run(command, capture_output=True, cwd=ROOT)
    after = os.times()
    return after.children_user + after.children_system - before.children_user - before.children_system


if __name__ == "__main__":
    sys.exit(main())
