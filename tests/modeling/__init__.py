"""Tests of the modelling files."""
