"""Models in one safetensors file, as Civitai has them and kohya's scripts write them."""
