"""Tables of addresses as people have them: whatever separates the columns, packed or not, with every kind of slip."""

import gzip
from pathlib import Path

import pytest

from helpers.data.sources.urls import read_urls
from helpers.errors import DataError
from helpers.storage.downloads import name_of

A, B = "http://a.example/1.png?x=1,2", "https://b.example/2.png"


def captions(path: Path, content: str | bytes, *, url: str = "url", caption: str | None = "caption") -> dict[str, str]:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    urls, table = read_urls(path, url_column=url, caption_column=caption)
    assert list(map(name_of, urls)) == list(table.names) == sorted(table.names)
    return dict(zip(urls, table.captions or [""] * len(urls), strict=True))


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|", "~", ":", "^"])
def test_any_delimiter_is_found_out(tmp_path: Path, delimiter: str) -> None:
    rows = [["id", "url", "my caption"], ["1", f'"{A}"', '"one, two; three"'], ["2", f'"{B}"', "four"]]
    content = "\r\n".join(delimiter.join(row) for row in rows)
    assert captions(tmp_path / "t", content, caption="my caption") == {A: "one, two; three", B: "four"}


def test_a_packed_table_with_a_mark_and_lines_within_cells(tmp_path: Path) -> None:
    content = f'\ufeffurl,caption\n"{A}","two\n lines"\n{B}, spaced \n'
    assert captions(tmp_path / "t.csv.gz", gzip.compress(content.encode())) == {A: "two lines", B: "spaced"}


def test_an_address_in_several_rows_has_several_captions(tmp_path: Path) -> None:
    content = f'url,caption\n"{A}",one\n{B},\n"{A}",\n"{A}",two\n{B},three\n'
    assert captions(tmp_path / "t", content) == {A: "one\ntwo", B: "three"}


def test_rows_without_an_address_are_passed_over_and_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    content = f"caption,url\none,{B}\ntwo,\nthree\n\n"
    assert captions(tmp_path / "t", content) == {B: "one"}
    assert "3 rows without a URL" in caplog.text


def test_many_blocks_are_one_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("helpers.data.sources.urls.ROWS_AT_ONCE", 7)
    rows = "".join(f"http://x.example/{number % 40}.png,c{number}\n" for number in range(100))
    found = captions(tmp_path / "t", "url,caption\n" + rows)
    assert len(found) == 40 and found["http://x.example/3.png"] == "c3\nc43\nc83"


def test_a_table_of_addresses_alone(tmp_path: Path) -> None:
    assert captions(tmp_path / "t", f"url\n{B}\n", caption=None) == {B: ""}


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("link;words\nx;y\n", "no column url, caption; its columns are: link, words"),
        ("url,words\nx,y\n", "no column caption; its columns are: url, words"),
        (b"", "no column url"),
        (b"url,caption\nx,\xff\n", "not UTF-8"),
        (gzip.compress(b"url,caption\n" * 1000, mtime=0)[:-20], "cannot be read"),
        ("url,caption\nx," + "y" * 200_000, "cannot be read: field larger"),
    ],
)
def test_what_cannot_be_read_is_named(tmp_path: Path, content: str | bytes, told: str) -> None:
    with pytest.raises(DataError, match=told):
        captions(tmp_path / "t", content)
