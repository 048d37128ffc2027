"""One page of a run, or of several side by side: what they scored, how they trained, what they said to each post."""
