"""Files that nobody but their owner may read: a wallet's, and a provider's store.

They hold no keys, but they hold signatures that are money, and who pays whom for what. SQLite makes
its files readable for all; its log and index take their mode from the file that they belong to, so
it is enough that this one is there before SQLite opens it. A file that is there keeps the mode that
its owner has given it.
"""

import os
import threading
from contextlib import suppress
from pathlib import Path

# To close a file drops all locks that this process has on it, SQLite's too: nobody may open it
# while another thread is still making it.
_making = threading.Lock()


def make_private(path: str | Path) -> None:
    """Makes an empty file of mode 0600 when there is none. What fails, opening it will tell."""
    place = os.path.realpath(path)  # a symbolic link is followed, as SQLite does
    with _making, suppress(OSError):
        os.close(os.open(place, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
