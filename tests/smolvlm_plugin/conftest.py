"""These tests need the package installed: tests/phiv_train/families/test_family_plugin.py installs and runs them."""

collect_ignore = ["tests"]
