"""Forward, backward and update: in one process, or by DeepSpeed."""
