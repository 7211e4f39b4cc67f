"""How a command ends: any exception as one sentence and an exit code."""

from __future__ import annotations

import errno
import traceback

from edgeprune.errors import BadInput, EdgepruneError, Lacking

INTERRUPTED, BUG = 130, 1

_DENIED = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM)


def ending(error: BaseException, resumable: bool) -> tuple[str, int]:
    """Return (what to print on standard error, exit code).

    An error raised on purpose, an interruption and the system's refusal to write get one sentence. Everything else
    is a bug and gets its traceback.
    """
    if isinstance(error, EdgepruneError):
        return f"error: {error}", error.exit_code
    if isinstance(error, KeyboardInterrupt):
        return "interrupted" + ("; run the same command again to resume" if resumable else ""), INTERRUPTED
    if isinstance(error, OSError) and error.errno == errno.ENAMETOOLONG:
        return f"error: the name {str(error.filename)[:40]!r}… is too long for a file; give another", BadInput.exit_code
    if isinstance(error, OSError) and error.errno in _DENIED:
        return (
            f"error: {error.filename or 'a file'}: {error.strerror}; free some space, mend its permissions or choose "
            "another folder (--out for the build, EDGEPRUNE_CACHE for the cache)", Lacking.exit_code,
        )
    report = "error: this is a bug in edgeprune; please report it with the lines above and the command you ran"
    return "".join(traceback.format_exception(error)) + report, BUG
