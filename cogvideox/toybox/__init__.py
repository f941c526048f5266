"""The built-in world with known truth: scenes, their rendering, captions, and a judge that reads facts back.

| | core grammar, and what both share | full grammar |
|---|---|---|
| what exists | `scenes.grammar`: words, toys, scenes, withheld compositions | |
| sampled by seed | `scenes.sample_core` | `scenes.sample_full` |
| rendered | `render.render`, `render.shapes`, `render.lighting` | `render.floor_patterns`, `render.motion` |
| captioned | `captions.caption`, words from `captions.vocabulary` | `captions.describe` |
| parsed | `captions.caption.parse` | `captions.parser`: free-form prompts |
| read from pixels | `judge.core`, `judge.preprocess` | `judge.full`, `judge.background`, `judge.segmentation` |
| scored | `judge.judge` | |
"""
