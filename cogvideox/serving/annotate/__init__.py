"""The annotation page: the six negative labels of the clips of a curation.

| module | content |
|---|---|
| `clips` | clips of a manifest, and copies that browsers can play |
| `feeds` | which clip an annotator gets next |
| `examples` | three rendered examples of each label |
| `session` | the answers, kept in the annotation store |
| `progress` | pace, agreement and accuracy of annotators |
| `app` | the HTTP API |
"""
