"""The sheets on which people rank systems."""
