"""Table files as streams of Arrow batches: Parquet, Arrow IPC and Feather, CSV, JSON lines.

Parquet and Arrow say what their columns are. CSV and JSON lines do not, so they are read twice: once to find
for each column the narrowest type that every value fits, then to read it so; a column that turns to decimals
after a million whole numbers is no error. Memory stays at a few blocks whatever the size of the file. This
file refuses to guess formats from contents: the suffix says what a file is.
"""

# pyright: reportAttributeAccessIssue=false
# (pyarrow.compute makes its functions when it is imported)
from __future__ import annotations

import glob
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv
import pyarrow.json as pajson
import pyarrow.parquet as pq

from p2pnode.errors import EmptyData, SchemaMismatch, UsageError

#: Rows asked of a Parquet reader at once.
PARQUET_ROWS = 65_536
#: Bytes of a column that the Parquet reader holds undecoded; without it a whole row group is read at once.
PARQUET_BUFFER_BYTES = 1 << 20
#: Bytes of text parsed at once.
TEXT_BLOCK_BYTES = 4 << 20
#: One JSON line may not be longer than this: it must fit in memory several times.
LINE_BYTES_MAX = 64 << 20


@dataclass(frozen=True, slots=True)
class Part:
    """One file, or one object in memory: its own schema, its rows if known, and how to read it."""

    schema: pa.Schema
    rows: int | None
    batches: Callable[[], Iterable[pa.RecordBatch]]


def open_files(given: Sequence[str | Path]) -> tuple[Part, ...]:
    """Parts for paths, directories and globs, each of them in name order. Raises UsageError naming what is
    wrong.
    """
    paths = [path for item in given for path in _expand(Path(item))]
    parts = []
    for path in paths:
        with _reading(path):
            parts.append(_FORMATS[_suffix(path)](path))
    return tuple(parts)


def _expand(path: Path) -> list[Path]:
    if path.is_file():
        if _suffix(path) not in _FORMATS:
            raise UsageError(f"{path.name}: no known table format", advice=f"Known are {', '.join(sorted(_FORMATS))}.")
        return [path]
    if path.is_dir():
        found = sorted(child for child in path.rglob("*") if child.is_file() and _suffix(child) in _FORMATS)
    else:
        found = sorted(Path(name) for name in glob.glob(str(path), recursive=True))
        found = [child for child in found if child.is_file() and _suffix(child) in _FORMATS]
    if not found:
        raise UsageError(f"no table file matches {path}", advice=f"Known are {', '.join(sorted(_FORMATS))}.")
    return found


def _suffix(path: Path) -> str:
    """The format's suffix; a compressed CSV or JSON lines file keeps its own before `.gz` and the like."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if len(suffixes) > 1 and suffixes[-1] in (".gz", ".bz2", ".zst", ".lz4") and suffixes[-2] in _TEXT:
        return suffixes[-2]
    return suffixes[-1] if suffixes else ""


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Whatever Arrow finds wrong with a file is said with the file's name."""
    try:
        yield
    except (pa.ArrowException, OSError, UnicodeDecodeError) as wrong:
        told = str(wrong).splitlines()[0]
        advice = "Check that the file is whole and of the format that its suffix says."
        if isinstance(wrong, UnicodeDecodeError) or "UTF8" in told:
            advice = "Convert it to UTF-8, for example: iconv -f latin1 -t utf-8."
        raise UsageError(f"{path.name} cannot be read: {told}", advice=advice) from None


def _named(path: Path, batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    with _reading(path):
        yield from batches


# -- Parquet and Arrow
# ------------------------------------------------------------------------------------------


def _parquet(path: Path) -> Part:
    def batches() -> Iterator[pa.RecordBatch]:
        with pq.ParquetFile(path, buffer_size=PARQUET_BUFFER_BYTES, pre_buffer=False) as file:
            yield from file.iter_batches(PARQUET_ROWS, use_threads=False)

    with pq.ParquetFile(path) as file:
        return Part(file.schema_arrow, file.metadata.num_rows, lambda: _named(path, batches()))


def _arrow(path: Path) -> Part:
    """The file form (Feather too) begins with a magic word, the stream form does not."""
    with path.open("rb") as file:
        is_file = file.read(6) == b"ARROW1"

    def batches() -> Iterator[pa.RecordBatch]:
        with pa.OSFile(str(path)) as raw:
            if is_file:
                reader = pa.ipc.open_file(raw)
                for index in range(reader.num_record_batches):
                    yield reader.get_batch(index)
            else:
                yield from pa.ipc.open_stream(raw)

    with pa.OSFile(str(path)) as raw:
        schema = (pa.ipc.open_file(raw) if is_file else pa.ipc.open_stream(raw)).schema
    return Part(schema, None, lambda: _named(path, batches()))


# -- CSV
# --------------------------------------------------------------------------------------------------------

#: What a column of text may turn out to be, the first that fits winning.
_GUESSES = (
    pa.int64(),
    pa.float64(),
    pa.bool_(),
    pa.date32(),
    pa.timestamp("us"),
    pa.timestamp("us", "UTC"),
)
#: What fits everything that fitted the key as well; past that, text.
_WIDER: dict[pa.DataType, pa.DataType] = {pa.int64(): pa.float64(), pa.date32(): pa.timestamp("us")}
_CSV_NULLS = ["", "NA", "N/A", "n/a", "#N/A", "NULL", "null", "NaN", "nan"]


def _csv(path: Path) -> Part:
    delimiter = "\t" if _suffix(path) == ".tsv" else ","

    def reader(types: dict[str, pa.DataType]) -> Iterable[pa.RecordBatch]:
        return pacsv.open_csv(
            str(path),
            pacsv.ReadOptions(block_size=TEXT_BLOCK_BYTES, use_threads=False),
            pacsv.ParseOptions(delimiter=delimiter, newlines_in_values=True),
            pacsv.ConvertOptions(column_types=types, null_values=_CSV_NULLS),
        )

    try:
        names = pacsv.open_csv(
            str(path), parse_options=pacsv.ParseOptions(delimiter=delimiter, newlines_in_values=True)
        ).schema.names
    except pa.ArrowInvalid as wrong:
        if "Empty CSV" in str(wrong):
            raise EmptyData(f"{path.name} has no rows") from None
        raise
    found: dict[str, pa.DataType] = dict.fromkeys(names, pa.null())
    rows = 0
    for batch in reader(dict.fromkeys(names, pa.string())):
        rows += batch.num_rows
        for name, values in zip(names, batch.columns, strict=True):
            found[name] = _fitting(found[name], values)
    schema = pa.schema(list(found.items()))
    types = {name: pa.string() if kind == pa.null() else kind for name, kind in found.items()}
    return Part(schema, rows, lambda: _named(path, map(_blank_is_null, reader(types))))


def _fitting(kind: pa.DataType, texts: pa.Array) -> pa.DataType:
    """The narrowest type at least as wide as `kind` (null: nothing seen yet) that these texts fit too."""
    texts = texts.filter(pc.invert(pc.is_in(texts, value_set=pa.array(_CSV_NULLS))))
    if not len(texts) or kind == pa.string():
        return kind
    candidates = _GUESSES if kind == pa.null() else (kind, *([_WIDER[kind]] if kind in _WIDER else []))
    for candidate in candidates:
        try:
            texts.cast(candidate)
        except pa.ArrowInvalid:
            continue
        return candidate
    return pa.string()


def _blank_is_null(batch: pa.RecordBatch) -> pa.RecordBatch:
    """An empty field of text is NULL, as it is of numbers; "NA" in text is text."""
    columns = [
        pc.if_else(pc.equal(values, ""), pa.scalar(None, pa.string()), values) if values.type == pa.string() else values
        for values in batch.columns
    ]
    return pa.RecordBatch.from_arrays(columns, schema=batch.schema)


# -- JSON lines
# -------------------------------------------------------------------------------------------------


def _json_lines(path: Path) -> Part:
    def blocks(schema: pa.Schema | None) -> Iterator[pa.RecordBatch]:
        options = pajson.ParseOptions(explicit_schema=schema)
        for number, block in enumerate(_lines(path)):
            if number == 0 and block.lstrip().startswith(b"["):
                raise UsageError(
                    f"{path.name} is one JSON array", advice=f"Write one object a line: jq -c '.[]' {path.name}"
                )
            block.decode()  # Arrow does not look whether text is UTF-8
            size = pajson.ReadOptions(block_size=len(block) + 1, use_threads=False)
            yield from pajson.read_json(pa.BufferReader(block), size, options).to_batches()

    schema: pa.Schema | None = None
    rows = 0
    for batch in blocks(None):
        rows += batch.num_rows
        schema = batch.schema if schema is None else _widened(path, schema, batch.schema)
    if schema is None:
        raise EmptyData(f"{path.name} has no rows")
    whole = schema
    return Part(whole, rows, lambda: _named(path, blocks(whole)))


def _widened(path: Path, first: pa.Schema, second: pa.Schema) -> pa.Schema:
    """Both, column by column; text that looked like times at first is text."""
    fields = list(first)
    for field in second:
        at = first.get_field_index(field.name)
        if at < 0:
            fields.append(field)
            continue
        kinds = (fields[at].type, field.type)
        try:
            fields[at] = pa.unify_schemas([pa.schema([fields[at]]), pa.schema([field])], promote_options="permissive")[
                0
            ]
        except pa.ArrowException:
            if not all(pa.types.is_string(kind) or pa.types.is_timestamp(kind) for kind in kinds):
                raise SchemaMismatch(f"{path.name}: column {field.name!r} is {kinds[0]} and later {kinds[1]}") from None
            fields[at] = field.with_type(pa.string())
    return pa.schema(fields)


def _lines(path: Path) -> Iterator[bytes]:
    """The file in blocks of whole lines."""
    with pa.input_stream(str(path), compression="detect") as stream:
        rest = b""
        while piece := stream.read(TEXT_BLOCK_BYTES):
            rest += piece
            end = rest.rfind(b"\n") + 1
            if rest[:end].strip():
                yield rest[:end]
            rest = rest[end:]
            if len(rest) > LINE_BYTES_MAX:
                raise UsageError(f"{path.name} has a line of more than {LINE_BYTES_MAX >> 20} MiB")
        if rest.strip():
            yield rest


_TEXT: dict[str, Callable[[Path], Part]] = {
    ".csv": _csv,
    ".tsv": _csv,
    ".jsonl": _json_lines,
    ".ndjson": _json_lines,
    ".json": _json_lines,
}
_FORMATS: dict[str, Callable[[Path], Part]] = {
    ".parquet": _parquet,
    ".pq": _parquet,
    ".arrow": _arrow,
    ".arrows": _arrow,
    ".ipc": _arrow,
    ".feather": _arrow,
    **_TEXT,
}
