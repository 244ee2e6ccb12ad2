"""Trainings that run as they are: under torchrun in a gang of pods, or alone on a laptop."""
