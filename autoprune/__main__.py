"""Let ``python -m autoprune`` be the same as ``autoprune``."""

from autoprune.cli import main

if __name__ == "__main__":
    main(prog_name="autoprune")
