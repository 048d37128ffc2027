"""What every command needs of its machine and terminal: hosts, files, locks, limits, flags, configs."""
