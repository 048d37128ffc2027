"""Generation with a key-value cache, for any family."""
