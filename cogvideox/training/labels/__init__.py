"""Label prediction with video-language models: LoRA fine-tuning with a head or text answers, and zero-shot."""
