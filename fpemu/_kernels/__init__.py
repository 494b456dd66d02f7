"""Everything that is compiled."""
