"""What holds for every test: one thread, nothing fetched, the same random numbers, and which rooms are quick.

`make test` runs what is not marked `slow`; tests outside the quick rooms are marked so here, by where they lie.
Shapes in signatures are checked at run time by jaxtyping and beartype. Both beartype and hypothesis may be missing, so
that the tests for GPUs run on a machine with little more than PyTorch.
"""

import os
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from jaxtyping import install_import_hook

# Read when torch is first imported, so before any test module is. Two workers with one thread each use two cores best.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MKL_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

HERE = Path(__file__).parent
QUICK_ROOMS = {"unit", "laws", "parity", "flow"}

if find_spec("beartype"):
    install_import_hook("cogvideox", "beartype.beartype")

if find_spec("hypothesis"):
    import hypothesis

    # The same examples every time, and no time limit: the first call of a function pays for its imports.
    hypothesis.settings.register_profile("repeatable", deadline=None, derandomize=True)
    hypothesis.settings.load_profile("repeatable")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        room = item.path.relative_to(HERE).parts[0]
        if room not in QUICK_ROOMS:
            item.add_marker(pytest.mark.slow)
        if room == "gpu":
            item.add_marker(pytest.mark.gpu)


@pytest.fixture(scope="session", autouse=True)
def _compiled_here(tmp_path_factory):
    """What the compiler kept on disk for other instructions of the processor is not taken up.

    PyTorch's cache does not ask for which instructions a kernel was written; taken up under others, it gave NaN.
    """
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(tmp_path_factory.mktemp("compiled"))


@pytest.fixture(autouse=True)
def _same_random_numbers():
    """A test gives the same result alone, in any order and on any worker."""
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(0)
