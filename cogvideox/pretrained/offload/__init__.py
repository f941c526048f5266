"""Memory plans, and offloading of weights: whole networks, or blocks with prefetch."""
