"""Decode what a person sees from their brain: fMRI in, ranked and reconstructed images out."""

__version__ = "0.1.0"
