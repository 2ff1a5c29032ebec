"""The watch over a driver that is a server (--service): is it well, has it work.

Only the supervisor of a head with --service imports this.
"""
