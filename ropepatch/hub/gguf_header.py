"""The header of a GGUF file on the Hub, by ranges, to its end.

Keys may stand behind the tokenizer (ropepatch itself puts new ones there), and frequency factors are tensors, whose
records come last. Arrays of numbers are stepped over, and so is the middle of vocabularies that take too long.
"""

from __future__ import annotations

from ropepatch.containers import gguf
from ropepatch.errors import InputError
from ropepatch.hub import vocabulary
from ropepatch.storage.remote import Sparse

#: what is asked for more than once: at least this, and at most
_LEAST, _MOST = 128 << 10, 4 << 20
#: bytes that are left out between two ranges only if they are more
WORTH_SKIPPING = 128 << 10
#: headers that end about here are walked through, whatever they hold
WALKED = 6 << 20


def fetch(file: Sparse, first: int, *, exact: bool) -> tuple[gguf.Header, bool]:
    """Fetch what a header holds.

    Args:
        file: nothing of it needs to be here.
        first: bytes of the first request.
        exact: leave no vocabulary out.

    Returns:
        The header, and whether all of its texts are those of the file.

    Raises:
        InputError: it is none, or takes too much.
        HubError: the Hub refuses.
    """
    file.known, whole = 0, True
    file.extend(first)
    while True:
        try:
            header = gguf.scan(file.path, file.known)
        except gguf.Incomplete as missing:
            long = not exact and missing.left and file.known + missing.left > WALKED
            if long and vocabulary.leap(file, missing.at):
                whole = False
            else:
                exact = exact or bool(long)
                _go_on(file, missing)
        except InputError:
            if whole:
                raise
            return fetch(file, first, exact=True)
        else:
            if whole or _comes_out_even(header):
                return header, whole
            return fetch(file, first, exact=True)


def _comes_out_even(header: gguf.Header) -> bool:
    """Whether the tensor data end where the file does, which they do only if nothing was taken for something else."""
    end = max((header.data_offset + one.offset + one.size for one in header.tensors.values()), default=header.infos_end)
    return end <= header.size <= header.data_offset + header.data_size


def _go_on(file: Sparse, missing: gguf.Incomplete) -> None:
    """Fetch more of a header: about as much as the value needs that could not be read to its end."""
    if missing.at > file.known + WORTH_SKIPPING:
        file.known = missing.at & ~4095  # numbers that nobody reads; a hole stays
    if file.known > vocabulary.MAX_HEADER:
        raise InputError(f"the header takes more than {vocabulary.MAX_HEADER} bytes", where=str(file.path))
    wanted = missing.left + missing.left // 8 + max(missing.at - file.known, 0) + _LEAST
    file.extend(min(max(wanted, _LEAST), max(_MOST, file.known)))
