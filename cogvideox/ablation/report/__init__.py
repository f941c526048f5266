"""The report of an ablation: means and paired differences of the arms, verdicts on the paper's findings, page, charts."""
