"""Screens to try things on: simulated ones, whose truth is known."""

from cellfuse.datasets._screen import simulated_screen

__all__ = ["simulated_screen"]
