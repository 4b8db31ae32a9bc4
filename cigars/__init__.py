"""CIGaRS: cosmology from type Ia supernovae and the photometry of their hosts, by simulation-based inference."""
