"""What the executable runs. Alone in its folder: beside the package it would hide the installed one."""

from takhin.cli.main import main

main()
