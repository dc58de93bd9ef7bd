"""Back-end 1: arithmetic over arrays of plans.  No events and no contention between different collectives: those are simulate's."""
