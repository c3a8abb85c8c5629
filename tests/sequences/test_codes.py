"""Codes of items: each item's own, written as they were read, the same bits every time."""

import json
from itertools import pairwise

import numpy as np
import pytest
import torch

from realdataexp.errors import InputError, Warnings
from realdataexp.models.trie import Trie
from realdataexp.sequences.codes import given_codes, read_codes, residual_kmeans
from realdataexp.sequences.item_options import CodeOptions

GRAM = [["opi", "▁shimmer", "72"], ["opi", "▁shimmer"], ["atter", "▁sh", "▁red"]]


def vectors(n_items: int = 300, n_kinds: int = 40) -> np.ndarray:
    rng = np.random.default_rng(3)
    return rng.standard_normal((n_kinds, 5))[rng.integers(n_kinds, size=n_items)]


def test_no_two_items_share_all_codes():
    codes = residual_kmeans(vectors(), CodeOptions(n_codes=4, n_levels=2), seed=1)
    assert len(np.unique(codes.code_VL, axis=0)) == 300
    assert codes.code_VL.shape == (300, 3), "4 x 4 prefixes cannot tell 300 items apart"
    assert (codes.code_VL.max(0) < [4, 4, codes.n_codes]).all()


def test_the_last_code_numbers_each_kind_from_0_and_not_in_the_items_order():
    x_VD = vectors()
    codes = residual_kmeans(x_VD, CodeOptions(n_codes=8, n_levels=3), seed=1)
    _, kind_V = np.unique(codes.code_VL[:, :3], axis=0, return_inverse=True)
    n_ordered = n_pairs = 0
    for kind in range(kind_V.max() + 1):
        last = codes.code_VL[kind_V == kind, 3]
        assert sorted(last) == list(range(len(last)))
        n_ordered += sum(a < b for a, b in pairwise(last.tolist()))
        n_pairs += len(last) - 1
    assert n_pairs > 200
    assert abs(n_ordered / n_pairs - 0.5) < 0.15


def test_equal_items_share_what_vectors_tell_and_near_ones_the_first_code():
    x_VD = vectors()
    codes = residual_kmeans(x_VD, CodeOptions(n_codes=6, n_levels=2), seed=0).code_VL
    _, same_V = np.unique(x_VD, axis=0, return_inverse=True)
    for kind in range(same_V.max() + 1):
        assert len(np.unique(codes[same_V == kind, :2], axis=0)) == 1
    centres_KD = np.stack([x_VD[codes[:, 0] == k].mean(0) for k in range(6)])
    nearest_V = ((x_VD[:, None] - centres_KD) ** 2).sum(-1).argmin(1)
    np.testing.assert_array_equal(nearest_V, codes[:, 0])


def test_codes_depend_on_the_seed_and_on_nothing_else():
    def made(seed: int, threads: int) -> np.ndarray:
        torch.set_num_threads(threads)
        np.random.seed(threads)
        options = CodeOptions(n_codes=16, n_levels=2)
        return residual_kmeans(vectors(2000, 900), options, seed).code_VL

    first = made(5, 1)
    np.testing.assert_array_equal(first, made(5, 2))
    assert (first != made(6, 1)).any()


def test_fewer_items_than_codes_are_no_fault():
    codes = residual_kmeans(np.eye(3), CodeOptions(n_codes=256, n_levels=2), seed=0)
    assert len(np.unique(codes.code_VL, axis=0)) == 3


@pytest.mark.parametrize("lists", [GRAM, [["10", "2"], ["9", "2"]], [["<a_1>"], ["<a_2>"]]])
def test_given_codes_are_written_as_they_were_read(lists):
    codes = given_codes(lists, CodeOptions(), 0, "items.tsv")
    assert [codes.written(v) for v in range(len(lists))] == lists
    assert codes.n_codes == max(len(set(level)) for level in codes.names)


def test_an_item_may_have_codes_with_which_anothers_begin():
    trie = Trie.of(torch.from_numpy(given_codes(GRAM, CodeOptions(), 0, "x").code_VL))
    assert [level.n_nodes for level in trie.levels] == [2, 2, 3]


def test_doubled_codes_get_one_more_or_are_refused():
    lists = [["a", "b"], ["a", "b"], ["a", "c"]]
    codes = given_codes(lists, CodeOptions(), 0, "items.tsv")
    assert sorted(codes.code_VL[:2, 2]) == [0, 1]
    assert codes.code_VL[2, 2] == 0
    with pytest.raises(InputError, match=r"^items.tsv: 2 items share all their codes"):
        given_codes(lists, CodeOptions(doubled="refuse"), 0, "items.tsv")


def test_codes_without_items_or_of_other_items_are_refused_in_a_line(tmp_path):
    path = tmp_path / "codes.json"
    path.write_text(json.dumps({"a": ["1"], "b": ["2"]}))
    with pytest.raises(InputError, match=r"codes.json: 2 of 2 items have no codes, such as 'x'"):
        read_codes(path, ["x", "y"], Warnings())
    with pytest.raises(InputError, match=r"nowhere.json: .*; name a JSON file of codes"):
        read_codes(tmp_path / "nowhere.json", ["x"], Warnings())


def test_no_node_of_a_trie_is_without_items_whatever_the_codes_lengths():
    lists = [["a"], ["a", "b"], ["a", "b", "c"], ["d", "b"], ["a", "e", "c"]]
    trie = Trie.of(torch.from_numpy(given_codes(lists, CodeOptions(), 0, "f").code_VL))
    for level, below in pairwise([*trie.levels]):
        assert (below.first_P1.diff() > 0).all() and len(below.first_P1) == level.n_nodes + 1
    assert sorted(trie.levels[-1].item_N.tolist()) == list(range(len(lists)))


@pytest.mark.parametrize("bad", [[], ["a", ""]])
def test_an_item_without_a_code_is_named(bad):
    with pytest.raises(InputError, match=r"^f: 1 of 2 items lack codes, the first in place 2: "):
        given_codes([["a", "b"], bad], CodeOptions(), 0, "f")


def test_a_file_of_codes_is_read_in_the_items_order(tmp_path):
    path = tmp_path / "codes.json"
    path.write_text(json.dumps({"y": ["<a_1>", "<b_2>"], "x": ["<a_3>", 4]}))
    assert read_codes(path, ["x", "y"], Warnings()) == [["<a_3>", "4"], ["<a_1>", "<b_2>"]]


def test_a_file_that_numbers_items_from_0_is_understood_and_reported(tmp_path):
    path, warnings = tmp_path / "codes.json", Warnings()
    path.write_text(json.dumps({"0": ["a"], "1": ["b"]}))
    assert read_codes(path, ["2", "1"], warnings) == [["b"], ["a"]]
    assert [x["code"] for x in warnings] == ["codes_from_zero"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"x": ["a"]}', "1 of 2 items have no codes, such as 'y'"),
        ('["a"]', "must be a JSON object of item: list of codes"),
        ('{"x": "a", "y": "b"}', "must be a JSON object of item: list of codes"),
        ("{", "name a JSON file of codes"),
        ('{"x": ["a"], "y": ["b"], "x": ["c"]}', "'x' stands twice in one object; name a JSON"),
        ('{"x": ["a", null], "y": ["b"]}', r"whole numbers, not \["),
        ('{"x": [["a"]], "y": ["b"]}', r"whole numbers, not \["),
        ('{"x": [1.5], "y": ["b"]}', r"whole numbers, not \[1.5\]"),
    ],
)
def test_a_file_that_is_none_is_refused_in_a_line(tmp_path, text, message):
    path = tmp_path / "codes.json"
    path.write_text(text)
    with pytest.raises(InputError, match=message) as error:
        read_codes(path, ["x", "y"], Warnings())
    assert "\n" not in str(error.value)


def test_every_path_through_the_trie_is_an_items_codes():
    code_VL = residual_kmeans(vectors(), CodeOptions(n_codes=9, n_levels=2), seed=2).code_VL
    trie = Trie.of(torch.from_numpy(code_VL))
    paths: list[tuple[int, tuple[int, ...]]] = [(0, ())]
    for level in trie.levels:
        paths = [
            (n, (*path, int(level.code_N[n])))
            for parent, path in paths
            for n in range(int(level.first_P1[parent]), int(level.first_P1[parent + 1]))
        ]
        assert [n for n, _ in paths] == list(range(level.n_nodes))
    found = {path: int(trie.levels[-1].item_N[n]) for n, path in paths}
    assert found == {tuple(row): v for v, row in enumerate(code_VL.tolist())}


def test_children_of_a_node_are_those_that_codes_tell():
    code_VL = torch.tensor([[0, 0], [0, 2], [3, 1], [3, 0], [3, 2]])
    level = Trie.of(code_VL).levels[1]
    child_XF, is_child_XF = level.children(torch.tensor([1, 0]))
    assert level.code_N[child_XF][is_child_XF].tolist() == [0, 1, 2, 0, 2]
    assert is_child_XF.sum(1).tolist() == [3, 2]


@pytest.mark.parametrize(
    ("codes", "message"),
    [([[0, 1], [0, 1]], "1 items have codes of another"), ([[0, -1], [0, 1]], "code -1")],
)
def test_a_trie_refuses_codes_that_are_no_items_own(codes, message):
    with pytest.raises(InputError, match=message):
        Trie.of(torch.tensor(codes))
