"""The collection at one cluster time, as Parquet files; and the frozen validation set.

Reads documents and asks the registry which CLIP serves. Computes nothing, and knows no fit.
"""
