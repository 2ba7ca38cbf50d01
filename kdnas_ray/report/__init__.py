"""What does a person look at after a search? One self-contained page: `write_report(run)`."""

from kdnas_ray.report.page import write_report

__all__ = ["write_report"]
