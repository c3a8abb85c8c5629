"""A replay in plain Python lists, one world at a time; it shares only the draws."""

from __future__ import annotations

from itertools import pairwise

import torch
from support import Setting

from realdataexp import draws
from realdataexp.data.log import LogTable


class UnusedRows:
    """The rows that one world has not used yet, and who may still visit."""

    def __init__(self, log: LogTable, setting: Setting, replication: int) -> None:
        self.setting, self.replication = setting, replication
        first = log.offset_U1.tolist()
        self.rows = [list(range(a, b)) for a, b in pairwise(first)]
        n_U = [len(rows) for rows in self.rows]
        self.eligible = [u for u, n in enumerate(n_U) if n >= setting.min_candidates]

    def visitors(self, step: int) -> list[int]:
        """Who visits: places of the list of the eligible."""
        s = self.setting
        u = draws.uniform(draws.key(s.seed, "users", self.replication, step), s.batch_size)
        places = draws.choose(u, torch.tensor(len(self.eligible))).tolist()
        return [self.eligible[place] for place in places if place >= 0]

    def slate(self, step: int, place: int, user: int) -> list[int]:
        """The rows shown: places of the user's list of unused rows."""
        s = self.setting
        key = draws.key(s.seed, "slate", self.replication, step, place)
        u = draws.uniform(key, s.n_candidates)
        slots = draws.choose(u, torch.tensor(len(self.rows[user]))).tolist()
        return [self.rows[user][slot] for slot in slots if slot >= 0]

    def is_treated(self, step: int, place: int, user: int, p: float) -> bool:
        """The arm of a visit."""
        s = self.setting
        if s.assignment == "user":
            key = draws.key(s.seed, "arm of user", self.replication, user)
            return float(draws.uniform(key, 1)) < p
        key = draws.key(s.seed, "arm of visit", self.replication, step)
        return float(draws.uniform(key, s.batch_size)[place]) < p

    def use(self, user: int, row: int) -> None:
        """Delete a row by putting the last one in its place."""
        rows = self.rows[user]
        rows[rows.index(row)] = rows[-1]
        rows.pop()

    def strike(self) -> None:
        """After a step: who has too few rows leaves, the last of the eligible takes the place."""
        for place in reversed(range(len(self.eligible))):
            if len(self.rows[self.eligible[place]]) < self.setting.min_candidates:
                self.eligible[place] = self.eligible[-1]
                self.eligible.pop()
