"""Folder of published raw results, which are no part of the repository; tests that use them are skipped without it.

The folder is that in the environment variable `COGVIDEOX_GOLDENS`, or `shared/goldens` in or beside the repository.
"""

import os
from pathlib import Path

_ROOT = Path(__file__).parent.parent
_CANDIDATES = (
    Path(os.environ.get("COGVIDEOX_GOLDENS", "")),
    _ROOT / "shared" / "goldens",
    _ROOT.parent / "shared" / "goldens",
)
GOLDENS = next((path for path in _CANDIDATES if (path / "README.md").is_file() and path != Path()), Path("no goldens"))
REASON = "the folder of published raw results (tests/goldens.py) does not exist"
