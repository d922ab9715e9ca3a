"""Integrations with other libraries. Importing a module of this package registers noiser's methods there."""
