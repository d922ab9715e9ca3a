"""Homes of ours in other libraries. Importing a module of this package enters our methods there."""
