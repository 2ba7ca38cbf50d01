"""`python -m kdnas_ray` is `kdnas`."""

from kdnas_ray.cli import main

main()
