"""Curation: from raw video files to a manifest of measured clips.

    files --probe--> --split--> clips --cut--> --signals--> --duplicates--> manifest.parquet, metadata.parquet

A stage (`stage.Stage`) adds columns to rows. Results are cached per stage and row (`results`), so only missing and
outdated results are computed. A row that fails keeps the reason for the failure.
"""
