"""Attention and label cross-entropy: one reference each, and a backend a platform."""
