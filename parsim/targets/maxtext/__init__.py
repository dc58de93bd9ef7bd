"""What MaxText's launcher (launchers/maxtext.py) needs: its models, its axes, and what it would not run."""
