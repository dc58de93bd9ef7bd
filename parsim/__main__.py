"""`python -m parsim`: the command line, where no script was installed."""

from parsim.cli import main

if __name__ == "__main__":
    main()
