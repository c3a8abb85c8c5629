"""T5 on histories: what it reads, what it may write, and what reaches its prefix.

Axes: B histories, T items, V items, L codes, D numbers of a vector.
"""

from __future__ import annotations

import builtins
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from realdataexp.errors import InputError
from realdataexp.models.batch import FeatureSchema, Input, SideSchema
from realdataexp.models.text_to_text import END, PAD, TextToText

pytest.importorskip("transformers", reason="transformers is an extra")

V, L, K, D = 30, 3, 5, 4
SMALL = {"width": 16, "n_layers": 1, "n_heads": 2, "head_width": 8, "feedforward": 32}


def schema(*names: str) -> FeatureSchema:
    known = {"codes": Input("candidate", (L,), K), "vector": Input("candidate", (D,))}
    video = SideSchema(0, (("item", 0, 1),), V, first_ids=(0,))
    extra = {f"video_{name}": known[name] for name in names}
    return FeatureSchema(SideSchema(0, (), 0), video, extra)


def catalogue(seed: int = 0) -> dict[str, Tensor]:
    draw = torch.Generator().manual_seed(seed)
    codes = torch.cartesian_prod(*[torch.arange(K)] * L)
    return {
        "cat": torch.arange(V).unsqueeze(1),
        "weight": torch.ones(V, 1),
        "codes": codes[torch.randperm(len(codes), generator=draw)[:V]],
        "vector": torch.randn(V, D, generator=draw),
    }


def model(**params: Any) -> TextToText:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        made = TextToText(schema("codes", "vector"), longest=4, **{**SMALL, **params})
    return made.eval()


def histories(B: int = 3, T: int = 6) -> Tensor:
    return torch.randint(V, (B, T), generator=torch.Generator().manual_seed(2))


def read(net: TextToText, item_BT: Tensor, items: dict[str, Tensor]) -> Tensor:
    return net.encode(net.embed({k: x[item_BT] for k, x in items.items()}))


def everyone(items: dict[str, Tensor], B: int) -> dict[str, Tensor]:
    return {k: x.expand(B, *x.shape) for k, x in items.items()}


def test_each_position_reads_its_latest_items_and_none_to_come():
    net, items, item_BT = model(prefix=True), catalogue(), histories()
    hidden_BTE = read(net, item_BT, items)
    token_VL = items["codes"] + 2 + K * torch.arange(L)
    for t in range(item_BT.shape[1]):
        own_BT = item_BT[:, max(0, t - 3) : t + 1]
        tokens = token_VL[own_BT].flatten(1)
        padding = torch.full((len(item_BT), 4 * L - tokens.shape[1]), PAD)
        assert torch.equal(hidden_BTE[:, t, : 4 * L].long(), torch.cat([padding, tokens], 1))
        mean_BD = items["vector"][item_BT[:, : t + 1]].mean(1)
        torch.testing.assert_close(hidden_BTE[:, t, 4 * L :], mean_BD)


def test_a_loss_is_that_of_t5_itself_on_the_tokens():
    net, items, item_BT = model(), catalogue(), histories()
    hidden_BE, target_B = read(net, item_BT, items)[:, 1], torch.tensor([4, 0, 29])
    token_VL = items["codes"] + 2 + K * torch.arange(L)
    for hidden_E, target in zip(hidden_BE, target_B, strict=True):
        tokens = [*hidden_E[hidden_E > 0].long().tolist(), END]  # without padding
        out = net.t5(input_ids=torch.tensor([tokens]), labels=token_VL[target].unsqueeze(0))
        loss = net.losses(hidden_E.unsqueeze(0), target.view(1), items)
        torch.testing.assert_close(loss, L * out.loss.view(1), rtol=1e-4, atol=1e-5)


def test_a_beam_as_wide_as_the_catalogue_gives_each_item_its_likelihood():
    net, items, item_BT = model(prefix=True, beam=V, rows=2), catalogue(), histories()
    hidden_BE = read(net, item_BT, items)[:, -1]
    with torch.no_grad():
        score_BV = net.score_all(hidden_BE, items)
        exact_BV = net.score(hidden_BE, everyone(items, 3))
        loss_B = net.losses(hidden_BE, torch.tensor([3, 7, 9]), items)
    torch.testing.assert_close(score_BV, exact_BV, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(loss_B, -exact_BV[range(3), [3, 7, 9]], rtol=1e-4, atol=1e-5)
    assert bool((exact_BV.exp().sum(1) < 1).all())  # the rest is of items that do not exist


@pytest.mark.parametrize("beam", [1, 3])
def test_a_narrow_beam_finds_items_only_and_keeps_their_order(beam: int):
    net, items, item_BT = model(beam=beam), catalogue(), histories()
    hidden_BE = read(net, item_BT, items)[:, -1]
    with torch.no_grad():
        score_BV = net.score_all(hidden_BE, items)
        exact_BV = net.score(hidden_BE, everyone(items, 3))
    for score_V, exact_V, expected_V in zip(
        score_BV, exact_BV, plain_beam(net, hidden_BE, items, beam), strict=True
    ):
        found_V = score_V > score_V.min()
        assert torch.equal(found_V, expected_V) and 0 < int(found_V.sum()) < V
        torch.testing.assert_close(score_V[found_V], exact_V[found_V], rtol=1e-4, atol=1e-5)
        assert score_V[~found_V].unique().numel() == 1
        assert float(score_V[~found_V][0]) < float(score_V[found_V].min())


def plain_beam(net: TextToText, hidden_BE: Tensor, items: dict[str, Tensor], beam: int) -> Any:
    """A loop over prefixes: which items are below the last ones kept."""
    token_VL = items["codes"] + 2 + K * torch.arange(L)
    for hidden_E in hidden_BE:
        kept: dict[tuple[int, ...], float] = {(): 0.0}
        read_XNE, mask_XN = net._read(hidden_E.unsqueeze(0))
        for level in range(L - 1):
            found = {}
            for prefix, score in kept.items():
                before = torch.tensor([[PAD, *prefix]])
                log_p = net._write(read_XNE, mask_XN, before).logits.detach()[0, -1].log_softmax(-1)
                there = {tuple(x[: level + 1].tolist()) for x in token_VL}
                found |= {x: score + float(log_p[x[-1]]) for x in there if x[:-1] == prefix}
            kept = dict(sorted(found.items(), key=lambda x: -x[1])[:beam])
        yield torch.tensor([tuple(x[:-1].tolist()) in kept for x in token_VL])


def test_the_prefix_is_read_and_learns():
    net, items, item_BT = model(prefix=True), catalogue(), histories()
    hidden_BTE = read(net, item_BT, items)
    net.losses(hidden_BTE[:, -1], torch.tensor([1, 2, 3]), items).sum().backward()
    assert all(bool((p.grad != 0).any()) for p in net.adapter.parameters())
    other = items | {"vector": items["vector"].flip(0)}
    with torch.no_grad():
        scores = [net.score_all(read(net, item_BT, x)[:, -1], x) for x in (items, other)]
    assert float((scores[0] - scores[1]).abs().max()) > 1e-4
    with torch.no_grad():
        without = model()
        scores = [without.score_all(read(without, item_BT, x)[:, -1], x) for x in (items, other)]
    assert torch.equal(scores[0], scores[1])


def test_it_learns_ten_users_by_heart():
    net, items = model(dropout=0.0, beam=3), catalogue()
    draw = torch.Generator().manual_seed(3)
    item_UT = torch.stack([torch.randperm(V, generator=draw)[:5] for _ in range(10)])
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-2)
    for _ in range(150):
        hidden_UE = read(net, item_UT[:, :-1], items)[:, -1]
        loss = net.losses(hidden_UE, item_UT[:, -1], items).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert float(loss.detach()) < 0.1
    with torch.no_grad():
        score_UV = net.score_all(read(net, item_UT[:, :-1], items)[:, -1], items)
    assert torch.equal(score_UV.argmax(1), item_UT[:, -1])


def test_pretrained_weights_are_read_from_a_folder_and_codes_are_new(tmp_path: Path):
    saved = model().t5
    saved.save_pretrained(tmp_path / "t5")
    net = model(weights=str(tmp_path / "t5"), width=99)  # the folder says the sizes
    n_old, n_codes = saved.config.vocab_size, L * K
    assert net.first_token == n_old and net.t5.shared.num_embeddings == n_old + n_codes
    assert torch.equal(net.t5.shared.weight[:n_old], saved.shared.weight)
    layer = "encoder.block.0.layer.0.SelfAttention.q.weight"
    assert torch.equal(net.t5.get_parameter(layer), saved.get_parameter(layer))
    with pytest.raises(InputError, match=r"weights = .*nowhere: holds no config.json"):
        model(weights=str(tmp_path / "nowhere"))


def test_a_beam_wider_than_the_items_is_refused():
    net, items = model(beam=V + 1), catalogue()
    hidden_BE = read(net, histories(), items)[:, -1]
    with pytest.raises(InputError, match=rf"^beam = {V + 1}: must be at most {V}, the items$"):
        net.score_all(hidden_BE, items)


def test_what_is_missing_is_said(monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(ValueError, match=r"set items\.codes"):
        TextToText(schema("vector"), **SMALL)
    with pytest.raises(ValueError, match=r"set items\.vectors"):
        TextToText(schema("codes"), prefix=True, **SMALL)
    real = builtins.__import__

    def without(name: str, *more: Any, **kw: Any) -> Any:
        if name == "transformers":
            raise ModuleNotFoundError(name=name)
        return real(name, *more, **kw)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(InputError, match=r"pip install 'realdataexp\[transformers\]'"):
        model()
