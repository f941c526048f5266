"""Memory planning and weight offloading: whole networks, or groups of blocks with prefetch."""
