"""The small tokenizer: CLIP's format, the captions' words whole, and any other text."""

import json

import pytest
import torch
from transformers import CLIPTokenizer

from bigain.datasets.fashion_mnist import PROMPTS
from bigain.errors import BiGainError
from bigain.training.text_to_image import captions
from bigain.training.words import learn_merges, write_tokenizer

START, END = "<|startoftext|>", "<|endoftext|>"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    write_tokenizer(PROMPTS, 16, folder)
    return folder


@pytest.fixture(scope="module")
def tokenizer(folder):
    return CLIPTokenizer.from_pretrained(folder)


def test_the_most_frequent_pair_is_merged_first():
    assert learn_merges(["abcab ab", "ab"])[0] == ("a", "b</w>")
    assert learn_merges(["aab"]) == [("a", "b</w>"), ("a", "ab</w>")]


def test_words_of_the_captions_are_tokens(tokenizer):
    assert tokenizer.tokenize("A photo of an ankle boot.") == [
        *("a</w>", "photo</w>", "of</w>", "an</w>", "ankle</w>", "boot</w>", ".</w>")
    ]
    assert tokenizer.tokenize("t-shirt") == ["t</w>", "-</w>", "shirt</w>"]


@pytest.mark.parametrize("text", ["a pully", "crème brûlée, 42°", "猫 の 写真", "🙂"])
def test_any_text_is_spelled(tokenizer, text):
    ids = tokenizer(text).input_ids
    assert tokenizer.unk_token_id not in ids[:-1]
    assert tokenizer.decode(ids[1:-1]).replace(" ", "") == text.replace(" ", "")


def test_captions_are_cut_and_filled(tokenizer):
    short, long = tokenizer(
        ["a coat", "coat " * 40], padding="max_length", truncation=True, return_tensors="pt"
    ).input_ids
    start, end = tokenizer.convert_tokens_to_ids([START, END])
    assert len(short) == len(long) == tokenizer.model_max_length == 16
    assert short[0] == long[0] == start and long[-1] == end
    assert torch.equal(short[3:], torch.full((13,), end))


def test_the_files_are_clip_s(folder, tokenizer):
    assert {f.name for f in folder.iterdir()} == {
        *("vocab.json", "merges.txt", "tokenizer_config.json")
    }
    vocabulary = json.loads((folder / "vocab.json").read_text())
    assert sorted(vocabulary.values()) == list(range(len(tokenizer)))
    merges = (folder / "merges.txt").read_text().splitlines()[1:]
    assert len(vocabulary) == 512 + len(merges) + 2


def test_captions_hold_the_data_set_s_prompts():
    found = captions(["a photo of {}.", "{}"])
    assert found[0] == PROMPTS
    assert found[1][0] == "a t-shirt" and found[1][1] == "trousers"
    with pytest.raises(BiGainError, match="'no place'"):
        captions(["{}", "no place"])
