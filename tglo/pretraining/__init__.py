"""How the package's own small Stable Diffusion models are built and pre-trained."""
