"""Fetching images that documents name by URL, without being led into the operator's network.

`addresses` says which addresses are public, `network` connects to nothing else, `fetcher` makes
bytes or an error of a URL.
"""
