"""`python -m optinfer` is `optinfer`."""

from optinfer.cli import main

main()
