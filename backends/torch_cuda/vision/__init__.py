"""Helpers that look at pictures, through the library transformers, loaded when asked for and freed after."""

from backends.torch_cuda.vision.look import look

__all__ = ["look"]
