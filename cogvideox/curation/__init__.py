"""Curation: from raw video files to a manifest of measured clips.

    files --probe--> --split--> clips --cut--> --signals--> --duplicates--> manifest.parquet, metadata.parquet

A stage (`stage.Stage`) adds columns to rows. Results are cached by stage and content (`results`), so that only what is
missing or changed is computed, and a row that fails keeps the reason.
"""
