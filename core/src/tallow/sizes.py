"""Sizes of a model as users give them, by name: checked and in one form."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

import numpy as np

from tallow.errors import GraphError


def normal_dims(dims: Mapping[str, object]) -> dict[str, int | tuple[int, int | None]]:
    """Sizes as users give them: a number, or (least, greatest) where None is no limit; GraphError for
    anything else."""
    return {name: _normal(name, given) for name, given in dims.items()}


def _normal(name: str, given: object) -> int | tuple[int, int | None]:
    match given:
        case bool():
            pass
        case int() | np.integer() if given >= 0:
            return int(given)
        case (bool(), _) | (_, bool()):
            pass
        case (int() | np.integer() as low, None) if low >= 0:
            return int(low), None
        case (int() | np.integer() as low, int() | np.integer() as high) if 0 <= low <= high:
            return int(low), int(high)
    raise GraphError(
        f"dims: {name} = {given!r}: expected a size of 0 or more, or bounds (least, greatest) such as (1, 8)"
    )


def check_names(dims: Iterable[str], have: Collection[str]) -> None:
    """GraphError for a size that the inputs do not mention."""
    unknown = [n for n in dims if n not in have]
    if unknown:
        import difflib  # only errors need it

        near = difflib.get_close_matches(unknown[0], have, 1)
        hint = f" (did you mean {near[0]!r}?)" if near else ""
        raise GraphError(
            f"no size named {unknown[0]!r}{hint}: the inputs have {', '.join(sorted(have)) or 'none'}"
        )
