"""The version, where setup.cfg and ``--version`` read it."""

__version__ = "0.1.0"
