"""Tests that start processes of their own, or take random input."""

from tests import typer_once as typer_once
