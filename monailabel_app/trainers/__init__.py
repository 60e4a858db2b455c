"""Learning from submitted label maps, and deciding whether what was learned may answer."""
