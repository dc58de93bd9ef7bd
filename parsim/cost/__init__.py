"""What a Step costs: extents, counts and seconds of its tasks, as arrays with one value per plan.  Numbers only; the Step has none."""
