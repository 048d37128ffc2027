"""What a config takes on machines that are not here: compiled ahead of time, read out of the compiled programs."""
