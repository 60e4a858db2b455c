"""Activities over time to time-integrated activity. Knows no images."""
