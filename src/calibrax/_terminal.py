"""Text in any encoding, and progress bars on a terminal, in a log file and in a notebook."""

import codecs
import io
import sys
import warnings
from collections.abc import Iterable, Iterator
from typing import Any, TextIO

SPELLED = {"β": "beta", "σ": "sigma", "π": "pi", "±": "+/-", "×": "x", "²": "^2", "·": "*", "–": "-", "−": "-"}
SPELL_OUT = "calibrax.spell_out"  # the name of the error handler
SECONDS_BETWEEN_LINES = 30  # of a progress bar in a log file
SECONDS_BETWEEN_MOVES = 0.2  # on a terminal and in a notebook


def _spell_out(error: UnicodeError) -> tuple[str, int]:
    """Replace a character that the encoding lacks: σ by "sigma", and any other by "?".

    A byte of a file name that is not text is shown as in Python's `bytes`: backslash, x and two digits.
    """
    if not isinstance(error, UnicodeEncodeError):
        raise error
    character = error.object[error.start]
    undecoded = "\udc80" <= character <= "\udcff"  # how `os.fsdecode` keeps such a byte
    text = f"\\x{ord(character) - 0xDC00:02x}" if undecoded else SPELLED.get(character, "?")
    return text, error.start + 1


codecs.register_error(SPELL_OUT, _spell_out)


def accept_any_text() -> None:
    """Make this process's standard output and error spell out what their encoding lacks.

    For programs. A library call leaves the streams alone and uses `say`. So does this function where they have been
    replaced by streams of another class, as in IPython.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=SPELL_OUT)


def encodable(text: str, stream: TextIO | None) -> str:
    """The text with what the stream's encoding lacks spelled out."""
    encoding = getattr(stream, "encoding", None) or "utf-8"
    return text.encode(encoding, SPELL_OUT).decode(encoding)


def say(text: str, *, end: str = "\n", file: TextIO | None = None) -> None:
    """Print to standard output, or to another stream, whatever its encoding."""
    print(encodable(text, file or sys.stdout), end=end, file=file, flush=True)


def progress_bar(*args: Any, **options: Any) -> Any:
    """A tqdm bar on standard error, called as `tqdm.tqdm`.

    It moves five times a second on a terminal and in a notebook. A log file gets a line every 30 seconds. Without tqdm,
    which is in the extra `train`, nothing is shown.
    """
    try:
        tqdm = _tqdm()
    except ModuleNotFoundError:
        return _NoBar(*args, **options)
    moves = is_notebook() or (sys.stderr is not None and sys.stderr.isatty())
    return tqdm(
        *args,
        mininterval=SECONDS_BETWEEN_MOVES if moves else SECONDS_BETWEEN_LINES,
        miniters=1,  # otherwise tqdm foresees from the speed so far when to move, and stands still after a slow part
        unit_scale=True,
        dynamic_ncols=True,
        disable=sys.stderr is None,  # as in a Windows program without a console
        **options,
    )


def _tqdm() -> Any:
    """tqdm's class for a notebook or for text."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # without ipywidgets, tqdm.auto warns and is a bar of text
        if is_notebook():
            from tqdm.auto import tqdm
        else:
            from tqdm import tqdm
    return tqdm


class _NoBar:
    """Takes the calls of a tqdm bar and shows nothing."""

    def __init__(self, iterable: Iterable[Any] = (), *args: Any, **options: Any):
        self._iterable = iterable

    def __iter__(self) -> Iterator[Any]:
        return iter(self._iterable)

    def __enter__(self) -> "_NoBar":
        return self

    def __exit__(self, *exc_info: Any) -> None:
        pass

    def update(self, num: float = 1) -> None:
        pass

    def set_postfix_str(self, text: str, refresh: bool = True) -> None:
        pass

    def close(self) -> None:
        pass


def is_notebook() -> bool:
    """True if standard error is shown in a notebook: under an IPython kernel, unless it is redirected to a file."""
    return "ipykernel" in sys.modules and type(sys.stderr) is not io.TextIOWrapper
