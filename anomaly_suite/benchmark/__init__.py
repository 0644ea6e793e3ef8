"""Grids of runs: methods, data, classes, options and seeds, their records in a folder, and the tables made of them.

What a cell does is given as a function (the command line gives its own ``fit`` and ``test``); here is which cells there are, who runs
them, what they leave and how they are counted together. Neither torch nor Lightning is needed.
"""
