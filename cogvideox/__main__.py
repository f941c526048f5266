"""Entry point of `python -m cogvideox`, the same as the `cogvideox` command."""

import sys

from cogvideox.cli.main import main

sys.exit(main())
