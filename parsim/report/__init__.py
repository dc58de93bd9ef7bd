"""What the user sees: results as tables, JSON, CSV and figures.  Nothing is predicted here."""
