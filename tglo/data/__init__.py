"""Manifests, images, aspect-ratio buckets, pairs, groups and the batch sampler."""
