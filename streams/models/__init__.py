"""The models themselves: image encoder, projection, vocabulary, language model.

Pure torch: tensors and bytes in, tensors, texts and bytes out. It knows where the weights of CLIP
come from, but no document, neither MongoDB nor Kafka, and not which version serves.
"""
