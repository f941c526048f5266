"""Files that may be damaged or hostile: limits, errors of readers, and text of unknown encoding."""
