"""Annotations: which negative labels people gave to clips.

| module | content |
|---|---|
| `store` | the annotation store: an append-only log of events in an SQLite file |
| `label_studio` | tasks and annotations in the JSON format of Label Studio, in both directions |
| `tables` | annotations as CSV and Parquet, in both directions |
"""
