"""Weak video: training knows which videos hold an anomaly, but not when; asked is when, one score a snippet and frame."""
