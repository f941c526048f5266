"""Text: from a prompt to the embedding that the transformer reads (T5 v1.1 encoder and its tokenizer)."""
