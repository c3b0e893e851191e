"""Directories of ours: made for their owner alone, and not used where others may change them."""

from __future__ import annotations

import errno
import logging
import os
import stat
from pathlib import Path

from otel_bridge._core.shield import warn_once

logger = logging.getLogger(__name__)

_ROOT = 0


def private_directory(root: Path, *names: str) -> Path:
    """Make a directory and the `names` below it, each with mode 0700; return the last.

    Directories that exist are checked: see `check_private`. Raises OSError.
    """
    missing = [each for each in (root, *root.parents) if not each.exists()]
    for parent in reversed(missing[1:]):
        parent.mkdir(mode=0o700, exist_ok=True)
    directory = root
    for name in ("", *names):
        directory /= name
        if not directory.is_symlink():
            directory.mkdir(mode=0o700, exist_ok=True)
        check_private(directory)
    return directory


def check_private(directory: Path) -> None:
    """Raise OSError for a directory in which others could read or replace what is written.

    That is a symbolic link, a directory of another user (root excepted), and one to which
    everybody can write. One to which its group can write, as Kubernetes makes volumes, is warned
    of once. A system without users and modes of this kind (Windows) checks for links alone.
    """
    found = directory.lstat()
    if stat.S_ISLNK(found.st_mode):
        raise _refused(directory, "it is a symbolic link; name the directory itself")
    if not stat.S_ISDIR(found.st_mode):
        raise NotADirectoryError(errno.ENOTDIR, "it is no directory", str(directory))
    if not hasattr(os, "geteuid"):
        return
    if found.st_uid not in (os.geteuid(), _ROOT):
        raise _refused(directory, "it belongs to another user; choose a directory of your own")
    if found.st_mode & stat.S_IWOTH:
        raise _refused(directory, "everybody can write to it; take that away with chmod o-w")
    if found.st_mode & stat.S_IWGRP:
        warn_once(
            logger,
            "%s can be written to by its group, whose members can change what waits there; a "
            "directory in it that does not exist yet is made for this user alone",
            directory,
        )


def _refused(directory: Path, reason: str) -> PermissionError:
    return PermissionError(errno.EPERM, reason, str(directory))
