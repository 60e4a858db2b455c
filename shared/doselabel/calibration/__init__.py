"""Camera factors from phantom scans, each with its uncertainty. Knows images of phantoms; no patients, no doses."""
