"""InternVL3 in transformers' own layout, as in the folders whose names end with `-hf`."""
