"""Cluster-randomised: users of like taste form a cluster, and a cluster gets one arm.

Users whose tastes are alike teach the model about the same videos, so most of what one arm's data
do to the other stays away if a cluster has one arm only: Brennan et al., arXiv 2309.07107 (k-means
on users' histories). The one model still learns from all outcomes: what clusters have in common
leaks, and there are as many independent units as clusters.

Axes: R replications, B visits, U users, D columns of a taste, G clusters, X starts.
"""

from __future__ import annotations

import numpy as np
import torch
from pydantic import Field, PrivateAttr
from torch import Tensor

from realdataexp import draws
from realdataexp.designs.base import Context
from realdataexp.designs.pooling import Pooling
from realdataexp.device import own_scikit_learn
from realdataexp.options import Options
from realdataexp.worlds.base import Visits, start_of


class Cluster(Pooling, Options):
    """One model; a cluster of users is treated with probability p, apart in each replication.

    Clusters are those of the run's seed and of the start, the same in all of its replications.
    Where all clusters fall into one arm, that replication has no estimate.
    """

    n_clusters: int = Field(
        20, ge=2, le=10**6, description="groups of users of like taste (k-means)"
    )

    _cluster_XU: Tensor = PrivateAttr()
    _start_R1: Tensor = PrivateAttr()
    _is_treated_RG: Tensor = PrivateAttr()

    def start(self, context: Context) -> Cluster:
        """With its clusters and their arms.

        Raises:
            InputError: there are no users to group, or too few, or scikit-learn is missing.
        """
        replication_R = context.replication_R.cpu()
        start_R = start_of(replication_R, context.n_starts)
        to = context.device.torch
        cluster = torch.arange(self.n_clusters)
        keys_RG = draws.key(context.seed, "arm of cluster", replication_R.unsqueeze(-1), cluster)
        started = self.model_copy()
        # of the starts that these replications begin from, in the order of their numbers
        starts, place_R = start_R.unique(return_inverse=True)
        cluster_XU = torch.stack([self._group(context, start) for start in starts.tolist()])
        started._cluster_XU, started._start_R1 = cluster_XU.to(to), place_R.unsqueeze(-1).to(to)
        started._is_treated_RG = draws.chance(keys_RG, 1, context.p).squeeze(-1).to(to)
        return started

    def _group(self, context: Context, start: int) -> Tensor:
        """Each user's cluster, by k-means on standardised columns (Lloyd; k-means++ start)."""
        taste_UD = context.tastes(start)
        if taste_UD is None:
            raise context.refuse(
                "every visit is a new user in this world, so there are no users to group"
            )
        n_distinct = len(np.unique(taste_UD, axis=0))
        if n_distinct < self.n_clusters:
            raise context.refuse(
                f"n_clusters = {self.n_clusters}: the {len(taste_UD)} users have {n_distinct} "
                "different tastes, too few for so many clusters; use fewer clusters or more users"
            )
        try:
            from sklearn.cluster import KMeans
        except ModuleNotFoundError as error:
            raise context.refuse(
                "k-means needs scikit-learn: pip install 'realdataexp[sklearn]'"
            ) from error
        sd_D = taste_UD.std(0)
        z_UD = (taste_UD - taste_UD.mean(0)) / np.where(sd_D > 0, sd_D, 1.0)
        key = draws.key(draws.start_seed(context.seed, start), "clusters")
        seed = int(key) & 0x7FFFFFFF
        with own_scikit_learn():
            label_U = KMeans(self.n_clusters, n_init=1, random_state=seed).fit(z_UD).labels_
        return torch.from_numpy(label_U.astype(np.int64))

    def assign(self, visits: Visits, p: float) -> Tensor:
        """The arm of the user's cluster."""
        return self._is_treated_RG.gather(1, self.unit(visits))

    def unit(self, visits: Visits) -> Tensor:
        """The user's cluster."""
        return self._cluster_XU[self._start_R1, visits.user_RB]
