"""Failures and what is kept against them: how much of its time a run spends on steps that count, and how long a whole training takes."""
