"""Skipping of non-finite steps, preemption, and the lock of a run folder."""
