"""The toybox: a procedural world with known ground truth. Scenes, rendering, captions, and a rule-based judge that
recovers scene attributes from pixels.

There are two grammars: `core` (one toy, plain floor; frozen, because the shipped model and its published scores depend
on it) and `full` (several toys, patterns, camera motion, lighting). In `scenes/`, `captions/` and `judge/`, `core.py`
and `full.py` contain the grammar-specific code; the entry point of each subpackage supports both.

| | entry point | shared by both grammars |
|---|---|---|
| sample a scene from a seed | `scenes.sampler.sample_scene` | `scenes.grammar`: words, `Toy`, `Scene`, held-out rule |
| render it | `render.renderer.render_scene` | `shapes`, `lighting`, `floor_patterns`, `motion` |
| caption it, parse a prompt | `captions.caption.caption_scene`, `parse_prompt` | `captions.vocabulary` |
| judge a video | `judge.judge.judge_clip`, `judge_prompt` | `judge.preprocess` |
"""
