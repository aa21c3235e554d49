"""Plots: each takes a tidy frame and axes, and returns the axes; none makes a figure."""
