"""Tallow's CPU backend: LLVM for compiling, nothing but the C library for running."""
