import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(("ci", "error"), [("true", "ModuleNotFoundError"), ("", "Skipped")])
def test_missing_packages_skip_tests_but_are_errors_in_ci(ci, error):
    code = "import pytest, tests.conftest; pytest.importorskip('no_such_package')"
    environment = os.environ | {"CI": ci, "PYTHONPATH": str(ROOT)}
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert result.returncode == 1 and error in result.stderr.splitlines()[-1]
