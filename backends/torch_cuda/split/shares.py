"""Which tokens a rank computes: text and image are dealt like cards, for any number of both.

So every rank has a fair sample of the picture, which a step cache may judge by.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Shares:
    """The tokens of one evaluation, dealt to all ranks.

    Attributes:
        txt, img: How many there are.
        ranks: How many ranks.
    """

    txt: int
    img: int
    ranks: int

    def of(self, rank: int) -> slice:
        """A rank's tokens among those of one kind."""
        return slice(rank, None, self.ranks)

    @property
    def img_counts(self) -> list[int]:
        """Image tokens of each rank."""
        return [_count(self.img, rank, self.ranks) for rank in range(self.ranks)]

    @property
    def counts(self) -> list[int]:
        """All tokens of each rank."""
        return [_count(self.txt, rank, self.ranks) + count for rank, count in enumerate(self.img_counts)]

    def rows_of(self, rank: int, table: Tensor) -> Tensor:
        """A rank's rows of a table [L_txt + L_img, ...] with the text first."""
        return torch.cat([table[: self.txt][self.of(rank)], table[self.txt :][self.of(rank)]])

    def order_of(self, rank: int, device: torch.device) -> Tensor:
        """Indices [L] of all tokens in the order in which a rank attends: its own, then the others'."""
        others = [other for other in range(self.ranks) if other != rank]
        places = torch.arange(self.txt + self.img, device=device)
        return torch.cat([self.rows_of(each, places) for each in (rank, *others)])

    def merged(self, rows: Tensor) -> Tensor:
        """Rows of image tokens [L_img, ...] in their own order, of those of one rank after the other."""
        out = torch.empty_like(rows)
        for rank, part in enumerate(rows.split(self.img_counts)):
            out[self.of(rank)] = part
        return out


def _count(total: int, rank: int, ranks: int) -> int:
    return len(range(rank, total, ranks))
