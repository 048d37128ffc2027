"""Memory and time of a config on other machines, from programs that are compiled ahead of time for them."""
