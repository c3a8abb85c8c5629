"""The loop's own bookkeeping: what it hands out, the cadence of training, and its state."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load, save
from support import POOLING, SPLITTING, Setting, same, start_loop

BLOCKS, REPLICATIONS = (POOLING, SPLITTING), (0, 1)
# S: pooling's network in two worlds, splitting's control, splitting's treatment
WORLD_S, ARM_S = (0, 1, 2, 3, 2, 3), (0, 0, 0, 0, 1, 1)


def start(retrain_every: int):
    """A loop and its world (the watched one, which notes choices)."""
    loop, world, _ = start_loop(Setting(), BLOCKS, REPLICATIONS)
    loop._retrain_every = retrain_every
    return loop, world


def states(*parts):
    return [{name: t.clone() for name, t in part.state().items()} for part in parts]


def predictions(loop, params, batch, networks):
    """Both arms' predictions of a world, by its networks with these params: A, B, C, L."""
    columns = []
    for learner, own in zip(loop.learners, params, strict=True):
        now, learner.params = learner.params, own
        arms = [networks[0], networks[-1]]
        found = [learner.predict(batch, slice(s, s + 1))[0, ..., 0] for s in arms]
        columns.append(torch.stack(found))
        learner.params = now
    return torch.stack(columns, -1)


def test_targets_are_the_outcomes_that_a_network_learns_from():
    loop, world = start(1)
    for t in range(6):
        step = loop.step(world.draw(t))
        for s, (w, arm) in enumerate(zip(WORLD_S, ARM_S, strict=True)):
            is_own = step.is_treated_WB[w] == bool(arm)
            learned = is_own if s >= 2 else torch.ones_like(is_own)
            expected = step.y_WBL[w].where(learned.unsqueeze(-1), torch.nan)
            assert same(step.target_SBL[s].nan_to_num(-1.0), expected.nan_to_num(-1.0))


def test_predictions_are_each_networks_own_for_its_worlds_choices():
    loop, world = start(1)
    for t in range(4):
        visits = world.draw(t)
        before = [{k: p.clone() for k, p in x.params.items()} for x in loop.learners]
        step = loop.step(visits)
        for i, learner in enumerate(loop.learners):
            now, learner.params = learner.params, before[i]
            for s, w in enumerate(WORLD_S):
                batch = world.slates[t].part(slice(w, w + 1)).batch
                predicted_BC = learner.predict(batch, slice(s, s + 1))[0, ..., 0]
                chosen_B = predicted_BC.gather(1, world.choices[t][w].unsqueeze(1)).squeeze(1)
                torch.testing.assert_close(step.prediction_SBL[s, :, i], chosen_B)
            learner.params = now


def test_what_is_foretold_of_a_pick_is_the_mean_prediction_of_the_worlds_networks():
    loop, world = start(1)
    loop._foretells = True
    for t in range(4):
        visits = world.draw(t)
        before = [{k: p.clone() for k, p in x.params.items()} for x in loop.learners]
        step = loop.step(visits)
        assert step.foretold_WBAJ is not None
        for w in range(4):
            own = [s for s, x in enumerate(WORLD_S) if x == w]
            slate = world.slates[t].part(slice(w, w + 1))
            found_ABCL = predictions(loop, before, slate.batch, own)
            on_ABC = slate.is_candidate_WBC.expand(2, -1, -1)
            score_ABC = (found_ABCL * loop._arms.factor_AL.view(2, 1, 1, -1)).sum(-1)
            pick_AB = score_ABC.masked_fill(~on_ABC, -torch.inf).argmax(-1)
            for arm in (0, 1):
                at_B1L = pick_AB[arm].view(-1, 1, 1).expand(-1, 1, found_ABCL.shape[-1])
                told_BL = found_ABCL.mean(0).gather(1, at_B1L).squeeze(1)
                told_BL[~step.is_visit_WB[w]] = torch.nan
                torch.testing.assert_close(step.foretold_WBAJ[w, :, arm], told_BL, equal_nan=True)


@pytest.mark.parametrize("k", [2, 3, 5])
def test_models_stand_still_until_a_round_of_training_and_then_learn_every_step(k: int):
    loop, world = start(k)
    before = states(*loop.learners)
    for t in range(k):
        now = states(*loop.learners)
        assert all(same(now[i][name], x) for i in range(2) for name, x in before[i].items())
        step = loop.step(world.draw(t))
        assert bool(step.loss_SL.isfinite().any()) == (t == k - 1)
    assert all((x.n_updates_S[:2] == k).all() for x in loop.learners)


def test_a_round_is_an_update_for_each_lesson_in_their_order():
    """The lessons of a cadence of 3, given by hand to the learners of a second loop."""
    loop, world = start(3)
    other, _ = start(3)
    trained = []
    train = loop._train

    def note(lesson, replication_S):
        trained.append((lesson, replication_S))
        return train(lesson, replication_S)

    loop._train = note
    steps = [loop.step(world.draw(t)) for t in range(3)]
    assert [lesson.step for lesson, _ in trained] == [0, 1, 2]
    losses = torch.stack([other._train(*lesson) for lesson in trained])
    assert same(steps[2].loss_SL.nan_to_num(-1.0), losses.nanmean(0).nan_to_num(-1.0))
    for a, b in zip(states(*loop.learners), states(*other.learners), strict=True):
        assert all(same(t, b[name]) for name, t in a.items())


def test_a_loop_goes_on_from_its_state_to_the_bit():
    straight, world = start(5)
    losses = [straight.step(world.draw(t)).loss_SL for t in range(12)]
    first, first_watched = start(5)
    for t in range(8):
        first.step(first_watched.draw(t))
    second, second_watched = start(5)
    for a, b in zip(
        (first, first_watched.world, *first.learners, *first.designs),
        (second, second_watched.world, *second.learners, *second.designs),
        strict=True,
    ):
        b.load_state(load(save({k: v.contiguous() for k, v in a.state().items()})))
    for t in range(8, 12):
        loss_SL = second.step(second_watched.draw(t)).loss_SL
        assert same(loss_SL.nan_to_num(-1.0), losses[t].nan_to_num(-1.0))
    for a, b in zip(states(*straight.learners), states(*second.learners), strict=True):
        assert all(same(t, b[name]) for name, t in a.items())
