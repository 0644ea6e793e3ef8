"""Image data sets, one file each."""
