"""Every notebook runs from a clean kernel, and is stored without outputs."""

import os
from pathlib import Path

import pytest

from tests.docs.pages import ROOT

NOTEBOOKS = sorted((ROOT / "examples").glob("*.ipynb"))


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.name)
def test_notebook_runs(notebook: Path, tmp_path: Path, monkeypatch):
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    cells = nbformat.read(notebook, as_version=4)
    assert not any(cell.get("outputs") for cell in cells.cells)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))
    for name in ("IPYTHONDIR", "JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR"):
        monkeypatch.setenv(name, str(tmp_path / name.lower()))  # nothing of the user's
    resources = {"metadata": {"path": tmp_path}}
    client = nbclient.NotebookClient(cells, timeout=300, startup_timeout=120, resources=resources)
    client.execute()  # shuts the kernel down
    assert (tmp_path / "trained.mp4").stat().st_size > 0
    assert "(9, 64, 64, 3)" in str(cells.cells[-1].outputs)
