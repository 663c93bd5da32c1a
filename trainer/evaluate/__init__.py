"""How good a model is, measured on images that no fit has seen.

Draws these, once, and measures the version that it is given. What follows from the figures is the
matter of `job`.
"""
