"""What runs inside the sandbox: standard library alone, for it starts once a program."""
