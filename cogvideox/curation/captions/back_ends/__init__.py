"""Back-ends of the rungs: chat models, detectors and tags, the reading of toybox clips; `registry` lists them."""
