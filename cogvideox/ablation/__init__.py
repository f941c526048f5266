"""The paper's ablations in small: arms as training configs, plans that fit a time budget, paired scores, a report."""
