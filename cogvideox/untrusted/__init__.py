"""Safe reading of files that may be damaged or malicious: limits, errors of readers, unknown text encodings."""
