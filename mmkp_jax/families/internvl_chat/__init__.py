"""InternVL3 in its original layout, whose folders carry code of their own, which is never run."""
