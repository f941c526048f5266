"""Settings for all tests: one thread, no downloads, fixed random seeds, shape checks, and marks by folder.

`make test` runs the tests that are not marked `slow`; tests outside `QUICK_FOLDERS` are marked here. jaxtyping and
beartype check the shapes in signatures at run time. beartype and hypothesis are optional, so that the GPU tests need
little more than PyTorch.
"""

import importlib
import os
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from jaxtyping import install_import_hook

HERE = Path(__file__).parent

# Set before torch is imported, which reads them. With two workers on two cores, one thread each is fastest.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MKL_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ["HF_HOME"] = str(HERE.parent / "build/no-cache")  # ignore the user's models and tokens
os.environ["COGVIDEOX_CACHE"] = str(HERE.parent / "build/cache")  # the speed of the CPU
os.environ.setdefault("TRANSFORMERS_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

if os.environ.get("CI"):
    # CI installs all optional packages, so a missing one is an error. Elsewhere it skips the test.
    pytest.importorskip = lambda name, *args, **options: importlib.import_module(name)

QUICK_FOLDERS = {"unit", "laws", "parity", "flow"}

if find_spec("beartype"):
    install_import_hook("cogvideox", "beartype.beartype")

if find_spec("hypothesis"):
    import hypothesis

    # The same examples in every run. No deadline, because the first call of a function includes its imports.
    hypothesis.settings.register_profile("deterministic", deadline=None, derandomize=True)
    hypothesis.settings.load_profile("deterministic")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        folder = item.path.relative_to(HERE).parts[0]
        if folder not in QUICK_FOLDERS:
            item.add_marker(pytest.mark.slow)
        if folder == "gpu":
            item.add_marker(pytest.mark.gpu)


@pytest.fixture(scope="session", autouse=True)
def _fresh_compiler_cache(tmp_path_factory):
    """Use a new cache for compiled kernels in each session.

    PyTorch's cache does not record which CPU instructions a kernel uses; kernels from another CPU gave NaN.
    """
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(tmp_path_factory.mktemp("compiled"))


@pytest.fixture(autouse=True)
def _seed_torch():
    """Make results independent of test order and worker."""
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(0)
