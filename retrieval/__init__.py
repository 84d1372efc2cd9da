"""Search images by picture: learn an embedding, index it, ask it, and know how good the answer is."""

__version__ = "0.1.0"
