"""What one short visit to a machine with a GPU shows: see `__main__.py`, and `../accelerator.sh` to start it."""
