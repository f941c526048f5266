"""Video generation: the pipeline, its requests and the denoising loop."""
