"""What documents, events, records, versions and the pipeline of models are; who may overwrite what.

Pure: values and rules. It knows models by their declarations, but neither servers nor settings.
"""
