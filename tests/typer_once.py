"""Typer makes all commands anew for each call, which is most of its time; tests make them once."""

from __future__ import annotations

import functools

import typer.main
import typer.testing

typer.main.get_command = functools.cache(typer.main.get_command)
typer.testing._get_command = typer.main.get_command
