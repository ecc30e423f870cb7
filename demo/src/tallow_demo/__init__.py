"""The demo of Tallow: Magika, a small network that tells kinds of files."""
