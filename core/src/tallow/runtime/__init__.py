"""Running programs: binding sizes, laying out memory, walking steps."""
