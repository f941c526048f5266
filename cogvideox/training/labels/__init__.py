"""Labels from video-language models: LoRA with a head or answers, as the paper trains its filters, and zero-shot."""
