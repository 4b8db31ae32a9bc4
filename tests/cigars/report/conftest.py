"""One full report for all tests of the page: its big corner plot takes longer than they do."""

import pytest

from cigars.report.page import write_report
from tests.cigars.report.fake import fake_inputs, fake_validation


@pytest.fixture(scope="session")
def full_report(tmp_path_factory):
    """Inputs with 13 parameters, a truth, a validation and a check, and the page made of them, with its PDFs in figures/ beside it."""
    folder = tmp_path_factory.mktemp("report")
    inputs = fake_inputs(objects=300, draws=400, seed=2, validation=fake_validation())
    return inputs, write_report(folder / "report.html", inputs, figures_dir=folder / "figures")
