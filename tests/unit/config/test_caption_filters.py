"""Text is removed as it stands, expressions find, and `s/a/b/` puts words in place of others."""

import pytest

from helpers.config.caption_filters import compiled


@pytest.mark.parametrize(
    ("entry", "caption", "left"),
    [
        ("a photo of ", "a photo of a photo of a cat", "a cat"),
        ("(c) 2020.", "cat (c) 2020. c 2020x", "cat  c 2020x"),
        ("what?", "what? wha", " wha"),
        (r"^\d+\s", "12 cats, 3 dogs", "cats, 3 dogs"),
        (r"\bred\b", "a red, redder cat", "a , redder cat"),
        ("s/sks/my dog/", "sks and sks", "my dog and my dog"),
        (r"s/(\w+) cat/cat of \1/", "an old cat", "an cat of old"),
        ("s/cat/dog/i", "Cat", "dog"),
        (r"s/1\/2/half/", "1/2 a cat", "half a cat"),
        ("s/cat//", "a cat", "a "),
        ("s/no end", "s/no end of it", " of it"),
    ],
)
def test_what_an_entry_does(entry: str, caption: str, left: str) -> None:
    pattern, replacement = compiled(entry)
    assert pattern.sub(replacement, caption) == left
