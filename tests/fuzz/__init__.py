"""Hostile input by the million: `python -m fuzz`, or `make fuzz`; a few thousand in the suite."""
