"""A bundle's YAML with strict overrides: an unknown key or keyword is an error, a value of another type too."""

from __future__ import annotations

import ast
import difflib
import inspect
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from monai.bundle import ConfigParser
from monai.utils import optional_import

from volssl.bundle.shipped import BASE, SINGLE, bundle_folder, presets, train_configs
from volssl.errors import UsageError, UserError

SEPARATOR = "::"  # MONAI's own, between the parts of a nested key


def bundle_config(bundle: str, name: str, *, preset: str = SINGLE) -> list[Path]:
    """The files that make up a config that volssl ships, each laid over the ones before: as MONAI merges them.

    `base.yaml`, where the bundle has one, holds what its configs share; a preset states other values, but for
    `single`, the config by itself.

    Raises:
        UserError: where there is none of this name, or no such preset; it lists those there are.
    """
    folder = bundle_folder(bundle) / "configs"
    known = train_configs(bundle)
    if name not in known:
        raise UserError(f"{name}: no such config in {bundle}{nearest(name, known)}; there are {', '.join(known)}")
    laid_over = presets(bundle, name)
    if preset not in laid_over:
        there = ", ".join(f"{key} (the default)" if key == SINGLE else key for key in laid_over)
        raise UserError(f"{preset}: no such preset of {name}{nearest(preset, list(laid_over))}; there are {there}")
    return [path for path in (folder / BASE, folder / f"{name}.yaml", *laid_over[preset]) if path.is_file()]


def nearest(name: str, known: Sequence[str]) -> str:
    """`, did you mean X?` or nothing."""
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f", did you mean {close[0]}?" if close else ""


def read_config(files: Path | Sequence[Path]) -> dict[str, Any]:
    """YAML configs, one laid over the other, as plain values, nothing resolved.

    Raises:
        UserError: where a file is missing or is no YAML mapping.
    """
    first, *more = [files] if isinstance(files, Path) else files
    config = read_mapping(first)
    for path in more:
        config = resolved(config, read_mapping(path))
    return config


def read_mapping(path: Path) -> dict[str, Any]:
    """One YAML file that holds a mapping of names to values."""
    try:
        values = yaml.safe_load(path.read_text())
    except (OSError, yaml.YAMLError) as error:
        raise UserError(f"{path}: not a readable YAML file ({str(error).splitlines()[0]})") from error
    if not isinstance(values, dict):
        raise UserError(f"{path}: a bundle's config is a mapping of names to values, this file is none")
    return values


def parse_overrides(config: Mapping[str, Any], words: Sequence[str]) -> dict[str, Any]:
    """`KEY=VALUE` words of the command line -> checked values, keyed as MONAI keys them.

    A key names an entry of the config (`max_epochs`, `method::epsilon`), or a keyword of an object that the config
    builds (`method::queue_length`), whether the config states it or not. Values are YAML.

    Raises:
        UsageError: for a word without `=`, an unknown key (the nearest is suggested), or a value of another type.
    """
    return {key: checked(config, key, value) for key, value in map(split_word, words)}


def split_word(word: str) -> tuple[str, Any]:
    """`KEY=VALUE` -> the key, with MONAI's separator, and the value as YAML reads it."""
    key, equals, text = word.partition("=")
    if not equals or not key:
        raise UsageError(f"{word}: an override is written KEY=VALUE, for example max_epochs=20")
    try:
        return key.lstrip("-").replace("#", SEPARATOR), yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise UsageError(f"{word}: {text} is not a YAML value") from error


def checked(config: Mapping[str, Any], key: str, value: Any) -> Any:
    """The value, where the key exists and wants such a value."""
    *path, last = key.split(SEPARATOR)
    place: Any = config
    for i, part in enumerate(path):
        place = entry(place, part, shown=SEPARATOR.join(path[: i + 1]), known=all_keys(config))
    known = keywords(place)
    if isinstance(place, Mapping) and last in place and not last.startswith("_"):
        wanted = None if last in known and place[last] is None else place[last]
        if isinstance(place[last], Mapping) and not isinstance(value, Mapping):
            raise UsageError(f"{key}: holds several values; name one of {', '.join(map(str, place[last]))}")
        if isinstance(wanted, str) and wanted.startswith(("$", "@", "%")):
            wanted = None  # computed by the config: the type shows only when it is built
        several = isinstance(value, list) and all(isinstance(item, list) for item in value)
        if several and isinstance(wanted, list) and takes_several(config, key):
            wanted = [wanted] * len(value)
        fits_value(key, value, as_fractions(wanted) if takes_fractions(config, key, known.get(last)) else wanted)
    elif last not in known:
        raise UsageError(f"{key}: unknown option{nearest(key, all_keys(config))}")
    if last in known:
        fits_annotation(key, value, known[last])
    return value


def entry(place: Any, part: str, *, shown: str, known: Sequence[str]) -> Any:
    """One step down a nested key."""
    if isinstance(place, Mapping) and part in place:
        return place[part]
    if isinstance(place, list) and part.isdigit() and int(part) < len(place):
        return place[int(part)]
    raise UsageError(f"{shown}: unknown option{nearest(shown, known)}")


def keywords(place: Any) -> dict[str, inspect.Parameter]:
    """The keywords of the object that a config entry builds, by its `_target_`; empty for plain entries."""
    if not isinstance(place, Mapping) or not isinstance(place.get("_target_"), str):
        return {}
    module, _, name = place["_target_"].rpartition(".")
    target, found = optional_import(module, name=name)
    if not found:
        return {}
    parameters = inspect.signature(target, eval_str=True).parameters
    return {n: p for n, p in parameters.items() if p.kind in (p.KEYWORD_ONLY, p.POSITIONAL_OR_KEYWORD)}


def takes_several(config: Any, key: str) -> bool:
    """Whether an object that the config hands the key's value to admits a list of such values, as of windows."""
    options = [option for parameter in handed(config, key) for option in typing.get_args(parameter.annotation)]
    tuples = [typing.get_args(option)[:1] for option in options if typing.get_origin(option) is tuple]
    return any(typing.get_origin(*first) is tuple for first in tuples)


def takes_fractions(config: Any, key: str, keyword: inspect.Parameter | None) -> bool:
    """Whether a key that holds whole numbers may hold others: all keywords that it is or is handed to want floats."""
    takers = [*handed(config, key), *([keyword] if keyword else [])]
    return bool(takers) and all(float in plain_types(parameter.annotation) for parameter in takers)


def as_fractions(value: Any) -> Any:
    """Whole numbers, at every depth of lists, as floats."""
    if isinstance(value, list):
        return [as_fractions(item) for item in value]
    return float(value) if type(value) is int else value


def plain_types(annotation: Any) -> set[Any]:
    """The types that an annotation is made of, at every depth: of `Sequence[tuple[float, float]] | None` two."""
    inner = typing.get_args(annotation)
    return set().union(*map(plain_types, inner)) if inner else {annotation}


def handed(config: Any, key: str) -> list[inspect.Parameter]:
    """The keywords, of all objects that the config builds, to which it hands a key's value, alone or in a list."""
    inner: Any = config.values() if isinstance(config, Mapping) else config if isinstance(config, list) else ()
    reference = f"@{key}"
    here = [
        parameter
        for name, parameter in keywords(config).items()
        if (value := config.get(name)) == reference or (isinstance(value, list) and reference in value)
    ]
    return here + [parameter for part in inner for parameter in handed(part, key)]


def stated(config: Mapping[str, Any], key: str) -> Any:
    """The value that a key of `parse_overrides` has in the config; the keyword's default where it does not say."""
    *path, last = key.split(SEPARATOR)
    place: Any = config
    for part in path:
        place = place[int(part)] if isinstance(place, list) else place[part]
    if isinstance(place, list):
        return place[int(last)]
    return place[last] if last in place else getattr(keywords(place).get(last), "default", None)


def all_keys(config: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Every key an override may name, for suggestions."""
    keys = []
    for name, value in config.items():
        if str(name).startswith("_"):
            continue
        keys.append(f"{prefix}{name}")
        if isinstance(value, Mapping):
            inner = f"{prefix}{name}{SEPARATOR}"
            keys += all_keys(value, inner)
            keys += [f"{inner}{k}" for k in keywords(value) if k not in value]
    return keys


def fits_value(key: str, value: Any, wanted: Any) -> None:
    """Refuse a value of another type than the one it replaces; None in the config takes any."""
    if wanted is None or value is None:
        return
    if isinstance(wanted, bool) or isinstance(value, bool):
        good = isinstance(wanted, bool) and isinstance(value, bool)
    elif isinstance(wanted, float):
        good = isinstance(value, int | float)
    elif isinstance(wanted, list):
        good = isinstance(value, list)
    else:
        good = isinstance(value, type(wanted))
    if not good:
        raise UsageError(wrong_type(key, value, type(wanted).__name__))
    if isinstance(wanted, list) and wanted:
        if len(value) != len(wanted) and all(isinstance(item, int | float) for item in wanted):
            raise UsageError(f"{key}: {value!r} has {len(value)} values, {len(wanted)} are needed")
        for i, item in enumerate(value):
            fits_value(f"{key}[{i}]", item, wanted[min(i, len(wanted) - 1)])


def fits_annotation(key: str, value: Any, parameter: inspect.Parameter) -> None:
    """Refuse a value that the keyword's annotation does not admit; annotations of other than plain types admit all."""
    hint = parameter.annotation
    if typing.get_origin(hint) is tuple:
        fits_tuple(key, value, typing.get_args(hint))
        return
    options = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    tuples = [option for option in options if typing.get_origin(option) is tuple]
    if tuples and isinstance(value, list) and not any(isinstance(part, list) for part in value):
        fits_tuple(key, value, typing.get_args(tuples[0]))
        return
    plain = {bool, int, float, str, type(None)}
    if not set(options) <= plain:
        return
    admitted = {int, *options} if float in options else set(options)
    if type(value) not in admitted:
        raise UsageError(wrong_type(key, value, " or ".join(o.__name__ for o in options if o is not type(None))))


def fits_tuple(key: str, value: Any, wanted: tuple[Any, ...]) -> None:
    """Refuse a list that is not of a tuple's length or types, such as three sizes or a window's center and width."""
    if Ellipsis in wanted or not set(wanted) <= {int, float, str}:
        return
    if not isinstance(value, list | tuple) or len(value) != len(wanted):
        raise UsageError(f"{key}: {value!r} is no list of {len(wanted)} values, which is needed")
    for i, (item, kind) in enumerate(zip(value, wanted, strict=True)):
        if type(item) not in ({int, float} if kind is float else {kind}):
            raise UsageError(wrong_type(f"{key}[{i}]", item, kind.__name__))


def wrong_type(key: str, value: Any, wanted: str) -> str:
    """The sentence for a value of the wrong type."""
    hint = ""
    if isinstance(value, str) and wanted == "float" and is_number(value):
        hint = f" (YAML reads {value} as text: write {float(value):.1e})"
    return f"{key}: {value!r} is a {type(value).__name__}, a {wanted} is needed{hint}"


def is_number(text: str) -> bool:
    """Whether Python reads the text as a number."""
    try:
        return isinstance(ast.literal_eval(text), int | float)
    except (ValueError, SyntaxError):
        return False


def resolved(config: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """The config with the overrides written into it, references and expressions left as they are."""
    parser = ConfigParser(dict(config))
    for key, value in overrides.items():
        parser[key] = value
    return typing.cast(dict[str, Any], parser.get())
