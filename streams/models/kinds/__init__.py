"""The algorithms that models are made of: one class for each, in a module of its own.

A kind knows how a version is loaded, what one input becomes, what a batch becomes, and what is
stored of it. It knows no event, no document as a whole, and not which version serves. Begin with
`kind.py`; `find.py` knows which there are.
"""
