"""The report of an ablation: metrics and paired differences, verdicts on the paper's findings, page, charts."""
