"""Data modules of whole videos as snippet features; the methods on them are the family ``weak_video``."""
