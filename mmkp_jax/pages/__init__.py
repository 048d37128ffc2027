"""Figures for people: the same tables for the terminal and for self-contained HTML pages."""
