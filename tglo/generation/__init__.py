"""Images of prompts, and the prompts' files."""
