"""Measurements: the chain against a bare floor, outages, and what an agent costs."""
