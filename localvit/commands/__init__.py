"""One module a command, each with `main(argv)`; `localvit.__main__` has the list."""
