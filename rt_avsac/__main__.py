"""`python -m rt_avsac` = `rt-avsac`."""

from rt_avsac.cli import program

program()
