"""Versions of models, the pointers that say which serve, and their hot reload.

It keeps bundles and pointers in MongoDB and loads what a bundle holds. It knows no document and no
topic.
"""
