"""The description of a prepared dataset."""
