"""Puts this folder on sys.path, so that tests in its subfolders find `data_builders`."""
