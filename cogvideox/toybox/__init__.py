"""The toybox: a procedural world with known ground truth. Scenes, rendering, captions, and a rule-based judge that
recovers scene attributes from pixels.

There are three grammars: `core` (one toy, plain floor; frozen, because the shipped model and its published scores
depend on it), `full` (several toys, patterns, camera motion, lighting) and `pair` (one or two toys with the words of
`core`; a scene of two toys is a scene of `full`). In `scenes/`, `captions/` and `judge/`, `core.py` and `full.py`
contain the grammar-specific code; the entry point of each subpackage supports all grammars.

| | entry point | shared by all grammars |
|---|---|---|
| sample a scene from a seed | `scenes.sampler.sample_scene` | `scenes.grammar`: words, `Toy`, `Scene`, held-out rule |
| render it | `render.renderer.render_scene` | `shapes`, `lighting`, `floor_patterns`, `motion` |
| caption it, parse a prompt | `captions.caption.caption_scene`, `parse_prompt` | `captions.vocabulary` |
| judge a video | `judge.judge.judge_clip`, `judge_prompt` | `judge.preprocess` |
"""
