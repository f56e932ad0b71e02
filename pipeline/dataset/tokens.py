"""Which captions are longer than a text encoder sees, counted without torch and transformers."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.errors import UnreadableFile

if TYPE_CHECKING:
    from tokenizers import Tokenizer

START, END = "<|startoftext|>", "<|endoftext|>"
CLIP_WORDS = r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
"""Of OpenAI's simple_tokenizer.py, as transformers' fast CLIP tokenizer has it."""
ENDS = 2
"""Tokens that are put around a caption."""
CAPTION_TOKENS = (75, 150, 225)
"""Of a caption that may be read, as sd-scripts' max_token_length has it."""


def chunks_of(caption_tokens: int) -> int:
    """How many times the text encoder is asked for one caption."""
    return caption_tokens // CAPTION_TOKENS[0]


def tokens_read(positions: int, caption_tokens: int) -> int:
    """Of a caption with its two ends, by an encoder of so many positions: each chunk has ends of its own."""
    return chunks_of(caption_tokens) * (positions - ENDS) + ENDS


def too_long(captions: Iterable[str], folder: Path, limit: int) -> set[str]:
    """Those of more than `limit` tokens, the two ends included. The folder holds tokenizer.json, or CLIP's vocab.json
    and merges.txt. Raises UnreadableFile."""
    tokenizer: Tokenizer | None = None
    found = set()
    for caption in set(captions):
        if len(caption.encode()) + ENDS > limit:  # a token takes at least a byte
            tokenizer = tokenizer or _load(folder)
            if len(tokenizer.encode(caption).ids) > limit:
                found.add(caption)
    return found


def _load(folder: Path) -> Tokenizer:
    from tokenizers import Tokenizer

    try:
        if (folder / "tokenizer.json").exists():
            tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        else:
            tokenizer = _clip(folder)
    except Exception as error:  # the library raises nothing narrower
        raise UnreadableFile(f"{folder} holds no tokenizer that can be read: {error}") from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def _clip(folder: Path) -> Tokenizer:
    from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors

    vocabulary = json.loads((folder / "vocab.json").read_text(encoding="utf-8"))
    lines = (folder / "merges.txt").read_text(encoding="utf-8").splitlines()
    merges = [(left, right) for left, _, right in (line.partition(" ") for line in lines if line[:1] != "#") if right]
    tokenizer = Tokenizer(
        models.BPE(vocab=vocabulary, merges=merges, end_of_word_suffix="</w>", unk_token=END, fuse_unk=False)
    )
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(CLIP_WORDS), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    tokenizer.post_processor = processors.RobertaProcessing(
        (END, vocabulary[END]), (START, vocabulary[START]), trim_offsets=False, add_prefix_space=False
    )
    tokenizer.add_special_tokens([START, END])
    return tokenizer
