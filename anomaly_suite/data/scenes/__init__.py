"""Driving scenes, one data set a file: images with a class for every pixel, and unknown objects in some of them."""
