"""The launchers, a file each."""
