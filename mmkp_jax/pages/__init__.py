"""Everything that is HTML, with the charts and tables in it; the same tables serve the terminal."""
