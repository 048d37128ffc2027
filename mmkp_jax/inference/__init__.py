"""A trained model in use: load a folder or a step of a run, predict, evaluate, export."""
