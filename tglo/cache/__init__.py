"""Latents, embeddings and reference errors on disk: made once, read in every epoch."""
