"""A text-to-text recommender: T5 reads a user's history as tokens and writes the next item's codes.

TIGER (Rajput et al., arXiv 2305.05065), GRAM (arXiv 2506.01673), and with ``prefix`` a token of the
collaborative vectors in front of the history. One history is one row for the encoder, so a user's
positions cost as many passes: models.generative learns them all in one.

Axes: X, B histories; T items of a history; V items; C candidates; L codes of an item; K values of
a code; D numbers of an item's vector; N tokens read; E width of what is read; W beams; F children
of a prefix; P prefixes of all codes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from realdataexp.errors import InputError
from realdataexp.models.batch import FeatureSchema
from realdataexp.models.sequence import Items, SequenceModel
from realdataexp.models.trie import Trie
from realdataexp.options import Count, Depth, Options, PathText, Width

PAD, END = 0, 1  # T5's own; the decoder starts with PAD


class TextToTextParams(Options):
    """Options of TextToText; the sizes are TIGER's."""

    width: Width = Field(128, description="numbers of a token's embedding")
    n_layers: Depth = Field(4, description="layers of the encoder, and of the decoder")
    n_heads: Width = Field(6, description="heads of each layer")
    head_width: Width = Field(64, description="numbers of a head")
    feedforward: Width = Field(1024, description="numbers between the halves of a layer")
    dropout: float = Field(0.1, ge=0, lt=1, description="share of activations left out in training")
    longest: Width = Field(20, description="items of a history that are read, the latest")
    prefix: bool = Field(False, description="read a token of the items' vectors in front")
    beam: Count = Field(20, description="beginnings of codes that are kept at every code")
    rows: Count = Field(64, description="histories that the beam takes at once")
    weights: PathText | None = Field(
        None,
        description="a folder of pretrained weights (transformers, safetensors), which then says "
        "the sizes; codes are new tokens of it",
    )

    def t5(self, n_tokens: int) -> tuple[Any, int]:
        """T5 with so many tokens of its own, and the first of them."""
        try:
            from transformers import T5Config, T5ForConditionalGeneration
        except ModuleNotFoundError as error:
            raise InputError(
                "TextToText needs transformers: pip install 'realdataexp[transformers]'"
            ) from error
        if self.weights is None:
            config = T5Config(
                vocab_size=n_tokens + 2, d_model=self.width, num_layers=self.n_layers,
                num_heads=self.n_heads, d_kv=self.head_width, d_ff=self.feedforward,
                dropout_rate=self.dropout, decoder_start_token_id=PAD,
            )  # fmt: skip
            return T5ForConditionalGeneration(config), 2
        if not (Path(self.weights) / "config.json").is_file():
            raise InputError(f"weights = {self.weights}: holds no config.json; name a T5's folder")
        t5 = T5ForConditionalGeneration.from_pretrained(
            self.weights, local_files_only=True, use_safetensors=True, dropout_rate=self.dropout
        )
        first = t5.config.vocab_size
        t5.resize_token_embeddings(first + n_tokens, mean_resizing=False)
        return t5, first


class TextToText(SequenceModel):
    """T5, trained on the likelihood of the codes of the next item.

    ``encode`` does not run T5: its hidden states are what T5 will read, so that `losses`, `score`
    and `score_all` pay for those histories alone that are asked for. `score` is exact. `score_all`
    searches by a beam of prefixes, constrained to the codes of items: all items below the last beam
    get their likelihood, so their order is exact; the others share a score below the lowest.
    """

    Params = TextToTextParams
    needs = ("history_mask", "video_codes")

    def __init__(self, schema: FeatureSchema, n_outputs: int = 1, **params: Any) -> None:
        options = TextToTextParams(**params)
        super().__init__(schema, n_outputs)
        codes, vector = (schema.inputs.get(f"video_{x}") for x in ("codes", "vector"))
        if codes is None or codes.n_ids is None:
            raise ValueError("items have no codes: set items.codes")
        if options.prefix and vector is None:
            raise ValueError("prefix: items have no vectors: set items.vectors")
        (self.n_codes,), self.n_values = codes.shape, codes.n_ids
        self.longest, self.beam, self.rows = options.longest, options.beam, options.rows
        self.t5, self.first_token = options.t5(self.n_codes * self.n_values)
        self.adapter = None
        if options.prefix and vector is not None:
            self.adapter = nn.Linear(vector.shape[0], self.t5.config.d_model)

    def embed(self, items: Items) -> Tensor:
        """The tokens of items, as numbers, then their vectors if there is a prefix: X, L + D."""
        first_L = self.first_token + self.n_values * torch.arange(
            self.n_codes, device=items["codes"].device
        )
        token_XL = (items["codes"] + first_L).to(items["weight"].dtype)
        return token_XL if self.adapter is None else torch.cat([token_XL, items["vector"]], -1)

    def encode(self, item_BTE: Tensor) -> Tensor:
        """What is read at each position: PAD and the latest items' tokens; their mean vector."""
        token_BTL, vector_BTD = item_BTE.tensor_split([self.n_codes], -1)
        window_BTLT = F.pad(token_BTL, (0, 0, self.longest - 1, 0)).unfold(1, self.longest, 1)
        n_T1 = torch.arange(1, item_BTE.shape[1] + 1, device=item_BTE.device).unsqueeze(-1)
        mean_BTD = vector_BTD.cumsum(1) / n_T1
        return torch.cat([window_BTLT.transpose(2, 3).flatten(2), mean_BTD], -1)

    def score(self, hidden_BE: Tensor, items: Items) -> Tensor:
        """The log-likelihood of the codes of some items: B, C."""
        token_BCL = self._tokens(items)
        read_BNE, mask_BN = self._read(hidden_BE)
        C = token_BCL.shape[1]
        read_XNE, mask_XN = read_BNE.repeat_interleave(C, 0), mask_BN.repeat_interleave(C, 0)
        return self._log_likelihood(read_XNE, mask_XN, token_BCL.flatten(0, 1)).view(-1, C)

    def losses(self, hidden_XE: Tensor, target_X: Tensor, catalogue: Items) -> Tensor:
        """See SequenceModel."""
        read_XNE, mask_XN = self._read(hidden_XE)
        return -self._log_likelihood(read_XNE, mask_XN, self._tokens(catalogue)[target_X])

    def score_all(self, hidden_BE: Tensor, catalogue: Items) -> Tensor:
        """The log-likelihood of the items that the beam finds, and less for all others: B, V."""
        trie = Trie.of(catalogue["codes"])
        if self.beam > trie.n_items:
            raise InputError(f"beam = {self.beam}: must be at most {trie.n_items:,}, the items")
        score_BV = torch.cat([self._search(x_BE, trie) for x_BE in hidden_BE.split(self.rows)])
        lost_BV = score_BV.isinf()
        lowest_B1 = score_BV.masked_fill(lost_BV, torch.inf).amin(1, keepdim=True)
        return torch.where(lost_BV, lowest_B1 - 1.0, score_BV)

    def _tokens(self, items: Items) -> Tensor:
        return self.embed(items)[..., : self.n_codes].long()

    def _read(self, hidden_XE: Tensor) -> tuple[Tensor, Tensor]:
        """The encoder's states X, N, E and which of them are of tokens."""
        n = self.longest * self.n_codes
        token_XN = F.pad(hidden_XE[:, :n].long(), (0, 1), value=END)
        mask_XN = token_XN != PAD
        read_XNE = self.t5.shared(token_XN)
        if self.adapter is not None:
            prefix_XE = self.adapter(hidden_XE[:, n:])
            read_XNE = torch.cat([prefix_XE.unsqueeze(1), read_XNE], 1)
            mask_XN = F.pad(mask_XN, (1, 0), value=True)
        encoded = self.t5.encoder(inputs_embeds=read_XNE, attention_mask=mask_XN)
        return encoded.last_hidden_state, mask_XN

    def _log_likelihood(self, read_XNE: Tensor, mask_XN: Tensor, token_XL: Tensor) -> Tensor:
        before_XL = F.pad(token_XL[:, :-1], (1, 0), value=PAD)
        logit_XLK = self._write(read_XNE, mask_XN, before_XL).logits
        nll_XL = F.cross_entropy(logit_XLK.transpose(1, 2), token_XL, reduction="none")
        return -nll_XL.sum(1)

    def _write(self, read_XNE: Tensor, mask_XN: Tensor, before_XL: Tensor, **more: Any) -> Any:
        return self.t5(
            encoder_outputs=(read_XNE,), attention_mask=mask_XN, decoder_input_ids=before_XL, **more
        )

    def _search(self, hidden_BE: Tensor, trie: Trie) -> Tensor:
        """The log-likelihood of all items below the last beam, -inf for the others: B, V."""
        from transformers import DynamicCache, EncoderDecoderCache

        read_BNE, mask_BN = self._read(hidden_BE)
        cache = EncoderDecoderCache(DynamicCache(), DynamicCache())
        score_BW = hidden_BE.new_zeros(len(hidden_BE), 1)
        prefix_BW = token_BW = score_BW.long()
        first_B1 = torch.arange(len(hidden_BE), device=hidden_BE.device).unsqueeze(1)
        for i, level in enumerate(trie.levels):
            n_W = token_BW.shape[1]
            read_XNE, mask_XN = (x.repeat_interleave(n_W, 0) for x in (read_BNE, mask_BN))
            out = self._write(read_XNE, mask_XN, token_BW.view(-1, 1), cache=cache)
            first = self.first_token + i * self.n_values
            log_p_XK = out.logits[:, -1].log_softmax(-1)[:, first : first + self.n_values]
            child_BWF, is_child_BWF = level.children(prefix_BW)
            log_p_BWF = log_p_XK.unflatten(0, (-1, n_W)).gather(2, level.code_N[child_BWF])
            log_p_BWF = log_p_BWF.masked_fill(~is_child_BWF, -torch.inf)
            score_BX = (score_BW.unsqueeze(-1) + log_p_BWF).flatten(1)
            node_BX = child_BWF.flatten(1)
            score_BW, best_BW = score_BX.topk(min(self.beam, score_BX.shape[1]))
            prefix_BW = node_BX.gather(1, best_BW)
            token_BW = first + level.code_N[prefix_BW]
            cache.reorder_cache((first_B1 * n_W + best_BW // child_BWF.shape[2]).flatten())
        score_BP = score_BX.new_full((len(score_BX), level.n_nodes), -torch.inf)
        return score_BP.scatter_reduce(1, node_BX, score_BX, "amax")[:, level.node_V]
