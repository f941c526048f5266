"""Signals: measurements of clips. A clip is decoded once for all of them.

To add a signal:

1. Write a module with a frozen dataclass that has the members of `base.Signal`; `perceptual_hash.py` is a short
   example. Its fields are its parameters, with defaults. Import heavy libraries inside `open`.
2. Declare the frames it needs (`samplings`) and the columns it writes, named `<signal>.<column>`, with unit and range.
3. Add it to `SIGNALS` in `registry.py`. It then runs by default, and recipes can set its parameters.
4. Describe its columns in `docs/curation.md`, and test it in `tests/unit/curation/signals`.

If the same parameters later give different values, increment `version`, so that its columns are recomputed.
"""
