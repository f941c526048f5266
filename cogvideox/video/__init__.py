"""Videos as files and as tensors."""
