"""Kernels for the autoencoder: what torch has only for images laid out [B, C, H, W]."""
