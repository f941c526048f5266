"""What is to be generated: the request, its validation, its input files."""
