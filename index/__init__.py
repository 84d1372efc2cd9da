"""Vectors and their neighbours: galleries on disk, FAISS indexes. Knows neither pixels nor torch."""
