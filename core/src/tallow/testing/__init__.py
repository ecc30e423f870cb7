"""Conformance tests that any backend can be put through."""
