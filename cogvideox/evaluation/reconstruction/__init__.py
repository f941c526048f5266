"""Reconstruction: how much of a video a VAE keeps."""
