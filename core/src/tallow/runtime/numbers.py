"""Numbers that follow from sizes and that many steps of a phase share: each is evaluated once for all of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from operator import itemgetter

from tallow.dim import Dim, evaluate

Take = Callable[[Sequence], tuple]


def taker(places: Sequence[int]) -> Take:
    """What takes the elements at these places, as a tuple."""
    match len(places):
        case 0:
            return lambda values: ()
        case 1:
            return lambda values, only=places[0]: (values[only],)
    return itemgetter(*places)


class Numbers:
    """Dims by the place of their value among those of all."""

    def __init__(self):
        self._places: dict[Dim, int] = {}
        self._values: list[int] = []  # of those that no size changes
        self._open: list[tuple[int, Dim]] = []

    def place(self, dim: Dim) -> int:
        if dim not in self._places:
            self._places[dim] = len(self._values)
            known = isinstance(dim, int)
            self._values.append(dim if known else 0)
            if not known:
                self._open.append((self._places[dim], dim))
        return self._places[dim]

    def taker(self, dims: Sequence[Dim]) -> Take:
        """What takes the values of these Dims out of `values`."""
        return taker([self.place(dim) for dim in dims])

    def values(self, sizes: Mapping[str, int]) -> list[int]:
        values = self._values.copy()
        for place, dim in self._open:
            values[place] = evaluate(dim, sizes)
        return values

    def lazily(self, sizes: Mapping[str, int]) -> Lazily:
        """Values that are only evaluated when they are taken, where not all of them have one."""
        return Lazily(list(self._places), sizes)


class Lazily:
    """Values of Dims by their places."""

    def __init__(self, dims: Sequence[Dim], sizes: Mapping[str, int]):
        self._dims, self._sizes = dims, sizes

    def __getitem__(self, place: int) -> int:
        return evaluate(self._dims[place], self._sizes)
