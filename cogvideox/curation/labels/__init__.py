"""The six negative labels of the paper (Section 3.4): definitions, features, classifiers and reports."""
