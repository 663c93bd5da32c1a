"""Versions of models, the pointers that say which serve, and their hot reload."""
