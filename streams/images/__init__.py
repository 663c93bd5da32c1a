"""From a document's `img` to pixels: where it stands, how it is fetched, decoded and bounded.

It knows MongoDB and the network, and that an embedding may be stored already; what is made of an
image it does not know.
"""
