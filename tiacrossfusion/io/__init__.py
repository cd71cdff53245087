"""Paths, text, files written in one step, tables, tensor files and checks of arguments."""
