"""The kernel language: grammar, construction helpers, printer, verifier, vectoriser and vector maths."""
