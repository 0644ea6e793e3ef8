"""Snippet features of videos: every 16 frames, in several crops, through one network; one ``.npy`` (T, C, D) per video."""
