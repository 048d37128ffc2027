"""Llama 3 text models."""
