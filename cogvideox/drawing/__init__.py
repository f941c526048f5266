"""Charts as SVG or as pixels, without a plotting library."""
