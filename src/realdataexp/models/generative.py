"""A generative recommender: it reads one token an item, and writes the next item's codes.

A causal transformer (as SASRec's) over items that are sums of their codes' embeddings; its hidden
state writes an item code after code, each among those that the codes so far allow. TIGER (Rajput et
al., arXiv 2305.05065) reads a token a code and learns one position a pass; here all positions of a
user are learned in one.

A code's logit is an inner product of its weights with the hidden state, gated and shifted by what
the codes before it are. So the likelihood of every item is one product of matrices a level, and
ranking a whole catalogue needs no beam.

Axes: B histories; T items of a history; X, any; V items; C candidates; L codes of an item; K values
of a code; E width; N nodes of a level of the trie; P nodes of the level above; F children of a
node; W beams.
"""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn

from realdataexp.errors import InputError
from realdataexp.models.batch import FeatureSchema
from realdataexp.models.sequence import CausalEncoder, Items, SequenceModel
from realdataexp.models.trie import Level, Trie
from realdataexp.options import Depth, Options, Width


class GenerativeParams(Options):
    """Options of Generative."""

    width: Width = Field(128, description="numbers of a code's embedding and of a hidden state")
    n_layers: Depth = Field(2, description="layers of the transformer")
    n_heads: Width = Field(4, description="heads of each layer; they share the width out")
    dropout: float = Field(0.2, ge=0, lt=1, description="share of activations left out in training")
    longest: Width = Field(20, description="items of a history that are read, the latest")
    prefix: Literal["none", "items", "user"] = Field(
        "none",
        description="where the items' vectors are read: nowhere; with each item; or with each "
        "item the mean of those up to it",
    )

    @model_validator(mode="after")
    def _heads_share_width(self) -> GenerativeParams:
        if self.width % self.n_heads:
            raise ValueError(f"width = {self.width} must be a multiple of n_heads = {self.n_heads}")
        return self


class Generative(SequenceModel):
    """A causal encoder of items, and a head that writes codes.

    With a catalogue (`losses`, `score_all`, `beam`) codes compete with those that lead to an item
    alone, so that the likelihoods of all items add up to 1. `score` knows no catalogue: there codes
    compete with all values of a code.
    """

    Params = GenerativeParams
    needs = ("history_mask", "video_codes")

    def __init__(self, schema: FeatureSchema, n_outputs: int = 1, **params: Any) -> None:
        options = GenerativeParams(**params)
        super().__init__(schema, n_outputs)
        codes, vector = (schema.inputs.get(f"video_{x}") for x in ("codes", "vector"))
        if codes is None or codes.n_ids is None:
            raise ValueError("items have no codes: set items.codes")
        if options.prefix != "none" and vector is None:
            raise ValueError(f"prefix = {options.prefix}: items have no vectors: set items.vectors")
        (self.n_levels,), self.n_values = codes.shape, codes.n_ids
        self.longest, self.prefix, E = options.longest, options.prefix, options.width
        n_rows = self.n_levels * self.n_values
        self.read, self.before, self.written = (nn.Embedding(n_rows, E) for _ in range(3))
        for table, std in ((self.read, 0.02), (self.before, 0.1), (self.written, 0.02)):
            nn.init.normal_(table.weight, std=std)
        self.written_bias = nn.Parameter(torch.zeros(self.n_levels, self.n_values))
        # so that in the loop a candidate that is as likely as by chance scores 0
        nn.init.constant_(self.bias, self.n_levels * math.log(self.n_values))
        self.adapter = None
        if options.prefix != "none" and vector is not None:
            self.adapter = nn.Linear(vector.shape[0], E)
        self.encoder = CausalEncoder(
            E, options.n_layers, options.n_heads, options.dropout, options.longest
        )
        self.query = nn.ModuleList(_mlp(E, E) for _ in range(self.n_levels))
        self.gate = nn.ModuleList(_mlp(E, 2 * E) for _ in range(self.n_levels - 1))
        self._trie: Trie | None = None

    # --- reading -----------------------------------------------------------------------------

    def embed(self, items: Items) -> Tensor:
        """The sum of an item's codes, and its vector, added or for `encode` behind it: X, E."""
        item_XE = self._of(self.read, items["codes"]).sum(-2)
        if self.adapter is None:
            return item_XE
        vector_XD = items["vector"]
        # of unknown scale; so that a number is about 1
        vector_XE = self.adapter(F.normalize(vector_XD, dim=-1) * vector_XD.shape[-1] ** 0.5)
        if self.prefix == "items":
            return item_XE + vector_XE
        return torch.cat([item_XE, vector_XE], -1)

    def encode(self, item_BTE: Tensor) -> Tensor:
        """See SequenceModel."""
        if self.prefix == "user":
            item_BTE, vector_BTE = item_BTE.chunk(2, -1)
            n_T1 = torch.arange(1, item_BTE.shape[1] + 1, device=item_BTE.device).unsqueeze(-1)
            item_BTE = item_BTE + vector_BTE.cumsum(1) / n_T1
        return self.encoder(item_BTE)

    # --- writing -----------------------------------------------------------------------------

    def score(self, hidden_BE: Tensor, items: Items) -> Tensor:
        """The log-likelihood of the codes of some items: B, C."""
        code_BCL = items["codes"].long()
        before_BCLE = self._of(self.before, code_BCL).cumsum(-2)
        log_p_BC = hidden_BE.new_zeros(())
        for level in range(self.n_levels):
            before_BCE = before_BCLE[..., level - 1, :]
            logit_BCK = self._logits(level, hidden_BE.unsqueeze(1), before_BCE)
            at_BCK = _wide(logit_BCK).log_softmax(-1).expand(*code_BCL.shape[:2], -1)
            log_p_BC = log_p_BC + at_BCK.gather(-1, code_BCL[..., level, None]).squeeze(-1)
        return log_p_BC

    def losses(self, hidden_XE: Tensor, target_X: Tensor, catalogue: Items) -> Tensor:
        """See SequenceModel."""
        trie = self.trie(catalogue)
        code_XL = trie.codes_VL[target_X].long()
        before_XLE = self._of(self.before, code_XL).cumsum(-2)
        parent_X, nll_X = torch.zeros_like(target_X), hidden_XE.new_zeros(len(target_X))
        for i, level in enumerate(trie.levels):
            logit_XK = _wide(self._logits(i, hidden_XE, before_XLE[:, i - 1]))
            child_XF, is_child_XF = level.children(parent_X)
            logit_XF = logit_XK.gather(1, level.code_N[child_XF])
            all_X = logit_XF.masked_fill(~is_child_XF, -torch.inf).logsumexp(1)
            nll_X = nll_X + all_X - logit_XK.gather(1, code_XL[:, i, None]).squeeze(1)
            parent_X = level.node_V[target_X]
        return nll_X

    def score_all(self, hidden_BE: Tensor, catalogue: Items) -> Tensor:
        """The log-likelihood of all items, exactly: B, V."""
        trie = self.trie(catalogue)
        log_p_PB = hidden_BE.new_zeros(1, len(hidden_BE))
        above = None
        for i, level in enumerate(trie.levels):
            logit_NB = self._node_logits(i, hidden_BE, trie, above)
            log_p_PB = _log_softmax(logit_NB, level) + log_p_PB[level.parent_N]
            above = level
        return log_p_PB[trie.levels[-1].node_V].T

    def beam(self, hidden_BE: Tensor, trie: Trie, width: int, k: int) -> tuple[Tensor, Tensor]:
        """The likeliest items that a beam of prefixes finds: items and log-likelihoods, B, k.

        Raises:
            InputError: the beam is wider than there are items, or narrower than k.
        """
        if not k <= width <= trie.n_items:
            raise InputError(
                f"beam = {width}: must be from {k} (the items wanted) to {trie.n_items:,} (all)"
            )
        B = len(hidden_BE)
        node_BW = torch.zeros(B, 1, dtype=torch.int64, device=hidden_BE.device)
        log_p_BW = hidden_BE.new_zeros(B, 1)
        before_BWE = torch.zeros_like(hidden_BE).unsqueeze(1)
        for i, level in enumerate(trie.levels):
            child_BWF, is_child_BWF = level.children(node_BW)
            code_BWF = level.code_N[child_BWF]
            logit_BWK = _wide(self._logits(i, hidden_BE.unsqueeze(1), before_BWE))
            logit_BWF = logit_BWK.gather(-1, code_BWF).masked_fill(~is_child_BWF, -torch.inf)
            all_BX = (log_p_BW.unsqueeze(-1) + logit_BWF.log_softmax(-1)).flatten(1)
            log_p_BW, best_BW = all_BX.topk(min(width, all_BX.shape[1]))
            node_BW = child_BWF.flatten(1).gather(1, best_BW)
            from_BW1 = (best_BW // child_BWF.shape[-1]).unsqueeze(-1)
            before_BWE = before_BWE.gather(1, from_BW1.expand(-1, -1, before_BWE.shape[-1]))
            before_BWE = before_BWE + self.before(level.code_N[node_BW] + i * self.n_values)
        return trie.levels[-1].item_N[node_BW[:, :k]], log_p_BW[:, :k]

    def trie(self, catalogue: Items) -> Trie:
        """The trie of a catalogue's codes; made once for as long as the catalogue is the same."""
        codes_VL = catalogue["codes"]
        if self._trie is None or self._trie.codes_VL is not codes_VL:
            with torch.inference_mode(False):  # training may use it later
                self._trie = Trie.of(codes_VL)
        return self._trie

    def _of(self, table: nn.Embedding, code_XL: Tensor) -> Tensor:
        """Rows of a table that has one for each value of each code: X, L, E."""
        first_L = torch.arange(self.n_levels, device=code_XL.device) * self.n_values
        return table(code_XL.long() + first_L)

    def _logits(self, level: int, hidden_XE: Tensor, before_XE: Tensor) -> Tensor:
        """Logits of all values of a code: X, K."""
        query_XE = self.query[level](hidden_XE)
        if level:
            gate_XE, shift_XE = self.gate[level - 1](before_XE).chunk(2, -1)
            query_XE = query_XE * (1 + gate_XE) + shift_XE
        return F.linear(query_XE, self._written(level), self.written_bias[level])

    def _written(self, level: int) -> Tensor:
        return self.written.weight[level * self.n_values : (level + 1) * self.n_values]

    def _node_logits(self, i: int, hidden_BE: Tensor, trie: Trie, above: Level | None) -> Tensor:
        """The same of a level's nodes: N, B; the gate is theirs, so that it is no histories'."""
        level = trie.levels[i]
        weight_NE = self._written(i)[level.code_N]
        bias_N = self.written_bias[i][level.code_N]
        if above is not None:
            before_PLE = self._of(self.before, trie.codes_VL[above.item_N])
            gate_PE, shift_PE = self.gate[i - 1](before_PLE[:, :i].sum(1)).chunk(2, -1)
            bias_N = bias_N + (weight_NE * shift_PE[level.parent_N]).sum(1)
            weight_NE = weight_NE * (1 + gate_PE[level.parent_N])
        return _wide(weight_NE @ self.query[i](hidden_BE).T + bias_N.unsqueeze(1))


def _wide(logits: Tensor) -> Tensor:
    """As float32 at least, where mixed precision made them."""
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


def _mlp(width: int, n_outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Linear(width, n_outputs))


def _log_softmax(logit_NB: Tensor, level: Level) -> Tensor:
    """Over the children of each node of the level above."""
    P, at_NB = len(level.first_P1) - 1, level.parent_N.unsqueeze(1).expand_as(logit_NB)
    most_PB = logit_NB.detach().new_full((P, logit_NB.shape[1]), -torch.inf)
    most_PB = most_PB.scatter_reduce(0, at_NB, logit_NB.detach(), "amax")
    logit_NB = logit_NB - most_PB[level.parent_N]
    sum_PB = torch.zeros_like(most_PB).index_add(0, level.parent_N, logit_NB.exp())
    return logit_NB - sum_PB.log()[level.parent_N]
