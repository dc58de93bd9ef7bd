"""The meeting point: model and plan become one Step of placed tasks, which estimate, simulate and execute all read."""
