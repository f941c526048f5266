"""Properties of the CPU at hand: which kernels it supports, and how fast they are."""
