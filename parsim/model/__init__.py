"""WHAT is computed: ops over named dims, without devices.  Splitting is parallel's work, pricing is timing's."""
