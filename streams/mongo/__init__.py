"""Everything that talks to MongoDB. It knows documents and their outputs, and no model."""
