"""Tests of every part. A package: one of the libraries that they use installs a `tests`, too."""
