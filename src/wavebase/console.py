"""What a terminal is told: lines that fit its width, verdicts and complaints in colour; everything else gets plain text.

Colour is for terminals only, and not where NO_COLOR is set (https://no-color.org) or TERM is dumb.
"""

from __future__ import annotations

import argparse
import logging
import os
import re
import shutil
import sys
import textwrap
from typing import NoReturn, TextIO

PLAIN_WIDTH = 80  # columns of what goes to a file or a pipe
COLOURS = {"preserved": 32, "moved": 36, "deformed": 36, "unmoved": 33, "drifted": 33, "broken": 31, "diverged": 31}
VERDICTS = re.compile(rf"(?<![\w/.-])({'|'.join(COLOURS)})(?![\w/.-])")
# what a terminal would obey: control characters, and those that turn the direction of writing
CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069]")
LONGEST = 1000  # characters of a complaint
GAP = re.compile(r"(?<=\S) {2,}(?=\S)")


def width(stream: TextIO | None = None) -> int:
    """Columns to fill: the terminal's, else 80."""
    columns = shutil.get_terminal_size((PLAIN_WIDTH, 24)).columns if _is_terminal(stream or sys.stdout) else PLAIN_WIDTH
    return max(columns, 20)


def print_styled(text: str) -> None:
    """Print on standard output, as `render` there."""
    print(render(text, sys.stdout))


def print_help(text: str) -> None:
    """Print a help text on standard output, fitted wherever it goes."""
    print(wrap(text, width()))


def print_error(text: str) -> None:
    """Print one line on standard error, marked as ours."""
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
    """The text as one line of at most `LONGEST` characters, what a terminal would obey made visible."""
    line = visible(" ".join(text.split()))
    if len(line) <= LONGEST:
        return line
    # the remedy at the end stays whole, and so do words and the escapes of control characters
    remedy = line[-LONGEST // 3 :].partition("; ")[2] or line[-LONGEST // 10 :].partition(" ")[2]
    return f"{line[: LONGEST - len(remedy) - 3].rpartition(' ')[0]} … {remedy}"


def visible(text: str, stream: TextIO | None = None) -> str:
    """The text with what a terminal would obey, or the stream's encoding does not know, as escapes: `\\x1b` for ESC. What was
    written by others may hold such characters."""
    text = CONTROLS.sub(lambda found: found[0].encode("unicode_escape").decode(), text)
    encoding = getattr(stream, "encoding", None) or "utf-8"
    return text.encode(encoding, "backslashreplace").decode(encoding)


def render(text: str, stream: TextIO) -> str:
    """The text as this stream should get it: with `visible` controls and, on a terminal, fitted to its width and its verdicts
    in colour."""
    text = visible(text, stream)
    if _is_terminal(stream):
        text = wrap(text, width(stream))
    return VERDICTS.sub(lambda found: colorize(found[1], COLOURS[found[1]]), text) if _in_colour(stream) else text


def wrap(text: str, columns: int) -> str:
    """The text with every longer line wrapped between words; a single longer word, such as a path, stays whole.

    "name   prose" continues under the prose. A row of a table first gives up its alignment, and continues indented.
    """
    lines = text.expandtabs().split("\n")
    return "\n".join(part for line in lines for part in _wrapped(line.rstrip(), columns))


def _wrapped(line: str, columns: int) -> list[str]:
    if len(line) <= columns:
        return [line]
    lead = len(line) - len(line.lstrip())
    if lead > columns // 4:  # the head of a table
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
    """Formats log records for standard output, as `render` there."""

    def format(self, record: logging.LogRecord) -> str:
        """The record's line or lines."""
        return render(super().format(record), sys.stdout)


class Parser(argparse.ArgumentParser):
    """Complains in one line and exit status 1, as everything here."""

    def error(self, message: str) -> NoReturn:
        """Say what is wrong and end."""
        print_error(f"the words after the command must be known ones, got this: {message}; see --help")
        sys.exit(1)


def _is_terminal(stream: TextIO) -> bool:
    return stream.isatty()


def _in_colour(stream: TextIO) -> bool:
    return _is_terminal(stream) and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def colorize(text: str, code: int) -> str:
    return f"\033[{code}m{text}\033[0m"
