"""Memory plans and group offloading."""
