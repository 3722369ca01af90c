"""The kinds of file that Flowbrush knows, shared by everything that asks what a file is."""

from __future__ import annotations

from enum import StrEnum


class FileKind(StrEnum):
    """What a file holds."""

    TRANSFORMER = "transformer"
    ALL_IN_ONE = "all_in_one"
    AUTOENCODER = "autoencoder"
    T5 = "t5"
    CLIP = "clip"
    SIGLIP = "siglip"
    CLIP_VISION = "clip_vision"
    REDUX = "redux"
    CONTROLNET = "controlnet"
    IP_ADAPTER = "ip_adapter"
    TAEF1 = "taef1"
    LORA = "lora"
