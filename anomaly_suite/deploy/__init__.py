"""Scoring new pictures from Python. Nothing is imported here: what needs torch says so in its own file."""
