"""Hugging Face folders: read, load, save, export, verify, and the model card; tensor names in both directions."""
