"""What torchtitan's launcher (launchers/torchtitan.py) needs: flavours of models, and its keys by subject."""
