"""HTML pages for people: one file, everything inside, no script, light and dark.

`page` puts sections together; `tiles`, `table`, `gallery` and `curve` make what stands in them.
Whatever comes in as text is escaped; only `Html` is taken as it is. Reads no database, measures
nothing: figures, captions and images are handed in.
"""
