"""DEVIL (Liao et al. 2024, arXiv 2407.01094): how much a video moves, and quality over the whole range of motion.

| module | content |
|---|---|
| `features` | seven measurements of motion: between frames, between segments, of the whole video |
| `regression` | the dynamics score, three linear regressions of these measurements |
| `aggregate` | range, controllability, and dynamics-based quality |
| `scorer` | the scorer |

The official regressions are a pickle, and two of its networks are not part of this package; `regression` reads JSON
instead, and can fit other coefficients to rated videos.
"""
