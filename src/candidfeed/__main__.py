"""`python -m candidfeed` is the command `candidfeed`."""

from candidfeed.cli import main

if __name__ == "__main__":
    main()
