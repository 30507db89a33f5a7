"""A provider, an agent, and the two together: short enough to be the documentation."""
