"""Back-ends of the captioning stages: chat models, detectors and tags, the toybox judge; `registry` lists them."""
