"""Where images lie to each other: grids, rigid transforms, how they are found and whether to believe them."""
