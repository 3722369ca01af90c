"""Which tokens a rank computes: nearly equal runs of the text and of the image, for any number of both."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Shares:
    """The tokens of one evaluation, cut for all ranks.

    Attributes:
        txt, img: Where each rank's run begins, and where the last one ends.
    """

    txt: tuple[int, ...]
    img: tuple[int, ...]

    @classmethod
    def of(cls, num_txt: int, num_img: int, num_ranks: int) -> Self:
        return cls(_bounds(num_txt, num_ranks), _bounds(num_img, num_ranks))

    def txt_of(self, rank: int) -> slice:
        return slice(self.txt[rank], self.txt[rank + 1])

    def img_of(self, rank: int) -> slice:
        return slice(self.img[rank], self.img[rank + 1])

    @property
    def img_counts(self) -> list[int]:
        """Image tokens of each rank."""
        return [end - start for start, end in zip(self.img, self.img[1:], strict=False)]

    @property
    def counts(self) -> list[int]:
        """All tokens of each rank."""
        txt = [end - start for start, end in zip(self.txt, self.txt[1:], strict=False)]
        return [sum(pair) for pair in zip(txt, self.img_counts, strict=True)]

    def rows_of(self, rank: int, table: Tensor) -> Tensor:
        """A rank's rows of a table [L_txt + L_img, ...] with the text first."""
        first = self.txt[-1]
        return torch.cat([table[self.txt_of(rank)], table[first:][self.img_of(rank)]])

    def order_of(self, rank: int, device: torch.device) -> Tensor:
        """Indices [L] of all tokens in the order in which a rank attends: its own, then the others'."""
        others = [other for other in range(len(self.txt) - 1) if other != rank]
        places = torch.arange(self.txt[-1] + self.img[-1], device=device)
        return torch.cat([self.rows_of(each, places) for each in (rank, *others)])


def _bounds(total: int, parts: int) -> tuple[int, ...]:
    return tuple(total * part // parts for part in range(parts + 1))
