"""Metrics of a run: tracker, heartbeat, throughput and MFU, loss by timestep, training curves."""
