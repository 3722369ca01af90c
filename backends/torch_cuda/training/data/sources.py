"""Which published packages the pictures come from, and under which licence.

Every source is named by package and exact version in a public package registry, so that anyone can
fetch the very same bytes, and each carries its author and licence because the list is also what
ATTRIBUTION.md is checked against. Only MIT, Apache-2.0, CC0, PDDL and public-domain material is
allowed here: what a model learns from, it may owe something to.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

ALLOWED_LICENCES = frozenset({"MIT", "Apache-2.0", "CC0-1.0", "PDDL-1.0", "LicenseRef-public-domain"})
"""Each of these may stand alone in a source's licence, or several joined by AND."""


@dataclass(frozen=True)
class Source:
    """One package of one registry, and the files that are wanted from it.

    Attributes:
        folder: Where its files go, below the folder of all sources.
        registry: Which ordinary client fetches it: `npm pack` or `pip download`.
        package: Name in that registry.
        version: Exact version.
        author: Who made the material, as it is to be credited.
        licence: SPDX expression of the pictures, not of the code around them.
        stated_in: Where the licence is written.
        wanted: Glob patterns of members to unpack; nothing else is written.
        sha256: Of the archive, or "" where the archive differs between platforms (then `members`).
        members: Member name to SHA-256, for archives without one fixed hash.
    """

    folder: str
    registry: Literal["npm", "pypi"]
    package: str
    version: str
    author: str
    licence: str
    stated_in: str
    wanted: tuple[str, ...]
    sha256: str = ""
    members: tuple[tuple[str, str], ...] = ()


def _getty(subject: str, sha256: str) -> Source:
    return Source(
        folder=f"photo-{subject}",
        registry="npm",
        package=f"@stdlib/datasets-img-{subject}",
        version="0.2.3",
        author="Getty's Open Content Program, packaged by the stdlib authors",
        licence="PDDL-1.0 AND CC0-1.0",
        stated_in="datapackage.json",
        wanted=("package/data/image.jpg", "package/datapackage.json"),
        sha256=sha256,
    )


_ICONIFY = ("package/icons.json", "package/chars.json", "package/info.json")

SOURCES: tuple[Source, ...] = (
    Source(
        folder="fluent-3d",
        registry="npm",
        package="@lobehub/fluent-emoji-3d",
        version="1.1.0",
        author="Microsoft Corporation (Fluent Emoji), packaged by LobeHub",
        licence="MIT",
        stated_in="package.json; drawings from microsoft/fluentui-emoji (MIT)",
        wanted=("package/assets/*.webp", "package/package.json"),
        sha256="c1bb7eee7de090205a232518a9ab4adb3df458bfbe8a1f78232991194c8b2e58",
    ),
    Source(
        folder="fluent-flat",
        registry="npm",
        package="@iconify-json/fluent-emoji-flat",
        version="1.2.6",
        author="Microsoft Corporation (Fluent Emoji), packaged by Iconify",
        licence="MIT",
        stated_in="info.json",
        wanted=_ICONIFY,
        sha256="7d064769dee690815f823bc5bcc511d957198caf9f5edd8dd9c1aa48a6aeb175",
    ),
    Source(
        folder="fluent-line",
        registry="npm",
        package="@iconify-json/fluent-emoji-high-contrast",
        version="1.2.6",
        author="Microsoft Corporation (Fluent Emoji), packaged by Iconify",
        licence="MIT",
        stated_in="info.json",
        wanted=_ICONIFY,
        sha256="0b92d48c90d2200bd499e3cdd09a127ca6a8c8ddefd34c35eb5a1e4994012ae0",
    ),
    Source(
        folder="emoji-names",
        registry="npm",
        package="unicode-emoji-json",
        version="0.9.0",
        author="Mu-An Chiou",
        licence="MIT",
        stated_in="package.json and LICENSE",
        wanted=("package/data-by-emoji.json", "package/LICENSE"),
        sha256="ae7efacb55533385bf8767d613dbd36c71226669759d95919a6e9059f5e4c401",
    ),
    _getty("acanthus-mollis", "f33605a8d6c7b1f919099f90bda2059be27c65dedfcadc4c0341fbe8bfb0d437"),
    _getty("airplane-from-above", "ba8dc1cb298381eb2ac270ec6b40508e81293a4686f176f41b7037a9f2d2b6e6"),
    _getty("allium-oreophilum", "a4584ab090d6bde9dad5279c4e922963f66c4ea07d37848e7465c976b891d896"),
    _getty("black-canyon", "77b5ea7d182d9fa66b4a98a7f4d0c0ab51aba6daee1c9f82a20155ba564b429b"),
    _getty("dust-bowl-home", "8bab4b6a161bfb62bf8a34e878fa5f1e494e34fe839a77e4261b491baa1094ee"),
    _getty("french-alpine-landscape", "a33f8b8b8fddf11b191cca297495aca34638112ba8c5253ad3bcb3fdcc625d3d"),
    _getty("march-pastoral", "abd1bd57c18b3b4678f9c77e33977327744d0636ae00bbb51a8e8c6d55839534"),
    _getty("nagasaki-boats", "1030ff1cbfb834f71a83956730c6395ccb4fcfe3a51333f58ce9beb429db8005"),
    Source(
        folder="photo-skimage",
        registry="pypi",
        package="scikit-image",
        version="0.26.0",
        author="NASA (astronaut, Hubble deep field), SpaceX (rocket), Stefan van der Walt (chelsea), "
        "Rachel Michetti (coffee), CC0Textures (brick, grass, gravel)",
        licence="CC0-1.0 AND LicenseRef-public-domain",
        stated_in="skimage/data/_fetchers.py; NASA and SpaceX pictures are public domain",
        wanted=("skimage/data/*.png", "skimage/data/*.jpg"),
        members=(
            (
                "skimage/data/astronaut.png",
                "88431cd9653ccd539741b555fb0a46b61558b301d4110412b5bc28b5e3ea6cb5",
            ),
            (
                "skimage/data/brick.png",
                "7966caf324f6ba843118d98f7a07746d22f6a343430add0233eca5f6eaaa8fcf",
            ),
            (
                "skimage/data/chelsea.png",
                "596aa1e7cb875eb79f437e310381d26b338a81c2da23439704a73c4651e8c4bb",
            ),
            (
                "skimage/data/coffee.png",
                "cc02f8ca188b167c775a7101b5d767d1e71792cf762c33d6fa15a4599b5a8de7",
            ),
            (
                "skimage/data/grass.png",
                "b6b6022426b38936c43a4ac09635cd78af074e90f42ffa8227ac8b7452d39f89",
            ),
            (
                "skimage/data/gravel.png",
                "c48615b451bf1e606fbd72c0aa9f8cc0f068ab7111ef7d93bb9b0f2586440c12",
            ),
            (
                "skimage/data/hubble_deep_field.jpg",
                "3a19c5dd8a927a9334bb1229a6d63711b1c0c767fb27e2286e7c84a3e2c2f5f4",
            ),
            (
                "skimage/data/rocket.jpg",
                "c2dd0de7c538df8d111e479619b129464d0269d0ae5fd18ca91d33a7fdfea95c",
            ),
        ),
    ),
)
