"""The codes that exist, as a tree in dense tables: which codes may follow which.

Axes: V items, L levels, N nodes of a level, P nodes of the level above it, F children at most,
X any.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from realdataexp.errors import InputError


@dataclass(frozen=True)
class Level:
    """The nodes that a level's code leads to, in the order of their parents, then of their codes.

    Attributes:
        parent_N: node of the level above, 0 in the first.
        code_N: the code that leads to it.
        first_P1: children of a parent p are the nodes [first_P1[p], first_P1[p + 1]).
        node_V: of each item.
        item_N: an item of each node.
    """

    parent_N: Tensor
    code_N: Tensor
    first_P1: Tensor
    node_V: Tensor
    item_N: Tensor

    @property
    def n_nodes(self) -> int:
        """N."""
        return len(self.code_N)

    @cached_property
    def n_children(self) -> int:
        """F: children of a parent, at most."""
        return int(self.first_P1.diff().max())

    def children(self, parent_X: Tensor) -> tuple[Tensor, Tensor]:
        """Children of nodes of the level above: nodes X, F, and whether there are so many."""
        child_XF = self.first_P1[parent_X].unsqueeze(-1) + torch.arange(
            self.n_children, device=parent_X.device
        )
        is_child_XF = child_XF < self.first_P1[parent_X + 1].unsqueeze(-1)
        return child_XF.clamp(max=self.n_nodes - 1), is_child_XF


@dataclass(frozen=True)
class Trie:
    """All prefixes of the items' codes.

    Attributes:
        codes_VL: the codes; no two items have the same.
        levels: L of them; each node of the last is an item's own.
    """

    codes_VL: Tensor
    levels: tuple[Level, ...]

    @classmethod
    def of(cls, codes_VL: Tensor) -> Trie:
        """The trie of codes from 0; InputError where two items have the same."""
        if (least := int(codes_VL.min())) < 0:
            raise InputError(f"items' codes: code {least}; codes count from 0")
        n_codes, n_parents, levels = int(codes_VL.max()) + 1, 1, []
        item_V = torch.arange(len(codes_VL), device=codes_VL.device)
        node_V = torch.zeros_like(item_V)
        for code_V in codes_VL.long().unbind(1):
            key_N, node_V = torch.unique(node_V * n_codes + code_V, return_inverse=True)
            parent_N, code_N = key_N // n_codes, key_N % n_codes
            each_P1 = torch.arange(n_parents + 1, device=item_V.device)
            first_P1 = torch.searchsorted(parent_N, each_P1)
            item_N = torch.empty_like(key_N).scatter(0, node_V, item_V)
            levels.append(Level(parent_N, code_N, first_P1, node_V, item_N))
            n_parents = len(key_N)
        if n_parents < len(codes_VL):
            raise InputError(
                f"items' codes: {len(codes_VL) - n_parents:,} items have codes of another; add a "
                "code that tells them apart"
            )
        return cls(codes_VL, tuple(levels))

    @property
    def n_items(self) -> int:
        """V."""
        return len(self.codes_VL)
