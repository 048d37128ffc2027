"""All HTML pages with their charts and tables; the same tables are printed on the terminal."""
