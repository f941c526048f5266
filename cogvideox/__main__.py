"""`python -m cogvideox` is `cogvideox`."""

import sys

from cogvideox.cli.main import main

sys.exit(main())
