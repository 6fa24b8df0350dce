"""Whether what goes in and comes out is safe: the seam where a guard checks input before admission."""
