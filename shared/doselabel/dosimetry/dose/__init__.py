"""Time-integrated activity to absorbed dose: the map, the engines, histograms, BED."""
