"""The model families: a registry, and a folder for each."""
