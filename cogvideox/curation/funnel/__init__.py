"""The curation funnel: number of clips that passed each stage, and dropped clips with their reasons."""
