"""The HTML report of a run; see `cigars.report.page`."""
