"""Files on disk: images, videos, folders, names, runs, seeds and whole writes. No torch, and nothing of the package but errors."""
