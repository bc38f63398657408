"""Printing: on a terminal, lines that fit its width, with verdicts and errors in colour; elsewhere plain text.

A terminal gets no colour if NO_COLOR is set (https://no-color.org) or TERM is dumb.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import re
import shutil
import sys
import textwrap
from collections.abc import Iterator
from typing import Any, NoReturn, TextIO, cast

PLAIN_WIDTH = 80  # columns of text for a file or a pipe
COLOURS = {"preserved": 32, "moved": 36, "deformed": 36, "unmoved": 33, "drifted": 33, "broken": 31, "diverged": 31}
VERDICTS = re.compile(rf"(?<![\w/.-])({'|'.join(COLOURS)})(?![\w/.-])")
# control characters, which a terminal would obey, and those that change the direction of writing
CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069]")
LONGEST = 1000  # characters of an error message
GAP = re.compile(r"(?<=\S) {2,}(?=\S)")


def width(stream: TextIO | None = None) -> int:
    """Return the columns to fill: the terminal's, at least 20; 80 without a terminal."""
    columns = shutil.get_terminal_size((PLAIN_WIDTH, 24)).columns if _is_terminal(stream or sys.stdout) else PLAIN_WIDTH
    return max(columns, 20)


def print_styled(text: str) -> None:
    """Print a text on standard output, as `render` returns it."""
    print(render(text, sys.stdout))


def print_help(text: str) -> None:
    """Print a help text on standard output, wrapped also without a terminal."""
    print(wrap(text, width()))


def print_error(text: str) -> None:
    """Print one line on standard error, after "wavebase:"."""
    mark = colorize("wavebase:", 31) if _in_colour(sys.stderr) else "wavebase:"
    line = visible(one_line(text), sys.stderr)
    if _is_terminal(sys.stderr):
        line = wrap(f"wavebase: {line}", width(sys.stderr)).removeprefix("wavebase: ")
    print(f"{mark} {line}", file=sys.stderr)


def print_job_error(text: str) -> None:
    """Print why a job failed on standard error, wrapped if that is a terminal."""
    text = visible(text, sys.stderr)
    print(wrap(text, width(sys.stderr)) if _is_terminal(sys.stderr) else text, file=sys.stderr)


def one_line(text: str) -> str:
    """Return the text as one line of at most `LONGEST` characters, with `visible` controls."""
    line = visible(" ".join(text.split()))
    if len(line) <= LONGEST:
        return line
    # the remedy at the end stays whole, and so do words and the escapes of control characters
    remedy = line[-LONGEST // 3 :].partition("; ")[2] or line[-LONGEST // 10 :].partition(" ")[2]
    return f"{line[: LONGEST - len(remedy) - 3].rpartition(' ')[0]} … {remedy}"


def visible(text: str, stream: TextIO | None = None) -> str:
    """Return the text with control characters, and those that the stream cannot encode, as escapes: `\\x1b` for ESC.

    Records from elsewhere may hold such characters.
    """
    text = CONTROLS.sub(lambda found: found[0].encode("unicode_escape").decode(), text)
    encoding = getattr(stream, "encoding", None) or "utf-8"
    return text.encode(encoding, "backslashreplace").decode(encoding)


def render(text: str, stream: TextIO) -> str:
    """Return the text for this stream: with `visible` controls and, on a terminal, wrapped and with coloured verdicts."""
    text = visible(text, stream)
    if _is_terminal(stream):
        text = wrap(text, width(stream))
    return VERDICTS.sub(lambda found: colorize(found[1], COLOURS[found[1]]), text) if _in_colour(stream) else text


def wrap(text: str, columns: int) -> str:
    """Return the text with longer lines wrapped between words; a longer word, such as a path, stays whole.

    "name   prose" continues below the prose. A row of a table loses its alignment and continues indented.
    """
    lines = text.expandtabs().split("\n")
    return "\n".join(part for line in lines for part in _wrapped(line.rstrip(), columns))


def _wrapped(line: str, columns: int) -> list[str]:
    if len(line) <= columns:
        return [line]
    lead = len(line) - len(line.lstrip())
    if lead > columns // 4:  # a table's head
        line, lead = line.lstrip(), 0
    gaps = list(GAP.finditer(line))
    hang = lead or 4
    if len(gaps) == 1 and gaps[0].end() <= columns // 2:
        hang = gaps[0].end()
    elif gaps:
        line, hang = line[:lead] + GAP.sub("  ", line[lead:]), lead + 4
    hang = min(hang, columns // 2)
    wrapper = textwrap.TextWrapper(
        columns, subsequent_indent=" " * hang, break_long_words=False, break_on_hyphens=False
    )
    return wrapper.wrap(line)


class Formatter(logging.Formatter):
    """Formats log records for standard output with `render`."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the record's line or lines."""
        return render(super().format(record), sys.stdout)


class Parser(argparse.ArgumentParser):
    """Reports an error in one line, with exit status 1."""

    def error(self, message: str) -> NoReturn:
        """Print the error and exit."""
        print_error(f"the words of the command must be as --help lists them, got this: {message}")
        sys.exit(1)


class _Tolerant:
    """A text stream that drops what is written after its reader has gone."""

    def __init__(self, stream: TextIO):
        self.stream = stream

    def write(self, text: str) -> int:
        with self._dropping():
            self.stream.write(text)
        return len(text)

    def flush(self) -> None:
        with self._dropping():
            self.stream.flush()

    @contextlib.contextmanager
    def _dropping(self) -> Iterator[None]:
        try:
            yield
        except BrokenPipeError:  # the descriptor itself: the interpreter flushes it once more when it ends
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self.stream.fileno())
            os.close(nowhere)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


@contextlib.contextmanager
def ignore_closed_pipes() -> Iterator[None]:
    """Go on without output after the reader of standard output or error has gone, as in `wavebase run | head -1`.

    Also a decorator. Covers logging: handlers that exist already are redirected, later ones find the new streams.
    """
    before = sys.stdout, sys.stderr
    if isinstance(sys.stdout, _Tolerant):
        yield
        return
    for name in ("stdout", "stderr"):
        if (stream := getattr(sys, name)) is not None:  # None: it was closed before we began
            tolerant = cast(TextIO, _Tolerant(stream))
            setattr(sys, name, tolerant)
            for handler in logging.root.handlers:
                if isinstance(handler, logging.StreamHandler) and handler.stream is stream:
                    handler.setStream(tolerant)
    try:
        yield
    finally:
        for stream in (sys.stdout, sys.stderr):
            if stream is not None:
                stream.flush()
        sys.stdout, sys.stderr = before


def _is_terminal(stream: TextIO | None) -> bool:
    return stream is not None and stream.isatty()


def _in_colour(stream: TextIO | None) -> bool:
    return _is_terminal(stream) and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def colorize(text: str, code: int) -> str:
    """Return the text in the colour with this ANSI code."""
    return f"\033[{code}m{text}\033[0m"
