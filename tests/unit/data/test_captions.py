"""What is said of an image."""

import pytest

from helpers.data.captions import (
    CaptionRules,
    ConstantCaption,
    MissingCaption,
    caption_column,
    caption_from_name,
    captions_for,
)

NAMES = CaptionRules(strategy="filename")
TEXTS = CaptionRules(strategy="textfile")


@pytest.mark.parametrize(
    ("path", "caption"),
    [
        ("a_red_apple.png", "a red apple"),
        ("folder/sub folder/a red  apple, on__wood.jpeg", "a red apple, on wood"),
        ("two\nlines.png", "two lines"),
        ("v1.5 of it.png", "v1.5 of it"),
        ("no ending", "no ending"),
        ("日本の猫.webp", "日本の猫"),
        ("caf\udce9_au_lait.png", "café au lait"),
        ("___.png", ""),
    ],
)
def test_a_file_name_is_read_as_words(path: str, caption: str) -> None:
    assert caption_from_name(path) == caption


@pytest.mark.parametrize(
    ("note", "captions"),
    [
        (b"one caption", ("one caption",)),
        (b"first\r\n\r\n  second  \n", ("first", "second")),
        ("\ufeffwith a mark: café".encode(), ("with a mark: café",)),
    ],
)
def test_each_line_of_a_text_file_is_a_caption(note: bytes, captions: tuple[str, ...]) -> None:
    assert captions_for("a.png", note, rules=TEXTS) == captions


@pytest.mark.parametrize(
    ("note", "reason"), [(None, "no caption file"), (b" \n\n", "empty caption file"), (b"caf\xe9", "not UTF-8")]
)
def test_a_text_file_without_captions_is_a_reason(note: bytes | None, reason: str) -> None:
    with pytest.raises(MissingCaption, match=reason):
        captions_for("a.png", note, rules=TEXTS)


@pytest.mark.parametrize("note", [None, b" \n"])
def test_the_fallback_is_the_file_name(note: bytes | None) -> None:
    rules = CaptionRules(strategy="textfile", fallback=True)
    assert captions_for("a_cat.png", note, rules=rules) == ("a cat",)


def test_a_name_that_says_nothing_is_a_reason() -> None:
    with pytest.raises(MissingCaption, match="no words in its file name"):
        captions_for("_.png", None, rules=NAMES)


def test_a_prompt_is_put_before_each_caption() -> None:
    rules = CaptionRules(strategy="textfile", prompt="photo of sks,", prepend=True)
    column = caption_column([("a dog", "a puppy"), ("a cat",)], rules=rules)
    assert [column(0), column(1)] == [("photo of sks, a dog", "photo of sks, a puppy"), ("photo of sks, a cat",)]


def test_a_prompt_not_to_be_put_before_is_not() -> None:
    assert caption_column([("a dog",)], rules=CaptionRules(strategy="filename", prompt="sks"))(0) == ("a dog",)


def test_one_prompt_for_all() -> None:
    assert ConstantCaption("sks")(0) == ConstantCaption("sks")(99) == ("sks",)
