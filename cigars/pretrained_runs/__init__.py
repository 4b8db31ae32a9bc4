"""Finished runs that come with the package, one folder each; see `cigars.pretrained`."""
