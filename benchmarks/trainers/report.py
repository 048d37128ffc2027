"""The report of `benchmarks/train.py`: figures in tables."""
import json
def report(f):
    return json.dumps(f, indent=1)
