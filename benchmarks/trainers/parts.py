"""Seconds by part."""
def seconds_by_part(text, run):
    run()
    return {}
