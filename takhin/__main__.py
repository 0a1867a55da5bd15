"""``python -m takhin``: the same as the command ``takhin``."""

from .cli.main import main

if __name__ == "__main__":
    main()
