"""Settings of all tests: one thread, no downloads, fixed random numbers, shape checks, and marks by folder.

`make test` runs the tests that are not marked `slow`. Tests outside `QUICK_FOLDERS` are marked here. Shapes in
signatures are checked at run time by jaxtyping and beartype. beartype and hypothesis may be missing, so that the GPU
tests run on a machine with little more than PyTorch.
"""

import importlib
import os
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from jaxtyping import install_import_hook

HERE = Path(__file__).parent

# Read when torch is imported, so set before any test module. Two workers use two cores best with one thread each.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MKL_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ["HF_HOME"] = str(HERE.parent / "build/no-cache")  # models and tokens of the user do not count
os.environ.setdefault("TRANSFORMERS_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

if os.environ.get("CI"):
    # All optional packages are installed in CI, so a missing one is an error there. Elsewhere it skips the test.
    pytest.importorskip = lambda name, *args, **options: importlib.import_module(name)

QUICK_FOLDERS = {"unit", "laws", "parity", "flow"}

if find_spec("beartype"):
    install_import_hook("cogvideox", "beartype.beartype")

if find_spec("hypothesis"):
    import hypothesis

    # The same examples every time. No time limit, because the first call of a function includes its imports.
    hypothesis.settings.register_profile("repeatable", deadline=None, derandomize=True)
    hypothesis.settings.load_profile("repeatable")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        folder = item.path.relative_to(HERE).parts[0]
        if folder not in QUICK_FOLDERS:
            item.add_marker(pytest.mark.slow)
        if folder == "gpu":
            item.add_marker(pytest.mark.gpu)


@pytest.fixture(scope="session", autouse=True)
def _fresh_compiler_cache(tmp_path_factory):
    """Compile kernels anew in each session.

    PyTorch's cache does not record the CPU instructions of a kernel; reused with other instructions, kernels gave NaN.
    """
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(tmp_path_factory.mktemp("compiled"))


@pytest.fixture(autouse=True)
def _seed_torch():
    """Make results independent of the order of tests and of the worker."""
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(0)
