"""The funnel: how many clips passed each stage, and which were dropped and why."""
