"""A study: which videos are shown to whom under which rules, and the votes.

| module | content |
|---|---|
| `protocol` | prompts, models, items and rules, fixed and hashed before the first vote |
| `plan` | a new study from folders of videos |
| `blind_copies` | copies of videos that do not reveal their origin |
| `training_items` | explained items from the toy world |
| `schedule` | the order of items of each rater: training, gold items, repeats with swapped sides |
| `store` | votes as an append-only log of events in an SQLite file |
"""
