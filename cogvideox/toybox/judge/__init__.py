"""Reading facts back from frames, and scoring videos against prompts."""
