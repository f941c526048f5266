"""LoRA: injection, merging, and reading the files of all common trainers."""
