"""A tokenizer in CLIP's format: byte-level BPE learned on the captions, for any text."""

import json
import re
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

from transformers import CLIPTokenizer

from bigain.backbones.text import byte_symbols

END = "</w>"
SPECIAL = ("<|startoftext|>", "<|endoftext|>")
# CLIP's pattern, without the parts that only other scripts and digits need
PIECES = re.compile(r"[a-z]+|[^\sa-z]+")


def write_tokenizer(texts: Sequence[str], length: int, folder: Path) -> CLIPTokenizer:
    """Write vocab.json, merges.txt and tokenizer_config.json as CLIP does; returns the tokenizer.

    Args:
        texts: each of their words becomes one token; others are spelled in shorter ones or bytes.
        length: number of tokens of a caption, including its start and end.
        folder: created if it is missing.
    """
    merges = learn_merges(texts)
    symbols = byte_symbols()
    words = [*symbols, *(s + END for s in symbols), *(a + b for a, b in merges), *SPECIAL]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps({w: i for i, w in enumerate(words)}, indent=0))
    lines = ["#version: 0.2", *(f"{a} {b}" for a, b in merges)]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n")
    start, end = SPECIAL
    config = {
        "tokenizer_class": "CLIPTokenizer",
        "model_max_length": length,
        "do_lower_case": True,
        "bos_token": start,
        "eos_token": end,
        "pad_token": end,
        "unk_token": end,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=1) + "\n")
    return CLIPTokenizer.from_pretrained(folder)


def learn_merges(texts: Sequence[str]) -> list[tuple[str, str]]:
    """Merge the most frequent pair until every word is one symbol (Sennrich et al. 2016)."""
    pieces = [piece for text in texts for piece in PIECES.findall(text.lower())]
    words = [[*piece[:-1], piece[-1] + END] for piece in pieces]
    merges = []
    while pairs := Counter(pair for word in words for pair in pairwise(word)):
        best = max(pairs, key=lambda pair: (pairs[pair], pair))
        merges.append(best)
        words = [_merged(word, best) for word in words]
    return merges


def _merged(word: list[str], pair: tuple[str, str]) -> list[str]:
    merged: list[str] = []
    for symbol in word:
        if merged and (merged[-1], symbol) == pair:
            merged[-1] += symbol
        else:
            merged.append(symbol)
    return merged
