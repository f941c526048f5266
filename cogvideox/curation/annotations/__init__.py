"""Annotations: negative labels of clips, assigned by annotators.

| module | content |
|---|---|
| `store` | the annotation store: an append-only log of events in an SQLite file |
| `label_studio` | import and export of tasks and annotations in the JSON format of Label Studio |
| `tables` | import and export of annotations as CSV and Parquet |
"""
