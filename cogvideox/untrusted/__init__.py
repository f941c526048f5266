"""Reading of files that may be damaged or malicious: limits, errors of readers, and unknown text encodings."""
