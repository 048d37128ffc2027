"""Experiment trackers that a run also reports to (`config.report_to`): one adapter a file; none is on by default."""
