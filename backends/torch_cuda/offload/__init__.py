"""Weights that do not fit on the device: kept by the host, and there when they are used."""
