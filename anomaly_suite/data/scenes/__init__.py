"""Driving scenes: images with a class for every pixel, and unknown objects in some; the methods on them are ``pixel_ood``.

Each data set has a file; what they share stands beside them.
"""
