"""Every model Flowbrush knows: shapes, files, licence, defaults, tasks. Sizes live here and nowhere else.

A row says what something is and where it is published (`models`, `parts`), `places` says where its files
are on this machine, `lookup` finds rows, `choice` takes one where nobody has named it. Everything that
others need is imported from here.
"""

from flux_core.catalog.choice import choose, follower, follows
from flux_core.catalog.configs import (
    AutoencoderConfig,
    ClipTextConfig,
    ClipVisionConfig,
    ControlNetConfig,
    IpAdapterConfig,
    ReduxConfig,
    SiglipConfig,
    T5Config,
    Taef1Config,
    TransformerConfig,
)
from flux_core.catalog.lookup import MODELS, PARTS, check_task, find, find_row, rows
from flux_core.catalog.models import (
    CANNY,
    DEPTH,
    DEV,
    FILL,
    KONTEXT,
    KREA,
    SCHNELL,
    TINY,
    TINY_FILL,
    TINY_KONTEXT,
    TINY_SCHNELL,
)
from flux_core.catalog.places import (
    SHARED_ROWS,
    bytes_in,
    folder_of,
    locate,
    missing_parts,
    model_infos,
    part_folder,
    part_path,
    row_folder,
)
from flux_core.catalog.spec import Kind, ModelFiles, ModelSpec, PartSpec, RemoteFile, Row

__all__ = [
    "CANNY",
    "DEPTH",
    "DEV",
    "FILL",
    "KONTEXT",
    "KREA",
    "MODELS",
    "PARTS",
    "SCHNELL",
    "SHARED_ROWS",
    "TINY",
    "TINY_FILL",
    "TINY_KONTEXT",
    "TINY_SCHNELL",
    "AutoencoderConfig",
    "ClipTextConfig",
    "ClipVisionConfig",
    "ControlNetConfig",
    "IpAdapterConfig",
    "ReduxConfig",
    "SiglipConfig",
    "Taef1Config",
    "Kind",
    "ModelFiles",
    "ModelSpec",
    "PartSpec",
    "RemoteFile",
    "Row",
    "T5Config",
    "TransformerConfig",
    "bytes_in",
    "check_task",
    "choose",
    "find",
    "find_row",
    "folder_of",
    "follower",
    "follows",
    "locate",
    "missing_parts",
    "model_infos",
    "part_folder",
    "part_path",
    "row_folder",
    "rows",
]
