"""What files are: the bottom layer, without torch."""
