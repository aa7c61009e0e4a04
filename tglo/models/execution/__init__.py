"""How a denoiser computes: attention, checkpointing, compilation, train and eval mode."""
