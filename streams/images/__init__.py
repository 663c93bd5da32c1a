"""From a document's `img` to pixels: where it stands, how it is fetched, decoded and bounded."""
