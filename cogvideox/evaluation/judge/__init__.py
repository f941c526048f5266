"""Scores by language models that see frames, behind any OpenAI-compatible endpoint (`cogvideox.llm`).

| module | content |
|---|---|
| `endpoint` | settings of a judge, its budget, and stored responses |
| `frames`, `rubric`, `parsing` | GPT4o-MTScore: the eight frames, the instructions, and reading of the answer |
| `mtscore` | the scorer |
| `describe` | captions and objects of frames, for variants of VBench |
| `naturalness` | the five levels of DEVIL |
"""
