"""How much a principal may use: the seam where limits are reserved before admission and settled after."""
