"""Generation requests: options, defaults, validation and input files."""
