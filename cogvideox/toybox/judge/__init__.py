"""Reading facts back from pixels and scoring videos against scenes and prompts."""
