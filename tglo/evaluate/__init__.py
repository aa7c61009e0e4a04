"""`tglo evaluate`: a base and trained models, compared by rewards on sets of prompts."""
