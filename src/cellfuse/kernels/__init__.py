"""Arrays in, arrays out: no AnnData, no torch at import."""
