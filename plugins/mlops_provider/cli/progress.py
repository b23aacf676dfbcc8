"""One line that says what is being waited for."""

from __future__ import annotations

import shutil
import time
from typing import TextIO


class Progress:
    """
    Overwrites its line on a terminal; elsewhere, writes a line when it is about something else.

    :param stream: Where to write; standard error, so that a table on standard output stays clean.
    """

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream
        self.terminal = stream.isatty()
        self.about = ""
        self.detail = ""
        self.since = time.monotonic()

    def say(self, about: str, detail: str = "") -> None:
        """
        Say what is waited for now.

        :param about: What it is, such as a month and its DAG.
        :param detail: What it is doing; for terminals only. The last one stays until there is another.
        """
        if about != self.about:
            self.about, self.detail, self.since = about, "", time.monotonic()
            if not self.terminal:
                print(about, file=self.stream, flush=True)
        self.detail = detail or self.detail
        if self.terminal:
            text = f"{about}  {self.detail} ({time.monotonic() - self.since:.0f} s)"
            print(f"\r\033[K{text[: shutil.get_terminal_size().columns - 1]}", end="", file=self.stream, flush=True)

    def clear(self) -> None:
        """Remove the line from a terminal."""
        if self.terminal and self.about:
            print("\r\033[K", end="", file=self.stream, flush=True)
        self.about = ""
