"""Data modules of whole videos as snippet features."""
