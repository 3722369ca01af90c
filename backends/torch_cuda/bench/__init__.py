"""Measurements of the torch engine beside its peers, on FLUX.1's own shapes: `flowbrush bench h200`."""
