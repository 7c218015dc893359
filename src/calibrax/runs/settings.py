"""Groups of settings: frozen dataclasses that check themselves, with the accepted values beside each field."""

import dataclasses
import difflib
import types
import typing
from collections.abc import Callable, Iterable
from typing import Any, Literal

TYPES_IN_WORDS = {
    int: "a whole number",
    float: "a number",
    str: "text",
    bool: "true or false",
    types.NoneType: "nothing",
}


class ConfigError(ValueError):
    """A setting has a value that is not accepted; the message is one line for the user, whatever the value is."""

    def __init__(self, message: str):
        super().__init__(" ".join(message.splitlines()))


def setting(
    default: Any, expected: str = "", accepts: Callable[[Any], bool] | None = None, *, only: Iterable[str] = ()
) -> Any:
    """A field of a group: its default, the accepted values in words and as a function, and the names that read it.

    None is accepted wherever the type allows it. `only` holds values of the group's field `name`; empty if all read it.
    """
    metadata = {"expected": expected, "accepts": accepts, "only": frozenset(only)}
    return dataclasses.field(default=default, metadata=metadata)


def flag(name: str) -> Any:
    """An annotation that gives a field another name on the command line; without effect if tyro is not installed."""
    try:
        import tyro
    except ImportError:
        return name
    return tyro.conf.arg(name=name)


@dataclasses.dataclass(frozen=True)
class Settings:
    """Base of the groups.

    The settings of all groups share one list of flat names: those of the command line, with underscores. They are the
    fields' names, except that the field `name` is called after its group: `likelihood`, `model`, and so on.

    Raises:
      ConfigError: if a value has another type, is not accepted, or would not be read.
    """

    group: typing.ClassVar[str] = ""
    name: typing.ClassVar[str] = ""  # a group that is chosen by name has a field of this name instead

    def __post_init__(self):
        kinds = typing.get_type_hints(type(self))
        for flat_name, field in self.fields_by_flat_name().items():
            value, accepts = getattr(self, field.name), field.metadata.get("accepts")
            _check_type(flat_name, value, kinds[field.name])
            if isinstance(value, list):  # as JSON and callers write a tuple
                value = tuple(value)
                object.__setattr__(self, field.name, value)
            if accepts is not None and value is not None and not accepts(value):
                shown = repr(value) if isinstance(value, str) else value
                raise ConfigError(f"{as_flag(flat_name)} is {shown}; expected {field.metadata['expected']}")
        self._check_name()
        for flat_name, field in self.fields_by_flat_name().items():
            if not self._reads(field) and getattr(self, field.name) != field.default:
                raise unread(flat_name, self.group, self.name)

    @classmethod
    def fields_by_flat_name(cls) -> dict[str, dataclasses.Field]:
        return {cls.group if field.name == "name" else field.name: field for field in dataclasses.fields(cls)}

    def flat(self) -> dict[str, Any]:
        """The settings that are read, by flat name."""
        named = self.fields_by_flat_name().items()
        return {flat_name: getattr(self, field.name) for flat_name, field in named if self._reads(field)}

    def _reads(self, field: dataclasses.Field) -> bool:
        only = field.metadata.get("only")
        return not only or self.name in only

    def _check_name(self) -> None:
        """Refuse an unknown name. Called before the checks that depend on the name."""


def _check_type(flat_name: str, value: Any, kind: Any) -> None:
    """Settings from a file or from a caller's program may have any type."""
    kinds = typing.get_args(kind) if isinstance(kind, types.UnionType) else (kind,)
    if not any(_is_of_type(value, one) for one in kinds):
        expected = " or ".join(_in_words(one) for one in kinds)
        raise ConfigError(f"{as_flag(flat_name)} is {value!r}; expected {expected}")


def _in_words(kind: Any) -> str:
    if typing.get_origin(kind) is tuple:
        return f"a list of {_in_words(typing.get_args(kind)[0])}"
    return TYPES_IN_WORDS.get(kind) or ", ".join(typing.get_args(kind))


def _is_of_type(value: Any, kind: Any) -> bool:
    if typing.get_origin(kind) is tuple:
        return isinstance(value, list | tuple) and all(_is_of_type(one, typing.get_args(kind)[0]) for one in value)
    if typing.get_origin(kind) is Literal:
        return isinstance(value, str) and value in typing.get_args(kind)
    if kind in (int, float):
        return isinstance(value, kind | int) and not isinstance(value, bool)
    return isinstance(value, kind)


def as_flag(flat_name: str) -> str:
    """The option of the command line that gives a setting."""
    return "--" + flat_name.replace("_", "-")


def unread(flat_name: str, group: str, name: str) -> ConfigError:
    """The error for a setting that the chosen likelihood or model does not read."""
    return ConfigError(f"{as_flag(flat_name)} has no meaning for --{group} {name}")


def check_name(group: str, name: str, table: Iterable[str]) -> None:
    """Raise ConfigError, in one line with the nearest names, if the name is not in the table."""
    known = list(table)
    if name not in known:
        close = difflib.get_close_matches(name, known, n=3, cutoff=0.4)
        hint = f"did you mean {' or '.join(close)}?" if close else f"expected one of {', '.join(known)}"
        raise ConfigError(f"--{group} {name!r} is unknown; {hint}")
