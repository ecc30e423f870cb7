"""Interfaces of other runtimes on Tallow, for programs that were written for them."""
