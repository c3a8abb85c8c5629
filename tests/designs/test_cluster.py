"""The design cluster: users of like taste share an arm."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch
from frequency import assert_share
from support import Setting, make_outcome, make_visits, run, started
from torch import Tensor

from realdataexp.designs.cluster import Cluster
from realdataexp.errors import InputError
from realdataexp.loop import Block

N_GROUPS, N_USERS = 4, 60


def planted(start: int = 0) -> np.ndarray:
    """Four groups that differ in two columns of very different units; a third is constant."""
    random = np.random.default_rng(2)
    group_U = np.arange(N_USERS) % N_GROUPS
    small = 1e-3 * (group_U % 2 + 0.02 * random.normal(size=N_USERS))
    large = 1e3 * (group_U // 2 + 0.02 * random.normal(size=N_USERS))
    return np.stack([small, large, np.full(N_USERS, 5.0)], axis=1)


def arms(replications=range(3000), n_clusters: int = N_GROUPS, **changes) -> Tensor:
    """The arm of every user in every replication: R, U."""
    context = {"tastes": planted, "replication_R": torch.tensor(list(replications))} | changes
    running = started(Cluster(n_clusters=n_clusters), **context)
    user_RB = torch.arange(N_USERS).expand(len(replications), -1)
    return running.assign(make_visits(4, replications, user_RB), changes.get("p", 0.4))


def test_users_of_one_taste_have_one_arm_and_others_their_own():
    """Whatever the columns' units; k-means from one start finds groups so far apart."""
    is_treated_RGX = arms().view(-1, N_USERS // N_GROUPS, N_GROUPS)
    assert bool((is_treated_RGX == is_treated_RGX[:, :1]).all())
    for a in range(N_GROUPS):
        for b in range(a):
            agree_R = is_treated_RGX[:, 0, a] == is_treated_RGX[:, 0, b]
            assert_share(agree_R, 0.4**2 + 0.6**2, 0.1)


@pytest.mark.parametrize("p", [0.4, 0.2])
def test_a_cluster_is_treated_with_probability_p(p: float):
    for group in range(N_GROUPS):
        assert_share(arms(p=p)[:, group], p, 0.1)


def test_an_arm_does_not_change_with_the_step_nor_with_who_runs_beside():
    running = started(Cluster(n_clusters=N_GROUPS), replications=(0, 1), tastes=planted)
    user_RB = torch.arange(N_USERS).expand(2, -1)
    first, later = (running.assign(make_visits(t, (0, 1), user_RB), 0.4) for t in (0, 11))
    assert torch.equal(first, later)
    assert torch.equal(arms((7,))[0], arms((3, 7, 2))[1])
    assert not torch.equal(arms(range(20)), arms(range(20), seed=4))


def test_whom_a_larger_p_treats_a_smaller_one_treats_too():
    few, many = arms(p=0.3), arms(p=0.6)
    assert bool((many | ~few).all()) and int(many.sum()) > int(few.sum())
    assert not bool(arms(p=0.0).any()) and bool(arms(p=1.0).all())


def test_its_one_model_learns_from_all():
    running = started(Cluster(n_clusters=2))
    assert running.weights(make_outcome([[True, False]], 0.4)).tolist() == [[[1, 1]]]


def test_in_the_loop_the_two_tastes_of_the_test_users_are_its_clusters():
    h = run(Setting(), (Block("it", Cluster(n_clusters=2), 0.5),), range(8))
    arms_seen = set()
    for w in range(8):
        user_TB, is_treated_TB = h.user_TB(w), h.is_treated_TB(w)
        for group in (0, 1):
            of_group = is_treated_TB[(user_TB >= 0) & (user_TB % 2 == group)]
            assert len(of_group.unique()) == 1
            arms_seen.add((group, bool(of_group[0])))
    assert len(arms_seen) == 4


@pytest.mark.parametrize("n_clusters", [N_USERS + 1, 61, 5])
def test_fewer_tastes_than_clusters_are_refused_in_one_line(n_clusters: int):
    tastes = planted if n_clusters > N_USERS else lambda start: np.eye(4)[np.arange(N_USERS) % 4]
    with pytest.raises(InputError, match=rf"^design a design: n_clusters = {n_clusters}: .*use"):
        arms(n_clusters=n_clusters, tastes=tastes)


def test_a_world_of_new_users_is_refused():
    with pytest.raises(InputError, match=r"^design a design: every visit is a new user"):
        arms(tastes=lambda start: None)


def test_without_scikit_learn_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "sklearn.cluster", None)
    with pytest.raises(InputError, match=r"pip install 'realdataexp\[sklearn\]'"):
        arms()
