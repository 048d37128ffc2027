"""A whole experiment: data, training, evaluation, export and report, put together."""
