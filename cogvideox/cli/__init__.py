"""Command-line interface: one module or folder per command; `main` dispatches to them."""
