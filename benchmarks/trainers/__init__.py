"""Both sides of `benchmarks/train.py`: our train step and a plain PyTorch trainer, each in a process of its own."""
