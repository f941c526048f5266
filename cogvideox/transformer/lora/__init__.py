"""LoRA: injection, merging, and the files of all common trainers."""
