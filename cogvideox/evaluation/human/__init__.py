"""Human evaluation: blind studies in which people rate videos or compare pairs of videos.

| module | content |
|---|---|
| `rubric` | the paper's four criteria with the texts of their levels, the total, and the paper's results (Table 4) |
| `study/` | studies: the protocol, which is hashed before the first vote, planning, the order of items, the votes |
| `intervals` | means and their intervals over prompts and raters |
| `bradley_terry` | strengths of models from comparisons with ties |
| `agreement` | Krippendorff's alpha with an interval; Dawid-Skene |
| `raters` | bias, self-agreement, accuracy on gold items and pace of each rater |
| `results` | the results of a study, and their tables |
| `simulation` | raters with known bias and noise, for tests of the intervals |
"""
