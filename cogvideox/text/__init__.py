"""Text encoding: the T5 v1.1 encoder and its tokenizer, from prompts to prompt embeddings."""
