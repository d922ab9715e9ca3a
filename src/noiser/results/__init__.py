"""What is returned: frozen values and the statistics made of them. No torch."""
