"""Engines run the same node steps, and give the same bytes."""
