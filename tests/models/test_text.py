from __future__ import annotations

from tests import tiny
from tglo.models.text import PromptTally, TextPart, tokenize


def test_length_and_template_are_the_parts_own() -> None:
    tokenizer = tiny.build_tokenizer()  # one token per letter, a start and an end
    tally = PromptTally()
    part = TextPart("t", "e", length=12, template="a {}!")
    ids, mask = tokenize(part, tokenizer, ["cat {}", "a" * 20], tally)
    assert ids.shape == mask.shape == (2, 12) and len(tally.cut) == 1
    assert tokenizer.decode(ids[0], skip_special_tokens=True) == "a cat {}!"
    assert mask.sum(1).tolist() == [9, 12]
    ids, _ = tokenize(TextPart("t", "e"), tokenizer, ["a" * 20])
    assert ids.shape == (1, 77)
