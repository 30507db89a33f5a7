"""Benchmarks: `python -m bench`, or `make bench`. A machine is compared with itself only."""
