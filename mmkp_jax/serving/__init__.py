"""A trained model behind a local page and an OpenAI-compatible endpoint."""
