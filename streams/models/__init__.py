"""The models themselves: image encoder, projection, vocabulary, language model.

Pure torch: tensors and bytes in, tensors, texts and bytes out. No servers, no settings but limits.
"""
