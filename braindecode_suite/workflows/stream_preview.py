"""A picture of what was predicted, made in a thread of its own: decoding never waits for it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import numpy as np

Draw = Callable[[Any], np.ndarray]


class Preview:
    """Draw the latest prediction; those that come while one is drawn replace each other.

    Parameters
    ----------
    draw : callable
        Gets what `offer` was given and returns an image, array of uint8 of shape (height, width, 3).
    show : callable
        Gets the image and the tag it was offered with, in the thread that draws.

    Attributes
    ----------
    n_drawn, n_dropped : int
        Images made, and predictions that a newer one replaced.
    error : str
        Why drawing stopped, empty while it goes on.
    """

    def __init__(self, draw: Draw, show: Callable[[np.ndarray, Any], None]) -> None:
        self._draw, self._show = draw, show
        self._waiting: tuple[Any, Any] | None = None
        self._condition = threading.Condition()
        self._closed = False
        self.n_drawn = self.n_dropped = 0
        self.error = ""
        self._thread = threading.Thread(target=self._work, name="preview", daemon=True)
        self._thread.start()

    def offer(self, prediction: Any, tag: Any = None) -> None:
        """Ask for a picture and return at once."""
        with self._condition:
            if self.error or self._closed:
                self.n_dropped += 1
                return
            self.n_dropped += self._waiting is not None
            self._waiting = prediction, tag
            self._condition.notify()

    def _work(self) -> None:
        while True:
            with self._condition:
                self._condition.wait_for(lambda: self._waiting is not None or self._closed)
                if self._waiting is None:
                    return
                (prediction, tag), self._waiting = self._waiting, None
            try:
                self._show(self._draw(prediction), tag)
                self.n_drawn += 1
            except Exception as error:  # a preview that fails must not end a recording
                self.error = f"{type(error).__name__}: {error}"
                return

    def close(self, timeout: float = 10.0) -> None:
        """Draw what is waiting, and stop."""
        with self._condition:
            self._closed = True
            self._condition.notify()
        self._thread.join(timeout)
