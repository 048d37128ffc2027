"""Ranking of systems' keyphrases, by a model that judges and by people."""
