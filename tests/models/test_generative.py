"""The generative recommender: its likelihoods are a distribution, whichever way it finds them.

Axes: B histories, T items of a history, V items, L codes of an item, D numbers of a vector.
"""

import itertools
import math

import pytest
import torch
from torch import Tensor

from realdataexp import draws
from realdataexp.errors import InputError
from realdataexp.models import Batch, FeatureSchema, Input, SideSchema
from realdataexp.models.generative import Generative
from realdataexp.models.outside import ModuleStack
from realdataexp.models.trie import Trie

V, K, D = 60, 5, 3
SMALL = {"width": 8, "n_layers": 1, "n_heads": 2, "longest": 7}


def catalogue_of(n_items: int = V, n_levels: int = 3, seed: int = 0) -> dict[str, Tensor]:
    """Some of all possible codes, in no order."""
    g = torch.Generator().manual_seed(seed)
    all_codes = torch.cartesian_prod(*[torch.arange(K)] * n_levels).view(-1, n_levels)
    code_VL = all_codes[torch.randperm(len(all_codes), generator=g)[:n_items]]
    return {
        "cat": torch.arange(n_items).unsqueeze(1),
        "weight": torch.ones(n_items, 1),
        "codes": code_VL,
        "vector": torch.randn(n_items, D, generator=g),
    }


def schema_of(catalogue: dict[str, Tensor]) -> FeatureSchema:
    shapes = {
        "codes": Input("candidate", tuple(catalogue["codes"].shape[1:]), K),
        "vector": Input("candidate", (D,)),
    }
    extra = {f"video_{k}": x for k, x in shapes.items()}
    extra |= {f"history_{k}": Input("sequence", x.shape, x.n_ids) for k, x in shapes.items()}
    extra["history_mask"] = Input("sequence", ())
    return FeatureSchema(SideSchema(0, (), 0), SideSchema(0, (), 0), extra)


def model_of(catalogue: dict[str, Tensor], seed: int = 0, **params: object) -> Generative:
    """In float64, with every parameter far from its start."""
    torch.manual_seed(seed)
    model = Generative(schema_of(catalogue), **{**SMALL, **params}).double().eval()
    for p in model.parameters():
        p.data = torch.randn_like(p) * 0.5
    return model


def hidden_of(n: int = 6) -> Tensor:
    return torch.randn(n, 8, generator=torch.Generator().manual_seed(9)).double()


def plain_log_p(model: Generative, hidden_E: Tensor, codes: Tensor, code_L: Tensor) -> float:
    """One item's likelihood: code by code, among the codes with which items go on from here."""
    total = 0.0
    for i, code in enumerate(code_L.tolist()):
        begins = [x for x in codes.tolist() if x[:i] == code_L[:i].tolist()]
        allowed = sorted({x[i] for x in begins})
        before_E = torch.zeros(8).double()
        for j in range(i):
            before_E = before_E + model.before.weight[j * K + int(code_L[j])]
        logits = model._logits(i, hidden_E, before_E)
        total += float(logits[code] - logits[allowed].logsumexp(0))
    return total


@pytest.mark.parametrize("n_levels", [1, 2, 3])
def test_the_likelihoods_of_all_items_add_up_to_1(n_levels):
    catalogue = catalogue_of(min(V, K**n_levels - 1), n_levels)
    score_BV = model_of(catalogue).score_all(hidden_of(), catalogue)
    torch.testing.assert_close(score_BV.exp().sum(1), torch.ones(6).double())


def test_an_items_likelihood_is_that_of_its_codes_one_by_one():
    catalogue = catalogue_of()
    model, hidden_BE = model_of(catalogue), hidden_of(3)
    score_BV = model.score_all(hidden_BE, catalogue)
    codes = catalogue["codes"]
    for b, v in itertools.product(range(3), range(V)):
        expected = plain_log_p(model, hidden_BE[b], codes, codes[v])
        assert math.isclose(score_BV[b, v], expected, abs_tol=1e-9)


def test_likelihoods_far_apart_are_exact():
    catalogue = catalogue_of()
    model = model_of(catalogue).float()
    score_BV = model.score_all(1000 * hidden_of().float(), catalogue)
    assert score_BV.isfinite().all()
    torch.testing.assert_close(score_BV.exp().sum(1), torch.ones(6), rtol=1e-3, atol=0)


def test_losses_are_the_exact_likelihoods_and_learn_alike():
    catalogue = catalogue_of()
    model, target_X = model_of(catalogue), torch.tensor([3, 0, 59, 17, 17, 8])
    found_X = model.losses(hidden_of(), target_X, catalogue)
    expected_X = -model.score_all(hidden_of(), catalogue).gather(1, target_X[:, None]).squeeze(1)
    torch.testing.assert_close(found_X, expected_X)
    learned = {k: p for k, p in model.named_parameters() if k[:5] in ("befor", "writt", "query")}
    gradients = (torch.autograd.grad(x.sum(), learned.values()) for x in (found_X, expected_X))
    torch.testing.assert_close(*gradients)


def test_where_all_codes_exist_a_slate_is_scored_as_the_catalogue_is():
    catalogue = catalogue_of(K**2, 2)
    model, hidden_BE = model_of(catalogue), hidden_of()
    slate = {k: x.expand(6, *x.shape) for k, x in catalogue.items()}
    torch.testing.assert_close(model.score(hidden_BE, slate), model.score_all(hidden_BE, catalogue))


def test_a_beam_of_all_items_is_exact():
    catalogue = catalogue_of()
    model = model_of(catalogue)
    item_BK, log_p_BK = model.beam(hidden_of(), model.trie(catalogue), V, V)
    score_BV, order_BV = model.score_all(hidden_of(), catalogue).sort(descending=True)
    assert item_BK.equal(order_BV)
    torch.testing.assert_close(log_p_BK, score_BV)


def test_a_narrow_beam_keeps_the_likeliest_prefixes_of_each_level():
    catalogue, width = catalogue_of(), 4
    model, hidden_BE = model_of(catalogue), hidden_of()
    item_BK, log_p_BK = model.beam(hidden_BE, model.trie(catalogue), width, 3)
    score_BV = model.score_all(hidden_BE, catalogue)
    torch.testing.assert_close(log_p_BK, score_BV.gather(1, item_BK))
    for b in range(len(hidden_BE)):
        left = list(range(V))
        for length in (1, 2, 3):
            mass: dict[tuple[int, ...], float] = {}
            for v in range(V):  # a prefix is as likely as all items that begin with it
                prefix = tuple(catalogue["codes"][v, :length].tolist())
                mass[prefix] = mass.get(prefix, 0.0) + float(score_BV[b, v].exp())
            of = {v: mass[tuple(catalogue["codes"][v, :length].tolist())] for v in left}
            kept = sorted(set(of.values()), reverse=True)[:width]
            left = [v for v in left if of[v] in kept]
        assert item_BK[b].tolist() == sorted(left, key=lambda v: -float(score_BV[b, v]))[:3]


@pytest.mark.parametrize(("width", "k"), [(V + 1, 3), (2, 3)])
def test_a_beam_wider_than_the_items_or_narrower_than_the_list_is_refused(width, k):
    catalogue = catalogue_of()
    model = model_of(catalogue)
    with pytest.raises(InputError, match=rf"^beam = {width}: must be from 3 .* to 60 \(all\)$"):
        model.beam(hidden_of(), model.trie(catalogue), width, k)


def test_another_catalogue_has_another_trie():
    catalogue, other = catalogue_of(seed=0), catalogue_of(n_items=20, seed=1)
    model = model_of(catalogue)
    with torch.inference_mode():
        assert model.score_all(hidden_of(), catalogue).shape == (6, V)
    assert model.score_all(hidden_of(), other).shape == (6, 20)
    model.losses(hidden_of(), torch.arange(6), catalogue).sum().backward()
    assert model.trie(catalogue) is model.trie(catalogue)


@pytest.mark.parametrize("prefix", ["none", "items", "user"])
def test_later_items_change_nothing_of_a_position(prefix):
    catalogue = catalogue_of()
    model = model_of(catalogue, prefix=prefix)
    catalogue["vector"] = catalogue["vector"].double()
    item_BT = torch.randint(V, (4, 7), generator=torch.Generator().manual_seed(2))
    changed_BT = item_BT.clone()
    changed_BT[:, 4:] = (item_BT[:, 4:] + 1) % V
    hidden, other = (
        model.encode(model.embed({k: x[items] for k, x in catalogue.items()}))
        for items in (item_BT, changed_BT)
    )
    torch.testing.assert_close(hidden[:, :4], other[:, :4])
    assert (hidden[:, 4:] != other[:, 4:]).all(-1).all()


@pytest.mark.parametrize("prefix", ["items", "user"])
def test_vectors_reach_the_hidden_state_whatever_their_scale(prefix):
    catalogue = catalogue_of()
    model = model_of(catalogue, prefix=prefix)

    def hidden(vector_VD: Tensor) -> Tensor:
        items = {**catalogue, "vector": vector_VD.double()}
        return model.encode(model.embed({k: x[:6].unsqueeze(0) for k, x in items.items()}))

    first = hidden(catalogue["vector"])
    torch.testing.assert_close(first, hidden(100 * catalogue["vector"]))
    assert (first - hidden(catalogue["vector"].flip(0))).abs().min() > 0
    first.sum().backward()
    assert model.adapter.weight.grad.abs().sum() > 0


def batch_of(catalogue: dict[str, Tensor], S: int, B: int, C: int, T: int) -> Batch:
    g = torch.Generator().manual_seed(4)
    shown, had = (torch.randint(V, (S, B, n), generator=g) for n in (C, T))
    mask = (torch.arange(T) < torch.randint(0, T + 1, (S, B, 1), generator=g)).float()
    of = {"codes": catalogue["codes"].int(), "vector": catalogue["vector"]}
    return Batch(
        {},
        {"video_num": torch.zeros(S, B, C, 0), **{f"video_{k}": x[shown] for k, x in of.items()}},
        {"history_mask": mask, **{f"history_{k}": x[had] for k, x in of.items()}},
    )


def test_networks_in_a_stack_are_what_each_is_alone():
    catalogue = catalogue_of()
    schema, batch = schema_of(catalogue), batch_of(catalogue, 3, 5, 4, 6)
    stack = ModuleStack(Generative, schema, 1, {**SMALL, "prefix": "items"}, "model_params")
    starts = [stack.init(draws.key(s, "init")) for s in range(3)]
    params = {name: torch.stack([p[name] for p in starts]) for name in starts[0]}
    raw_SBCO = stack.forward(params, batch, None)
    for s in range(3):
        model = Generative(schema, 1, **SMALL, prefix="items").eval()
        model.load_state_dict(starts[s])
        alone = model({name: x[s] for name, x in batch.tensors.items()})
        torch.testing.assert_close(raw_SBCO[s], alone, rtol=1e-4, atol=1e-5)
    trained = {name: p.requires_grad_() for name, p in params.items()}
    stack.forward(trained, batch, draws.key(torch.arange(3), "dropout")).square().sum().backward()
    assert [name for name, p in trained.items() if p.grad is None or not p.grad.any()] == []


def test_a_new_model_scores_candidates_about_0_in_the_loop():
    """Where a log-likelihood would be that of a certain no."""
    catalogue = catalogue_of()
    stack = ModuleStack(Generative, schema_of(catalogue), 1, SMALL, "model_params")
    params = {name: p.unsqueeze(0) for name, p in stack.init(draws.key(0, "init")).items()}
    raw_SBCO = stack.forward(params, batch_of(catalogue, 1, 50, 4, 6), None)
    assert raw_SBCO.abs().max() < 0.1 * 3 * math.log(K)
    assert raw_SBCO.std() > 0


def test_it_learns_which_item_follows_which():
    catalogue = catalogue_of()
    torch.manual_seed(1)
    model = Generative(schema_of(catalogue), **{**SMALL, "width": 32, "dropout": 0.0})
    optimizer = torch.optim.AdamW(model.parameters(), 1e-2)
    next_V = torch.randperm(V)
    for _ in range(60):
        item_B1 = torch.randint(V, (64, 1))
        shown = {k: x[item_B1] for k, x in catalogue.items()}
        hidden_BE = model.encode(model.embed(shown))[:, 0]
        optimizer.zero_grad()
        model.losses(hidden_BE, next_V[item_B1[:, 0]], catalogue).mean().backward()
        optimizer.step()
    with torch.no_grad():
        shown = {k: x.unsqueeze(1) for k, x in catalogue.items()}
        best_V = model.score_all(model.encode(model.embed(shown))[:, 0], catalogue).argmax(1)
    assert (best_V == next_V).float().mean() > 0.5  # by chance 1 of 60


@pytest.mark.parametrize(
    ("lacking", "params", "message"),
    [
        ("codes", {}, "items have no codes: set items.codes"),
        ("vector", {"prefix": "items"}, "prefix = items: items have no vectors: set items.vectors"),
        ("", {"width": 9}, "width = 9 must be a multiple of n_heads = 2"),
    ],
)
def test_what_it_cannot_do_without_is_named(lacking, params, message):
    schema = schema_of(catalogue_of())
    extra = {k: x for k, x in schema.extra.items() if not lacking or not k.endswith(lacking)}
    with pytest.raises(ValueError, match=message):
        Generative(FeatureSchema(schema.user, schema.video, extra), **{**SMALL, **params})


def test_codes_that_two_items_share_are_refused():
    catalogue = catalogue_of()
    catalogue["codes"][1] = catalogue["codes"][0]
    with pytest.raises(InputError, match=r"^items' codes: 1 items have codes of another"):
        model_of(catalogue).score_all(hidden_of(), catalogue)


def test_the_trie_of_a_catalogue_is_that_of_its_codes():
    catalogue = catalogue_of()
    trie = model_of(catalogue).trie(catalogue)
    assert [x.n_nodes for x in trie.levels] == [
        x.n_nodes for x in Trie.of(catalogue["codes"]).levels
    ]
