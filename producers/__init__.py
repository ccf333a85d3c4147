"""Producers: what records interaction events and publishes them."""

from producers.recorder import Recorder

__all__ = ["Recorder"]
