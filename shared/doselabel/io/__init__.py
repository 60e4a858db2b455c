"""What leaves the house for people: reports, comparisons and their figures. Computes no doses, changes no study."""
