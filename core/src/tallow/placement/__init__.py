"""Placement: which device of a list runs which nodes, and regions of a graph for devices other than the first."""

from tallow.placement.place import place
from tallow.placement.survey import Site, Survey

__all__ = ["Site", "Survey", "place"]
