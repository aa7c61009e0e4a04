"""From prompts to token ids."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from tglo.models.folder import read_config

log = logging.getLogger(__name__)
_SINGLE_TOKENS = 512
_LEAST_SHARE = 0.9  # of a text encoder's vocabulary: some are padded, by 1% at most


class TextPart(NamedTuple):
    """A text encoder of a pipeline and its tokenizer, by the names of their folders."""

    tokenizer: str
    encoder: str
    length: int | None = None
    """Tokens to pad and cut to; the tokenizer's own length by default."""
    template: str | None = None
    """The text around a prompt, which takes the place of {}; the prompt alone by default."""
    padded: bool = True
    """To the length, on the tokenizer's side; else behind, to the longest prompt at hand, because padding
    means nothing.
    """
    thinking: bool | None = None
    """Prompts are a user's words in the tokenizer's chat template, with its enable_thinking; None: they
    are not.
    """
    system: Callable[[], str] | None = None
    """Prompts are a user's words in the tokenizer's chat template, after these of the system."""

    model_type: str = ""
    """The encoder's kind, as its configuration names it; "": any."""
    classes: tuple[str, ...] = ()
    """Its classes, as the folder's index names them; (): any."""

    @property
    def is_chat(self) -> bool:
        """Whether the tokenizer's chat template is around a prompt."""
        return self.thinking is not None or self.system is not None

    def around(self, prompt: str, tokenizer: Any) -> str:
        """Return the whole text of a prompt."""
        if not self.is_chat:
            return (self.template or "{}").replace("{}", prompt)
        if self.system is not None:
            words = (("system", self.system()), ("user", prompt))
            return _conversation(words, tokenizer)
        text: str = tokenizer.apply_chat_template(
            [{"role": "user", "content": prompt}],
            tokenize=False,
            add_generation_prompt=True,
            enable_thinking=self.thinking,
        )
        return text


def load_tokenizer(folder: Path) -> Any:
    """Load a folder's tokenizer, also where the folder is that of a processor."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder, local_files_only=True)


def _conversation(words: Iterable[tuple[str, str]], tokenizer: Any) -> str:
    messages = [{"role": role, "content": [{"type": "text", "text": text}]} for role, text in words]
    text: str = tokenizer.apply_chat_template(messages, tokenize=False)
    return text


class PromptTally:
    """Counts, over all prompts that pass, those that were cut and those that cannot be told from another.

    cut: digests of the prompts that were cut; alike: of those that have the tokens of an earlier one.
    in_chunks: whether the model takes prompts in chunks, which the warning then names.
    """

    def __init__(self, *, in_chunks: bool = False) -> None:
        self._remedy = (
            '; long_prompts = "chunks" with enough prompt_chunks keeps them whole'
            if in_chunks
            else ""
        )
        self.cut: set[bytes] = set()
        self.alike: set[bytes] = set()
        self._first: dict[bytes, bytes] = {}  # digest of tokens -> of the first prompt with them
        self._seen: set[bytes] = set()
        self._limit = 0
        self._example = ""

    def add(self, prompts: Sequence[str], ids: Tensor, lengths: Sequence[int], limit: int) -> None:
        """Count prompts: ids (B, length), how many tokens each has without the cut, and at most."""
        self._limit = limit
        for prompt, row, length in zip(prompts, ids, lengths, strict=True):
            row = row if length > limit or len(row) == limit else row[:length]
            digest = _digest(prompt.encode("utf-8", "surrogatepass"))
            if digest in self._seen or not prompt:  # the empty one is guidance's
                continue
            self._seen.add(digest)
            if length > self._limit:
                self.cut.add(digest)
            if self._first.setdefault(_digest(row.numpy().tobytes()), digest) != digest:
                self.alike.add(digest)
                self._example = self._example or prompt

    def report(self) -> None:
        """Warn, in a line each, of prompts that were cut and of those that are alike."""
        if self.cut:
            log.warning(
                "%d of %d prompts are longer than %d tokens and were cut there%s",
                len(self.cut), len(self._seen), self._limit, self._remedy,
            )  # fmt: skip
        if self.alike:
            log.warning(
                "%d of %d prompts have the same tokens as another one, so the model cannot tell "
                "them from it; the first is %r",
                len(self.alike), len(self._seen), self._example[:200],
            )  # fmt: skip


def tokenize(
    part: TextPart, tokenizer: Any, prompts: Sequence[str], tally: PromptTally | None = None
) -> tuple[Tensor, Tensor]:
    """Return token ids and attention mask (B, length) on the CPU.

    tally: counts the prompts.
    """
    limit = part.length or tokenizer.model_max_length
    texts = [part.around(prompt, tokenizer) for prompt in prompts]
    padding: dict[str, Any] = {"padding": "max_length"}
    if not part.padded:
        padding = {"padding": "longest", "padding_side": "right"}
    # Where a chat template writes the first token itself, the tokenizer must not.
    first = tokenizer.bos_token if part.is_chat else None
    special = {"add_special_tokens": not (first and texts[0].startswith(first))}
    tokens = tokenizer(
        texts, max_length=limit, truncation=True, return_tensors="pt", **padding, **special
    )
    if tally is not None:
        # verbose=False: transformers would warn about the length that is being measured here.
        whole = tokenizer(texts, verbose=False, **special)["input_ids"]
        tally.add(prompts, tokens.input_ids, [len(ids) for ids in whole], limit)
    return tokens.input_ids, tokens.attention_mask


def tokenize_in_chunks(
    part: TextPart,
    tokenizer: Any,
    prompts: Sequence[str],
    chunks: int,
    tally: PromptTally | None = None,
) -> tuple[Tensor, Tensor]:
    """Return token ids and attention mask (B * chunks, length) on the CPU, the chunks of a prompt in a row.

    Each chunk has the begin and end tokens of a prompt of its own, and one that nothing is left for is the empty
    prompt's; the first is that of `tokenize`, up to its length. tally: counts the prompts.
    """
    length = part.length or tokenizer.model_max_length
    inner = length - 2
    texts = [part.around(prompt, tokenizer) for prompt in prompts]
    whole = tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]
    pad = tokenizer.pad_token_id
    rows, masks = [], []
    for ids in whole:
        for start in range(0, inner * chunks, inner):
            row = [tokenizer.bos_token_id, *ids[start : start + inner], tokenizer.eos_token_id]
            masks.append([1] * len(row) + [0] * (length - len(row)))
            rows.append(row + [pad] * (length - len(row)))
    if tally is not None:
        limit = inner * chunks
        known = [ids[:limit] + [pad] * (limit - len(ids)) for ids in whole]
        tally.add(prompts, torch.tensor(known), [len(ids) for ids in whole], limit)
    return torch.tensor(rows), torch.tensor(masks)


def check_vocabulary(part: TextPart, tokenizer: Any, path: Path) -> None:
    """Raise ValueError unless a model folder's tokenizer and text encoder know the same tokens, and as many
    of a prompt.
    """
    config = read_config(path / part.encoder / "config.json")
    config = {**(config.get("text_config") or {}), **config}
    places, limit = config.get("max_position_embeddings"), part.length or tokenizer.model_max_length
    if places is not None and not (isinstance(limit, int) and 1 <= limit <= places):
        raise ValueError(
            f"{path / part.tokenizer} cuts prompts at {limit} tokens, and {path / part.encoder} has "
            f"places for {places}; set model_max_length in tokenizer_config.json to what the model "
            "was trained with, or download it again"
        )
    size = config.get("vocab_size")
    if size is None:
        return
    _check_merges(tokenizer, path / part.tokenizer)
    numbers = set(tokenizer.get_vocab().values())
    special = [number for number in tokenizer.all_special_ids if number >= size]
    if max(numbers, default=-1) >= size or special or len(numbers) < _LEAST_SHARE * size:
        raise ValueError(
            f"{path / part.tokenizer} does not fit {path / part.encoder}: it has {len(numbers)} "
            f"tokens up to number {max(numbers, default=-1)}, the text encoder has {size}. Take "
            "both from the same model, or download the tokenizer again"
        )


def _check_merges(tokenizer: Any, folder: Path) -> None:
    """Raise ValueError for a byte-pair vocabulary most of whose tokens no merge makes: merges were cut off."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    model = json.loads(backend.to_str())["model"] if backend is not None else {}
    if model.get("type") != "BPE":
        return
    tokens, merges = len(model["vocab"]), len(model["merges"])
    # Each merge makes a token; CLIP's other 512 are single bytes, inside a word and at its end.
    if tokens - merges > _SINGLE_TOKENS + (1 - _LEAST_SHARE) * tokens:
        raise ValueError(
            f"{folder} has {tokens} tokens and only {merges} merges that make them, so prompts would "
            "fall into pieces that the model does not know; download the tokenizer again"
        )


def _digest(data: bytes) -> bytes:
    return hashlib.blake2b(data, digest_size=8).digest()
