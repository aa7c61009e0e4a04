"""Manifest, images, buckets, cache and sampler. No model is imported: the cache gets an encoder."""
