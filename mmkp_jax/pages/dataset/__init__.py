"""The page that describes a prepared dataset."""
