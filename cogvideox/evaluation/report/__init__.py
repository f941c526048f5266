"""Reports of evaluations: tables as Markdown and CSV, and one self-contained HTML page."""
