"""The paper's ablations at small scale: arms as training configs, plans that fit a time budget, scores, a report."""
