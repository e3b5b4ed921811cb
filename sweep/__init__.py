"""Sweeps over the trade-offs of each compression method, on one machine or many."""
