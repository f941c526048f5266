"""The funnel: how many clips each stage let through, and what it dropped and why."""
