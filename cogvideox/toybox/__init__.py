"""The built-in world with known truth: scenes, their pictures, captions, and a judge that reads pictures back.

| | the core grammar, and what both share | the full grammar, besides |
|---|---|---|
| what there is | `grammar`: words, toys, scenes, the withheld rule | |
| drawn by seed | `scene` | `crowd`: what goes together, and room for all |
| pictures | `render`, of `shapes` under a `lamp` | `floor` patterns, `motion` |
| said | `caption`, in `words` | `describe` |
| understood | `caption.parse` | `understand`: what people type |
| read from pixels | `read_core`, after `soften` | `read_full`, of `ground` and `blobs` |
| marked | `judge` | |
"""
