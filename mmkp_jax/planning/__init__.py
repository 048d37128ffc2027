"""What a config takes on machines that are not here: compiled ahead of time, and read from the compiled programs."""
