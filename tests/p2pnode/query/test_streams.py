"""Arrow streams cut into pieces and put together again."""

from __future__ import annotations

import os

import pyarrow as pa
import pytest

from p2pnode.errors import IntegrityError
from p2pnode.query import streams
from p2pnode.query.frames import IN_FILE
from p2pnode.query.streams import gathered, pieces_of, send_stream


def cut(table: pa.Table) -> tuple[list[bytes], int]:
    pieces: list[bytes] = []
    parts = iter([table.schema, *table.to_batches(max_chunksize=100)])
    rows = send_stream(parts, lambda buffers: pieces.append(b"".join(buffers)))
    return pieces, rows


def test_pieces_are_bounded_and_make_one_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "PIECE_BYTES_MAX", 1000)
    monkeypatch.setattr(streams, "PIECE_BYTES_GOOD", 500)
    table = pa.table({"i": range(10_000), "s": [f"row {i}" * (i % 50) for i in range(10_000)]})
    pieces, rows = cut(table)
    assert rows == 10_000
    assert max(map(len, pieces)) == 1000
    assert pa.ipc.open_stream(b"".join(pieces)).read_all().equals(table)


def test_an_empty_answer_is_one_small_piece() -> None:
    pieces, rows = cut(pa.table({"i": pa.array([], pa.int64())}))
    assert (len(pieces), rows) == (1, 0)
    assert gathered([memoryview(pieces[0])]).schema == pa.schema([("i", pa.int64())])


def test_dictionaries_of_different_answers_are_unified() -> None:
    streams_ = [
        memoryview(b"".join(cut(pa.table({"e": pa.array(words).dictionary_encode()}))[0]))
        for words in (["a", "b"], ["c", "b"])
    ]
    assert gathered(streams_).column("e").to_pylist() == ["a", "b", "c", "b"]


@pytest.mark.parametrize("size", [0, 7, 64, 200])
def test_a_cut_stream_is_an_integrity_error(size: int) -> None:
    whole = b"".join(cut(pa.table({"i": range(1000)}))[0])
    with pytest.raises(IntegrityError):
        gathered([memoryview(whole)[:size]])


def test_text_that_is_not_utf8_is_found() -> None:
    whole = bytearray(b"".join(cut(pa.table({"s": ["needle"]}))[0]))
    whole[whole.index(b"needle")] = 0xFF
    with pytest.raises(IntegrityError):
        gathered([memoryview(whole)])


def test_pieces_lie_in_the_body_or_in_files() -> None:
    files = [os.memfd_create("one"), os.memfd_create("two")]
    for number, file in enumerate(files):
        os.write(file, b"file %d" % number)
    pieces = pieces_of([3, IN_FILE, 2, IN_FILE], memoryview(b"abcde"), files)
    assert [bytes(piece) for piece in pieces] == [b"abc", b"file 0", b"de", b"file 1"]
