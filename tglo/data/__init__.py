"""Manifests, images, aspect-ratio buckets, pairs and the batch sampler."""
