"""Lepton AI: the same code on a laptop and in the pods that the operator makes."""
