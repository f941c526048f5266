"""Metrics of a run: logging, throughput, losses by timestep, curves."""
