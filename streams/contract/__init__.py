"""What documents, events, records and versions are, and who may overwrite a stored output.

Pure: values and rules. It knows models by their names, but neither servers nor settings.
"""
