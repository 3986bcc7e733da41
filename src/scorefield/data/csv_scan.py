"""One pass over the bytes of a CSV file that finds every fault of form before anything is parsed.

Arrow's parser is fast but lenient: it takes unterminated quotes, and bytes that are no UTF-8. The grammar here is RFC
4180 made strict, over blocks that end at a newline. With the parity of the quotes up to a byte,

- a delimiter or newline is structural where the parity is even;
- a quote that opens stands after a structural byte, or after the quote that just closed (an escape);
- a quote that closes stands before a structural byte, the end, or the quote that opens again;
- every record has the same number of structural delimiters.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import BinaryIO, NoReturn

import numpy as np

from scorefield.data.limits import Limits, human
from scorefield.data.schema import check_names
from scorefield.errors import DataError

MISSING = ("", "NA", "N/A", "n/a", "#N/A", "NULL", "null")
_BLOCK = 8 << 20
_NEWLINE, _RETURN, _QUOTE, _ZERO = 10, 13, 34, 48
_NUMBER = re.compile(r"\s*[+-]?(\d+\.?\d*([eE][+-]?\d+)?|\.\d+([eE][+-]?\d+)?|nan|NaN|inf|-?Infinity)\s*")
_DELIMITERS = {",": "comma", "\t": "tab", ";": "semicolon"}


@dataclass
class Scan:
    """What one pass over a CSV file found.

    Args:
        delimiter: one character.
        names: the column names; "0", "1", … without a header.
        header: whether the first record is the header.
        first_line: the line of the first row.
        rows: how many rows there are.
        multiline: whether a cell holds a line break, so that rows and lines differ.
        longest: bytes of the longest line.
        leading_zeros: columns (from 0) with a cell such as 007, which a number would not keep.
        notes: what the user should see.
    """

    delimiter: str
    names: list[str]
    header: bool
    first_line: int = 1
    rows: int = 0
    multiline: bool = False
    longest: int = 0
    leading_zeros: set[int] = field(default_factory=set)
    notes: list[str] = field(default_factory=list)


def scan(stream: BinaryIO, source: str, limits: Limits, stored: int | None) -> Scan:
    """Check the form of a whole CSV file.

    Args:
        stream: its bytes, decompressed.
        source: the file's name, for messages.
        limits: caps on the length of a line and, for a compressed file, on all bytes.
        stored: bytes on disk of a compressed file, else None.

    Returns:
        what the parser needs to know.

    Raises:
        DataError: for the first fault, with file, line and column.
    """
    blocks = _blocks(stream, source, limits, stored)
    first = next(blocks, b"")
    first = _without_mark(first, source)
    state = _State(source, _first_record(first, source))
    state.block(first)
    for block in blocks:
        state.block(block)
    return state.finish()


def as_header(cells: list[str]) -> bool:
    """Whether a first record is a header: it is none when its cells are numbers, or numbers and empty cells.

    The numbers 0, 1, 2, … in order, three at least, are the names that pandas and this project give to unnamed columns.
    """
    numbers = [cell for cell in cells if _NUMBER.fullmatch(cell)]
    if len(cells) >= 3 and cells == [str(place) for place in range(len(cells))]:
        return True
    if cells[0] == "" and cells[1:] == [str(place) for place in range(len(cells) - 1)]:
        return True  # pandas' index column: the empty name is then refused
    return not numbers or any(cell not in MISSING and not _NUMBER.fullmatch(cell) for cell in cells)


def _blocks(stream: BinaryIO, source: str, limits: Limits, stored: int | None) -> Iterator[bytes]:
    """The file in blocks that end at a newline or at the end of the file."""
    total = 0
    while True:
        try:
            block = stream.read(_BLOCK)
            if block and not block.endswith(b"\n"):
                rest = stream.readline(limits.line_bytes)
                if len(rest) == limits.line_bytes and not rest.endswith(b"\n"):
                    raise DataError(f"{source}: a line is longer than {human(limits.line_bytes)} (Limits.line_bytes)")
                block += rest
        except (OSError, EOFError) as error:
            raise DataError(f"{source}: cannot be read to its end, after {human(total)}: {error}") from error
        if not block:
            return
        total += len(block)
        limits.check_bytes(total, stored, source)
        yield block


def _without_mark(block: bytes, source: str) -> bytes:
    """The first block without UTF-8's byte order mark; other encodings, known by their marks, are refused."""
    for mark, name in ((b"\xff\xfe", "UTF-16"), (b"\xfe\xff", "UTF-16"), (b"\x00\x00\xfe\xff", "UTF-32")):
        if block.startswith(mark):
            raise DataError(f"{source}, line 1, column 1: the file is {name}, expected UTF-8")
    for magic, name in ((b"\x1f\x8b", "a gzip archive"), (b"PK\x03\x04", "a ZIP archive or spreadsheet")):
        if block.startswith(magic):
            raise DataError(f"{source}, line 1, column 1: the file is {name}, expected CSV text")
    return block.removeprefix(b"\xef\xbb\xbf")


_Fault = tuple[
    int, int, str
]  # the byte within the block, the column from 0 or −1 for the byte's own, and what is wrong


@dataclass(frozen=True)
class _First:
    """The first record: its cells, its end in the file, and whether another delimiter could be meant."""

    delimiter: str
    cells: list[str]
    header: bool
    end: int
    lines: int
    contested: bool
    sound: bool = True


def _first_record(block: bytes, source: str) -> _First:
    """Delimiter and header, from the first record; the names are checked where it can be read at all."""
    array = np.frombuffer(block, dtype=np.uint8)
    inside = np.bitwise_xor.accumulate((array == _QUOTE).view(np.uint8)).astype(bool) if b'"' in block else None
    ends = array == _NEWLINE if inside is None else (array == _NEWLINE) & ~inside
    end = int(np.argmax(ends)) if ends.any() else len(block)
    record = block[:end].removesuffix(b"\r")
    if not block.strip():
        raise DataError(f"{source}, line 1, column 1: the file is empty, expected a header or numbers")
    if not record.strip():
        raise DataError(f"{source}, line 1, column 1: an empty line, expected a header or numbers")
    open_cell = array[: len(record)]
    outside = np.ones(len(open_cell), dtype=bool) if inside is None else ~inside[: len(open_cell)]
    counts = {mark: int(((open_cell == ord(mark)) & outside).sum()) for mark in _DELIMITERS}
    delimiter = max(counts, key=lambda mark: counts[mark])
    lines = 1 + record.count(b"\n")
    try:
        cells = next(csv.reader(io.StringIO(record.decode("utf-8"), newline=""), delimiter=delimiter, strict=True))
    except (UnicodeDecodeError, csv.Error):
        cells = []
    if len(cells) != counts[delimiter] + 1:
        # The pass itself finds the fault, and its line and column.
        return _First(delimiter, [""] * (counts[delimiter] + 1), False, end, lines, False, sound=False)
    header = as_header(cells)
    if header:
        check_names(cells, f"{source}, line 1")
    return _First(delimiter, cells, header, end, lines, sum(count > 0 for count in counts.values()) > 1)


class _State:
    """What is carried from block to block: where lines, records and quotes stand."""

    def __init__(self, source: str, first: _First) -> None:
        self.source = source
        self.sound = first.sound
        self.width = len(first.cells)
        self.skip = first.end if first.header else -1  # the header's end, while in the first block
        names = first.cells if first.header else [str(place) for place in range(self.width)]
        self.found = Scan(first.delimiter, names, first.header, 1 + first.lines * first.header)
        if first.delimiter != ",":
            self.found.notes.append(f"{source}: read with {_DELIMITERS[first.delimiter]}s between cells")
        elif first.contested:
            self.found.notes.append(f"{source}: the first line also holds tabs or semicolons; read with commas")
        if not first.header:
            self.found.notes.append(
                f"{source}: no header, the first line is all numbers; the columns are named 0 to {self.width - 1}"
            )
        self.line = 1  # of the first byte of the block
        self.records = 0
        self.delimiters = 0  # structural ones since the record began
        self.inside = False
        self.opened_line = 0  # of the last quote that opened a cell still open
        self.record_line = 1  # where the record that is open began
        self.open_bytes = 0  # of the record that is open
        self.blank_line = 0  # the first of the blank lines at the end, if any

    def block(self, data: bytes) -> None:
        """Check one block that begins at a line and ends at a newline or the end of the file."""
        array = np.frombuffer(data, dtype=np.uint8)
        newline = array == _NEWLINE
        delimiter = array == ord(self.found.delimiter)
        faults: list[_Fault] = []
        quote = array == _QUOTE if b'"' in data else None
        after = None
        if quote is not None or self.inside:
            quote = np.zeros(len(array), dtype=bool) if quote is None else quote
            after = np.bitwise_xor.accumulate(quote.view(np.uint8)).astype(bool) ^ self.inside
            faults += self._quotes(array, quote, after, newline, delimiter)
            if (newline & after).any():
                self.found.multiline = True
            newline, delimiter = newline & ~after, delimiter & ~after
        faults += self._characters(data, array, after)
        ends, marks = np.flatnonzero(newline), np.flatnonzero(delimiter)
        if not data.endswith(b"\n") and not (after is not None and after[-1]):
            ends = np.append(ends, len(data))  # the last record of a file need not end its line
        faults += self._records(array, ends, marks)
        if faults:
            self._fail(data, ends, marks, min(faults))
        self._leading_zeros(array, newline, delimiter, quote, ends, marks)
        self._carry(data, quote, after, ends, marks)

    def finish(self) -> Scan:
        """Check what only the end of the file shows."""
        found = self.found
        if self.inside:
            raise DataError(
                f"{self.source}, line {self.opened_line}, column {self._column(self.delimiters)}: a quoted cell begins "
                f'here and the file ends before its closing quote, expected "'
            )
        if self.blank_line:
            found.notes.append(f"{self.source}: empty lines at the end, from line {self.blank_line}, left out")
        if not self.sound:
            raise DataError(f"{self.source}, line 1, column 1: the first line cannot be read as CSV")
        found.rows = self.records - found.header
        if found.rows == 0:
            raise DataError(f"{self.source}: a header of {self.width} columns and no rows, expected at least one row")
        return found

    def _quotes(
        self, array: np.ndarray, quote: np.ndarray, after: np.ndarray, newline: np.ndarray, delimiter: np.ndarray
    ) -> list[_Fault]:
        """Quotes that open within a cell, or close before its end."""
        boundary = newline | delimiter | quote
        before = np.empty_like(boundary)
        before[0], before[1:] = True, boundary[:-1]
        following = np.empty_like(boundary)
        following[-1], following[:-1] = True, boundary[1:]
        following[:-1] |= array[1:] == _RETURN
        faults = []
        opens, closes = quote & after & ~before, quote & ~after & ~following
        if opens.any():
            text = "a quote inside a cell that does not begin with one, expected the whole cell in quotes"
            faults.append((int(np.argmax(opens)), -1, text))
        if closes.any():
            place = int(np.argmax(closes))
            earlier = np.flatnonzero((quote & after & ~np.append(False, quote[:-1]))[:place])
            line = self.line + int((array[: earlier[-1]] == _NEWLINE).sum()) if len(earlier) else self.opened_line
            text = f"text after the closing quote of the cell that line {line} opens, expected the next cell"
            faults.append((place, -1, text))
        return faults

    def _characters(self, data: bytes, array: np.ndarray, inside: np.ndarray | None) -> list[_Fault]:
        """Bytes that are no UTF-8, NULs, and line ends that are no line ends."""
        faults = []
        if not data.isascii():
            try:
                data.decode("utf-8")
            except UnicodeDecodeError as error:
                byte = data[error.start]
                faults.append((error.start, -1, f"byte 0x{byte:02x} is not UTF-8 (perhaps latin-1), expected UTF-8"))
        if b"\0" in data:
            faults.append((data.index(b"\0"), -1, "a NUL byte, expected text"))
        if b"\r" in data:
            places = np.flatnonzero(array == _RETURN)
            if inside is not None:
                if inside[places].any():
                    self.found.multiline = True
                places = places[~inside[places]]
            following = array[np.minimum(places + 1, len(array) - 1)]
            wrong = places[following != _NEWLINE]
            if len(wrong):
                faults.append((int(wrong[0]), -1, "a carriage return within a line, expected line ends \\n or \\r\\n"))
        return faults

    def _records(self, array: np.ndarray, ends: np.ndarray, marks: np.ndarray) -> list[_Fault]:
        """Records with too few or too many cells, and empty lines that are not at the end of the file."""
        if not len(ends):
            return []
        upto = np.searchsorted(marks, ends)
        counts = np.diff(upto, prepend=0)
        counts[0] += self.delimiters
        starts = np.concatenate(([0], ends[:-1] + 1))
        starts = np.minimum(starts, len(array) - 1)
        blank = (counts == 0) & ((ends - starts == 0) | ((ends - starts == 1) & (array[starts] == _RETURN)))
        faults = []
        wrong = (counts != self.width - 1) & ~blank
        if wrong.any():
            place = int(np.argmax(wrong))
            cells, expected = int(counts[place]) + 1, "as in the first line"
            kind = "short" if cells < self.width else "long"
            text = f"a {kind} row of {cells} cells, expected {self.width} {expected}"
            position = int(ends[place])
            surplus = int(upto[place]) - (cells - self.width)  # the delimiter before the first cell too many
            if kind == "long":
                position = int(marks[surplus]) if surplus >= 0 else 0
            faults.append((position, min(cells, self.width), text))
        filled = np.flatnonzero(~blank)
        if self.blank_line and len(filled):
            faults.append((-1, 0, "an empty line between rows, expected a row"))
        elif blank.any() and len(filled) and int(np.argmax(blank)) < int(filled[-1]):
            faults.append((int(starts[np.argmax(blank)]), 0, "an empty line between rows, expected a row"))
        if not faults:
            self.records += len(filled)
            if blank.any() and not self.blank_line:
                self.blank_line = self.line + int((array[: starts[np.argmax(blank)]] == _NEWLINE).sum())
            lengths = ends - starts
            lengths[0] += self.open_bytes
            self.found.longest = max(self.found.longest, int(lengths.max()))
        return faults

    def _leading_zeros(
        self,
        array: np.ndarray,
        newline: np.ndarray,
        delimiter: np.ndarray,
        quote: np.ndarray | None,
        ends: np.ndarray,
        marks: np.ndarray,
    ) -> None:
        """Remember the columns that hold a cell such as 007."""
        if len(array) < 2:
            return
        edge = newline | delimiter if quote is None else newline | delimiter | quote
        zero = array == _ZERO
        zero[1:] &= edge[:-1]
        zero[:-1] &= (array[1:] >= _ZERO) & (array[1:] < _ZERO + 10)
        zero[-1] = False
        places = np.flatnonzero(zero)
        places = places[places > self.skip]
        if not len(places):
            return
        record = np.searchsorted(ends, places)
        begin = np.concatenate(([0], ends))[record]
        columns = np.searchsorted(marks, places) - np.searchsorted(marks, begin)
        columns[record == 0] += self.delimiters
        self.found.leading_zeros.update(np.unique(columns).tolist())

    def _carry(
        self,
        data: bytes,
        quote: np.ndarray | None,
        after: np.ndarray | None,
        ends: np.ndarray,
        marks: np.ndarray,
    ) -> None:
        """Bring the state to the end of the block."""
        self.inside = bool(after[-1]) if after is not None else False
        last = int(ends[-1]) if len(ends) else -1
        unfinished = int(len(marks) - np.searchsorted(marks, last)) if len(ends) else self.delimiters + len(marks)
        if self.inside and quote is not None and quote.any():
            opening = int(np.flatnonzero(quote & ~np.append(False, quote[:-1]))[-1])
            self.opened_line = self.line + data.count(b"\n", 0, opening)
        if last >= 0:
            self.record_line = self.line + data.count(b"\n", 0, last + 1)
            self.open_bytes = 0
        self.open_bytes += len(data) - last - 1
        self.skip = -1
        self.delimiters = unfinished
        self.line += data.count(b"\n")

    def _column(self, place: int) -> str:
        """A column's number, from 1, and its name where the header has one."""
        if self.found.header and place < self.width:
            return f"{place + 1} ({self.found.names[place]!r})"
        return str(place + 1)

    def _fail(self, data: bytes, ends: np.ndarray, marks: np.ndarray, fault: _Fault) -> NoReturn:
        """Raise with the line and column of a byte of the block."""
        position, column, text = fault
        if position < 0:
            raise DataError(f"{self.source}, line {self.blank_line}, column 1: {text}")
        record = int(np.searchsorted(ends, position))
        begin = int(ends[record - 1]) + 1 if record else 0
        if column < 0:
            column = int(np.searchsorted(marks, position) - np.searchsorted(marks, begin))
            column += self.delimiters if record == 0 else 0
        line = self.line + data.count(b"\n", 0, position)
        began = self.line + data.count(b"\n", 0, begin) if record else self.record_line
        row = "" if began == line else f" (of the row that begins at line {began})"
        raise DataError(f"{self.source}, line {line}, column {self._column(column)}{row}: {text}")
