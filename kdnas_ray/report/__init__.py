"""What does a person look at after a search? Pages that work offline, of one run and of several."""

from kdnas_ray.report.comparison import write_comparison
from kdnas_ray.report.explain_page import write_explanation
from kdnas_ray.report.page import write_report

__all__ = ["write_comparison", "write_explanation", "write_report"]
